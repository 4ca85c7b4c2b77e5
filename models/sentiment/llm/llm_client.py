"""One chat completion at an OpenAI-compatible server: the request's body, errors by class, the response.

LlmError           a request to a language model's server failed
├─ Unreachable     no connection; retried
├─ ConnectionLost  the connection was cut; retried
├─ RequestTimeout  no complete response within the request's time; retried
├─ ServerFailure   a status of 5xx; retried
├─ TooManyRequests a status of 429, perhaps with the seconds to wait; retried
├─ RequestRefused  another status: a redirect, a wrong key, an unknown model or parameter
├─ NotOffered      the response has no log-probabilities, or the server refuses to send them
└─ InvalidResponse no completion: not JSON, of another shape, or too large
"""

from __future__ import annotations

import http.client
import json
import re
import ssl
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, ClassVar, Final

import msgspec

from agent.config.llm import LlmConfig
from agent.core.errors import TapewireError
from agent.core.masking import mask_also
from agent.data.text import one_line
from agent.system.secret import Secret
from agent.system.untrusted import JSON_DECODE_ERRORS
from models.sentiment.llm.llm_http import (
    MOST_BYTES,
    ConnectFailed,
    HttpResponse,
    HttpServer,
    ResponseTooLarge,
)
from models.sentiment.llm.llm_prompt import Prompt
from models.sentiment.llm.llm_spec import LlmSpec, check_allowed

TOP_LOGPROBS: Final = 20
"""Alternatives of a token that are requested: the most that the protocol allows."""

OPTIONAL: Final = ("logprobs", "response_format", "seed", "reasoning_effort", "temperature", "max_tokens")
"""Parameters, of which one is left out from then on if a server refuses a request and names it first."""

_NAMED: Final = re.compile(rf"(?:\b|top_)({'|'.join(OPTIONAL)})\b")
_BYTES_PER_TOKEN: Final = 3  # of English JSON; a low figure estimates many tokens
_MOST_TOKENS: Final = 10_000_000  # a larger count of a response is an error of the server
_LONGEST_WAIT: Final = 3_600.0
_SHOWN: Final = 160  # characters of a server's message in an error


class LlmError(TapewireError):
    """A request to a language model's server failed."""

    retried: ClassVar[bool] = False
    is_failure: ClassVar[bool] = True
    """Whether it counts towards an outage."""
    spends: ClassVar[bool] = True
    """Whether the server may have used tokens."""


class Unreachable(LlmError):
    """No connection."""

    retried = True
    spends = False


class ConnectionLost(LlmError):
    """The connection was cut."""

    retried = True


class RequestTimeout(LlmError):
    """No complete response within the request's time."""

    retried = True


class ServerFailure(LlmError):
    """A status of 5xx."""

    retried = True


class TooManyRequests(LlmError):
    """A status of 429. `wait` is in seconds; None if the server names no time."""

    retried = True
    is_failure = False
    spends = False

    def __init__(self, message: str, wait: float | None) -> None:
        super().__init__(message)
        self.wait = wait


class RequestRefused(LlmError):
    """A status that a repetition doesn't change."""

    spends = False


class NotOffered(LlmError):
    """The response has no log-probabilities, or the server refuses to send them."""

    is_failure = False


class InvalidResponse(LlmError):
    """A response without a completion."""

    is_failure = False


class Completion(msgspec.Struct, frozen=True):
    """The first choice of a response.

    `logprobs` is the JSON of its log-probabilities; empty if the server sent none. `tokens_in` and
    `tokens_out` are None if the server didn't count them. `finish` is "length" if the answer was cut.
    """

    text: str
    logprobs: bytes = b""
    tokens_in: int | None = None
    tokens_out: int | None = None
    finish: str = ""


class ClientHealth(msgspec.Struct):
    """Counters of a client."""

    requests: int = 0
    left_out: tuple[str, ...] = ()  # parameters that the server doesn't know


class _Message(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Message
    logprobs: msgspec.Raw = msgspec.Raw()
    finish_reason: str | None = None


class _Response(msgspec.Struct):
    choices: list[_Choice]
    usage: msgspec.Raw = msgspec.Raw()


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class LlmClient:
    """Client of one model. Thread-safe.

    Raises SafetyError if the host isn't loopback and isn't allowed, or lacks encryption or a key.
    """

    def __init__(self, spec: LlmSpec, config: LlmConfig, key: Secret | None = None) -> None:
        check_allowed(spec, config.allow_hosts, key)
        self.spec = spec
        self.health = ClientHealth()
        self._key = key
        self._timeout = config.request_timeout / 1000
        self._temperature = config.temperature
        self._server = HttpServer(spec.host, spec.port, encrypted=spec.encrypted)
        self._left_out: frozenset[str] = frozenset()
        self._has_logprobs = False
        self._lock = threading.Lock()

    def complete(self, prompt: Prompt, headline: str, seed: int, seconds: float) -> Completion:
        """Request the answer to one headline, once. It may take `seconds`, at most the configured time-out.

        If the server refuses a parameter of `OPTIONAL`, the request is repeated without it. Raises the
        errors of this module.
        """
        ends = time.monotonic() + min(seconds, self._timeout)
        while True:
            left_out = self._left_out
            body = self.body(prompt, headline, seed)
            response = self._post(body, ends - time.monotonic())
            refused = self._refused_parameter(response, body)
            if not refused:
                return self._checked(self._completion(response), prompt)
            self._leave_out(refused, left_out)
            if refused == "logprobs":
                raise NotOffered(f"{self.spec.host} refuses to send log-probabilities")

    def _checked(self, completion: Completion, prompt: Prompt) -> Completion:
        if prompt.form != "word":
            return completion
        if completion.logprobs:
            self._has_logprobs = True
            return completion
        if not self._has_logprobs:  # a server that sent them once only failed to
            self._leave_out("logprobs", self._left_out)
        raise NotOffered(f"{self.spec.host} sends no log-probabilities")

    def _leave_out(self, parameter: str, known: frozenset[str]) -> None:
        with self._lock:
            if known == self._left_out:  # else another thread changed what is sent
                self._left_out |= {parameter}
                self.health.left_out = tuple(sorted(self._left_out))

    def body(self, prompt: Prompt, headline: str, seed: int) -> dict[str, Any]:
        """Return the request's JSON. Log-probabilities are requested at temperature 0."""
        words = prompt.form == "word"
        given: dict[str, Any] = {
            "model": self.spec.model,
            "messages": prompt.messages(headline),
            "seed": seed,
            "temperature": 0.0 if words else self._temperature,
            "max_tokens": prompt.most_tokens,
            "reasoning_effort": "none",  # a model that thinks first has no label at its first token
            "stream": False,
        }
        if words:
            given |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
        else:
            named = {"name": "sentiment", "strict": True, "schema": prompt.schema}
            given["response_format"] = {"type": "json_schema", "json_schema": named}
        for name in self._left_out:
            given.pop(name, None)
        if "logprobs" in self._left_out:
            given.pop("top_logprobs", None)
        if "max_tokens" in self._left_out:
            given["max_completion_tokens"] = prompt.most_tokens  # the name that hosted servers prefer
        return given

    def offers(self, parameter: str) -> bool:
        """Return whether the server hasn't refused a parameter of `OPTIONAL`."""
        return parameter not in self._left_out

    def estimate(self, prompt: Prompt, headline: str) -> tuple[int, int]:
        """Return the tokens of a request and its answer, before the server counts them; rather too many."""
        characters = sum(len(message["content"].encode()) for message in prompt.messages(headline))
        return characters // _BYTES_PER_TOKEN, prompt.most_tokens

    def masked(self, text: str) -> str:
        """Return a text of the server without the key and other secrets."""
        return mask_also(text, () if self._key is None else (self._key.reveal(),))

    def close(self) -> None:
        """Close open connections."""
        self._server.close()

    def _post(self, body: Mapping[str, Any], seconds: float) -> HttpResponse:
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": "tapewire",
        }
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key.reveal()}"
        with self._lock:
            self.health.requests += 1
        try:
            return self._server.post(self.spec.path, msgspec.json.encode(body), headers, seconds)
        except TimeoutError:
            raise RequestTimeout(f"{self.spec.host} has not answered in time") from None
        except ResponseTooLarge:
            raise InvalidResponse(
                f"{self.spec.host} sends a response of more than {MOST_BYTES >> 20} MiB"
            ) from None
        except ssl.SSLCertVerificationError as error:
            what = f"the certificate of {self.spec.host} is refused: {error.verify_message}"
            raise RequestRefused(what, hint="its name and its authority must be right") from None
        except ConnectFailed as error:
            raise Unreachable(f"{self.spec.host} can't be reached: {one_line(str(error), _SHOWN)}") from None
        except (OSError, http.client.HTTPException) as error:
            cut = isinstance(error, http.client.IncompleteRead)
            what = "the response is incomplete" if cut else one_line(str(error), _SHOWN)
            raise ConnectionLost(self.masked(f"{self.spec.host} cut the connection: {what}")) from None

    def _refused_parameter(self, response: HttpResponse, body: Mapping[str, Any]) -> str:
        if response.status not in (400, 422):
            return ""
        named = _NAMED.findall(response.body.decode(errors="replace"))
        return next((name for name in named if name in body), "")

    def _completion(self, response: HttpResponse) -> Completion:
        if response.status != 200:
            raise self._failure(response)
        try:
            found = msgspec.json.decode(response.body, type=_Response)
        except JSON_DECODE_ERRORS as error:
            what = one_line(str(error), _SHOWN)
            raise InvalidResponse(self.masked(f"{self.spec.host} returned no completion: {what}")) from None
        if not found.choices:
            raise InvalidResponse(f"{self.spec.host} returned no choice")
        choice = found.choices[0]
        logprobs, usage = bytes(choice.logprobs), _usage(bytes(found.usage))
        return Completion(
            self.masked(choice.message.content or ""),
            b"" if logprobs == b"null" else logprobs,
            _tokens(usage.prompt_tokens),
            _tokens(usage.completion_tokens),
            choice.finish_reason or "",
        )

    def _failure(self, response: HttpResponse) -> LlmError:
        message = self.masked(_message(response.body))
        what = f"{self.spec.host} returned {response.status}"
        what += f": {message}" if message else ""
        if response.status == 429:
            return TooManyRequests(what, retry_after(response.headers.get("retry-after", "")))
        if response.status >= 500 or response.status == 408:
            return ServerFailure(what)
        if 300 <= response.status < 400:
            return RequestRefused(f"{self.spec.host} redirects, which is not followed")
        return RequestRefused(what)


def retry_after(header: str, now: datetime | None = None) -> float | None:
    """Return the seconds of a Retry-After header, a number or a date; None if it has neither."""
    text = header.strip()
    if text.isascii() and text.replace(".", "", 1).isdigit():
        return min(float(text), _LONGEST_WAIT)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return min(max((moment - (now or datetime.now(UTC))).total_seconds(), 0.0), _LONGEST_WAIT)


def _message(body: bytes) -> str:
    """Return the message of an error's response, whatever its shape, on one line."""
    text = body[:4096].decode(errors="replace")
    try:
        found: object = json.loads(text)
    except (ValueError, RecursionError):
        return one_line(text, _SHOWN)
    for name in ("error", "message", "detail"):
        if isinstance(found, dict) and name in found:
            found = found[name]
    return one_line(found if isinstance(found, str) else text, _SHOWN)


def _usage(raw: bytes) -> _Usage:
    """Return the counted tokens; None for both if the server counts them in another way."""
    try:
        return msgspec.json.decode(raw, type=_Usage | None) or _Usage()
    except JSON_DECODE_ERRORS:
        return _Usage()


def _tokens(count: int | None) -> int | None:
    return count if count is not None and 0 <= count <= _MOST_TOKENS else None
