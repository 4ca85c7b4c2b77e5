"""Login and logout of browsers: the token, single-use links, sessions, and limits on wrong guesses."""

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
from agent.system.private import write_private

LINK_LIFE: Final = 10 * MINUTE_MS
"""How long a login link can be used."""

_CLIENTS: Final = 1_000  # clients with remembered attempts, at most
_LINKS: Final = 32  # unused ones; the oldest is forgotten
_log: Final = structlog.get_logger(__name__)


class Attempts:
    """Wrong tokens of each client in the last minute; the client that was quiet longest is forgotten first."""

    def __init__(self, limit: int, clock: Clock) -> None:
        self._limit = limit
        self._clock = clock
        self._wrong: OrderedDict[str, list[int]] = OrderedDict()

    def wait(self, client: str) -> int:
        """Seconds until this client may try again; 0: now."""
        now = self._clock.now()
        recent = [at for at in self._wrong.get(client, ()) if at > now - MINUTE_MS]
        return 0 if len(recent) < self._limit else -(-(recent[0] + MINUTE_MS - now) // 1000)

    def wrong(self, client: str) -> None:
        """Count one; beyond the limit the times of the latest are kept."""
        now = self._clock.now()
        recent = [at for at in self._wrong.get(client, ()) if at > now - MINUTE_MS]
        self._wrong[client] = [*recent, now][-self._limit :]
        self._wrong.move_to_end(client)
        if len(self._wrong) > _CLIENTS:
            self._wrong.popitem(last=False)


class Token:
    """The token in `path`, created if missing. If the file is replaced, it is read again, and the new token ends all sessions."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._value = make_token(path)
        self._seen = _version(path)

    def value(self) -> str:
        """The current token."""
        seen = _version(self.path)
        if seen != self._seen:
            self._seen = seen
            try:
                self._value = read_token(self.path)
            except TapewireError as error:
                _log.warning("the old token stays", reason=error.message)
        return self._value

    def is_right(self, given: str) -> bool:
        """Compared in constant time."""
        return same_token(given, self.value())


class Links:
    """Codes that log one browser in, once, within `LINK_LIFE`. Only their hashes are kept."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ends: OrderedDict[bytes, int] = OrderedDict()

    def make(self) -> str:
        """A new code."""
        code = secrets.token_urlsafe(24)
        self._ends[_digest(code)] = self._clock.now() + LINK_LIFE
        if len(self._ends) > _LINKS:
            self._ends.popitem(last=False)
        return code

    def use(self, code: str) -> bool:
        """Whether the code is valid; it is used up by this call."""
        return self._ends.pop(_digest(code), 0) > self._clock.now()


class Sessions:
    """Cookies `ID.END.SEAL`: sealed with the token, so they outlive a restart and end when the token changes.

    Those that were logged out before their end are kept beside the token file.
    """

    def __init__(self, token: Token, seconds: int, clock: Clock) -> None:
        self.seconds = seconds
        self._token = token
        self._clock = clock
        self._file = token.path.with_name(f"{token.path.name}.ended")
        self._ended: dict[str, int] = self._read()

    @property
    def cookie(self) -> str:
        """Its name: two agents on one machine, which share a browser's cookies, have different ones."""
        return f"tapewire_{self._seal('cookie')[:8]}"

    def begin(self) -> str:
        """The value of a new cookie."""
        body = f"{secrets.token_urlsafe(9)}.{self._now() + self.seconds}"
        return f"{body}.{self._seal(body)}"

    def holds(self, value: str) -> bool:
        """Whether a cookie's value is a session that has not ended."""
        body, _, seal = value.rpartition(".")
        identifier, _, ends = body.partition(".")
        if not (ends.isascii() and ends.isdigit() and len(ends) < 16):
            return False
        return (
            same_token(seal, self._seal(body)) and self._now() < int(ends) and identifier not in self._ended
        )

    def end(self, value: str) -> None:
        """Log it out, over restarts as well."""
        if not self.holds(value):
            return
        identifier, ends, _ = value.split(".")
        self._ended[identifier] = int(ends)
        self._ended = {one: until for one, until in self._ended.items() if until > self._now()}
        try:
            write_private(self._file, "".join(f"{one} {until}\n" for one, until in self._ended.items()))
        except OSError as error:
            _log.warning(
                "a log-out is not remembered over a restart", file=str(self._file), reason=error.strerror
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

    def _seal(self, body: str) -> str:
        return hmac.new(self._token.value().encode(), f"session {body}".encode(), sha256).hexdigest()


def _digest(code: str) -> bytes:
    return sha256(code.encode("utf-8", "surrogatepass")).digest()


def _version(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
