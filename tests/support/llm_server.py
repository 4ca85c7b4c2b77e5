"""A loopback server that speaks OpenAI's protocol, with a scripted model and scripted faults."""

from __future__ import annotations

import json
import math
import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, NamedTuple, Self

Json = dict[str, Any]


class Request(NamedTuple):
    """One request, numbered from 0 in order of arrival."""

    number: int
    path: str
    headers: dict[str, str]
    body: Json

    @property
    def headline(self) -> str:
        """The headline in the last message."""
        found = json.loads(self.body["messages"][-1]["content"])
        return str(found["headline"])

    @property
    def wants_logprobs(self) -> bool:
        return bool(self.body.get("logprobs"))


class Answer(NamedTuple):
    """What the model says: its text, and probabilities of its first token by token (None: none are sent)."""

    text: str
    first: dict[str, float] | None = None


class Fault(NamedTuple):
    """How the server misbehaves instead of sending the model's answer.

    Kinds: slow, status, cut, cut_headers, endless, drip, huge, html, no_choices, redirect; content (the
    model writes `text`), goodbye (the answer is right, and the connection is closed after it).
    """

    kind: str
    seconds: float = 0.0
    status: int = 500
    headers: dict[str, str] = {}
    text: str = ""


Model = Callable[[Request], Answer]
Script = Callable[[Request], Fault | None]


def label_of(headline: str) -> str:
    """The label that the scripted model gives a headline."""
    return "bullish" if "climbs" in headline else "bearish" if "falls" in headline else "neutral"


def sound_model(request: Request) -> Answer:
    """A model that judges by one word: 0.8 for its label, in two tokens, and 0.1 for each other."""
    label = label_of(request.headline)
    words = {"bearish": "bear", "neutral": "neutral", "bullish": "bull"}
    first = {words[label]: 0.5, f" {words[label].title()}": 0.3}
    first |= {word: 0.1 for other, word in words.items() if other != label}
    return Answer(label if request.wants_logprobs else json.dumps({"sentiment": label}), first)


def obedient_model(request: Request) -> Answer:
    """A model that writes what a headline demands after the word SAY."""
    _, demanded, text = request.headline.partition("SAY ")
    if not demanded:
        return sound_model(request)
    return Answer(text, {text[:1]: 0.9, "neutral": 0.05})


def without_logprobs(model: Model = sound_model) -> Model:
    """A model whose server sends no log-probabilities."""
    return lambda request: Answer(model(request).text)


class LlmServer:
    """Context manager: serves `/v1/chat/completions` on a free loopback port, a thread for each connection.

    `script` returns the fault of a request, or None for the model's answer. `unknown` are parameters that the
    server refuses with a status of 400.
    """

    def __init__(
        self,
        model: Model = sound_model,
        script: Script = lambda _: None,
        *,
        unknown: Iterable[str] = (),
        usage: object = None,
    ) -> None:
        self.model = model
        self.script = script
        self.unknown = set(unknown)
        self.usage = usage if usage is not None else {"prompt_tokens": 100, "completion_tokens": 10}
        self.requests: list[Request] = []
        self.most_at_a_time = 0
        self.listed = ["tiny:1b"]
        """Models that `/v1/models` lists; such requests aren't counted."""
        self.connections = 0
        self.closing = threading.Event()
        self._now = 0
        self._lock = threading.Lock()
        self._http = _Server(("127.0.0.1", 0), _Handler)
        self._http.owner = self
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)

    @property
    def port(self) -> int:
        return int(self._http.server_address[1])

    @property
    def path(self) -> str:
        """`model.path` of a model at this server."""
        return f"openai:http://127.0.0.1:{self.port}/v1#tiny:1b"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()

    def hang_up(self) -> None:
        """Close the connections that are open."""
        for connection in self._http.open_connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._http.open_connections.clear()

    def began(self, path: str, headers: dict[str, str], body: Json) -> Request:
        with self._lock:
            self._now += 1
            self.most_at_a_time = max(self.most_at_a_time, self._now)
            request = Request(len(self.requests), path, headers, body)
            self.requests.append(request)
            return request

    def ended(self) -> None:
        with self._lock:
            self._now -= 1


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64
    owner: LlmServer

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self.open_connections: list[socket.socket] = []

    def get_request(self) -> tuple[socket.socket, Any]:
        accepted, address = super().get_request()
        self.owner.connections += 1
        self.open_connections.append(accepted)
        return accepted, address


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    goodbye = False
    server: _Server

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""

    def do_GET(self) -> None:
        if self.path.endswith("/models"):
            listed = [{"id": name, "object": "model"} for name in self.server.owner.listed]
            self._send(200, json.dumps({"object": "list", "data": listed}).encode())
            return
        self._follow()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        owner = self.server.owner
        request = owner.began(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
        try:
            with suppress(OSError):
                fault = owner.script(request)
                self.goodbye = fault is not None and fault.kind == "goodbye"
                if (
                    fault is None
                    or self.goodbye
                    or (fault.kind == "slow" and not owner.closing.wait(fault.seconds))
                ):
                    self._answer(request)
                elif fault.kind == "content":
                    self._complete(Answer(fault.text), request)
                else:
                    getattr(self, f"_{fault.kind}")(fault)
        finally:
            owner.ended()

    def _follow(self) -> None:
        self.server.owner.began(self.path, dict(self.headers.items()), {})
        self.server.owner.ended()
        self._send(200, b"{}")

    def _answer(self, request: Request) -> None:
        if refused := sorted(self.server.owner.unknown & request.body.keys()):
            error = {"error": {"message": f"unknown parameter: '{refused[0]}'"}}
            self._send(400, json.dumps(error).encode())
            return
        self._complete(self.server.owner.model(request), request)

    def _complete(self, answer: Answer, request: Request) -> None:
        choice: Json = {"index": 0, "message": {"role": "assistant", "content": answer.text}}
        choice |= {"logprobs": None, "finish_reason": "stop"}
        if request.wants_logprobs and answer.first is not None:
            alternatives = [
                {"token": token, "logprob": math.log(chance), "bytes": None}
                for token, chance in answer.first.items()
            ]
            choice["logprobs"] = {"content": [alternatives[0] | {"top_logprobs": alternatives}]}
        body = {"id": "1", "model": "tiny:1b", "choices": [choice], "usage": self.server.owner.usage}
        self._send(200, json.dumps(body).encode())

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if self.goodbye:
            self.send_header("Connection", "close")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _slow(self, fault: Fault) -> None:
        """The server closed while it waited."""

    def _status(self, fault: Fault) -> None:
        self._send(fault.status, (fault.text or '{"error": {"message": "busy"}}').encode(), fault.headers)

    def _redirect(self, fault: Fault) -> None:
        self._send(302, b"", {"Location": fault.text})

    def _html(self, fault: Fault) -> None:
        self._send(200, b"<html>It works!</html>")

    def _no_choices(self, fault: Fault) -> None:
        self._send(200, b'{"choices": []}')

    def _cut(self, fault: Fault) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b'{"choices": [{"message": {"content": "')
        self._hang_up()

    def _cut_headers(self, fault: Fault) -> None:
        self.wfile.write(b"HTTP/1.1 200 O")
        self._hang_up()

    def _hang_up(self) -> None:
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def _endless(self, fault: Fault) -> None:
        """Send chunks for ever, as fast as the client reads."""
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while not self.server.owner.closing.is_set():
            self.wfile.write(b"1000\r\n" + b" " * 0x1000 + b"\r\n")

    def _drip(self, fault: Fault) -> None:
        """Send a header byte by byte, so that no single read takes long."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while not self.server.owner.closing.wait(0.02):
            self.wfile.write(b"a")

    def _huge(self, fault: Fault) -> None:
        """Announce a terabyte, and send a few megabytes of it."""
        self.send_response(200)
        self.send_header("Content-Length", str(10**12))
        self.end_headers()
        for _ in range(64):
            self.wfile.write(b" " * 0x10000)
        self._hang_up()
