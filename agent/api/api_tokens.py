"""Tokens of the API: a file of mode 0600 with the hash, scopes and lifetime of each."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from hmac import compare_digest
from pathlib import Path
from typing import Final

import msgspec
import structlog

from agent.api.api_messages import Scope
from agent.core.errors import StoreError, TapewireError, UsageError, did_you_mean
from agent.system.secret import read_private, write_private
from agent.system.untrusted import JSON_DECODE_ERRORS

MAX_TOKENS: Final = 100
PREFIX: Final = "tapewire_"
"""Begins each token, so that scanners of leaked secrets can find it."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")
_log: Final = structlog.get_logger(__name__)


class ApiToken(msgspec.Struct, frozen=True):
    """A token as the file has it. The token is random, so its plain SHA-256 reveals nothing."""

    name: str
    sha256: str
    scopes: tuple[Scope, ...]
    created_at: int  # UTC ms
    expires_at: int | None = None


class _File(msgspec.Struct, frozen=True):
    tokens: tuple[ApiToken, ...] = ()
    version: int = 1


class TokenRegistry:
    """The tokens in the file at `path`, which is read again whenever it was replaced.

    So a token that is added or revoked counts at once, also in a running agent. While the file can't be read,
    no token is valid.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._version: tuple[int, int, int] | None = None
        self._tokens: tuple[ApiToken, ...] = ()

    def read(self) -> tuple[ApiToken, ...]:
        """Return all tokens, by name. Raises StoreError, and SafetyError if others can read the file."""
        if not self.path.exists():
            return ()
        try:
            found = msgspec.json.decode(read_private(self.path, "file of tokens"), type=_File)
        except JSON_DECODE_ERRORS as error:
            raise StoreError(
                f"the file of tokens {self.path} is damaged: {error}",
                hint="remove it, and add the tokens again",
            ) from None
        return tuple(sorted(found.tokens, key=lambda token: token.name))

    def add(self, name: str, scopes: Sequence[Scope], now: int, expires_at: int | None = None) -> str:
        """Add a token and return it; it can't be read again. Raises UsageError, StoreError, SafetyError."""
        if not _NAME.fullmatch(name):
            raise UsageError(
                f"{name!r} can't name a token", hint="up to 40 letters, digits, dots, dashes, underscores"
            )
        if not scopes:
            raise UsageError("a token needs a scope", hint=f"--scope {', '.join(one.value for one in Scope)}")
        token = f"{PREFIX}{secrets.token_urlsafe(32)}"
        with self._locked():
            known = self.read()
            if any(one.name == name for one in known):
                raise UsageError(f"there is a token {name!r} already", hint=f"tapewire token revoke {name}")
            if len(known) >= MAX_TOKENS:
                raise UsageError(f"there are {MAX_TOKENS} tokens already", hint="revoke one")
            wanted = tuple(one for one in Scope if one in scopes)
            self._write((*known, ApiToken(name, _hash(token), wanted, now, expires_at)))
        return token

    def revoke(self, name: str) -> None:
        """Remove a token. Raises UsageError for an unknown one, StoreError, SafetyError."""
        with self._locked():
            known = self.read()
            if all(one.name != name for one in known):
                names = [one.name for one in known]
                hint = did_you_mean(name, names, f"tokens: {', '.join(names) or 'none'}")
                raise UsageError(f"there is no token {name!r}", hint=hint)
            self._write(tuple(one for one in known if one.name != name))

    def find(self, token: str, now: int) -> ApiToken | None:
        """Return the valid token, or None. The hash is compared with each one's in constant time."""
        given = _hash(token).encode()
        found = None
        for one in self._current():
            if compare_digest(one.sha256.encode(), given):
                found = one
        return found if found is not None and (found.expires_at is None or now < found.expires_at) else None

    def _current(self) -> tuple[ApiToken, ...]:
        try:
            status = self.path.stat()
            version = status.st_ino, status.st_size, status.st_mtime_ns
        except OSError:
            version = None
        if version != self._version:
            self._version = version
            try:
                self._tokens = self.read()
            except TapewireError as error:
                self._tokens = ()
                _log.error("no token of the API is valid", file=str(self.path), reason=error.message)
        return self._tokens

    def _write(self, tokens: tuple[ApiToken, ...]) -> None:
        text = msgspec.json.format(msgspec.json.encode(_File(tokens))).decode()
        try:
            write_private(self.path, f"{text}\n")
        except OSError as error:
            raise StoreError(f"the file of tokens {self.path} can't be written: {error.strerror}") from None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Let one process at a time change the file."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StoreError(f"the file of tokens {self.path} can't be written: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _hash(token: str) -> str:
    return sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
