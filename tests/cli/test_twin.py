"""`tapewire twin` on a recorded run: table, JSON and page."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest

from agent.store.database import open_database
from tests.cli.conftest import Outcome
from tests.live.gateway.churning_strategy import churn
from tests.support.recorded_venue import Venue, configuration, record

Tapewire = Callable[..., Outcome]


@pytest.fixture
def run(tapewire: Tapewire) -> Iterator[str]:
    """A run with twice the fee, in the store of an empty folder."""
    Path("var").mkdir()
    with closing(open_database("sqlite:///var/tapewire.db")) as database:
        venue = Venue(rules={"taker_fee": "0.0011", "half_spread_bps": 2.5})
        config = configuration(("BTCUSDT",), churn())
        yield record(database, config, venue, minutes=40, run_id="20250101-run").id


def test_the_table_names_the_causes(tapewire: Tapewire, run: str) -> None:
    said = tapewire("twin", run, "--trust-strategy", "--orders")
    assert said.code == 0, said.err
    assert "less than the twin" in said.out
    assert "The first decision that differs: BTCUSDT at 2025-01-01 12:" in said.out
    for line in ("equity of the twin", "spread", "fee", "equity at the venue", "market orders were filled"):
        assert line in said.out
    assert "zero: latency" in said.out
    assert "BTCUSDT sell market" in said.out


def test_json_adds_up(tapewire: Tapewire, run: str) -> None:
    said = tapewire("twin", run, "--own-orders", "--json")
    found = json.loads(said.out, parse_float=Decimal, parse_int=Decimal)
    assert sum(found["causes"].values()) == found["difference"] < 0
    for order in found["orders"]:
        assert sum(order["causes"].values()) == order["difference"]
    assert found["decided_anew"] is False
    assert found["causes"]["decision"] == 0


def test_a_strategy_that_is_not_trusted_is_not_imported(tapewire: Tapewire, run: str) -> None:
    said = tapewire("twin", run)
    assert said.code == 0
    assert "! nothing was decided anew" in said.out
    assert "executed the run's own orders" in said.out


def test_other_costs_explain_the_difference(tapewire: Tapewire, run: str) -> None:
    costs = Path("costs.toml")
    costs.write_text(
        '[paper]\nhalf_spread_bps = 2.5\ntaker_fee = 0.0011\nslippage = "none"\nliquidity = "infinite"\n'
        "funding_rate = 0\n"
    )
    said = tapewire("twin", run, "--costs", costs, "--trust-strategy")
    assert "earned the same" in said.out
    assert "The twin decided the same orders" in said.out
    assert "given in the configuration (half_spread_bps" in said.out


def test_the_page_loads_nothing_and_escapes_everything(tapewire: Tapewire, run: str) -> None:
    said = tapewire("twin", run, "--output", "twin.html", "--trust-strategy", "--history")
    assert said.code == 0, said.err
    page = Path("twin.html").read_text(encoding="utf-8")
    for part in ("<h2>From the twin to the venue</h2>", "Result at the venue", "Bars of the run", "By day"):
        assert part in page
    assert "<script" not in page
    assert "http" not in page.replace("http://127.0.0.1:1", "").replace("http-equiv", "")
    assert "prefers-color-scheme: dark" in page


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--output", "twin.txt"), "the page is HTML"),
        (("--klines", "BTCUSDT.csv"), "--klines is for --history"),
        (("--history", "--own-orders"), "decisions of its own"),
        (("nowhere",), "no run 'nowhere'"),
    ],
)
def test_usage(tapewire: Tapewire, run: str, arguments: tuple[str, ...], problem: str) -> None:
    said = tapewire("twin", *arguments)
    assert said.code == 2
    assert problem in said.err
