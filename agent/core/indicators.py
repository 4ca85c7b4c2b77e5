"""TA-Lib's indicators by name, computed on a stated window of the closed bars.

The window of an indicator has the bars that it needs for a first value (TA-Lib's lookback), and as many
before them as it takes until the weight of its start value is below 1e-10 (`agent.core.indicator_windows`).
So a value depends on the last bars only, not on where the history begins.
"""

from __future__ import annotations

import importlib
from collections import namedtuple
from functools import cache
from math import nan
from typing import Any, Final, NamedTuple, Protocol

import numpy as np

from agent.core.bar_history import BarSeries, Column, SymbolHistory
from agent.core.errors import StrategyError, did_you_mean
from agent.core.indicator_windows import CUMULATIVE, NOT_ON_WINDOWS, bars_before

_MOST_VALUES: Final = 10_000
"""Values kept for repeated calls."""


class BarSource(Protocol):
    """Where indicators find the closed bars."""

    def history(self, symbol: str) -> SymbolHistory:
        """Return the bars of a symbol. Raises StrategyError if the strategy declares no intervals."""
        ...


class _Plan(NamedTuple):
    """How to compute one function with one set of parameters."""

    function: Any
    inputs: tuple[str, ...]  # columns of bars
    parameters: dict[str, Any]
    window: int  # bars
    fields: Any  # named tuple of the outputs; None if there is one


class Indicators:
    """`ta.RSI(symbol, "1h", timeperiod=14)` and all other functions of TA-Lib.

    A call returns the value at the last closed bar, NaN until the window is full; with `history=n` the last
    `n` values as a read-only column, oldest first. Functions with several outputs return a named tuple:
    `ta.MACD(symbol, "1h").macdsignal`. Parameters have TA-Lib's names and defaults. `price` chooses another
    column than the closes, `window` another number of bars.

    Each distinct call is computed at most once a bar. Raises StrategyError without TA-Lib or for an
    undeclared interval, AttributeError for an unknown function, TypeError for an unknown parameter, and
    ValueError for a value out of range.
    """

    def __init__(self) -> None:
        self._source: BarSource | None = None
        self._plans: dict[tuple[Any, ...], _Plan] = {}
        self._values: dict[tuple[Any, ...], tuple[int, Any]] = {}
        self._shared: dict[tuple[Any, ...], tuple[int, Any]] | None = None

    def attach(self, source: BarSource) -> None:
        """Take the bars from `source`."""
        self._source = source

    def share(self, values: dict[tuple[Any, ...], tuple[int, Any]]) -> None:
        """Keep values in `values`, which other indicators of the same bars share."""
        self._shared = values

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        _check_function(name)

        def call(
            symbol: str,
            interval: str,
            *,
            history: int | None = None,
            window: int | None = None,
            price: str | None = None,
            **parameters: Any,
        ) -> Any:
            return self._value(name, symbol, interval, history, window, price, parameters)

        call.__name__ = name
        setattr(self, name, call)
        return call

    def _value(
        self,
        name: str,
        symbol: str,
        interval: str,
        history: int | None,
        window: int | None,
        price: str | None,
        parameters: dict[str, Any],
    ) -> Any:
        if self._source is None:
            raise StrategyError(f"self.ta.{name} is called before the first bar", hint="call it in on_bar")
        bars = self._source.history(symbol)
        series = bars.find(interval)
        what = (name, window, price, *sorted(parameters.items()))
        key = (symbol, series.name, history, *what)
        known = self._values.get(key)
        if known is not None and known[0] == series.count:
            return known[1]
        plan = self._plans.get(what)
        if plan is None:
            plan = self._plans[what] = _plan(name, window, price, parameters)
        if history is not None and history < 1:
            raise ValueError(f"history={history!r} is not a number of values")
        rows = plan.window + (history or 1) - 1
        bars.reserve(series, rows)
        if self._shared is None:
            value = _compute(plan, series.columns(plan.inputs, rows), history)
        else:
            value = self._shared_value(key, plan, series, rows, history)
        if len(self._values) >= _MOST_VALUES:
            self._values.clear()
        self._values[key] = series.count, value
        return value

    def _shared_value(
        self, key: tuple[Any, ...], plan: _Plan, series: BarSeries, rows: int, history: int | None
    ) -> Any:
        """Return the value that others have computed from as many bars, or compute it for them."""
        shared = self._shared
        if shared is None:
            raise AssertionError("nothing is shared")
        what, count = (*key, series.available(rows)), series.count
        known = shared.get(what)
        if known is not None and known[0] == count:
            return known[1]
        value = _compute(plan, series.columns(plan.inputs, rows), history)
        if len(shared) >= _MOST_VALUES:
            shared.clear()
        shared[what] = count, value
        return value


def _compute(plan: _Plan, columns: list[Column], history: int | None) -> Any:
    """Return the value at the last bar, or the last `history` values; NaN without a full window."""
    rows, window = len(columns[0]), plan.window
    count = 1 if plan.fields is None else len(plan.fields._fields)
    if rows < window:
        outputs = [np.full(history or 1, nan)] * count
    else:
        found = plan.function(*columns, **plan.parameters)
        outputs = [found] if plan.fields is None else list(found)
    if history is None:
        values: list[Any] = [float(output[-1]) for output in outputs]
    else:
        values = [_column(output, rows - window + 1, history) for output in outputs]
    return values[0] if plan.fields is None else plan.fields(*values)


def _column(output: Any, valid: int, length: int) -> Column:
    """Return the last `length` values as a read-only column; of those, only the last `valid` ones count."""
    column = np.full(length, nan)
    count = max(0, min(valid, length))
    if count:
        column[length - count :] = output[-count:]
    column.flags.writeable = False
    return column


def _plan(name: str, window: int | None, price: str | None, parameters: dict[str, Any]) -> _Plan:
    library, abstract = _library()
    about = abstract.Function(name)
    defaults = dict(about.parameters)
    for parameter in parameters:
        if parameter not in defaults:
            known = f"it has {', '.join((*defaults, 'history', 'window', 'price'))}"
            raise TypeError(
                f"{name} has no parameter {parameter}: {did_you_mean(parameter, defaults, known)}"
            )
    # TA-Lib refuses nbdevup=2, which is not a float
    parameters = {
        parameter: float(value) if type(value) is int and type(defaults[parameter]) is float else value
        for parameter, value in parameters.items()
    }
    sources = dict(about.input_names)
    if price is not None:
        if "price" not in sources:
            raise TypeError(f"{name} has no price to choose: it reads {_inputs(sources)}")
        if price not in ("open", "high", "low", "close", "volume"):
            raise ValueError(f"price={price!r} is none of open, high, low, close, volume")
        sources["price"] = price
    values = {**defaults, **parameters}
    try:
        about.parameters = parameters
        least = int(about.lookback) + 1
        # TA-Lib checks the values only if it computes something
        getattr(library, name)(*[np.ones(max(least, 2)) for _ in _inputs(sources)], **parameters)
    except Exception as error:  # TA-Lib raises Exception itself
        given = ", ".join(f"{parameter}={value!r}" for parameter, value in parameters.items())
        raise ValueError(f"{name}: {given} is refused by TA-Lib: {error}") from error
    if window is None:
        before = bars_before(name, values)
        if before is None:
            why = "adds up from the first bar on" if name in CUMULATIVE else "has no stated window"
            raise ValueError(f"{name} {why}: write window=200 for the last 200 bars")
        window = least + before
    elif window < least:
        raise ValueError(f"window={window} of {name} is too short: it needs {least} bars")
    outputs = list(about.output_names)
    fields: Any = namedtuple(name, outputs) if len(outputs) > 1 else None
    return _Plan(getattr(library, name), tuple(_inputs(sources)), parameters, window, fields)


def _inputs(sources: dict[str, Any]) -> list[str]:
    """Return the columns that a function reads, in its order."""
    return [name for one in sources.values() for name in ([one] if isinstance(one, str) else one)]


@cache
def _library() -> tuple[Any, Any]:
    try:
        return importlib.import_module("talib"), importlib.import_module("talib.abstract")
    except ImportError:
        hint = "pip install 'tapewire[ta]'"
        raise StrategyError("self.ta needs TA-Lib, which is not installed", hint=hint) from None


def _check_function(name: str) -> None:
    """Raise AttributeError unless TA-Lib has the function and it makes sense on a window."""
    known = _library()[0].get_functions()
    if name in known and name not in NOT_ON_WINDOWS:
        return
    if name in NOT_ON_WINDOWS:
        raise AttributeError(f"self.ta has no {name}: {NOT_ON_WINDOWS[name]}")
    close = did_you_mean(name.upper(), known, "TA-Lib's functions: https://ta-lib.org/functions")
    raise AttributeError(f"TA-Lib has no function {name}: {close}")
