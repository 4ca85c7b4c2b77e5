"""Liquidation within a bar: only by prices while the position was held, and before later events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from agent.core.events import Fill
from tests.support.market import Plan, bar, config, run

FLAT = (100, 100, 100, 100)
# 10,000 USDT, 500 at 100: at price p the equity is 10,000 + 500 (p - 100) and the margin 0.005 * 500 p, equal
# at 80.402: sold on the tick, 80.40. A short: 10,000 - 500 (p - 100) and 0.005 * 500 p, equal at 119.403:
# bought at 119.41
LONG, SHORT = {"weight": 5.0}, {"weight": -5.0}


def trade(
    prices: Sequence[Sequence[float]], targets: dict[int, dict[str, Any]], **paper: Any
) -> tuple[list[tuple[str, float, str]], float]:
    """Return side, price and reason of each fill, and the last equity without liquidation fees."""
    settings = config(paper={"liquidation_fee": "0", **paper}, account={"leverage": 10})
    engine, sink = run(Plan(targets), [bar(n, *one) for n, one in enumerate(prices)], settings)
    fills = [(f.side.value, float(f.price), f.reason) for f in sink.decisions if isinstance(f, Fill)]
    return fills, engine.portfolio.equity()


@pytest.mark.parametrize(
    ("target", "entered"),
    [
        (LONG, (100, 100, 75, 100)),  # the low came before the entry at the close
        (LONG, (70, 100, 70, 100)),
        (SHORT, (100, 130, 100, 100)),
    ],
)
def test_prices_before_an_entry_at_the_close_do_not_liquidate_it(
    target: dict[str, Any], entered: tuple[float, ...]
) -> None:
    fills, equity = trade([FLAT, entered, FLAT], {0: target}, latency="250ms")
    assert len(fills) == 1
    assert equity == 10_000


@pytest.mark.parametrize(
    ("target", "fatal", "sold"),
    [(LONG, (100, 100, 75, 100), ("SELL", 80.40)), (SHORT, (100, 130, 100, 100), ("BUY", 119.41))],
)
def test_a_liquidation_comes_before_an_exit_at_the_close(
    target: dict[str, Any], fatal: tuple[float, ...], sold: tuple[str, float]
) -> None:
    fills, _ = trade([FLAT, FLAT, FLAT, fatal, FLAT], {0: target, 2: {"weight": 0.0}}, latency="250ms")
    assert fills[1] == (*sold, "liquidation")


def test_liquidation_comes_before_a_take_profit_in_the_same_bar() -> None:
    fills, _ = trade([FLAT, FLAT, (100, 111, 75, 100)], {0: {**LONG, "take_profit": 0.1}})
    assert fills[1] == ("SELL", 80.40, "liquidation")


def test_a_stop_prevents_liquidation_only_if_it_comes_first() -> None:
    assert trade([FLAT, FLAT, (100, 100, 70, 75)], {0: {**LONG, "stop": -0.1}})[0][1] == (
        "SELL",
        90.0,
        "stop",
    )
    assert trade([FLAT, FLAT, (100, 100, 70, 75)], {0: {**LONG, "stop": -0.25}})[0][1] == (
        "SELL",
        80.40,
        "liquidation",
    )


def test_an_entry_at_the_open_can_be_liquidated_within_its_bar() -> None:
    assert trade([FLAT, (100, 100, 75, 100)], {0: LONG})[0][1] == ("SELL", 80.40, "liquidation")


def test_an_entry_at_the_close_is_checked_against_the_close_only() -> None:
    # Half of the equity is lost by the entry's own slippage: bought at 100 with 500 * 19 paid for it; the
    # close decides, not the low
    fills, _ = trade([FLAT, (100, 100, 60, 100), (100, 100, 81, 81)], {0: LONG}, latency="250ms")
    assert [reason for _, _, reason in fills] == [""]
