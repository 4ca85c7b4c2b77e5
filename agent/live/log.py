"""The daemon's log: structlog to standard error, as text for people or JSON for programs, without secrets."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Final, TextIO

import msgspec
import structlog

from agent.config.live import LogConfig
from agent.core.masking import MASK, is_secret_field, masked
from agent.data.text import printable
from agent.live.interfaces.status import OutputStatus
from agent.live.log_limit import RepeatLimit, bound_trace
from agent.live.log_lines import RecentLines
from agent.live.output import GuardedStream, log_status
from agent.system.clock import WallClock, iso


def redact(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor: mask secrets and remove control characters."""
    for key, value in event.items():
        event[key] = MASK if value and is_secret_field(key) else masked(_printable(value))
    return event


def _printable(value: Any) -> Any:
    match value:
        case str():
            return printable(value)
        case dict():
            return {_printable(key): _printable(item) for key, item in value.items()}
        case list() | tuple():
            return [_printable(item) for item in value]
        case _:
            return value


_limit = RepeatLimit()

recent: Final = RecentLines()
"""The latest lines of this process, masked as they are in the log."""


def status() -> OutputStatus:
    """Return how many lines of the log were lost or suppressed, and why."""
    found = log_status()
    found.suppressed = _limit.suppressed
    return found


def configure(config: LogConfig, stream: TextIO | None = None) -> None:
    """Configure logging in this process, for structlog and the standard library.

    It writes to the current `sys.stderr`: call `agent.live.output.guard` first, so that a full disk or a slow
    reader can't block the process.
    """
    global _limit
    limit = _limit = RepeatLimit()
    stream = stream or sys.stderr
    as_json = config.format == "json" or (config.format == "auto" and not stream.isatty())
    if as_json and isinstance(stream, GuardedStream):
        stream.writer.notice = _lost_notice
    before: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    renderer: Any = structlog.processors.JSONRenderer()
    if not as_json:
        renderer = structlog.dev.ConsoleRenderer(colors=stream.isatty(), pad_event_to=18)
    last: list[Any] = [structlog.processors.format_exc_info, bound_trace, redact, recent, renderer]
    level = logging.getLevelNamesMapping()[config.level.upper()]
    structlog.configure(
        processors=[limit, *before, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.addFilter(limit)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=before,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


def _lost_notice(lost: int, reason: str) -> str:
    """Format the notice of lost lines as JSON."""
    line = {"event": "lines of the log were lost", "lost": lost, "reason": reason, "level": "warning"}
    return msgspec.json.encode(line | {"timestamp": iso(WallClock().now())}).decode() + "\n"
