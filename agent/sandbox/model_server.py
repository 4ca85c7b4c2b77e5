"""A loopback server of OpenAI's protocol with the demo's second model, in a process of its own.

It serves `GET /v1/models`, and `POST /v1/chat/completions` with log-probabilities: a label word and the
reason. It ends when its standard input does, so it never outlives the program that started it.

    python -m agent.sandbox.model_server FILENO    # of a listening socket that it inherits
"""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final, Self

from models.labels import LABELS

MODEL: Final = "starter+words"
"""Id of the model (`agent.sandbox.second_reader`)."""

_LONGEST_BODY: Final = 1 << 20
_PATIENCE: Final = 5.0  # seconds for the process to end by itself


class ModelServer:
    """Context manager: the server's process. The socket listens from the start, so early requests wait."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def path(self) -> str:
        """`model.revise_with` of the model at this server."""
        return f"openai:http://127.0.0.1:{self.port}/v1#{MODEL}"

    @property
    def pid(self) -> int | None:
        """Id of the process; None before it starts and after `stop`."""
        return None if self._process is None else self._process.pid

    def __enter__(self) -> Self:
        with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
            self.port = listening.getsockname()[1]
            number = listening.fileno()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "agent.sandbox.model_server", str(number)],
                pass_fds=[number],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the agent, which ends this process itself
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> int | None:
        """End the process. If it had ended by itself, return its exit code, or minus the signal."""
        process, self._process = self._process, None
        if process is None or process.stdin is None:
            return None
        exit_code = process.poll()
        with suppress(OSError):
            process.stdin.close()
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        return exit_code


class BadRequest(Exception):
    """What a client did wrong."""


def complete(body: Any) -> dict[str, Any]:
    """Return the response to the body of a request. Raises BadRequest."""
    try:
        headline = json.loads(body["messages"][-1]["content"])["headline"]
        wants_logprobs = bool(body.get("logprobs"))
    except (ValueError, RecursionError, KeyError, IndexError, TypeError, AttributeError):
        raise BadRequest('the last message must be JSON such as {"headline": "…"}') from None
    if not wants_logprobs or not isinstance(headline, str):
        raise BadRequest("this server answers with the log-probabilities of label words")
    found = _reader().read(headline)
    alternatives = [
        {"token": label, "logprob": math.log(max(float(chance), 1e-9)), "bytes": None}
        for label, chance in zip(LABELS, found.probabilities, strict=True)
    ]
    likeliest = max(alternatives, key=lambda one: float(str(one["logprob"])))
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": f"{likeliest['token']}: {found.reason}"},
        "logprobs": {"content": [likeliest | {"top_logprobs": alternatives}]},
        "finish_reason": "stop",
    }
    return {"id": "1", "object": "chat.completion", "model": MODEL, "choices": [choice]}


_loaded: list[Any] = []
_lock: Final = threading.Lock()


def _reader() -> Any:
    """Return the model, which the first request that needs it loads."""
    from agent.sandbox.second_reader import SecondReader

    with _lock:
        if not _loaded:
            _loaded.append(SecondReader())
        return _loaded[0]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""

    def do_GET(self) -> None:
        self._send(200, {"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if not 0 < length <= _LONGEST_BODY:
            self.close_connection = True
            self._send(413, {"error": {"message": "the body has no length, or too much of it"}})
            return
        try:
            self._send(200, complete(json.loads(self.rfile.read(length))))
        except (BadRequest, ValueError, RecursionError) as error:
            self._send(400, {"error": {"message": str(error)}})

    def _send(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True


def main(number: int) -> None:
    """Serve at an inherited socket until standard input ends."""

    def end_with_parent() -> None:
        while os.read(0, 1 << 10):
            pass
        os._exit(0)

    threading.Thread(target=end_with_parent, daemon=True).start()
    threading.Thread(target=_reader, daemon=True).start()
    server = _Server(("127.0.0.1", 0), _Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = socket.socket(fileno=number)
    server.server_name, server.server_port = "127.0.0.1", server.socket.getsockname()[1]
    server.serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]))
