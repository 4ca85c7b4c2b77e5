"""The daemon's log: structlog on standard error, as lines for people or JSON for programs, without secrets."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, Final, TextIO

import msgspec
import structlog

from agent.clock import WallClock, iso
from agent.config_live import LogConfig
from agent.live.log_limit import RepeatLimit, bound_trace
from agent.live.output import GuardedStream, OutputStatus, log_status
from agent.secret import MASK

_SECRET_KEY: Final = re.compile(r"secret|token|password|passwd|api_?key|authorization|signature|cookie", re.IGNORECASE)
_IN_TEXT: Final = (
    re.compile(r"(?<=://)[^/@\s]+(?=@)"),  # user and password of a URL
    re.compile(r"(?i)(?<=[?&])((?:[a-z_-]*(?:secret|token|password|key|sign|auth)[a-z_-]*)=)[^&\s\"']+"),
    re.compile(r"(?i)((?:api[_-]?secret|api[_-]?key|password|token|authorization)\"?'?\s*[:=]\s*)[\"']?[^\s,;&\"']+"),
)


def redact(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor: values of secret names, and what looks like a secret inside of texts, are masked."""
    for key, value in event.items():
        event[key] = MASK if _SECRET_KEY.search(key) and value else _masked(value)
    return event


def _masked(value: Any) -> Any:
    match value:
        case str():
            for pattern in _IN_TEXT:
                value = pattern.sub(lambda found: (found[1] if found.lastindex else "") + MASK, value)
            return value
        case dict():
            return {key: MASK if _SECRET_KEY.search(str(key)) else _masked(item) for key, item in value.items()}
        case list() | tuple():
            return [_masked(item) for item in value]
        case _:
            return value


_limit = RepeatLimit()


def status() -> OutputStatus:
    """How many lines of the log were lost or suppressed, and why."""
    found = log_status()
    found.suppressed = _limit.suppressed
    return found


def configure(config: LogConfig, stream: TextIO | None = None) -> None:
    """Set the log of this process up; the libraries' own warnings go the same way.

    It writes to `sys.stderr` as it is now: `agent.live.output.guard` it first, so that a full disk or a slow reader can't stop the
    process.
    """
    global _limit
    limit = _limit = RepeatLimit()
    stream = stream or sys.stderr
    as_json = config.format == "json" or (config.format == "auto" and not stream.isatty())
    if as_json and isinstance(stream, GuardedStream):
        stream.writer.notice = _lost
    before: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    last: list[Any] = (
        [structlog.processors.format_exc_info, bound_trace, redact, structlog.processors.JSONRenderer()]
        if as_json
        else [
            structlog.processors.format_exc_info,
            bound_trace,
            redact,
            structlog.dev.ConsoleRenderer(colors=stream.isatty(), pad_event_to=18),
        ]
    )
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
            foreign_pre_chain=before, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last]
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


def _lost(lost: int, reason: str) -> str:
    """The line after a loss, as JSON."""
    line = {"event": "lines of the log were lost", "lost": lost, "reason": reason, "level": "warning"}
    return msgspec.json.encode(line | {"timestamp": iso(WallClock().now())}).decode() + "\n"
