"""Which models may be asked, and with which key."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.config.llm import LlmConfig
from agent.core.errors import ConfigError, SafetyError
from agent.system.secret import Secret
from models.sentiment.llm.llm_spec import KEY_VARIABLE, LlmSpec, check_allowed, read_key

KEY = Secret("sk-0123456789")


@pytest.mark.parametrize(
    ("text", "url", "model", "host", "port", "path", "local"),
    [
        (
            "openai:http://127.0.0.1:11434/v1#qwen3:8b",
            "http://127.0.0.1:11434/v1",
            "qwen3:8b",
            "127.0.0.1",
            11434,
            "/v1/chat/completions",
            True,
        ),
        ("openai:http://127.9.9.9/#m", "http://127.9.9.9", "m", "127.9.9.9", 80, "/chat/completions", True),
        (
            "openai:http://[::1]:8000/v1/#org/m-1B",
            "http://[::1]:8000/v1",
            "org/m-1B",
            "::1",
            8000,
            "/v1/chat/completions",
            True,
        ),
        (
            "openai:http://LOCALHOST:8000/v1#m",
            "http://LOCALHOST:8000/v1",
            "m",
            "localhost",
            8000,
            "/v1/chat/completions",
            True,
        ),
        (
            "openai:https://api.example.org/v1#m",
            "https://api.example.org/v1",
            "m",
            "api.example.org",
            443,
            "/v1/chat/completions",
            False,
        ),
        (
            "openai:http://127.0.0.1.example.org/v1#m",
            "http://127.0.0.1.example.org/v1",
            "m",
            "127.0.0.1.example.org",
            80,
            "/v1/chat/completions",
            False,
        ),
        (
            "openai:http://localhost.:80/v1#m",
            "http://localhost.:80/v1",
            "m",
            "localhost.",
            80,
            "/v1/chat/completions",
            False,
        ),
    ],
)
def test_a_model_is_named_by_url_and_id(
    text: str, url: str, model: str, host: str, port: int, path: str, local: bool
) -> None:
    spec = LlmSpec.parse(text)
    assert (spec.url, spec.model, spec.host, spec.port, spec.path, spec.local) == (
        url,
        model,
        host,
        port,
        path,
        local,
    )


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1/v1#m",  # no prefix
        "openai:http://127.0.0.1/v1",  # no model
        "openai:http://127.0.0.1/v1#",
        "openai:127.0.0.1/v1#m",  # no scheme
        "openai:ftp://127.0.0.1/v1#m",
        "openai:http:///v1#m",
        "openai:http://127.0.0.1:0/v1#m",
        "openai:http://127.0.0.1:99999/v1#m",
        "openai:http://[::1/v1#m",
        "openai:http://127.0.0.1/v1?key=abc#m",
        "openai:http://127.0.0.1/v1\r\nX: y#m",
        "openai:http://127.0.0.1\\@evil.example/v1#m",
        "openai:http://127.0.0.1/v1#a\nb",
        "openai:http://127.0.0.1/v1#" + "m" * 201,
    ],
)
def test_any_other_text_is_an_error(text: str) -> None:
    with pytest.raises(ConfigError):
        LlmSpec.parse(text)


def test_a_password_in_the_url_is_refused_and_not_shown() -> None:
    with pytest.raises(ConfigError, match=r"llm\.key_file") as error:
        LlmSpec.parse("openai:https://me:hunter22@api.example.org/v1#m")
    assert "hunter22" not in str(error.value)


@pytest.mark.parametrize(
    ("url", "allowed", "key", "refusal"),
    [
        ("http://127.0.0.1:1/v1", (), None, ""),
        ("http://[::1]:1/v1", (), None, ""),
        ("http://localhost:1/v1", (), None, ""),
        ("https://api.example.org/v1", ("api.example.org",), KEY, ""),
        ("https://api.example.org/v1", (" API.example.org ",), KEY, ""),
        ("https://api.example.org:8443/v1", ("api.example.org:8443",), KEY, ""),
        ("https://api.example.org:8443/v1", ("api.example.org:443",), KEY, "not in llm.allow_hosts"),
        ("https://api.example.org/v1", (), KEY, "not in llm.allow_hosts"),
        ("https://evil.example.org/v1", ("example.org",), KEY, "not in llm.allow_hosts"),
        ("http://api.example.org/v1", ("api.example.org",), KEY, "unencrypted"),
        ("https://api.example.org/v1", ("api.example.org",), None, "no key"),
        ("http://10.0.0.1/v1", (), None, "not in llm.allow_hosts"),
        ("http://0.0.0.0/v1", (), None, "not in llm.allow_hosts"),
        ("http://127.1/v1", (), None, "not in llm.allow_hosts"),  # what it means is the resolver's choice
        ("http://localhost./v1", (), None, "not in llm.allow_hosts"),
    ],
)
def test_only_loopback_is_asked_unless_a_host_is_allowed_encrypted_and_has_a_key(
    url: str, allowed: tuple[str, ...], key: Secret | None, refusal: str
) -> None:
    spec = LlmSpec.parse(f"openai:{url}#m")
    if refusal:
        with pytest.raises(SafetyError, match=refusal):
            check_allowed(spec, allowed, key)
    else:
        check_allowed(spec, allowed, key)


REMOTE = "openai:https://api.example.org/v1#m"
LOCAL = "openai:http://127.0.0.1/v1#m"


@pytest.mark.parametrize(
    ("path", "hosts", "environment", "in_file", "expected"),
    [
        (REMOTE, ("api.example.org",), "from-environment", "", "from-environment"),
        (REMOTE, ("api.example.org",), "", "from-file\n", "from-file"),
        (REMOTE, ("api.example.org",), "from-environment", "from-file", "from-environment"),
        (REMOTE, ("api.example.org",), "", "", None),
        (LOCAL, (), "local-key", "", "local-key"),
        (LOCAL, ("api.example.org",), "from-environment", "", None),  # the key is the host's
    ],
)
def test_the_key_comes_from_the_environment_or_a_file_and_goes_to_the_host_that_it_is_for(
    path: str,
    hosts: tuple[str, ...],
    environment: str,
    in_file: str,
    expected: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    if environment:
        monkeypatch.setenv(KEY_VARIABLE, environment)
    file = tmp_path / "llm.key"
    if in_file:
        file.write_text(in_file)
        file.chmod(0o600)
    config = LlmConfig(allow_hosts=hosts, key_file=str(file) if in_file else "")
    key = read_key(LlmSpec.parse(path), config)
    assert (key and key.reveal()) == expected


def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    file = tmp_path / "llm.key"
    file.write_text("key")
    file.chmod(0o644)
    with pytest.raises(SafetyError, match="0644"):
        read_key(LlmSpec.parse(LOCAL), LlmConfig(key_file=str(file)))


def test_a_key_that_no_header_can_hold_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "first\nsecond")
    with pytest.raises(ConfigError) as error:
        read_key(LlmSpec.parse(LOCAL), LlmConfig())
    assert "second" not in str(error.value)
