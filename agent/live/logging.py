"""The daemon's log: structlog on standard error, as lines for people or JSON for programs, without secrets."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, Final, TextIO

import structlog

from agent.config_live import LogConfig
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


def configure(config: LogConfig, stream: TextIO | None = None) -> None:
    """Set the log of this process up; the libraries' own warnings go the same way."""
    stream = stream or sys.stderr
    as_json = config.format == "json" or (config.format == "auto" and not stream.isatty())
    before: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    last: list[Any] = (
        [structlog.processors.format_exc_info, redact, structlog.processors.JSONRenderer()]
        if as_json
        else [
            structlog.processors.format_exc_info,
            redact,
            structlog.dev.ConsoleRenderer(colors=stream.isatty(), pad_event_to=18),
        ]
    )
    level = logging.getLevelNamesMapping()[config.level.upper()]
    structlog.configure(
        processors=[*before, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=before, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last]
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
