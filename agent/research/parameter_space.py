"""Parameter space of a strategy: ranges from the command line, a grid over them, values for a sampler."""

from __future__ import annotations

from itertools import product
from math import exp, log
from typing import Any, Final, Literal, Protocol, get_args

import msgspec

from agent.core.durations import parse_duration
from agent.core.errors import ConfigError, UsageError, did_you_mean
from strategies import load_strategy, strategy_class

Value = int | float | str | bool

WIDTH: Final = 4.0
"""Without a range, a number is searched from its default divided by this to its default times this."""

_HINT: Final = "write NAME=LOW:HIGH, NAME=LOW:HIGH:STEP, NAME=LOW:HIGH:log, or NAME=A,B,C; e.g. fast=5:60"


class Suggesting(Protocol):
    """The methods of an Optuna trial that a range uses."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int: ...
    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float: ...
    def suggest_categorical(self, name: str, choices: Any) -> Any: ...


class ParameterRange(msgspec.Struct, frozen=True):
    """Values of one parameter: `choices`, or `low` to `high` (included), by `step` if it is given."""

    name: str
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    scale: Literal["linear", "log"] = "linear"
    whole: bool = False  # whole numbers only
    choices: tuple[Value, ...] = ()

    def points(self, count: int) -> list[Value]:
        """Return at most `count` values that cover the range; all of them if there are choices or a step."""
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
        values: list[Value] = [round(value) if self.whole else float(f"{value:.12g}") for value in found]
        return list(dict.fromkeys(values))

    def suggest(self, trial: Suggesting) -> Value:
        """Return the value that the sampler tries next."""
        logarithmic = self.scale == "log"
        if self.choices:
            chosen: Value = trial.suggest_categorical(self.name, list(self.choices))
            return chosen
        if self.whole:
            step = int(self.step or 1)
            return trial.suggest_int(self.name, round(self.low), round(self.high), step=step, log=logarithmic)
        return trial.suggest_float(self.name, self.low, self.high, step=self.step, log=logarithmic)


def parse_ranges(texts: list[str], strategy: str) -> list[ParameterRange]:
    """Parse `NAME=LOW:HIGH[:STEP|:log]` and `NAME=A,B,C`.

    Without any text, return the strategy's `default_space`. A range is of whole numbers if the parameter's
    type is int. Durations such as `5m` are accepted. Raises UsageError.
    """
    fields = strategy_class(strategy).Params.model_fields
    ranges = []
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not value:
            raise UsageError(f"--range {text!r} is not a range", hint=_HINT)
        if name not in fields:
            hint = did_you_mean(name, fields, f"it has {', '.join(fields)}")
            raise UsageError(f"--range {name}: {strategy} has no such parameter", hint=hint)
        ranges.append(_parse(text, name, value, whole=int in _types(fields[name].annotation)))
    names = [item.name for item in ranges]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"--range names {twice} twice")
    return ranges or default_space(strategy)


def default_space(strategy: str) -> list[ParameterRange]:
    """Return ranges around a strategy's positive defaults, within their limits, and both values of bools.

    Raises UsageError if the strategy has no such parameter.
    """
    ranges = []
    for name, field in strategy_class(strategy).Params.model_fields.items():
        default = field.default
        if isinstance(default, bool):
            ranges.append(ParameterRange(name, choices=(False, True)))
        elif isinstance(default, int | float) and default > 0:
            low, high = default / WIDTH, default * WIDTH
            for limit in field.metadata:
                low = max(low, getattr(limit, "ge", low), getattr(limit, "gt", low))
                high = min(high, getattr(limit, "le", high), getattr(limit, "lt", high))
            whole = isinstance(default, int)
            if whole:
                low, high = round(low), round(high)
            ranges.append(ParameterRange(name, low, high, scale="log", whole=whole))
    if not ranges:
        raise UsageError(f"{strategy} has no parameter to search", hint=_HINT)
    return ranges


def grid(
    ranges: list[ParameterRange], strategy: str, fixed: dict[str, Any], *, points: int
) -> list[dict[str, Value]]:
    """Return the combinations of `points` values a range that `strategy` accepts.

    `fixed` are its other parameters. Raises UsageError if it accepts no combination.
    """
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


def _parse(text: str, name: str, value: str, *, whole: bool) -> ParameterRange:
    if "," in value or ":" not in value:
        return ParameterRange(name, choices=tuple(_choice(part.strip()) for part in value.split(",")))
    low, high, *rest = value.split(":")
    scale: Literal["linear", "log"] = "log" if rest == ["log"] else "linear"
    try:
        step = _number(rest[0]) if rest and scale == "linear" else None
        found = ParameterRange(name, _number(low), _number(high), step, scale, whole)
    except ValueError:
        raise UsageError(f"--range {text!r} is not a range", hint=_HINT) from None
    bad_step = len(rest) > 1 or (step is not None and step <= 0)
    if bad_step or found.low > found.high or (scale == "log" and found.low <= 0):
        raise UsageError(f"--range {text!r} is not a range", hint=_HINT)
    return found


def _number(text: str) -> float:
    """Parse a number, or a duration into ms."""
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


def _types(annotation: Any) -> set[Any]:
    """Return the types in an annotation such as `int` or `int | None`."""
    return {annotation, *get_args(annotation)}
