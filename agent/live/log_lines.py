"""The latest lines of the log, in memory, for the page and the API."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from threading import Lock
from typing import Any, Final, NamedTuple

from agent.system.clock import WallClock

KEPT: Final = 2_000
"""Lines."""

_TEXT: Final = 1_000  # characters of a value
_OWN: Final = ("event", "level", "timestamp")


class KeptLine(NamedTuple):
    """A line as the log shows it, with its number in this process."""

    number: int
    ts: int  # UTC ms
    level: str
    event: str
    fields: dict[str, str]


class RecentLines:
    """A ring of the latest `KEPT` lines; as a structlog processor it goes after the one that masks secrets.

    Any thread may log.
    """

    def __init__(self, kept: int = KEPT) -> None:
        self._clock = WallClock()
        self._lines: deque[KeptLine] = deque(maxlen=kept)
        self._count = 0
        self._lock = Lock()

    def __call__(self, _: Any, __: str, event: Mapping[str, Any]) -> Mapping[str, Any]:
        """Keep a line and pass it on."""
        now = self._clock.now()
        fields = {
            str(name): str(value)[:_TEXT]
            for name, value in event.items()
            if name not in _OWN and not name.startswith("_")
        }
        level = str(event.get("level", "info"))
        level = {"exception": "error", "critical": "error", "warn": "warning"}.get(level, level)
        with self._lock:
            self._count += 1
            text = str(event.get("event", ""))[:_TEXT]
            self._lines.append(KeptLine(self._count, now, level, text, fields))
        return event

    def lines(self) -> list[KeptLine]:
        """Return the kept lines, oldest first."""
        with self._lock:
            return list(self._lines)
