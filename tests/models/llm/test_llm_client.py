"""One completion at a loopback server that misbehaves."""

from __future__ import annotations

import json
import socket
import threading
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from agent.config.llm import LlmConfig
from agent.core.errors import SafetyError
from agent.system.secret import Secret
from models.sentiment.llm.llm_client import (
    Completion,
    ConnectionLost,
    InvalidResponse,
    LlmClient,
    LlmError,
    NotOffered,
    RequestRefused,
    RequestTimeout,
    ServerFailure,
    TooManyRequests,
    Unreachable,
    retry_after,
)
from models.sentiment.llm.llm_prompt import Prompt
from models.sentiment.llm.llm_spec import LlmSpec
from tests.support.llm_server import Fault, LlmServer, without_logprobs

JSON, WORD = Prompt(form="json"), Prompt(form="word")
KEY = "sk-0123456789abcdef"


def client_of(server: LlmServer, key: str | None = None, **settings: Any) -> LlmClient:
    return LlmClient(LlmSpec.parse(server.path), LlmConfig(**settings), Secret(key) if key else None)


def ask(client: LlmClient, prompt: Prompt = JSON, seconds: float = 5.0) -> Completion:
    return client.complete(prompt, "Coin climbs", 7, seconds)


def test_a_request_asks_for_samples_by_schema_or_for_log_probabilities() -> None:
    with LlmServer() as server:
        client = client_of(server, KEY, temperature=0.9)
        sample, word = ask(client), ask(client, WORD)
    assert sample == Completion('{"sentiment": "bullish"}', b"", 100, 10, "stop")
    assert (word.text, word.tokens_in) == ("bullish", 100)
    assert b'"top_logprobs"' in word.logprobs
    first, second = server.requests
    assert first.path == "/v1/chat/completions"
    assert first.headers["authorization"] == f"Bearer {KEY}"
    assert first.headers["host"] == f"127.0.0.1:{server.port}"
    common = {"model": "tiny:1b", "seed": 7, "reasoning_effort": "none", "stream": False}
    assert first.body == common | {
        "messages": JSON.messages("Coin climbs"),
        "temperature": 0.9,
        "max_tokens": 48,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "sentiment", "strict": True, "schema": JSON.schema},
        },
    }
    assert second.body == common | {
        "messages": WORD.messages("Coin climbs"),
        "temperature": 0.0,
        "max_tokens": 4,
        "logprobs": True,
        "top_logprobs": 20,
    }


@pytest.mark.parametrize(
    ("fault", "error", "message", "retried"),
    [
        (Fault("status", status=500), ServerFailure, "returned 500: busy", True),
        (Fault("status", status=503, text="<html>down</html>"), ServerFailure, "<html>down</html>", True),
        (Fault("status", status=429), TooManyRequests, "returned 429", True),
        (
            Fault("status", status=401, text='{"error": {"message": "no key"}}'),
            RequestRefused,
            "401: no key",
            False,
        ),
        (
            Fault("status", status=404, text='{"error": "no such model"}'),
            RequestRefused,
            "no such model",
            False,
        ),
        (Fault("status", status=400, text='{"detail": [1]}'), RequestRefused, "400", False),
        (Fault("redirect", text="http://127.0.0.1:1/"), RequestRefused, "redirects", False),
        (Fault("slow", seconds=5), RequestTimeout, "has not answered in time", True),
        (Fault("drip"), RequestTimeout, "has not answered in time", True),
        (Fault("cut"), ConnectionLost, "response is incomplete", True),
        (Fault("endless"), InvalidResponse, "more than 1 MiB", False),
        (Fault("huge"), InvalidResponse, "more than 1 MiB", False),
        (Fault("html"), InvalidResponse, "no completion", False),
        (Fault("cut_headers"), InvalidResponse, "no completion", False),
        (Fault("no_choices"), InvalidResponse, "no choice", False),
    ],
)
def test_each_fault_is_an_error_of_its_class_in_time(
    fault: Fault, error: type[LlmError], message: str, retried: bool
) -> None:
    with LlmServer(script=lambda _: fault) as server:
        began = time.monotonic()
        with pytest.raises(error, match=message) as found:
            ask(client_of(server), seconds=0.8)
    assert found.value.retried is retried
    assert time.monotonic() - began < 3.0


def test_a_server_that_is_not_there_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    client = LlmClient(LlmSpec.parse(f"openai:http://127.0.0.1:{port}/v1#m"), LlmConfig())
    with pytest.raises(Unreachable, match="refused"):
        ask(client)


def test_a_server_that_accepts_and_never_answers_times_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        spec = LlmSpec.parse(f"openai:http://localhost:{silent.getsockname()[1]}/v1#m")
        with pytest.raises(RequestTimeout):
            ask(LlmClient(spec, LlmConfig(request_timeout=200)))


def test_a_redirect_to_another_host_is_not_followed() -> None:
    with LlmServer() as other, LlmServer() as server:
        server.script = lambda _: Fault("redirect", text=f"http://127.0.0.1:{other.port}/v1/chat/completions")
        with pytest.raises(RequestRefused, match="redirects"):
            ask(client_of(server, KEY))
        assert other.requests == []


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with LlmServer() as proxy, LlmServer() as server:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
            monkeypatch.setenv(name.upper(), f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("no_proxy", "")
        ask(client_of(server))
        assert (len(proxy.requests), len(server.requests)) == (0, 1)


@pytest.mark.parametrize(
    ("path", "settings"),
    [
        ("openai:https://api.example.org/v1#m", {}),
        ("openai:http://api.example.org/v1#m", {"allow_hosts": ["api.example.org"]}),
        ("openai:https://api.example.org/v1#m", {"allow_hosts": ["api.example.org"]}),
    ],
)
def test_a_client_of_a_host_that_may_not_be_asked_does_not_exist(path: str, settings: dict[str, Any]) -> None:
    with pytest.raises(SafetyError):
        LlmClient(LlmSpec.parse(path), LlmConfig(**settings))


@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", status=401, text=f'{{"error": {{"message": "Incorrect API key provided: {KEY}"}}}}'),
        Fault("status", status=500, text=f"Authorization: Bearer {KEY}"),
        Fault("content", text=f"my key is {KEY}"),
    ],
)
def test_a_key_that_the_server_repeats_is_shown_nowhere(
    fault: Fault, capfd: pytest.CaptureFixture[str]
) -> None:
    with LlmServer(script=lambda _: fault) as server:
        client = client_of(server, KEY)
        try:
            shown = ask(client).text
        except LlmError as error:
            shown = f"{error} {error!r} {error.hint}"
    assert KEY not in shown + repr(client) + repr(vars(client)) + "".join(capfd.readouterr())
    assert "***" in shown


@pytest.mark.parametrize(
    ("unknown", "left_out", "requests"),
    [
        (["reasoning_effort"], ("reasoning_effort",), 2),
        (["seed", "reasoning_effort"], ("reasoning_effort", "seed"), 3),
        (["response_format"], ("response_format",), 2),
        (["max_tokens", "temperature"], ("max_tokens", "temperature"), 3),
    ],
)
def test_a_parameter_that_the_server_refuses_is_left_out_from_then_on(
    unknown: list[str], left_out: tuple[str, ...], requests: int
) -> None:
    with LlmServer(unknown=unknown) as server:
        client = client_of(server)
        assert ask(client).text == '{"sentiment": "bullish"}'
        assert ask(client).text == '{"sentiment": "bullish"}'
    assert client.health.left_out == left_out
    assert client.health.requests == len(server.requests) == requests + 1
    last = server.requests[-1].body
    assert not set(unknown) & last.keys()
    assert last.get("max_completion_tokens") == (48 if "max_tokens" in unknown else None)


@pytest.mark.parametrize("refuses", [True, False])
def test_a_server_without_log_probabilities_is_remembered(refuses: bool) -> None:
    unknown = ["logprobs"] if refuses else []
    with LlmServer(without_logprobs(), unknown=unknown) as server:
        client = client_of(server)
        assert client.offers("logprobs")
        with pytest.raises(NotOffered):
            ask(client, WORD)
        assert not client.offers("logprobs")
        assert ask(client).text == '{"sentiment": "bullish"}'


def test_a_server_that_sent_log_probabilities_once_still_offers_them() -> None:
    with LlmServer() as server:
        client = client_of(server)
        ask(client, WORD)
        server.model = without_logprobs()
        with pytest.raises(NotOffered):
            ask(client, WORD)
        assert client.offers("logprobs")


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 5, "completion_tokens": 6}, (5, 6)),
        ({"prompt_tokens": -5, "completion_tokens": 10**15}, (None, None)),
        ({"prompt_tokens": "many"}, (None, None)),
        ({}, (None, None)),
        ([], (None, None)),
        (False, (None, None)),
    ],
)
def test_tokens_that_the_server_does_not_count_are_unknown(
    usage: object, expected: tuple[int | None, int | None]
) -> None:
    with LlmServer(usage=usage) as server:
        found = ask(client_of(server))
    assert (found.tokens_in, found.tokens_out) == expected


@pytest.mark.parametrize("kind", ["", "goodbye"])
def test_connections_are_kept_as_long_as_the_server_keeps_them(kind: str) -> None:
    script = (lambda _: Fault(kind)) if kind else (lambda _: None)
    with LlmServer(script=script) as server:
        client = client_of(server)
        assert [ask(client).text for _ in range(3)] == ['{"sentiment": "bullish"}'] * 3
        assert server.connections == (3 if kind else 1)
        client.close()


def test_a_kept_connection_that_the_server_closed_is_no_failure() -> None:
    with LlmServer() as server:
        client = client_of(server)
        ask(client)
        server.hang_up()
        assert ask(client).text == '{"sentiment": "bullish"}'
        assert server.connections == 2
        client.close()


def test_a_certificate_that_is_not_trusted_is_refused(tls_server: int) -> None:
    spec = LlmSpec.parse(f"openai:https://127.0.0.1:{tls_server}/v1#m")
    with pytest.raises(RequestRefused, match="certificate"):
        ask(LlmClient(spec, LlmConfig()))


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("1.5", 1.5),
        (" 0 ", 0.0),
        ("99999999", 3_600.0),
        ("Thu, 01 Jan 2026 00:00:30 GMT", 30.0),
        ("Wed, 31 Dec 2025 23:59:00 GMT", 0.0),
        ("soon", None),
        ("-5", None),
        ("٣", None),
        ("", None),
    ],
)
def test_the_time_to_wait_is_a_number_or_a_date(header: str, seconds: float | None) -> None:
    assert retry_after(header, datetime(2026, 1, 1, tzinfo=UTC)) == seconds


def test_clients_of_one_server_do_not_disturb_each_other() -> None:
    with LlmServer() as server:
        client = client_of(server)
        texts = [f"Coin {verb} {number}" for number in range(20) for verb in ("climbs", "falls", "rests")]
        found: dict[str, str] = {}

        def read(text: str) -> None:
            found[text] = json.loads(client.complete(JSON, text, 1, 5.0).text)["sentiment"]

        threads = [threading.Thread(target=read, args=(text,)) for text in texts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    words = {"climbs": "bullish", "falls": "bearish", "rests": "neutral"}
    assert found == {text: words[text.split()[1]] for text in texts}
