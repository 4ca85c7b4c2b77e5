"""Counters of a language model's scorer, as the user sees them."""

from __future__ import annotations

import msgspec


class LlmHealth(msgspec.Struct):
    """What became of the headlines: asked = answered + all of `fallbacks` + all of `abstained`."""

    model: str = ""
    method: str = ""  # that the next headline is queried by: logprobs or json
    asked: int = 0  # headlines
    answered: int = 0  # by this model
    fallbacks: dict[str, int] = {}  # answered by the fallback, by cause
    abstained: dict[str, int] = {}  # answered by none, by cause; "budget" is one
    short: int = 0  # answered with fewer valid samples than configured
    uncalibrated: int = 0  # answered by a method that the calibration wasn't fitted for
    invalid: int = 0  # answers or responses of another form
    requests: int = 0
    retried: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    left_out: tuple[str, ...] = ()  # parameters that the server doesn't know
    note: str = ""  # why `method` isn't what was tried first
    down: str = ""  # the last error while the server counts as down
    last_error: str = ""
