"""Limits of the log: repetitions of a line, warnings in total, and the length of tracebacks."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, MutableMapping
from typing import Any, Final

import structlog

REPEATS: Final = 20
"""Warnings and errors of one kind per `WINDOW`; more are suppressed and counted."""

ROUTINE: Final = 500
"""Lines of one kind below level warning per `WINDOW`."""

ALL_KINDS: Final = 200
"""Warnings and errors of all kinds per `WINDOW`."""

WINDOW: Final = 10.0
"""Seconds."""

_KINDS: Final = 1_000  # kinds of lines remembered
_KIND: Final = 100  # leading characters of a line that identify its kind
_TRACE: Final = 4_000  # characters of a traceback
_TEXT: Final = 2_000  # characters of a library's message
_GARBAGE: Final = "aiohttp.http_exceptions"


class _Window:
    __slots__ = ("began", "count", "suppressed")

    def __init__(self, began: float) -> None:
        self.began = began
        self.count = 0
        self.suppressed = 0


class RepeatLimit:
    """Rate limit for lines of the same kind. `timer` is a monotonic clock in seconds."""

    def __init__(self, timer: Callable[[], float] = time.monotonic) -> None:
        self.suppressed = 0
        self._timer = timer
        self._windows: dict[str, _Window] = {}
        self._all = _Window(timer())

    def admit(self, kind: str, level: int) -> int:
        """Return how many lines of this kind were suppressed since the last one; -1 to suppress this one."""
        now = self._timer()
        serious = level >= logging.WARNING
        if serious and now - self._all.began >= WINDOW:
            self._all = _Window(now)
        window = self._windows.get(kind)
        if window is None or now - window.began >= WINDOW:
            missed = window.suppressed if window is not None else 0
            if window is None and len(self._windows) >= _KINDS:
                self._windows.clear()
            window = self._windows[kind] = _Window(now)
            window.suppressed = missed
        if window.count >= (REPEATS if serious else ROUTINE) or (serious and self._all.count >= ALL_KINDS):
            window.suppressed += 1
            self.suppressed += 1
            return -1
        window.count += 1
        self._all.count += serious
        missed, window.suppressed = window.suppressed, 0
        return missed

    def __call__(self, _: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """A structlog processor: suppress the line, or add the number of similar lines suppressed before
        it.
        """
        text = str(event.get("event", ""))
        missed = self.admit(f"{method} {text[:_KIND]}", _LEVELS.get(method, logging.INFO))
        if missed < 0:
            raise structlog.DropEvent
        if missed:
            event["suppressed_similar_lines"] = missed
        return event

    def filter(self, record: logging.LogRecord) -> bool:
        """A filter for the standard library's logging: the same limit for libraries, with shortened messages.

        An HTTP client that sends garbage causes one line, without the parser's traceback.
        """
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and type(error).__module__ == _GARBAGE:
            record.levelno, record.levelname = logging.WARNING, "WARNING"
            record.msg, record.args = "a request that is not HTTP: %s", (str(error)[:200],)
            record.exc_info = None
        kind = f"{record.name} {str(record.msg).partition(chr(10))[0][:_KIND]}"
        missed = self.admit(kind, record.levelno)
        if missed < 0:
            return False
        text = record.getMessage()
        if len(text) > _TEXT or missed:
            more = f" (suppressed {missed} similar lines)" if missed else ""
            record.msg, record.args = shortened(text, _TEXT) + more, ()
        return True


_LEVELS: Final = {name.lower(): level for name, level in logging.getLevelNamesMapping().items()} | {
    "exception": logging.ERROR
}


def bound_trace(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor after `format_exc_info`: shorten a long traceback in the middle."""
    trace = event.get("exception")
    if isinstance(trace, str) and len(trace) > _TRACE:
        event["exception"] = shortened(trace, _TRACE)
    return event


def shortened(text: str, most: int) -> str:
    """Return `text` without its middle if it is longer than `most` characters."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]} … {len(text) - most} characters … {text[-half:]}"
