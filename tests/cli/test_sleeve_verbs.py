"""What-if, explain and stories of runs with sleeves through the real command line, with figures by hand.

One symbol at 100 until bar 8, then at 110; the taker's fee of 0.1 % is the only cost. At bar 2 sleeve `a`
buys 10 and sleeve `b` sells 4: 4 cross at the mark, and 6 are bought on the market. So `a` earns 10 x 10 less
0.6, and `b` loses 4 x 10, without a fee.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.core.errors import UsageError
from agent.replay.explanation import explain_orders
from agent.replay.order_history import order_history
from agent.store.database import open_database
from agent.store.queries import find_run
from tests.cli.conftest import Outcome

Tapewire = Callable[..., Outcome]

CONFIG = """
[market]
symbols = ["BTCUSDT"]

[paper]
taker_fee = "0.001"
half_spread_bps = 0
slippage = "none"
liquidity = "infinite"
funding_rate = "0"

[[sleeves]]
name = "a"
strategy = { name = "units.py", params = { units = 10 } }
share = 0.5

[[sleeves]]
name = "b"
strategy = { name = "units.py", params = { units = -4 } }
share = 0.3

[[sleeves]]
name = "c"
strategy = { name = "units.py", params = { units = 7 } }
share = 0.2
enabled = false
"""
UNITS = """
from tapewire import Strategy, StrategyParams

class Params(StrategyParams):
    units: float = 1

class Units(Strategy[Params]):
    def __init__(self, params=None):
        super().__init__(params)
        self.bars = 0

    def on_kline(self, kline, market):
        self.bars += 1
        if self.bars == 2:
            self.target(kline.symbol, qty=self.params.units, reason="two")
"""
OTHER = UNITS.replace("class Units", "class Other").replace("self.bars == 2", "self.bars == 1")


@pytest.fixture
def run(tapewire: Tapewire, tmp_path: Path) -> Tapewire:
    """A backtest of ten bars: events 1 to 10."""
    (tmp_path / "config.toml").write_text(CONFIG)
    (tmp_path / "units.py").write_text(UNITS)
    (tmp_path / "other.py").write_text(OTHER)
    lines = ["start,open,high,low,close,volume"]
    for number in range(10):
        opened, close = 100 if number < 8 else 110, 100 if number < 7 else 110
        start = 1_740_916_800_000 + number * 60_000
        lines.append(f"{start},{opened},{max(opened, close)},{min(opened, close)},{close},1000")
    (tmp_path / "bars.csv").write_text("\n".join(lines) + "\n")
    done = tapewire("backtest", "--klines", "BTCUSDT=bars.csv", "--json")
    assert done.code == 0, done.err
    assert float(json.loads(done.out)["final_equity"]) == pytest.approx(10_000 + 99.4 - 40)
    return tapewire


def what_if(run: Tapewire, *changes: str) -> dict[str, Any]:
    done = run("whatif", "latest", *changes, "--json")
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found


def profits(life: dict[str, Any]) -> dict[str, float]:
    return {name: float(one["profit"]) for name, one in life["sleeves"].items()}


AS_IT_WAS = {"a": 99.4, "b": -40.0}


CHANGES: list[tuple[tuple[str, ...], dict[str, float]]] = [
    # without b all of the 10 are bought on the market: a fee of 1.0 instead of 0.6
    (("--change", "sleeves.b.enabled=false"), {"a": 99.0}),
    # c buys 7 more on the market: 7 x 10 - 0.7
    (("--change", "sleeves.c.enabled=true"), {"a": 99.4, "b": -40.0, "c": 69.3}),
    # 20 instead of 10: 4 cross, 16 cost 1.6
    (("--sleeve", "a", "--set", "units=20"), {"a": 198.4, "b": -40.0}),
    # other.py acts at bar 1, so nothing crosses: fees of 1.0 and 0.4
    (("--sleeve", "a", "--strategy", "other.py", "--set", "units=10"), {"a": 99.0, "b": -40.4}),
    # a share of 2 % is 200, which buys no 10: the limit of one equity refuses them
    (("--change", "sleeves.a.share=0.02"), {"a": 0.0, "b": -40.4}),
    (("--change", "sleeves.a.risk.max_position=0.1"), {"a": 0.0, "b": -40.4}),
    # the order of a is 0.2 of its sleeve's equity, that of b 0.13
    (("--change", "risk.max_order=0.15"), {"a": 0.0, "b": -40.4}),
    (("--change", 'paper.taker_fee="0.002"'), {"a": 98.8, "b": -40.0}),
    # from bar 5 on: the new instance counts from there, and at bar 6 buys 20 more at 100 for 2.0
    (("--from", "5", "--sleeve", "a", "--set", "units=30"), {"a": 300 - 2.6, "b": -40.0}),
    (
        ("--from", "5", "--sleeve", "b", "--strategy", "other.py", "--set", "units=-6"),
        {"a": 99.4, "b": -60.2},
    ),
    # closed at 100 on the next bar: 4 x 100 x 0.1 %
    (("--from", "5", "--change", "sleeves.b.enabled=false"), {"a": 99.4, "b": -0.4}),
    # c has seen four bars of history when it is added at the fifth, so its second is past
    (("--from", "5", "--change", "sleeves.c.enabled=true"), {"a": 99.4, "b": -40.0, "c": 0.0}),
    # with one bar of history the next is its second: 7 for 0.7, beside the cross of a and b
    (("--from", "2", "--change", "sleeves.c.enabled=true"), {"a": 99.4, "b": -40.0, "c": 69.3}),
    (("--from", "3", "--change", 'paper.taker_fee="0.002"'), {"a": 98.8, "b": -40.0}),
]


@pytest.mark.parametrize(("changes", "expected"), CHANGES, ids=str)
def test_a_change_of_a_sleeve_or_of_the_account_has_the_result_that_the_figures_give(
    run: Tapewire, changes: tuple[str, ...], expected: dict[str, float]
) -> None:
    found = what_if(run, *changes, *(() if "--from" in changes else ("--from", "1")))
    assert found["as_recorded"] is True
    assert profits(found["as_it_was"]) == pytest.approx(AS_IT_WAS)
    assert profits(found["changed"]) == pytest.approx(expected)
    difference = sum(expected.values()) - sum(AS_IT_WAS.values())
    assert float(found["result_of_the_change"]) == pytest.approx(difference)


@pytest.mark.parametrize("begins", range(1, 11))
def test_without_a_change_the_run_goes_on_as_it_was_from_any_event(run: Tapewire, begins: int) -> None:
    found = what_if(run, "--from", str(begins))
    assert (found["identical"], found["as_recorded"]) == (True, True)
    assert found["changed"] == found["as_it_was"]


def test_the_profits_by_sleeve_are_printed(run: Tapewire) -> None:
    lines = run("whatif", "latest", "--sleeve", "a", "--set", "units=20").out.splitlines()
    shown = {line.split()[0]: line.split()[1:] for line in lines if line.split()[:1] in (["a"], ["b"])}
    assert shown == {"a": ["99.40", "198.40", "+99.00"], "b": ["-40.00", "-40.00", "+0.00"]}


def test_an_order_of_no_sleeve_is_not_explained(run: Tapewire) -> None:
    with closing(open_database("sqlite:///var/tapewire.db", create=False)) as database:
        found = find_run(database)
        history = order_history(database, found)
        first = next(iter(history.orders.values()))
        own = msgspec.structs.replace(first, order=msgspec.structs.replace(first.order, sleeve=msgspec.UNSET))
        with pytest.raises(UsageError, match=r"order 1 of run .* is the account's: it closes what no sleeve"):
            explain_orders(database, found, history, [own])
        assert explain_orders(database, found, history, [first], trust_strategy=True)[0].sleeve == "a"


REFUSED = [
    (("--strategy", "sma_cross"), "has several strategies: name the sleeve whose strategy is changed"),
    (("--set", "units=2"), "--sleeve with one of a, b, c"),
    (("--sleeve", "a"), "--sleeve a alone changes nothing"),
    (("--sleeve", "d", "--set", "units=2"), "doesn't begin with a sleeve 'd'"),
    (("--sleeve", "c", "--set", "units=2"), "doesn't begin with a sleeve 'c'"),
    (
        ("--from", "5", "--sleeve", "c", "--set", "units=2"),
        "there is no sleeve 'c' at this moment of the run",
    ),
    (("--sleeve", "a", "--set", "unit=2"), "unknown parameter unit"),
    (("--change", "sleeves.d.share=0.1"), "has no sleeve 'd'"),
    (("--change", "sleeves.a.share=0.9"), "more than 1"),
    (("--change", "sleeves.a.strategy=sma_cross"), "by --sleeve a with --strategy or --set"),
    (("--change", "sleeves.a.share=0.1", "--from", "5"), "can only change from the beginning"),
    (("--change", "sleeves.a.risk.max_positions=1"), "max_position"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=str)
def test_what_can_t_be_meant_is_a_usage_error(run: Tapewire, changes: tuple[str, ...], message: str) -> None:
    done = run("whatif", "latest", *changes)
    assert done.code == 2, done.out
    assert message in done.err


def test_a_strategy_that_the_run_has_not_used_is_added_only_if_it_is_trusted(
    run: Tapewire, tmp_path: Path
) -> None:
    (tmp_path / "units.py").write_text(UNITS + "\n")
    done = run("whatif", "latest", "--change", "sleeves.c.enabled=true", "--from", "5")
    assert done.code == 3
    assert "--trust-strategy" in done.err


def test_a_run_with_sleeves_has_no_twin_since_it_traded_on_paper(run: Tapewire) -> None:
    done = run("twin", "latest")
    assert done.code == 2
    assert "traded on paper, so it has no twin" in done.err


def test_an_order_is_explained_with_its_sleeve_and_the_cross_that_it_took_part_in(run: Tapewire) -> None:
    bought, sold = (
        json.loads(run("explain", "latest", number, "--json").out)["orders"][0] for number in ("1", "2")
    )
    assert (bought["sleeve"], sold["sleeve"]) == ("a", "b")
    assert (bought["event_seq"], bought["origin"], bought["target"]["callback"]) == (2, "target", "on_kline")
    # the sleeve's own equity, half of the account's
    assert (bought["size"]["equity"], sold["size"]["equity"]) == (5_000, 3_000)
    assert (bought["size"]["confirmed"], sold["size"]["confirmed"]) == (True, True)
    ((cross,), (other,)) = bought["crosses"], sold["crosses"]
    assert (cross["qty"], cross["price"], cross["order"], cross["sleeve"]) == (4, 100, 2, "b")
    assert (other["qty"], other["price"], other["order"], other["sleeve"]) == (4, 100, 1, "a")
    assert cross["fee_saved"] == other["fee_saved"] == 0.4
    assert [fill["qty"] for fill in bought["outcome"]["fills"]] == [4, 6]
    assert (bought["outcome"]["fees"], sold["outcome"]["fees"]) == (0.6, 0)
    checks = {check["rule"]: check["value"] for check in bought["checks"]}
    assert checks["position, x equity"] == pytest.approx(1_000 / 5_000)
    assert checks["account: net position, x equity"] == pytest.approx(1_000 / 10_000)
    shown = " ".join(run("explain", "latest", "1").out.split())
    assert re.search(r"crossed 4\.0* at the mark 100\.0 with order 2 of sleeve b: no fee", shown)
    assert "the market would have charged 0.4000" in shown
    assert "│ sleeve a " in shown
    assert " b " in run("explain", "latest").out
