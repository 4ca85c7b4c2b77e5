"""A headline that is good for one asset and bad for another trades both ways, and the run verifies."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as checked
from hypothesis import strategies as st

from agent.config import Config
from agent.core.engine import Engine
from agent.core.events import (
    BUY,
    HOLD,
    SELL,
    AssetSentiment,
    Event,
    Fill,
    News,
    Order,
    Sentiment,
    Side,
    Signal,
)
from agent.core.sinks import ListSink
from agent.data.merge import merge
from agent.live.pipeline import Pipeline
from agent.replay.verify import verify
from agent.store.database import Database, open_database
from agent.store.journal import read_journal
from agent.store.queries import find_run, read_decisions
from agent.store.runs import Run, RunKind
from strategies import load_strategy
from tests.support.market import T0, config, flat_bars

BTC, ETH = "BTCUSDT", "ETHUSDT"
TITLE = "Money rotates from bitcoin into ether"
SEEN = T0 + 5 * 60_000 + 10_000  # inside the sixth bar
SCORED = SEEN + 250
MINUTES = 40
PARAMS = {"position_size": 0.2, "allow_short": True}

ROTATION = (
    News("n", SEEN, SEEN, TITLE),
    Sentiment(
        "n",
        SCORED,
        SCORED,
        0.1,
        0.8,
        0.1,
        model="reader",
        assets=(AssetSentiment("BTC", 0.9, 0.06, 0.04), AssetSentiment("ETH", 0.04, 0.06, 0.9)),
        kind="price",
        kind_confidence=0.7,
    ),
)


def a_config(category: str = "linear", **signals: object) -> Config:
    """Return a configuration in which a vote of 0.9 fades after 10 minutes."""
    return config(
        market={"symbols": [BTC, ETH], "category": category},
        strategy={"name": "sentiment", "params": PARAMS},
        signals={"half_life": "10m", "window": "1h", "fade_below": 0.45, **signals},
        paper={"latency": "250ms", "funding_rate": 0},
    )


def events() -> list[Event]:
    """Bars of both symbols at 100 and 10, and the headline."""
    bars = [flat_bars([price] * MINUTES, symbol) for symbol, price in ((BTC, 100.0), (ETH, 10.0))]
    return list(merge([*bars, ROTATION]))


async def live(database: Database, settings: Config, cuts: Sequence[int] = ()) -> None:
    """Feed the events to the live pipeline, which is killed after each number of events in `cuts`."""
    run = Run("run-1", RunKind.LIVE, T0, "sentiment", params=PARAMS, config=settings.persisted())
    stream, done = events(), 0
    for cut in (*cuts, None):
        with suppress(KeyboardInterrupt), Pipeline(settings, database, run, resume=done > 0) as pipeline:
            await pipeline.feed([(event, 0.0) for event in stream[done:cut]])
            if cut is not None:
                raise KeyboardInterrupt
            pipeline.end(complete=True)
        run, done = find_run(database), cut or 0


def decided(database: Database) -> list[object]:
    return [item.decision for item in read_decisions(database, "run-1")]


async def test_a_rotation_sells_one_asset_and_buys_the_other(tmp_path: Path) -> None:
    with closing(open_database(f"sqlite:///{tmp_path / 'store.db'}")) as database:
        await live(database, a_config())
        decisions = decided(database)
        signals = [one for one in decisions if isinstance(one, Signal)]
        journal = [event for _, event in read_journal(database, "run-1")]
        proof = verify(database, find_run(database))
    assert [(one.symbol, one.direction, one.kind, one.actionable) for one in signals] == [
        (BTC, SELL, "price", True),
        (ETH, BUY, "price", True),
        (BTC, HOLD, "price", False),
        (ETH, HOLD, "price", False),
    ]
    # 20 % of 10,000 at 100 and at 10; both positions are closed when the signals expire
    assert [(one.symbol, one.side, float(one.qty)) for one in decisions if isinstance(one, Fill)] == [
        (BTC, Side.SELL, 20.0),
        (ETH, Side.BUY, 200.0),
        (BTC, Side.BUY, 20.0),
        (ETH, Side.SELL, 200.0),
    ]
    assert ROTATION[1] in journal
    assert proof.identical
    assert proof.decisions == len(decisions)


async def test_on_spot_a_rotation_only_buys(tmp_path: Path) -> None:
    settings = a_config("spot")
    with closing(open_database(f"sqlite:///{tmp_path / 'store.db'}")) as database:
        await live(database, settings)
        fills = [one for one in decided(database) if isinstance(one, Fill)]
        assert verify(database, find_run(database)).identical
    assert [(one.symbol, one.side) for one in fills] == [(ETH, Side.BUY), (ETH, Side.SELL)]


async def test_a_rotation_of_a_kind_that_may_not_vote_trades_nothing(tmp_path: Path) -> None:
    settings = a_config(kinds=["failure", "access"])
    with closing(open_database(f"sqlite:///{tmp_path / 'store.db'}")) as database:
        await live(database, settings)
        assert decided(database) == []
        assert verify(database, find_run(database)).identical


@pytest.mark.slow
@checked(max_examples=8, deadline=None)
@given(st.lists(st.integers(1, 2 * MINUTES), max_size=3, unique=True).map(sorted))
async def test_a_restart_at_any_point_decides_the_same(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int]
) -> None:
    sink = ListSink()
    engine = Engine(a_config(), load_strategy("sentiment", PARAMS), sink, run_id="run-1")
    for event in events():
        engine.handle(event)
    with closing(open_database(f"sqlite:///{tmp_path_factory.mktemp('cut') / 'store.db'}")) as database:
        await live(database, a_config(), cuts)
        decisions = decided(database)
        assert verify(database, find_run(database)).identical
    assert sum(isinstance(one, Order) for one in decisions) == 4
    assert [one for one in decisions if isinstance(one, Signal)] == [
        one for one in sink.decisions if isinstance(one, Signal)
    ]
