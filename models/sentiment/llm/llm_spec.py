"""Address of a language model, `openai:http://127.0.0.1:11434/v1#qwen3:8b`, and the allowed hosts."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from agent.config.llm import LlmConfig
from agent.core.errors import ConfigError, SafetyError
from agent.system.addresses import is_loopback
from agent.system.secret import Secret, read_secret

PREFIX: Final = "openai:"
KEY_VARIABLE: Final = "TAPEWIRE_LLM_KEY"
_EXAMPLE: Final = "write openai:URL#MODEL, such as openai:http://127.0.0.1:11434/v1#qwen3:8b"
_MOST_MODEL: Final = 200  # characters of a model id
_PORTS: Final = {"http": 80, "https": 443}


class LlmSpec(msgspec.Struct, frozen=True):
    """A model at an OpenAI-compatible server: URL without trailing slash, and the model's id there."""

    url: str
    model: str

    @classmethod
    def parse(cls, text: str) -> LlmSpec:
        """Parse `openai:URL#MODEL`. Raises ConfigError if the text isn't of this form."""
        url, separator, model = text.removeprefix(PREFIX).partition("#")
        if not text.startswith(PREFIX) or not separator or not model or len(model) > _MOST_MODEL:
            raise ConfigError(f"{text!r} names no model at a server", hint=_EXAMPLE)
        # parsers disagree on what a URL with such characters means
        if not all(" " < letter <= "~" and letter not in '\\"' for letter in url) or not model.isprintable():
            raise ConfigError(f"{text!r} has characters that no address has", hint=_EXAMPLE)
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            raise ConfigError(f"{text!r} has no valid URL", hint=_EXAMPLE) from None
        if parts.scheme not in _PORTS or not host or port == 0:
            raise ConfigError(f"{text!r} has no URL of http or https", hint=_EXAMPLE)
        if "@" in parts.netloc:
            hint = f"a key belongs in {KEY_VARIABLE} or in llm.key_file"
            raise ConfigError("the URL of a language model holds a user or a password", hint=hint)
        if parts.query:
            raise ConfigError(f"{text!r} has a query", hint=_EXAMPLE)
        return cls(url.rstrip("/"), model.strip())

    @property
    def host(self) -> str:
        """Host in lower case; an IPv6 address has no brackets."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        """Port of the server."""
        parts = urlsplit(self.url)
        return parts.port or _PORTS[parts.scheme]

    @property
    def encrypted(self) -> bool:
        """True if the server is reached by https."""
        return urlsplit(self.url).scheme == "https"

    @property
    def local(self) -> bool:
        """True if the host is 127.0.0.0/8, ::1 or localhost."""
        return is_loopback(self.url)

    @property
    def path(self) -> str:
        """Path of the requests."""
        return f"{urlsplit(self.url).path}/chat/completions"


def check_allowed(spec: LlmSpec, allow_hosts: Iterable[str], key: Secret | None) -> None:
    """Raise SafetyError unless the host is loopback, or is allowed, reached by https and given a key.

    An entry of `allow_hosts` is a host, or host:port.
    """
    if spec.local:
        return
    if not {spec.host, f"{spec.host}:{spec.port}"} & {entry.strip().lower() for entry in allow_hosts}:
        what = f"headlines would leave this machine for {spec.host}, which is not in llm.allow_hosts"
        raise SafetyError(what, hint=f'allow it with llm.allow_hosts = ["{spec.host}"]')
    if not spec.encrypted:
        what = f"headlines and the key would go to {spec.host} unencrypted"
        raise SafetyError(what, hint="write https:// in the model's URL")
    if key is None:
        what = f"there is no key for {spec.host}"
        raise SafetyError(what, hint=f"set {KEY_VARIABLE}, or name a file in llm.key_file")


def read_key(spec: LlmSpec, config: LlmConfig) -> Secret | None:
    """Read the key from the environment or `llm.key_file`; None without one.

    A loopback server gets no key if `llm.allow_hosts` names hosts: the key is then theirs. Raises SafetyError
    for a file that others can read, ConfigError for one that can't be read or for a key that no header can
    hold.
    """
    if spec.local and config.allow_hosts:
        return None
    key = read_secret(KEY_VARIABLE, Path(config.key_file).expanduser() if config.key_file else None)
    if key is not None and not all("!" <= letter <= "~" for letter in key.reveal()):
        hint = f"{KEY_VARIABLE} or llm.key_file holds one line without spaces"
        raise ConfigError("the key of the language model has characters that a header can't hold", hint=hint)
    return key
