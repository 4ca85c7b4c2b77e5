"""How many bars a strategy needs before trading starts: what it declares, or what a dry run finds."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from math import exp, sin
from typing import Final

import msgspec

from agent.config import Config
from agent.core.bar_history import Bar
from agent.core.engine import Engine
from agent.core.errors import ConfigError
from agent.core.events import DAY_MS, Direction, Kline, Prediction, Signal
from agent.core.intervals import parse_interval, period_end, period_start
from agent.core.sinks import NullSink
from agent.core.strategy import Strategy
from agent.core.warm_up import declared_intervals, declared_warm_up
from strategies import load_strategy, strategy_class

_ROUNDS: Final = 30
"""Bars of each interval on which the callbacks are called."""

_MOST_ROWS: Final = 6_000
"""Bars of each interval that the dry run makes up at most."""

_BEGIN: Final = 15_000 * DAY_MS


def needed_bars(config: Config) -> dict[str, int]:
    """Return how many bars by interval the configured strategies need; empty if they declare no intervals.

    These are the bars of its `warm_up`. If it declares none, a second instance is called on made-up bars, and
    the most bars that it or its indicators request are returned. Raises ConfigError for a wrong declaration.
    """
    needed: dict[str, int] = {}
    for one in config.strategies().values():
        for name, bars in _needed_by(config.model_copy(update={"strategy": one, "sleeves": ()})).items():
            needed[name] = max(bars, needed.get(name, 0))
    return needed


def _needed_by(config: Config) -> dict[str, int]:
    """Return how many bars by interval the strategy of `config.strategy` needs."""
    kind = strategy_class(config.strategy.name)
    try:
        strategy = load_strategy(config.strategy.name, config.strategy.params)
    except ConfigError:
        if kind.intervals or kind.warm_up or kind.overrides("on_bar"):
            raise
        return {}  # the run itself reports the wrong parameter
    return bars_needed_by(strategy, config)


def bars_needed_by(strategy: Strategy, config: Config) -> dict[str, int]:
    """Return how many bars by interval `strategy` needs, as `needed_bars`. It must not be used afterwards."""
    market = config.market
    intervals = declared_intervals(strategy, market.interval, calendar=market.calendar_bars)
    declared = declared_warm_up(strategy)
    if declared or not intervals or market.calendar_bars:
        return {name: bars for name, bars in declared.items() if bars}
    engine = Engine(config, strategy, NullSink(), run_id="dry run", contain_errors=True)
    rehearsal = _DryRun(engine)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about made-up bars, of which the user knows nothing
        for number in range(_ROUNDS):
            rehearsal.advance(number)
    histories = [state.history for state in engine.states.values() if state.history is not None]
    requested = {name: max(history.series[name].requested for history in histories) for name in intervals}
    return {name: bars for name, bars in requested.items() if bars}


def needs_text(needed: Mapping[str, int]) -> str:
    """Return bars by interval as the argument `needs` of a command."""
    return msgspec.json.encode({name: str(bars) for name, bars in needed.items()}).decode()


def lacks_bars(engine: Engine, needs: Mapping[str, str]) -> bool:
    """Return whether an engine has fewer bars of a symbol at hand than `needs`, the bars by interval."""
    needed = {parse_interval(text): int(bars) for text, bars in needs.items()}
    for state in engine.states.values():
        series = {} if state.history is None else state.history.series
        known = {one.interval: one.count for one in series.values()}
        if state.next_start >= 0 and any(known.get(one, 0) < bars for one, bars in needed.items()):
            return True
    return False


class _DryRun:
    """Made-up bars for the strategy of `engine`, whose errors are contained: the real run will show them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._rows: dict[tuple[str, str], int] = {}
        # so that symbols have different prices, as a pair trade needs
        self._phases = {symbol: number for number, symbol in enumerate(engine.states)}

    def advance(self, number: int) -> None:
        """Add a bar to each history, and the bars that were requested; then call every callback."""
        market, guard = self._engine.market, self._engine.guard
        if guard is None:
            return
        for symbol, state in self._engine.states.items():
            history = state.history
            if history is None:
                continue
            bars = []
            for name, series in history.series.items():
                rows = min(_MOST_ROWS, series.requested)
                bars.append(self._append(symbol, name))
                while self._rows[symbol, name] < rows:
                    bars[-1] = self._append(symbol, name)
            base = bars[0]
            market.now = max(market.now, base.ts)
            state.position.mark = base.close
            kline = Kline(symbol, state.interval, base.start, base.ts, base.ts, *base[4:9])
            guard.on_kline(kline, market)
            for bar in bars:
                guard.on_bar(bar, market)
            up = number % 2 == 0
            direction = Direction.BUY if up else Direction.SELL
            chances = (0.1, 0.1, 0.8) if up else (0.8, 0.1, 0.1)
            guard.on_signal(Signal(symbol, base.ts, direction, 0.8, *chances, True, ("dry run",)), market)
            guard.on_prediction(Prediction(symbol, base.ts, *chances, move=0.01), market)
            guard.targets.clear()
            guard.resume()

    def _append(self, symbol: str, name: str) -> Bar:
        """Append a bar to a history; its prices oscillate, so that conditions of all kinds are met."""
        history = self._engine.states[symbol].history
        if history is None:
            raise AssertionError(f"{symbol} has a history")
        series = history.series[name]
        number = self._rows[symbol, name] = self._rows.get((symbol, name), 0) + 1
        first = period_start(_BEGIN, series.interval)
        start = first if number == 1 else period_end(series.last_start, series.interval)
        phase = 2.0 * self._phases[symbol]
        opened, close = _price(number - 1 + phase), _price(number + phase)
        high, low = max(opened, close) * 1.001, min(opened, close) * 0.999
        volume = 10.0 + number % 7
        series.append(start, opened, high, low, close, volume, 0.0)
        end = period_end(start, series.interval)
        return Bar(symbol, name, start, end, opened, high, low, close, volume)


def _price(number: float) -> float:
    return 100.0 * exp(0.02 * sin(number / 7) + 0.01 * sin(number / 3))
