"""Parameter space of a strategy: ranges from the command line, a grid over them, values for a sampler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from math import ceil, exp, floor, log
from typing import Any, Final, Literal, Protocol

import msgspec

from agent.core.durations import parse_duration
from agent.core.errors import ConfigError, UsageError, did_you_mean
from strategies import load_strategy, strategy_class
from strategies.description import Parameter, Value, describe_parameters

WIDTH: Final = 4.0
"""A number with one bound is searched from its default divided by this to its default times this."""

_LOGARITHMIC: Final = 10.0  # ratio of the bounds from which a number is searched on a logarithmic scale
_OPEN: Final = 0.01  # distance kept from a bound that is excluded itself, as a fraction of the range

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
    type is int. Durations such as `5m` are accepted. Raises UsageError, also for values that the parameter's
    own bounds exclude.
    """
    parameters = {one.name: one for one in describe_parameters(strategy_class(strategy).Params)}
    ranges = []
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not value:
            raise UsageError(f"--range {text!r} is not a range", hint=_HINT)
        if name not in parameters:
            hint = did_you_mean(name, parameters, f"it has {', '.join(parameters)}")
            raise UsageError(f"--range {name}: {strategy} has no such parameter", hint=hint)
        found = _parse(text, name, value, whole=parameters[name].whole)
        _check_bounds(text, found, parameters[name])
        ranges.append(found)
    names = [item.name for item in ranges]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"--range names {twice} twice")
    return ranges or default_space(strategy)


def default_space(strategy: str) -> list[ParameterRange]:
    """Return the search space that a strategy's parameters state by their bounds.

    A number with two bounds is searched between them, on a logarithmic scale if they are far apart; a
    positive number with one bound is searched around its default, within the bound; a bool, a Literal and an
    enumeration have their values. `describe_space` names the other parameters. Raises UsageError if nothing
    is to be searched.
    """
    found = [_default_range(one) for one in describe_parameters(strategy_class(strategy).Params)]
    ranges = [one for one in found if isinstance(one, ParameterRange)]
    if not ranges:
        raise UsageError(
            f"no parameter of {strategy} has bounds, so there is nothing to search",
            hint=f"{_HINT}; or give a parameter bounds: fast: int = Field(20, ge=5, le=60)",
        )
    return ranges


def describe_space(ranges: list[ParameterRange], strategy: str, *, fixed: Mapping[str, Any]) -> list[str]:
    """Return lines on what a search tries, and on the parameters that it leaves as they are, with the reason.

    `fixed` are parameters that the user has set.
    """
    searched = {item.name: item for item in ranges}
    tried, left = [], []
    for parameter in describe_parameters(strategy_class(strategy).Params):
        name, text = parameter.name, parameter.text
        if name in searched:
            found = searched[name]
            values = (
                ", ".join(map(text, found.choices))
                if found.choices
                else f"{text(found.low)} to {text(found.high)}"
            )
            tried.append(f"{name} {values}")
        elif name in fixed:
            left.append(f"{name}={fixed[name]} (set)")
        else:
            reason = _default_range(parameter)
            why = reason if isinstance(reason, str) else "not named by --range"
            left.append(f"{name}={text(parameter.default)} ({why})")
    lines = [f"searched: {'; '.join(tried)}"]
    return [*lines, f"left as they are: {', '.join(left)}"] if left else lines


def _default_range(parameter: Parameter) -> ParameterRange | str:
    """Return the range that the parameter's bounds state, or the reason why it is not searched."""
    if parameter.required:
        return "without default"
    if parameter.default is None:
        return "off by default"
    if parameter.choices:
        choices = parameter.choices
        return ParameterRange(parameter.name, choices=choices) if len(choices) > 1 else "of one value"
    low, high, default = parameter.low, parameter.high, parameter.default
    if not isinstance(default, int | float) or isinstance(default, bool) or (low is None and high is None):
        return "without bounds"
    if low is None or high is None:
        if default <= 0:
            return "with one bound, and a default that is not above 0"
        inside = default / WIDTH, default * WIDTH
        if low is not None:
            gap = (default - low) * _OPEN * parameter.above
            inside = max(inside[0], ceil(low + gap) if parameter.whole else low + gap), inside[1]
        if high is not None:
            gap = (high - default) * _OPEN * parameter.below
            inside = inside[0], min(inside[1], floor(high - gap) if parameter.whole else high - gap)
        scale: Literal["linear", "log"] = "log"
    else:
        gap = 1.0 if parameter.whole else (high - low) * _OPEN
        inside = low + gap * parameter.above, high - gap * parameter.below
        far = inside[0] > 0 and inside[1] >= _LOGARITHMIC * inside[0]
        scale = "log" if far and parameter.step is None else "linear"
    first, last = map(round, inside) if parameter.whole else inside
    step = parameter.step if scale == "linear" else None
    return ParameterRange(parameter.name, first, last, step, scale, parameter.whole)


def _check_bounds(text: str, found: ParameterRange, parameter: Parameter) -> None:
    """Raise UsageError if the parameter excludes values of a range."""
    outside: list[Value]
    if not found.choices:
        outside = [value for value in (found.low, found.high) if parameter.excludes(value)]
    elif parameter.choices:
        outside = [value for value in found.choices if value not in parameter.choices]
    else:
        numbers = [value for value in found.choices if isinstance(value, int | float)]
        outside = [value for value in numbers if parameter.excludes(value)]
    if outside:
        values = ", ".join(parameter.text(value) for value in outside)
        stated = parameter.bounds or "one of true, false"
        raise UsageError(f"--range {text!r}: {parameter.name} can't be {values}", hint=f"it is {stated}")


def extremes(ranges: Sequence[ParameterRange]) -> list[dict[str, Value]]:
    """Return sets of parameters with each range's ends, or all its choices, and all ends together."""
    ends = {item.name: item.points(2) for item in ranges}
    ends |= {item.name: ends[item.name][:: max(1, len(ends[item.name]) - 1)] for item in ranges if item.step}
    found = [{name: value} for name, values in ends.items() for value in values]
    return [*found, *({name: values[at] for name, values in ends.items()} for at in (0, -1))]


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
