"""Reads the packed numbers of a page, independently of the page's script."""

from __future__ import annotations

from base64 import b64decode
from itertools import accumulate
from typing import Any


def read_integers(text: str, count: int) -> list[list[int]]:
    """Return the columns of `count` integers."""
    numbers, value, shift = list[int](), 0, 0
    for byte in b64decode(text):
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            numbers.append(value >> 1 if value % 2 == 0 else -(value + 1 >> 1))
            value = shift = 0
    return [numbers[first : first + count] for first in range(0, len(numbers), count)]


def read_points(packed: dict[str, Any]) -> tuple[list[int], list[float]]:
    """Return times (s) and values of a line."""
    ts, values = (list(accumulate(column)) for column in read_integers(packed["columns"], packed["count"]))
    return ts, [value * packed["step"] for value in values]


def read_candles(packed: dict[str, Any]) -> list[list[float]]:
    """Return rows of time (s), open, high, low, close, volume."""
    ts, opened, body, above, below, volume = read_integers(packed["columns"], packed["count"])
    step, before, rows = packed["step"], 0, []
    for row, time in enumerate(accumulate(ts)):
        first = before + opened[row]
        before = last = first + body[row]
        top, bottom = max(first, last) + above[row], min(first, last) - below[row]
        prices = [value * step for value in (first, top, bottom, last)]
        rows.append([time, *prices, volume[row] * packed["volume_step"]])
    return rows
