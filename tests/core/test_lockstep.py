"""Engines in lockstep decide, see and are worth what they would alone, to the last bit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.config import Config
from agent.core.bar_history import KEPT, BarSeries
from agent.core.engine import Engine
from agent.core.errors import ConfigError
from agent.core.events import Decision, Event, Kline
from agent.core.lockstep import Lockstep
from agent.core.lockstep_variant import LockstepVariant, front_engine
from agent.core.shared_history import SharedSeries
from agent.core.sinks import NullSink
from agent.core.warm_up import declared_intervals
from strategies import own_error
from tests.support.market import config
from tests.support.variants import KINDS, SYMBOLS, Coin, Params, Watcher, tape

RUN = "lockstep"
BLOCK = 64  # equity samples


class Log(NullSink):
    """Decisions with the number of their event, and blocks of samples."""

    def __init__(self) -> None:
        self.event = 0
        self.decisions: list[tuple[int, Decision]] = []
        self.blocks: list[list[tuple[float, ...]]] = []

    def decision(self, decision: Decision) -> None:
        self.decisions.append((self.event, decision))

    def equity(
        self, ts: Sequence[int], equity: Sequence[float], cash: Sequence[float], exposure: Sequence[float]
    ) -> None:
        self.blocks.append(list(zip(ts, equity, cash, exposure, strict=True)))

    def samples(self, ts: Any, equity: Any, cash: Any, exposure: Any) -> None:
        self.equity(ts.tolist(), equity.tolist(), cash.tolist(), exposure.tolist())


class Outcome(NamedTuple):
    """All that is known of a run."""

    decisions: list[tuple[int, Decision]]
    blocks: list[list[tuple[float, ...]]]
    seen: list[Any]
    cash: Any
    positions: list[Any]
    error: str


def outcome(engine: Engine, log: Log, strategy: Watcher, error: str) -> Outcome:
    portfolio = engine.portfolio
    positions = [(one.qty, one.cost, one.mark) for one in portfolio.positions.values() if one.qty]
    return Outcome(log.decisions, log.blocks, strategy.seen, portfolio.cash, positions, error)


def alone(setup: Config, strategy: Watcher, events: Sequence[Event], predictor: Any) -> Outcome:
    log, error = Log(), ""
    engine = Engine(setup, strategy, log, run_id=RUN, predictor=predictor, equity_block=BLOCK)
    try:
        for log.event, event in enumerate(events, 1):
            engine.handle(event)
    except ValueError as raised:
        error = str(raised)
    engine.finish()
    return outcome(engine, log, strategy, error)


def together(
    setup: Config, strategies: Sequence[Watcher], events: Sequence[Event], predictor: Any
) -> list[Outcome]:
    """Replay strategies that declare the same intervals."""
    intervals = list(declared_intervals(strategies[0], setup.market.interval))
    front = front_engine(setup, intervals, predictor, RUN)
    values: dict[Any, Any] = {}
    logs, engines, errors, variants = [], [], [""] * len(strategies), []
    for number, strategy in enumerate(strategies):
        log = Log()
        strategy.ta.share(values)
        engine = Engine(setup, strategy, log, run_id=RUN, front=front)

        def blames(error: Exception, number: int = number, strategy: Watcher = strategy) -> bool:
            errors[number] = str(error)
            return isinstance(error, ValueError)

        variants.append(LockstepVariant(engine, log, blames, records=True))
        logs.append(log)
        engines.append(engine)
    lockstep = Lockstep(setup, front, variants, equity_block=BLOCK)
    for number, event in enumerate(events, 1):
        for log in logs:
            log.event = number
        lockstep.handle(event)
    lockstep.finish()
    return list(map(outcome, engines, logs, strategies, errors))


@st.composite
def setups(draw: st.DrawFn) -> Config:
    """Return a configuration with tight limits, odd costs and all ways of filling."""
    return config(
        market={"symbols": list(SYMBOLS), "category": draw(st.sampled_from(("linear", "linear", "spot")))},
        account={"leverage": draw(st.sampled_from((1, 3, 50)))},
        signals={"half_life": "2m", "window": "9m", "threshold": 0.6},
        risk={
            "max_daily_loss": draw(st.sampled_from((0.005, 1))),
            "max_drawdown": draw(st.sampled_from((0.01, 0.1, 1))),
            "on_max_drawdown": draw(st.sampled_from(("halt", "flatten"))),
            "max_abstain_rate": draw(st.sampled_from((0.2, 1))),
            "abstain_window": 4,
        },
        paper={
            "fill": draw(st.sampled_from(("open", "open", "close"))),
            "latency": draw(st.sampled_from((0, 250, 70_000))),
            "fees": "maker_taker",
            "liquidity": draw(st.sampled_from(("participation", "infinite"))),
        },
    )


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    setup=setups(),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 1 << 30),
    rates=st.lists(st.sampled_from((0.0, 0.02, 0.3)), min_size=2, max_size=4),
    fails_at=st.sampled_from((0, 0, 5, 40)),
    commands=st.booleans(),
    odd_bars=st.booleans(),
    predicts=st.booleans(),
)
def test_variants_decide_see_and_are_worth_what_they_would_alone(
    setup: Config,
    kind: type[Watcher],
    seed: int,
    rates: list[float],
    fails_at: int,
    commands: bool,
    odd_bars: bool,
    predicts: bool,
) -> None:
    events = tape(seed, 150, commands=commands, odd_bars=odd_bars)
    predictor = Coin() if predicts else None
    params = [Params(seed=number, rate=rate) for number, rate in enumerate(rates)]
    params.append(Params(seed=99, rate=0.1, fails_at=fails_at))
    expected = [alone(setup, kind(one), events, predictor) for one in params]
    found = together(setup, [kind(one) for one in params], events, predictor)
    for one, other in zip(found, expected, strict=True):
        assert one.seen == other.seen
        assert one == other


@settings(max_examples=50, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.integers(1, 900), st.integers(0, 1), st.integers(1, 6_000)), min_size=1, max_size=12
    )
)
def test_a_shared_series_shows_as_many_bars_as_one_of_its_own(steps: list[tuple[int, int, int]]) -> None:
    source = BarSeries("1m", 60_000)
    readers = [SharedSeries(source), SharedSeries(source)]
    own = [BarSeries("1m", 60_000), BarSeries("1m", 60_000)]
    time = 0
    for bars, reader, request in steps:
        for _ in range(bars):
            for series in (source, *own):
                series.append(time, time + 0.5, 2.0, 3.0, 4.0, 5.0, 0.0)
            time += 1
        assert readers[reader].keep(request) == own[reader].keep(request)
        for one, other in zip(readers, own, strict=True):
            for rows in (1, KEPT, request):
                assert np.array_equal(one.last(rows).start, other.last(rows).start)
            assert one.count == other.count


def test_a_shared_series_refuses_what_a_series_refuses() -> None:
    shared = SharedSeries(BarSeries("1m", 60_000))
    with pytest.raises(ValueError, match="ask for 1 to 100,000"):
        shared.keep(100_001)


def test_an_error_that_is_not_the_strategys_ends_the_batch() -> None:
    class Elsewhere(Watcher):
        def on_kline(self, kline: Any, market: Any) -> None:
            self.target("DOGEUSDT", weight=1)

    setup = config(market={"symbols": list(SYMBOLS)})
    front = front_engine(setup, (), None, RUN)
    strategy, log = Elsewhere(), Log()
    engine = Engine(setup, strategy, log, run_id=RUN, front=front)
    variant = LockstepVariant(
        engine, log, lambda error: own_error(strategy, error) is not None, records=False
    )
    lockstep = Lockstep(setup, front, [variant])
    bars = [event for event in tape(1, 5, commands=False, odd_bars=False) if isinstance(event, Kline)]
    with pytest.raises(ConfigError, match="DOGEUSDT, which is not traded"):
        lockstep.handle(bars[0])
