"""The faults of `tests.mutation`: where, what text becomes what, and the tests that must notice."""

from __future__ import annotations

from typing import Final, NamedTuple


class Mutation(NamedTuple):
    """`old` occurs exactly once in `file`, and becomes `new`."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


MONEY: Final = ("tests/test_engine_money.py",)
GATEWAY: Final = ("tests/execution/testnet/test_gateway.py",)

MUTATIONS: Final = (
    Mutation(
        "shorts-pay-funding",
        "agent/execution/paper.py",
        "amount = -position.qty * position.mark_decimal * rate",
        "amount = -abs(position.qty) * position.mark_decimal * rate",
        MONEY,
    ),
    Mutation(
        "liquidation-looks-at-the-close",
        "agent/engine.py",
        "if (low <= price) if position.size > 0.0 else (high >= price):",
        "if (close <= price) if position.size > 0.0 else (close >= price):",
        MONEY,
    ),
    Mutation(
        "a-touched-trigger-rests",
        "agent/execution/book.py",
        "return high >= self.trigger if rises else low <= self.trigger",
        "return high > self.trigger if rises else low < self.trigger",
        MONEY,
    ),
    Mutation(
        "daily-loss-from-the-high",
        "agent/risk.py",
        "        if equity > self._peak:\n            self._peak = equity\n",
        "        if equity > self._peak:\n            self._peak = equity\n        self._day_open = max(self._day_open, equity)\n",
        MONEY,
    ),
    Mutation(
        "reductions-expire",
        "agent/execution/testnet/keeper.py",
        "return not intent.order.reduce_only and self._now()",
        "return self._now()",
        GATEWAY,
    ),
)
