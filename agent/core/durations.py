"""Durations as people write them: `250ms`, `30s`, `5m`, `4h`, `1d`; inside they are milliseconds."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer

_UNITS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_PATTERN = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")


def parse_duration(value: str | int) -> int:
    """Milliseconds of `value`: a text such as `5m`, or a number that is milliseconds already.

    Raises ValueError where it is neither.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 0:
            raise ValueError("a duration can't be negative")
        return value
    match = _PATTERN.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(
            f"{value!r} is not a duration; write a number with its unit, e.g. 250ms, 30s, 5m, 4h, 1d"
        )
    return round(float(match[1]) * _UNITS[match[2]])


def format_duration(ms: int) -> str:
    """The shortest exact text: 60000 -> `1m`."""
    for unit, size in reversed(_UNITS.items()):
        if ms and ms % size == 0:
            return f"{ms // size}{unit}"
    return f"{ms}ms"


Duration = Annotated[int, BeforeValidator(parse_duration), PlainSerializer(format_duration, return_type=str)]
"""A pydantic field in milliseconds that reads and writes texts such as `5m`."""
