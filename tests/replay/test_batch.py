"""Variants of one stream: each decides exactly as a run alone does, and a failing one fails alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from agent.config import Config, load
from agent.core.errors import ConfigError
from agent.core.events import HOUR_MS, MINUTE_MS, Decision
from agent.core.sinks import NullSink
from agent.replay.backtest import replay
from agent.replay.batch import RUN_ID, SweepResult, replay_batch
from agent.replay.history import History, Plan
from agent.research.replay_window import with_overrides, with_params
from agent.store.chain import DecisionChain
from agent.store.database import open_database
from agent.store.queries import list_runs
from strategies import load_strategy
from tests.cli.conftest import Outcome, tapewire
from tests.cli.test_backtest import scores
from tests.conftest import ROOT

__all__ = ["tapewire"]  # a fixture
SAMPLE = ROOT / "tests/sample_data"
BTC, ETH = SAMPLE / "BTCUSDT-1m.csv", SAMPLE / "ETHUSDT-1m.csv"
START = 1_740_960_000_000  # 2025-03-03T00:00Z


class Chain(NullSink):
    """The decisions of a run alone."""

    def __init__(self) -> None:
        self.event_seq = 0
        self.chain = DecisionChain()

    def decision(self, decision: Decision) -> None:
        self.chain.add(decision, self.event_seq)


def configured(strategy: str, **sections: dict[str, Any]) -> Config:
    return with_overrides(load(), {"strategy": {"name": strategy}, **sections}, where="test")


def alone(plan: Plan, config: Config, params: dict[str, Any]) -> SweepResult:
    """Replay one variant by the way of every backtest."""
    history = History(plan, with_params(config, params))
    strategy = load_strategy(history.config.strategy.name, history.config.strategy.params)
    sink = Chain()
    done = replay(history, strategy, sink, history.sources(), run_id=RUN_ID)
    equity = done.engine.portfolio.exact_equity()
    made = sink.chain.count, sink.chain.head
    return SweepResult(params, equity, done.metrics, *made, moments=done.moments, period=done.period)


SMA = [{"fast": fast, "slow": slow, "allow_short": True} for fast in (5, 10, 20) for slow in (30, 60)]
NEWS = [
    {"position_size": size, "hold": hold, "stop": 0.004, "allow_short": True}
    for size in (0.1, 0.3)
    for hold in (None, 10 * MINUTE_MS)
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "variants", "more", "sections"),
    [
        ("sma_cross", SMA, {}, {}),
        ("sma_cross", SMA, {"start": START, "warmup": 4 * HOUR_MS, "close_out": True}, {}),
        ("sma_cross", SMA, {}, {"paper": {"fill": "close"}}),
        ("sma_cross", SMA, {}, {"risk": {"max_daily_loss": 0.005, "max_drawdown": 0.02}}),
        ("sma_cross", SMA, {}, {"paper": {"funding_rate": 0.001, "funding_interval": "17s"}}),
        ("sentiment", NEWS, {"sentiment": ...}, {}),
        ("sentiment", NEWS, {"sentiment": ...}, {"signals": {"half_life": "20m", "window": "50m"}}),
    ],
    ids=["prices", "part of a window", "fill at close", "halted", "funding", "headlines", "expiring"],
)
def test_each_variant_decides_as_a_run_alone_to_the_last_bit(
    tmp_path: Path, strategy: str, variants: list[dict], more: dict, sections: dict
) -> None:
    if "sentiment" in more:
        more = {"sentiment": scores(tmp_path)}
    plan, config = Plan(((BTC, None), (ETH, None)), **more), configured(strategy, **sections)
    history = History(plan, config)
    together = replay_batch(history, variants, history.sources(), digests=True)
    assert together == [alone(plan, config, params) for params in variants]
    assert all(result.decisions > 10 for result in together)
    assert len({result.digest for result in together}) == len(variants)


def test_a_gap_in_the_bars_resets_every_variant(tmp_path: Path) -> None:
    head, *rows = BTC.read_text().splitlines()
    file = tmp_path / "BTCUSDT-1m.csv"
    file.write_text("\n".join([head, *rows[:700], *rows[720:1500]]) + "\n")
    file_of_features = tmp_path / "dip.py"
    file_of_features.write_text(DIP)
    plan, config = Plan(((file, None),)), configured(str(file_of_features))
    history = History(plan, config)
    variants = [{"depth": depth} for depth in (0.001, 0.002, 0.004)]
    together = replay_batch(history, variants, history.sources(), digests=True)
    assert together == [alone(plan, config, params) for params in variants]
    assert [result.decisions > 10 for result in together] == [True] * 3


DIP = """
import tapewire as tw


class Params(tw.StrategyParams):
    depth: float = 0.002
    fails_at: int = 0


class Dip(tw.Strategy[Params]):
    def __init__(self, params=None):
        super().__init__(params)
        self.bars = 0

    def on_kline(self, kline, market):
        self.bars += 1
        if self.bars == self.params.fails_at:
            raise ValueError("no more")
        move = market.features(kline.symbol).return_20
        if move < -self.params.depth:
            self.target(kline.symbol, weight=0.2)
        elif move > 0:
            self.target(kline.symbol, weight=0)
"""


HOURLY = """
import tapewire as tw


class Params(tw.StrategyParams):
    hours: int = 2
    minutes: bool = False


class Hourly(tw.Strategy[Params]):
    def __init__(self, params=None):
        super().__init__(params)
        self.intervals = ("5m", "30m") if self.params.minutes else ("1h",)

    def on_bar(self, bar, market):
        closes = market.bars(bar.symbol, bar.interval, 50).close
        mean = self.ta.SMA(bar.symbol, bar.interval, timeperiod=self.params.hours)
        self.target(bar.symbol, weight=0.4 if closes[-1] > mean else 0, stop=-0.01)
"""


def test_variants_that_declare_other_intervals_have_their_own_bars(tmp_path: Path) -> None:
    file = tmp_path / "hourly.py"
    file.write_text(HOURLY)
    plan, config = Plan(((BTC, None), (ETH, None)), warm_up={}), configured(str(file))
    history = History(plan, config)
    variants = [{"hours": hours, "minutes": minutes} for hours in (2, 5) for minutes in (False, True)]
    together = replay_batch(history, variants, history.sources(), digests=True)
    assert together == [alone(plan, config, params) for params in variants]
    assert all(result.decisions > 10 for result in together)


def test_more_variants_than_go_together_are_still_those_of_runs_alone() -> None:
    plan, config = Plan(((BTC, None),)), configured("sma_cross")
    history = History(plan, config)
    variants = [{"fast": fast, "slow": 40} for fast in range(2, 38)]  # 36, of which 32 go together
    together = replay_batch(history, variants, history.sources(), digests=True)
    assert [result.params for result in together] == variants
    for at in (0, 31, 32, 35):
        assert together[at] == alone(plan, config, variants[at])


def test_results_without_digests_are_the_same(tmp_path: Path) -> None:
    plan, config = Plan(((BTC, None),), sentiment=scores(tmp_path)), configured("sentiment")
    history = History(plan, config)
    fast = replay_batch(history, NEWS, history.sources())
    history = History(plan, config)
    chained = replay_batch(history, NEWS, history.sources(), digests=True)
    assert fast == [result._replace(digest="") for result in chained]
    assert all(result.digest for result in chained)


@pytest.mark.parametrize("hold", [None, 600_000])
def test_a_strategy_states_by_its_parameters_whether_it_wants_every_bar(hold: int | None) -> None:
    strategy = load_strategy("sentiment", {"hold": hold})
    assert strategy.wants("on_kline") is (hold is not None)
    assert strategy.wants("on_signal")
    assert not strategy.wants("on_news")


def test_an_error_in_one_variant_ends_that_variant_only(tmp_path: Path) -> None:
    file = tmp_path / "dip.py"
    file.write_text(DIP)
    plan, config = Plan(((BTC, None),)), configured(str(file))
    history = History(plan, config)
    variants = [{}, {"fails_at": 300}, {"depth": 0.003}, {"fails_at": 300, "depth": 0.001}]
    results = replay_batch(history, variants, history.sources(), digests=True)
    assert [bool(result.error) for result in results] == [False, True, False, True]
    assert "dip.py, line 18: ValueError: no more" in results[1].error
    assert results[0] == alone(plan, config, {})
    assert results[2] == alone(plan, config, {"depth": 0.003})
    with pytest.raises(ConfigError, match="unknown parameter deep"):
        replay_batch(history, [{"deep": 1}], history.sources())


Tapewire = Callable[..., Outcome]
GRID = ("--strategy", "sma_cross", "--range", "fast=5:25:10", "--range", "slow=20:60:20")
KLINES = ("--klines", BTC, "--klines", ETH)


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_sweep_lists_the_valid_combinations_as_single_backtests_have_them(
    tapewire: Tapewire, jobs: int
) -> None:
    done = tapewire("sweep", *KLINES, *GRID, "--json", "--jobs", str(jobs))
    assert done.code == 0, done.err
    rows = json.loads(done.out)
    assert [row["params"] for row in rows] == [
        {"fast": fast, "slow": slow} for fast in (5, 15, 25) for slow in (20, 40, 60) if fast < slow
    ]
    assert "1 of 9 combinations are not valid" in done.err
    assert "allow_short=false (not named by --range)" in done.err
    with closing(open_database("sqlite:///var/tapewire.db")) as database:
        assert list_runs(database) == []
    sets = [f"{name}={value}" for name, value in rows[3]["params"].items()]
    single = json.loads(
        tapewire(
            "backtest", *KLINES, "--strategy", "sma_cross", "--set", sets[0], "--set", sets[1], "--json"
        ).out
    )
    assert (rows[3]["final_equity"], rows[3]["trades"]) == (single["final_equity"], single["trades"])
    assert rows[3]["metrics"] == single["metrics"]
    assert set(rows[3]) == {"params", "final_equity", "trades", "metrics", "decisions", "study"}


def test_each_variant_reads_the_warm_up_that_it_needs(tapewire: Tapewire, tmp_path: Path) -> None:
    (tmp_path / "hourly.py").write_text(HOURLY)
    args = ("--klines", BTC, "--strategy", tmp_path / "hourly.py", "--start", "2025-03-03", "--json")
    rows = json.loads(tapewire("sweep", *args, "--range", "hours=2,9,5").out)
    for row in rows:
        single = json.loads(tapewire("backtest", *args, "--set", f"hours={row['params']['hours']}").out)
        assert (row["final_equity"], row["metrics"]) == (single["final_equity"], single["metrics"])
    assert len({row["final_equity"] for row in rows}) == 3


def test_digests_tell_sweeps_apart(tapewire: Tapewire) -> None:
    args = ("sweep", "--klines", BTC, "--strategy", "sma_cross", "--range", "fast=10,20", "--digests")
    rows = [json.loads(tapewire(*args, "--json").out) for _ in range(2)]
    assert rows[0] == rows[1]
    assert len({row["digest"] for row in rows[0]}) == 2


def test_stored_variants_are_runs_that_verify(tapewire: Tapewire) -> None:
    args = ("sweep", "--klines", BTC, "--strategy", "sma_cross", "--range", "fast=10,20", "--store", "--json")
    first, second = json.loads(tapewire(*args).out)
    assert first["run"] != second["run"]
    for row in (first, second):
        assert tapewire("verify", row["run"]).out.startswith("identical")
        assert row["decisions"] == json.loads(tapewire("verify", row["run"], "--json").out)["decisions"]


def test_sweep_prints_the_best_first(tapewire: Tapewire) -> None:
    done = tapewire("sweep", *KLINES, *GRID)
    assert done.code == 0, done.err
    finals = [line.split()[-1] for line in done.out.splitlines()[1:9]]
    assert finals == sorted(finals, key=lambda text: -float(text.replace(",", "")))
    assert "the best of 8 is mostly luck" in done.out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--range", "fast=5:30:1", "--limit", "3"), "26 variants are more than 3"),
        (("--range", "fast=0:30"), "fast can't be 0"),
        (("--range", "fast=900"), "no combination of the ranges is valid"),
    ],
)
def test_wrong_usage_of_sweep(tapewire: Tapewire, args: tuple[str, ...], message: str) -> None:
    done = tapewire("sweep", "--klines", BTC, "--strategy", "sma_cross", *args)
    assert done.code == 2
    assert message in done.err
