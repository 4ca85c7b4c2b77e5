"""Implausible targets raise an error that names the strategy's file and line."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.core.errors import StrategyError
from agent.core.strategy import Kline, Market, Strategy
from strategies import blaming
from tests.support.market import SYMBOL, flat_bars, run

_NAN = float("nan")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"weight": 0.5, "stop": 0.02}, "stop=0.02 is on the wrong side of a long: a long's stop is below 0"),
        (
            {"weight": -0.5, "stop": -0.02},
            "stop=-0.02 is on the wrong side of a short: a short's stop is above 0",
        ),
        ({"weight": 0.5, "take_profit": -0.02}, "take_profit=-0.02 is on the wrong side of a long"),
        ({"weight": -0.5, "take_profit": 0.02}, "take_profit=0.02 is on the wrong side of a short"),
        ({"weight": 0.5, "stop": 0.0}, "stop=0 is on the wrong side of a long"),
        ({"weight": 0.5, "stop": 95_000}, "stop=95000 is not a fraction of the price: write -0.02"),
        ({"weight": 0.5, "stop": -1}, "stop=-1 is not a fraction"),
        ({"weight": 0.0, "stop": 95_000}, "stop=95000 is not a fraction"),
        (
            {"weight": 0.5, "take_profit": 105_000},
            "take_profit=105000 is not a fraction of the price: write +0.02",
        ),
        ({"weight": _NAN}, "weight=nan is not finite"),
        ({"weight": float("inf")}, "weight=inf is not finite"),
        ({"weight": "0.1"}, "weight='0.1' is not a number"),
        ({"weight": True}, "weight=True is not a number"),
        ({"weight": None}, "weight=None is not a number"),
        ({"weight": 0.5, "stop": _NAN}, "stop=nan is not finite"),
        ({"weight": 0.5, "take_profit": "0.1"}, "take_profit='0.1' is not a number"),
        ({"weight": 0.5, "limit": _NAN}, "limit=nan is not finite"),
        ({"weight": 0.5, "limit": "100"}, "limit='100' is not a number"),
        ({"weight": 0.5, "limit": 0.0}, "limit=0.0 is not a price"),
        ({"weight": 0.5, "limit": -5}, "limit=-5 is not a price"),
        ({}, "give one of weight, qty and risk"),
        ({"weight": 0.5, "qty": 1}, "weight and qty are given: give one of weight, qty and risk"),
        ({"qty": _NAN}, "qty=nan is not finite"),
        ({"qty": -1, "stop": -0.02}, "stop=-0.02 is on the wrong side of a short"),
        ({"risk": 0.01}, "risk=0.01 needs a stop"),
        ({"risk": 0.01, "stop": 0}, "risk=0.01 needs a stop"),
        ({"risk": 1.5, "stop": -0.01}, "risk=1.5 is not a fraction of the equity between 0 and 1"),
        ({"risk": 0.01, "stop": -0.01, "trail": 0.02}, "trail=0.02 is on the wrong side of a long"),
        ({"weight": 0.5, "trail": 600}, "trail=600 is not a fraction of the price: write -0.02"),
        ({"weight": 0.5, "stop_entry": 0}, "stop_entry=0 is not a price"),
        ({"weight": 0.5, "expire": "15m"}, "expire needs a limit or a stop_entry"),
        ({"weight": 0.5, "limit": 1, "expire": "soon"}, "'soon' is not a duration"),
        ({"weight": 0.5, "limit": 1, "expire": 0}, "expire=0 is not above 0"),
        ({"weight": 0.5, "take_profit": [0.02]}, "take_profit level 0.02 is not a pair"),
        ({"weight": 0.5, "take_profit": []}, "take_profit has 0 levels instead of 1 to 4"),
        ({"weight": 0.5, "take_profit": [(0.02, 0.7), (0.03, 0.4)]}, "more than 1 together"),
        ({"weight": 0.5, "take_profit": [(0.02, 0)]}, "share=0 of a take_profit level"),
        ({"weight": 0.5, "take_profit": [(0.02, 0.1), (0.02, 0.1)]}, "have the same distance"),
        ({"weight": -0.5, "take_profit": [(0.02, 0.5), (0.03, 0.5)]}, "wrong side of a short"),
    ],
)
def test_an_implausible_target_is_refused(target: dict[str, Any], message: str) -> None:
    strategy = _Targeting()

    with pytest.raises(StrategyError) as refused, blaming(strategy):
        strategy.set_target(target)

    assert message in str(refused.value)
    line = next(
        n
        for n, text in enumerate(Path(__file__).read_text().splitlines(), 1)
        if text.strip() == "self.target(SYMBOL, **target)"
    )
    assert f"{__file__}, line {line}: " in str(refused.value)
    assert "\n" not in str(refused.value)
    assert strategy.targets == []


class _Misspelling(Strategy):
    def __init__(self, ask: Callable[[Market], object]) -> None:
        super().__init__()
        self._ask = ask

    def on_kline(self, kline: Kline, market: Market) -> None:
        self._ask(market)


@pytest.mark.parametrize(
    ("ask", "hint"),
    [
        (lambda market: market.bar(SYMBOL, "1m", 3), "did you mean bars?"),
        (lambda market: market.position(SYMBOL).entry_prize, "did you mean entry_price?"),
        (lambda market: market.features(SYMBOL).rsi14, "did you mean rsi?"),
    ],
)
def test_the_error_suggests_the_name_that_was_meant(ask: Callable[[Market], object], hint: str) -> None:
    strategy = _Misspelling(ask)

    with pytest.raises(StrategyError) as failed, blaming(strategy):
        run(strategy, flat_bars([100.0]))

    assert "AttributeError: " in failed.value.message
    assert failed.value.hint == hint


@pytest.mark.parametrize(
    "weight", [1, 0.5, np.float64(0.5), np.float32(0.5), np.int64(1), Decimal("0.5"), -0.5, 0]
)
def test_a_weight_may_be_any_number(weight: Any) -> None:
    strategy = _Targeting()

    strategy.set_target({"weight": weight, "limit": np.float64(100.5), "stop": None if weight else -0.02})

    [target] = strategy.targets
    assert (target.weight, type(target.weight)) == (float(weight), float)
    assert repr(target.limit) == "100.5"  # and not np.float64(100.5), which is no decimal number


def test_a_take_profit_may_be_above_twice_the_price() -> None:
    strategy = _Targeting()

    strategy.set_target({"weight": 0.5, "take_profit": 1.5})  # sells at two and a half times the price

    assert strategy.targets[0].take_profit == 1.5


class _Targeting(Strategy):
    def set_target(self, target: dict[str, Any]) -> None:
        self.target(SYMBOL, **target)
