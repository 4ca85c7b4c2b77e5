"""Another strategy from the middle of a recorded run on is the one that a hot reload would have brought."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.config import Config
from agent.core.engine import Engine
from agent.core.events import HOUR_MS, Command, Decision, Kline, PastBars, RiskEvent, StrategyChange
from agent.core.risk import SHORT_HISTORY
from agent.core.sinks import ListSink
from agent.core.strategy import Bar, Market, Strategy
from agent.replay.recorded_inputs import RecordedInputs
from agent.replay.what_if import Change, fold_on
from agent.research.story_results import story_results
from agent.store.database import Database, open_database
from strategies import load_strategy
from tests.replay.test_what_if import FIXED, config_of, run_of

HERE = "tests.replay.test_midway_change"


class Hourly(Strategy):
    """Trades against the last hour; it needs twelve of them."""

    intervals = ("1h",)
    warm_up = {"1h": 12}

    def on_start(self, market: Market) -> None:
        self.found = {symbol: market.bars(symbol, "1h", 12).close.tolist() for symbol in market.symbols}

    def on_bar(self, bar: Bar, market: Market) -> None:
        closes = market.bars(bar.symbol, "1h", 12).close
        self.target(bar.symbol, weight=0.2 if bar.close < closes.mean() else -0.2, reason="hour")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Database, RecordedInputs]]:
    """A backtest of two averages on the sample bars."""
    folder = tmp_path_factory.mktemp("midway")
    config = config_of(folder, strategy={"name": "sma_cross", "params": {"fast": 5, "slow": 20}})
    with closing(open_database(config.store.url)) as database:
        yield database, run_of(database, config)


def by_hand(source: RecordedInputs, begins: int, commands: list[Any]) -> list[Decision]:
    """Return the decisions of an engine that gets events of its own before event `begins`."""

    def load(args: Mapping[str, str]) -> Strategy:
        return load_strategy(args["strategy"], msgspec.json.decode(args["params"]))

    sink = ListSink()
    first = load_strategy("sma_cross", {"fast": 5, "slow": 20})
    engine = Engine(source.config, first, sink, run_id=source.run.id, loader=load)
    for event in (*source.events[: begins - 1], *commands, *source.events[begins - 1 :]):
        engine.handle(event)
    engine.finish()
    return sink.decisions


def at(source: RecordedInputs, begins: int) -> int:
    return source.events[begins - 1].available_at


def use(now: int, name: str, kind: str, params: dict[str, Any], needs: str = "{}") -> Command:
    args = {"strategy": name, "sha256": "", "class": kind, "needs": needs}
    return Command(
        "use-strategy", now, now, args | {"params": msgspec.json.encode(params).decode()}, "whatif"
    )


@pytest.mark.parametrize("begins", [2, 700, 2_000, 3_500])
def test_other_parameters_from_any_event_on_begin_without_state_as_by_a_command(
    store: tuple[Database, RecordedInputs], begins: int
) -> None:
    source = store[1]
    found = fold_on(source, Change(params={"fast": "10"}), begins=begins)
    params = {"fast": 10, "slow": 20, "weight": 0.45, "allow_short": False}
    expected = by_hand(source, begins, [use(at(source, begins), "sma_cross", "SmaCross", params)])
    assert [made.decision for made in found.changed.decisions] == expected
    change = next(made for made in found.changed.decisions if isinstance(made.decision, StrategyChange))
    assert (change.event_seq, found.difference and found.difference.event_seq) == (begins, begins)
    assert found.as_recorded is True


@pytest.mark.parametrize("begins", [2, 900, 3_000])
def test_another_strategy_from_any_event_on_has_the_bars_of_the_run_so_far(
    store: tuple[Database, RecordedInputs], begins: int
) -> None:
    source, name = store[1], f"{HERE}:Hourly"
    found = fold_on(source, Change(strategy=name), begins=begins)
    now = at(source, begins)
    rows: dict[str, list[tuple[int, float, float, float, float, float]]] = {}
    for one in source.events[: begins - 1]:
        if isinstance(one, Kline):
            rows.setdefault(one.symbol, []).append(
                (one.start, one.open, one.high, one.low, one.close, one.volume)
            )
    commands = [
        Command("strategy-history", now, now, {}, "whatif"),
        *(PastBars(symbol, 60_000, now, now, tuple(bars)) for symbol, bars in rows.items()),
        use(now, name, "Hourly", {}, '{"1h":"12"}'),
    ]
    decided = [made.decision for made in found.changed.decisions]
    shown = [
        msgspec.structs.replace(one, sha256="") if isinstance(one, StrategyChange) else one for one in decided
    ]
    assert shown == by_hand(source, begins, commands)
    hours = (at(source, begins) - source.events[0].available_at) // HOUR_MS
    short = {one.symbol for one in decided if isinstance(one, RiskEvent) and one.rule == SHORT_HISTORY}
    assert short == (set() if hours >= 12 else {"BTCUSDT", "ETHUSDT"})


# -- sleeves -------------------------------------------------------------------------------------------------


def sleeved(folder: Path) -> Config:
    """Two sleeves that follow the headlines with fixed sizes, one against them, and one of averages."""
    (folder / "fixed.py").write_text(FIXED)
    (folder / "against.py").write_text(FIXED.replace("0.02 if signal.score > 0", "0.01 if signal.score < 0"))
    return config_of(
        folder,
        strategy={},
        sleeves=[
            {"name": "with", "strategy": {"name": str(folder / "fixed.py")}, "share": 0.4},
            {"name": "against", "strategy": {"name": str(folder / "against.py")}, "share": 0.3},
            {"name": "trend", "strategy": {"name": "sma_cross", "params": {"fast": 5}}, "share": 0.2},
        ],
    )


@pytest.fixture(scope="module")
def sleeves(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RecordedInputs]:
    config = sleeved(tmp_path_factory.mktemp("sleeves"))
    with closing(open_database(config.store.url)) as database:
        yield run_of(database, config)


@pytest.mark.parametrize("share", [0.0, 0.11, 0.37, 0.5, 0.73, 1.0])
def test_without_a_change_a_run_with_sleeves_goes_on_as_it_was(sleeves: RecordedInputs, share: float) -> None:
    found = fold_on(sleeves, Change(), begins=max(1, round(share * len(sleeves.events))))
    assert found.as_recorded is True
    assert found.difference is None
    assert found.changed == found.as_it_was
    assert msgspec.to_builtins(found.changed.metrics) == sleeves.run.metrics
    assert len(found.changed.decisions) == sleeves.run.decisions > 50


@pytest.mark.slow
def test_the_contributions_of_a_story_in_all_sleeves_are_the_account_s_difference(
    sleeves: RecordedInputs,
) -> None:
    found = story_results(sleeves)
    assert len(found.stories) >= 5
    for story in found.stories:
        assert list(story.sleeves) == ["with", "against", "trend"]
        assert sum(story.sleeves.values()) == pytest.approx(story.contribution, abs=Decimal("1e-12"))
    single = [one for one in found.stories if one.headlines == 1 and one.until is None]
    assert single
    for story in single[:2]:  # their lives go on to the end, so they are those without the headline
        lives = fold_on(sleeves, Change(removed=frozenset({story.story})))
        profits = {
            name: lives.as_it_was.sleeves[name].profit - lives.changed.sleeves[name].profit
            for name in story.sleeves
        }
        assert story.sleeves == profits
    assert any(story.sleeves["with"] * story.sleeves["against"] < 0 for story in found.stories)
