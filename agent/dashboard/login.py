"""Login and logout of browsers: the token, single-use links, sessions, and a limit on failed attempts."""

from __future__ import annotations

import hmac
import secrets
from collections import OrderedDict
from hashlib import sha256
from pathlib import Path
from typing import Final

import structlog

from agent.core.errors import TapewireError
from agent.core.events import MINUTE_MS
from agent.live.access_token import make_token, read_token, same_token
from agent.system.clock import Clock
from agent.system.secret import write_private

LINK_LIFETIME: Final = 10 * MINUTE_MS
"""Milliseconds for which a login link is valid."""

_MAX_CLIENTS: Final = 1_000  # clients whose failed logins are remembered
_MAX_LINKS: Final = 32  # unused links; a new one beyond that replaces the oldest
_log: Final = structlog.get_logger(__name__)


class FailedLogins:
    """Wrong tokens of each client in the last minute. At most 1,000 clients are remembered."""

    def __init__(self, limit: int, clock: Clock) -> None:
        self._limit = limit
        self._clock = clock
        self._times: OrderedDict[str, list[int]] = OrderedDict()

    def retry_after(self, client: str) -> int:
        """Return the seconds until this client is below the limit again; 0 if it is now."""
        recent = self._recent(client)
        return 0 if len(recent) < self._limit else -(-(recent[0] + MINUTE_MS - self._clock.now()) // 1000)

    def add(self, client: str) -> None:
        """Count a wrong token. Only the last `limit` times are kept."""
        self._times[client] = [*self._recent(client), self._clock.now()][-self._limit :]
        self._times.move_to_end(client)
        if len(self._times) > _MAX_CLIENTS:
            self._times.popitem(last=False)

    def _recent(self, client: str) -> list[int]:
        return [at for at in self._times.get(client, ()) if at > self._clock.now() - MINUTE_MS]


class TokenFile:
    """The token in the file at `path`, which is created if missing.

    If the file is replaced, it is read again, and the new token ends all sessions.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._value = make_token(path)
        self._version = _file_version(path)

    def value(self) -> str:
        """Return the current token."""
        version = _file_version(self.path)
        if version != self._version:
            self._version = version
            try:
                self._value = read_token(self.path)
            except TapewireError as error:
                _log.warning(
                    "the new dashboard token is not usable, the old one stays valid", reason=error.message
                )
        return self._value

    def matches(self, given: str) -> bool:
        """Compare with the token in constant time."""
        return same_token(given, self.value())


class LoginLinks:
    """Single-use codes of login links, valid for `LINK_LIFETIME`. Only their hashes are kept."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._expiry: OrderedDict[bytes, int] = OrderedDict()

    def create(self) -> str:
        """Return a new code."""
        code = secrets.token_urlsafe(24)
        self._expiry[_digest(code)] = self._clock.now() + LINK_LIFETIME
        if len(self._expiry) > _MAX_LINKS:
            self._expiry.popitem(last=False)
        return code

    def redeem(self, code: str) -> bool:
        """Return True if the code is valid, and invalidate it."""
        return self._expiry.pop(_digest(code), 0) > self._clock.now()


class LoginSessions:
    """Session cookies `ID.EXPIRY.SIGNATURE`, signed with the token.

    They survive a restart and end when the token changes. Sessions that were revoked before they expired are
    listed in a file beside the token file.
    """

    def __init__(self, token: TokenFile, lifetime_s: int, clock: Clock) -> None:
        self.lifetime_s = lifetime_s
        self._token = token
        self._clock = clock
        self._file = token.path.with_name(f"{token.path.name}.ended")
        self._revoked: dict[str, int] = self._read()

    @property
    def cookie_name(self) -> str:
        """A name that differs between agents, since a browser sends cookies to all ports of a host."""
        return f"tapewire_{self._sign('cookie')[:8]}"

    def create(self) -> str:
        """Return the cookie value of a new session."""
        body = f"{secrets.token_urlsafe(9)}.{self._now() + self.lifetime_s}"
        return f"{body}.{self._sign(body)}"

    def is_valid(self, value: str) -> bool:
        """Return True if a cookie value is a session that has neither expired nor been revoked."""
        body, _, signature = value.rpartition(".")
        identifier, _, expiry = body.partition(".")
        if not (expiry.isascii() and expiry.isdigit() and len(expiry) < 16):
            return False
        signed = same_token(signature, self._sign(body))
        return signed and self._now() < int(expiry) and identifier not in self._revoked

    def revoke(self, value: str) -> None:
        """End a session for good: it stays revoked after a restart."""
        if not self.is_valid(value):
            return
        identifier, expiry, _ = value.split(".")
        self._revoked[identifier] = int(expiry)
        self._revoked = {one: until for one, until in self._revoked.items() if until > self._now()}
        try:
            write_private(self._file, "".join(f"{one} {until}\n" for one, until in self._revoked.items()))
        except OSError as error:
            _log.warning(
                "a logout can't be saved, so it ends with a restart",
                file=str(self._file),
                reason=error.strerror,
            )

    def _read(self) -> dict[str, int]:
        try:
            lines = self._file.read_text(encoding="ascii").splitlines()
        except (OSError, UnicodeDecodeError):
            return {}
        rows = [line.split() for line in lines]
        return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdecimal()}

    def _now(self) -> int:
        return self._clock.now() // 1000

    def _sign(self, body: str) -> str:
        return hmac.new(self._token.value().encode(), f"session {body}".encode(), sha256).hexdigest()


def _digest(code: str) -> bytes:
    return sha256(code.encode("utf-8", "surrogatepass")).digest()


def _file_version(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
