"""Checks the agent's store against the exchange's account after each kill and at the end."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from agent.core.errors import StoreError
from agent.core.events import (
    AccountSnapshot,
    Event,
    Fill,
    FillKind,
    FundingPayment,
    FundingSettlement,
    Order,
    OrderUpdate,
)
from agent.replay.verify import verify
from agent.store.database import open_database
from agent.store.journal import read_journal
from agent.store.queries import find_run, list_runs, read_decisions
from tests.crash.sandbox_process import BALANCE, AccountSummary
from tests.crash.transcript_checks import Loss

CENT: Final = Decimal("0.01")
_ZERO: Final = Decimal(0)


class RecordedLedger(NamedTuple):
    """Trading of a run as recorded in the store."""

    decisions: list[bytes]
    ordered: set[str]  # client order ids of decided orders
    ended: set[str]  # client order ids with a final state
    paid: dict[str, Fill | FundingSettlement]  # exchange's id -> journalled event
    booked: Counter[str]  # exchange's id -> number of booked trades
    account_checks: int  # number of account snapshots
    fills: list[Fill]
    payments: list[FundingPayment]
    owners: dict[str, str]  # client order id -> sleeve; "" without sleeves


EMPTY: Final = RecordedLedger([], set(), set(), {}, Counter(), 0, [], [], {})


def read_ledger(store: Path) -> RecordedLedger:
    """Read the store; the ledger is empty if the store or the run doesn't exist yet.

    Raises Loss if the store is damaged or holds more than one run.
    """
    if not store.exists():
        return EMPTY
    try:
        with closing(open_database(f"sqlite:///{store}")) as database:
            with database.read() as connection:
                health = connection.exec_driver_sql("PRAGMA integrity_check").scalar()
            runs = list_runs(database)
            if health != "ok" or len(runs) > 1:
                raise Loss(f"integrity_check: {health}; runs: {[run.id for run in runs]}")
            if not runs:
                return EMPTY
            events: list[Event] = [event for _, event in read_journal(database, runs[0].id)]
            decisions = [item.decision for item in read_decisions(database, runs[0].id)]
    except StoreError as error:
        raise Loss(f"the store can't be read: {error}") from error
    return RecordedLedger(
        [msgspec.msgpack.encode(decision) for decision in decisions],
        {order.id for order in decisions if isinstance(order, Order)},
        {update.order_id for update in decisions if isinstance(update, OrderUpdate) and update.status.final},
        {event.id: event for event in events if isinstance(event, Fill | FundingSettlement)},
        Counter(fill.id for fill in decisions if isinstance(fill, Fill) and fill.kind is FillKind.TRADE),
        sum(isinstance(event, AccountSnapshot) for event in events),
        [fill for fill in decisions if isinstance(fill, Fill)],
        [one for one in decisions if isinstance(one, FundingPayment)],
        {order.id: order.sleeve or "" for order in decisions if isinstance(order, Order)},
    )


def check_after_kill(
    now: RecordedLedger, before: RecordedLedger, earlier: AccountSummary, summary: AccountSummary
) -> None:
    """Check right after a kill; `earlier` is the account when the killed process began. Raises Loss.

    If the process has reconciled, all of `earlier` must be recorded.
    """
    if now.decisions[: len(before.decisions)] != before.decisions:
        raise Loss("decisions recorded earlier are gone or changed")
    if gone := before.paid.keys() - now.paid.keys():
        raise Loss(f"executions journalled earlier are gone: {sorted(gone)}")
    if summary.duplicates:
        raise Loss(f"client order ids accepted twice: {summary.duplicates}")
    if strange := summary.ordered.keys() - now.ordered:
        raise Loss(f"orders at the exchange without a decision: {sorted(strange)}")
    if over := [link for link, qty in summary.filled.items() if qty > summary.ordered[link]]:
        raise Loss(f"filled more than ordered: {over}")
    if twice := [name for name, count in now.booked.items() if count > 1]:
        raise Loss(f"executions booked twice: {twice}")
    if invented := now.paid.keys() - {trade.id for trade in summary.trades}:
        raise Loss(f"executions unknown to the exchange: {sorted(invented)}")
    if now.account_checks > before.account_checks:
        check_account(now, earlier)


def check_account(ledger: RecordedLedger, summary: AccountSummary) -> None:
    """Check that the journalled executions make the exchange's positions and wallet, to the cent. Raises
    Loss.

    The sums are computed here, independently of the product: cash paid and received, and the cost of open
    positions.
    """
    if lost := [trade for trade in summary.trades if trade.id not in ledger.paid]:
        raise Loss(f"{len(lost)} of {len(summary.trades)} executions are lost, the first is {lost[0]}")
    wallet = BALANCE + sum((cost for _, cost in summary.positions.values()), _ZERO)
    held: Counter[str] = Counter()
    for trade in summary.trades:
        paid = ledger.paid[trade.id]
        if isinstance(paid, Fill):
            wallet -= paid.side.sign * paid.qty * paid.price + paid.fee
            held[paid.symbol] += paid.side.sign * paid.qty  # type: ignore[assignment]
        else:
            wallet += paid.amount
    positions = {symbol: qty for symbol, (qty, _) in summary.positions.items()}
    if (mine := {symbol: qty for symbol, qty in held.items() if qty}) != positions:
        raise Loss(f"positions {mine}, at the exchange {positions}")
    if abs(wallet - summary.wallet) >= CENT:
        raise Loss(f"wallet {wallet}, at the exchange {summary.wallet}")


def check_sleeves(ledger: RecordedLedger, summary: AccountSummary) -> None:
    """Check that each fill is of the sleeve that ordered it, and that the sleeves' sums, added up here, are
    those of a flat account, to the cent. Raises Loss.
    """
    cash: Counter[str] = Counter()
    held: Counter[tuple[str, str]] = Counter()
    crossed: Counter[str] = Counter()
    for fill in ledger.fills:
        sleeve, signed = fill.sleeve or "", fill.side.sign * fill.qty
        if ledger.owners.get(fill.order_id) != sleeve:
            raise Loss(f"{fill} is not of the sleeve {ledger.owners.get(fill.order_id)!r} that ordered it")
        cash[sleeve] -= signed * fill.price + fill.fee  # type: ignore[assignment]
        held[sleeve, fill.symbol] += signed  # type: ignore[assignment]
        if fill.kind is FillKind.INTERNAL:
            crossed[fill.symbol] += signed  # type: ignore[assignment]
    for payment in ledger.payments:
        cash[payment.sleeve or ""] += payment.amount  # type: ignore[assignment]
    if left := {key: qty for key, qty in held.items() if qty}:
        raise Loss(f"sleeves hold positions in a flat account: {left}")
    if open_sides := {symbol: qty for symbol, qty in crossed.items() if qty}:
        raise Loss(f"internal fills without another side: {open_sides}")
    if abs(BALANCE + sum(cash.values(), _ZERO) - summary.wallet) >= CENT:
        raise Loss(f"the sleeves' profits are {dict(cash)}, and the wallet holds {summary.wallet}")


def check_end(store: Path, summary: AccountSummary) -> None:
    """Check after the last process: every order has a final state, nothing is open, and `verify` is
    identical. Raises Loss.
    """
    ledger = read_ledger(store)
    if open_ends := ledger.ordered - ledger.ended:
        raise Loss(f"orders whose end is not known: {sorted(open_ends)}")
    if summary.open or summary.positions:
        raise Loss(f"still at the exchange: orders {summary.open}, positions {sorted(summary.positions)}")
    if unbooked := {trade.id for trade in summary.trades if trade.kind == "Trade"} ^ set(ledger.booked):
        raise Loss(f"executions recorded on one side only: {sorted(unbooked)}")
    check_account(ledger, summary)
    check_sleeves(ledger, summary)
    with closing(open_database(f"sqlite:///{store}")) as database:
        run = find_run(database)
        if run.final_equity is None or abs(Decimal(str(run.final_equity)) - summary.wallet) >= CENT:
            raise Loss(
                f"the ledger ends with {run.final_equity}, the exchange's wallet with {summary.wallet}"
            )
        try:
            identical = verify(database, run).identical
        except StoreError as error:
            raise Loss(f"verify: {error}") from error
    if not identical:
        raise Loss("verify found a different decision")
