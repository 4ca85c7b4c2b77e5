"""The space of a strategy's parameters: ranges as people write them, as a grid, and as what a sampler may suggest."""

from __future__ import annotations

import difflib
from itertools import product
from math import exp, log
from typing import Any, Final, Literal, Protocol, get_args

import msgspec

from agent.core.durations import parse_duration
from agent.core.errors import ConfigError, UsageError
from strategies import load_strategy, strategy_class

Value = int | float | str | bool

WIDTH: Final = 4.0
"""Without a range, a number is searched from a fourth of its default to four times that."""

_HINT: Final = "write NAME=LOW:HIGH, NAME=LOW:HIGH:STEP, NAME=LOW:HIGH:log, or NAME=A,B,C; e.g. fast=5:60"


class Suggesting(Protocol):
    """A trial of Optuna, as far as a range needs it."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int: ...
    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float: ...
    def suggest_categorical(self, name: str, choices: Any) -> Any: ...


class Range(msgspec.Struct, frozen=True):
    """One parameter: `choices`, or from `low` to `high`, both included, by `step` where that is given, evenly or by `scale`."""

    name: str
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    scale: Literal["linear", "log"] = "linear"
    whole: bool = False  # whole numbers only
    choices: tuple[Value, ...] = ()

    def points(self, count: int) -> list[Value]:
        """At most `count` values that cover the range; all of them where there are choices or a step."""
        if self.choices:
            return list(self.choices)
        if self.step is not None:
            steps = int((self.high - self.low) / self.step + 1e-9)
            found = [self.low + i * self.step for i in range(steps + 1)]
        elif count == 1 or self.low == self.high:
            found = [self.low]
        elif self.scale == "log":
            found = [
                exp(log(self.low) + (log(self.high) - log(self.low)) * i / (count - 1)) for i in range(count)
            ]
        else:
            found = [self.low + (self.high - self.low) * i / (count - 1) for i in range(count)]
        values: list[Value] = (
            [round(value) for value in found] if self.whole else [float(f"{value:.12g}") for value in found]
        )
        return list(dict.fromkeys(values))

    def suggest(self, trial: Suggesting) -> Value:
        """What the sampler wants to try next."""
        logarithmic = self.scale == "log"
        if self.choices:
            chosen: Value = trial.suggest_categorical(self.name, list(self.choices))
            return chosen
        if self.whole:
            step = int(self.step or 1)
            return trial.suggest_int(self.name, round(self.low), round(self.high), step=step, log=logarithmic)
        return trial.suggest_float(self.name, self.low, self.high, step=self.step, log=logarithmic)


def parse_ranges(texts: list[str], strategy: str) -> list[Range]:
    """`NAME=LOW:HIGH[:STEP|:log]` and `NAME=A,B,C` of a strategy's parameters; without any text, its `default_space`.

    Whether a number is whole comes from the parameter's type; durations may be written as such. Raises UsageError.
    """
    fields = strategy_class(strategy).Params.model_fields
    ranges = []
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not value:
            raise UsageError(f"--range {text!r} is no range", hint=_HINT)
        if name not in fields:
            close = difflib.get_close_matches(name, fields, n=1)
            did = f"did you mean {close[0]}? " if close else ""
            raise UsageError(
                f"--range {name}: {strategy} has no such parameter", hint=f"{did}it has {', '.join(fields)}"
            )
        ranges.append(_parse(text, name, value, whole=int in _kinds(fields[name].annotation)))
    twice = next(
        (r.name for i, r in enumerate(ranges) if r.name in {other.name for other in ranges[:i]}), None
    )
    if twice is not None:
        raise UsageError(f"--range names {twice} twice")
    return ranges or default_space(strategy)


def default_space(strategy: str) -> list[Range]:
    """A range for each number of a strategy's parameters with a positive default, within its limits, and both values of a bool.

    Raises UsageError where there is none.
    """
    ranges = []
    for name, field in strategy_class(strategy).Params.model_fields.items():
        default = field.default
        if isinstance(default, bool):
            ranges.append(Range(name, choices=(False, True)))
        elif isinstance(default, int | float) and default > 0:
            low, high = default / WIDTH, default * WIDTH
            for limit in field.metadata:
                low = max(low, getattr(limit, "ge", low), getattr(limit, "gt", low))
                high = min(high, getattr(limit, "le", high), getattr(limit, "lt", high))
            whole = isinstance(default, int)
            ranges.append(
                Range(
                    name,
                    round(low) if whole else low,
                    round(high) if whole else high,
                    scale="log",
                    whole=whole,
                )
            )
    if not ranges:
        raise UsageError(f"{strategy} has no parameter to search", hint=_HINT)
    return ranges


def grid(ranges: list[Range], strategy: str, fixed: dict[str, Any], *, points: int) -> list[dict[str, Value]]:
    """Every combination of `points` values a range that `strategy` accepts beside its `fixed` parameters. Raises UsageError."""
    names = [item.name for item in ranges]
    found, refusal = [], ""
    for values in product(*(item.points(points) for item in ranges)):
        params = dict(zip(names, values, strict=True))
        try:
            load_strategy(strategy, {**fixed, **params})
        except ConfigError as error:
            refusal = str(error)
        else:
            found.append(params)
    if not found:
        raise UsageError(f"no combination of the ranges is valid: {refusal}", hint="name other ranges")
    return found


def _parse(text: str, name: str, value: str, *, whole: bool) -> Range:
    if "," in value or ":" not in value:
        return Range(name, choices=tuple(_choice(part.strip()) for part in value.split(",")))
    low, high, *rest = value.split(":")
    scale: Literal["linear", "log"] = "log" if rest == ["log"] else "linear"
    try:
        step = _number(rest[0]) if rest and scale == "linear" else None
        found = Range(name, _number(low), _number(high), step, scale, whole)
    except ValueError:
        raise UsageError(f"--range {text!r} is no range", hint=_HINT) from None
    if (
        found.low > found.high
        or len(rest) > 1
        or (step is not None and step <= 0)
        or (scale == "log" and found.low <= 0)
    ):
        raise UsageError(f"--range {text!r} is no range", hint=_HINT)
    return found


def _number(text: str) -> float:
    """A number, or a duration in ms."""
    try:
        return float(text)
    except ValueError:
        return float(parse_duration(text))


def _choice(text: str) -> Value:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return int(text)
    except ValueError:
        try:
            return float(text)
        except ValueError:
            return text


def _kinds(annotation: Any) -> set[Any]:
    """The types of `int`, `int | None` and the like."""
    return {annotation, *get_args(annotation)}
