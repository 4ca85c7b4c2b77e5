"""The attribution of an account's result to its sleeves, and the check that it adds up."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, localcontext
from typing import Final

from agent.core.errors import ReconciliationError
from agent.core.portfolio import Portfolio
from agent.core.sleeve import SleeveTotals, totals_of

_ZERO: Final = Decimal(0)
_ROUNDING: Final = Decimal("1e-12")
"""Ledgers have 28 digits: a sum of more, such as funding at a rate of 17 digits, is rounded in each."""
_COST_ROUNDING: Final = Decimal("1e-6")
"""As in `Portfolio.reconcile`: the cost of a partial close is a quotient, rounded in each ledger."""
_DIGITS: Final = 60


def check_attribution(
    account: Portfolio,
    sleeves: Mapping[str, Portfolio],
    departed: Mapping[str, SleeveTotals],
    unassigned: Portfolio,
) -> None:
    """Raise ReconciliationError unless the sleeves and what is unassigned add up to the account.

    Positions must be equal; cash, equity, fees, funding and slippage as well, but for the rounding of ledgers
    to 28 digits. The profit before costs, realised and unrealised together, may differ by the rounding of
    average costs. It is realised at other times in the account, whose position is the net of the sleeves'.
    """
    with localcontext() as context:
        context.prec = _DIGITS
        for symbol, position in account.positions.items():
            held = sum(
                (one.positions[symbol].qty for one in sleeves.values() if symbol in one.positions),
                unassigned.positions[symbol].qty,
            )
            if held != position.qty:
                raise _mismatch(f"positions in {symbol}", held, position.qty)
        present = {name: totals_of(portfolio) for name, portfolio in sleeves.items()}
        rest = totals_of(unassigned)
        every = [*present.values(), *departed.values(), rest]
        whole = totals_of(account)
        cash = sum((one.cash for one in sleeves.values()), unassigned.cash)
        equity = sum((one.equity for one in present.values()), rest.equity)
        profit = sum((one.realised + one.unrealised for one in every), _ZERO)
        checks = (
            ("cash", cash, account.cash, _ROUNDING),
            ("equity", equity, whole.equity, _ROUNDING),
            ("fees", sum((one.fees for one in every), _ZERO), whole.fees, _ROUNDING),
            ("funding", sum((one.funding for one in every), _ZERO), whole.funding, _ROUNDING),
            ("slippage", sum((one.slippage for one in every), _ZERO), whole.slippage, _ROUNDING),
            ("profit before costs", profit, whole.realised + whole.unrealised, _COST_ROUNDING),
        )
        for what, found, wanted, tolerance in checks:
            if abs(found - wanted) > tolerance:
                raise _mismatch(what, found, wanted)


def _mismatch(what: str, found: Decimal, wanted: Decimal) -> ReconciliationError:
    return ReconciliationError(
        f"the sleeves do not add up to the account: {what} {found} instead of {wanted}",
        hint="don't trust this run's results; please report it with the run's database",
    )
