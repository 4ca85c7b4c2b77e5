"""`tapewire costs fit` on recorded runs, and what a backtest says of the costs that it uses."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from agent.store.database import Database, open_database
from tests.cli.conftest import Outcome
from tests.conftest import ROOT
from tests.live.gateway.churning_strategy import churn
from tests.support.effort import usual
from tests.support.recorded_venue import Venue, configuration, record

Tapewire = Callable[..., Outcome]
SYMBOLS = ("BTCUSDT", "ETHUSDT")
SEEDS = usual(4, long=10)
FINE = {symbol: {"tick_size": "0.001", "qty_step": "0.001", "min_notional": 0} for symbol in SYMBOLS}
KLINES = ("--klines", ROOT / "tests/sample_data/BTCUSDT-1m.csv")


@pytest.fixture
def database(tapewire: Tapewire) -> Iterator[Database]:
    """The store of an empty folder."""
    Path("var").mkdir()
    with closing(open_database("sqlite:///var/tapewire.db")) as opened:
        yield opened


def fit(tapewire: Tapewire, *runs: str) -> dict[str, Any]:
    said = tapewire("costs", "fit", *runs, "--json")
    assert said.code == 0, said.err
    found: dict[str, Any] = json.loads(said.out)
    return found


def trade(database: Database, run_id: str, seed: int = 1, **rules: Any) -> None:
    config = configuration(SYMBOLS, churn(limit=False), instruments=FINE)
    record(database, config, Venue(rules, at_once=True), minutes=120, seed=seed, run_id=run_id)


@pytest.mark.slow
def test_spread_latency_and_fee_of_a_venue_are_recovered(tapewire: Tapewire, database: Database) -> None:
    planted = {"half_spread_bps": 3.0, "latency": 700, "taker_fee": 0.0007}
    covered = dict.fromkeys(planted, 0)
    for seed in range(SEEDS):
        trade(database, f"run-{seed}", seed, half_spread_bps=3.0, latency=700, taker_fee="0.0007")
        found = fit(tapewire, f"run-{seed}")
        for name, value in planted.items():
            estimate = found[name]
            covered[name] += estimate["low"] - 1e-9 <= value <= estimate["high"] + 1e-9
            assert estimate["count"] > 200
        assert found["impact"]["low"] < 0.02
    assert min(covered.values()) >= SEEDS - 1, covered


@pytest.mark.slow
def test_several_runs_are_fitted_together(tapewire: Tapewire, database: Database) -> None:
    trade(database, "a-run", half_spread_bps=1.0)
    trade(database, "b-run", 2, half_spread_bps=1.0)
    alone, both = fit(tapewire, "a-run"), fit(tapewire, "a-", "b-", "a-run")
    assert both["runs"] == ["a-run", "b-run"]
    assert both["half_spread_bps"]["count"] > 1.8 * alone["half_spread_bps"]["count"]


@pytest.mark.slow
def test_a_backtest_states_the_fitted_costs(tapewire: Tapewire, database: Database) -> None:
    trade(database, "a-run", half_spread_bps=3.0)
    said = tapewire("costs", "fit", "a-run", "--output", "costs.toml")
    assert said.code == 0, said.err
    assert "half spread, bps" in said.out
    assert "! 2 market orders in bars that the run lacks were left out" in said.out  # the last bar is open
    refused = tapewire("costs", "fit", "a-run", "--output", "costs.toml")
    assert refused.code == 2
    assert "costs.toml exists" in refused.err
    arguments = ("backtest", *KLINES, "--strategy", "sma_cross", "--start", "2025-03-03T20:00")
    assert "costs: default" in tapewire(*arguments).out
    shown = tapewire(*arguments, "--config", "costs.toml", "--report", "page.html")
    fills = tomllib.loads(Path("costs.toml").read_text())["costs"]["fills"]
    assert f"costs: fitted from {fills} fills of run a-run" in shown.out
    assert "The costs are fitted from" in Path("page.html").read_text(encoding="utf-8")
    printed = tapewire("costs", "fit", "a-run").out
    assert Path("costs.toml").read_text().splitlines()[-1] in printed


def test_fills_that_can_not_be_measured_are_counted(tapewire: Tapewire, database: Database) -> None:
    config = configuration(SYMBOLS, churn(limit=False), instruments=FINE)
    record(database, config, Venue(at_once=True, gap=(60, 120)), minutes=120, run_id="a-run")
    said = tapewire("costs", "fit", "a-run")
    assert "market orders in bars that the run lacks were left out" in said.out


@pytest.mark.parametrize(
    ("minutes", "problem"), [(5, "8 market orders can be measured, fewer than 10"), (0, "no run 'nothing'")]
)
def test_what_can_not_be_fitted(tapewire: Tapewire, database: Database, minutes: int, problem: str) -> None:
    config = configuration(SYMBOLS, churn(limit=False), instruments=FINE)
    if minutes:
        record(database, config, Venue(at_once=True), minutes=minutes, run_id="a-run")
    said = tapewire("costs", "fit", "a-run" if minutes else "nothing")
    assert said.code in (1, 2)
    assert problem in said.err
