"""The agent's store against the exchange's books, after each death and at the end: nothing lost, nothing twice, equal to the cent."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from agent.core.errors import StoreError
from agent.core.events import AccountSnapshot, Event, Fill, FillKind, FundingSettlement, Order, OrderUpdate
from agent.replay.verify import verify
from agent.store.database import open_database
from agent.store.journal import read_journal
from agent.store.queries import find_run, list_runs, read_decisions
from tests.crash.audit import Loss
from tests.crash.exchange import BALANCE, Books

CENT: Final = Decimal("0.01")
_ZERO: Final = Decimal(0)


class Ledger(NamedTuple):
    """What the store holds of a run's trading."""

    decisions: list[bytes]
    ordered: set[str]  # client order ids that were decided
    ended: set[str]  # and of these, those of which the end is known
    paid: dict[str, Fill | FundingSettlement]  # by the exchange's id, as journalled
    booked: Counter[str]  # trades that were decided on, by the exchange's id
    looks: int  # how often the account was looked at


NOTHING: Final = Ledger([], set(), set(), {}, Counter(), 0)


def read(store: Path) -> Ledger:
    """Empty where the store or the run doesn't exist yet. Raises Loss where it is damaged, or there is more than one run."""
    if not store.exists():
        return NOTHING
    try:
        with closing(open_database(f"sqlite:///{store}")) as database:
            with database.read() as connection:
                health = connection.exec_driver_sql("PRAGMA integrity_check").scalar()
            runs = list_runs(database)
            if health != "ok" or len(runs) > 1:
                raise Loss(f"integrity_check: {health}; runs: {[run.id for run in runs]}")
            if not runs:
                return NOTHING
            events: list[Event] = [event for _, event in read_journal(database, runs[0].id)]
            decisions = [item.decision for item in read_decisions(database, runs[0].id)]
    except StoreError as error:
        raise Loss(f"the store can't be read: {error}") from error
    return Ledger(
        [msgspec.msgpack.encode(decision) for decision in decisions],
        {order.id for order in decisions if isinstance(order, Order)},
        {update.order_id for update in decisions if isinstance(update, OrderUpdate) and update.status.final},
        {event.id: event for event in events if isinstance(event, Fill | FundingSettlement)},
        Counter(fill.id for fill in decisions if isinstance(fill, Fill) and fill.kind is FillKind.TRADE),
        sum(isinstance(event, AccountSnapshot) for event in events),
    )


def check_death(now: Ledger, before: Ledger, earlier: Books, books: Books) -> None:
    """Right after a death. `earlier` are the books as the life began: if it has reconciled, it knows all of them. Raises Loss."""
    if now.decisions[: len(before.decisions)] != before.decisions:
        raise Loss("decisions recorded earlier are gone, or others")
    if gone := before.paid.keys() - now.paid.keys():
        raise Loss(f"executions journalled earlier are gone: {sorted(gone)}")
    if books.twice:
        raise Loss(f"client order ids accepted twice: {books.twice}")
    if strange := books.ordered.keys() - now.ordered:
        raise Loss(f"orders at the exchange that nobody has decided: {sorted(strange)}")
    if over := [link for link, qty in books.filled.items() if qty > books.ordered[link]]:
        raise Loss(f"filled for more than was ordered: {over}")
    if twice := [name for name, count in now.booked.items() if count > 1]:
        raise Loss(f"executions booked twice: {twice}")
    if invented := now.paid.keys() - {trade.id for trade in books.trades}:
        raise Loss(f"executions that the exchange does not know: {sorted(invented)}")
    if now.looks > before.looks:
        check_account(now, earlier)


def check_account(ledger: Ledger, books: Books) -> None:
    """What was journalled of the books' executions makes the books' positions and wallet, to the cent. Raises Loss.

    It is added up here, not by the product: cash paid and received, and what the open positions have cost.
    """
    if lost := [trade for trade in books.trades if trade.id not in ledger.paid]:
        raise Loss(f"{len(lost)} of {len(books.trades)} executions are lost, the first is {lost[0]}")
    wallet = BALANCE + sum((cost for _, cost in books.positions.values()), _ZERO)
    held: Counter[str] = Counter()
    for trade in books.trades:
        paid = ledger.paid[trade.id]
        if isinstance(paid, Fill):
            wallet -= paid.side.sign * paid.qty * paid.price + paid.fee
            held[paid.symbol] += paid.side.sign * paid.qty  # type: ignore[assignment]
        else:
            wallet += paid.amount
    positions = {symbol: qty for symbol, (qty, _) in books.positions.items()}
    if (mine := {symbol: qty for symbol, qty in held.items() if qty}) != positions:
        raise Loss(f"positions {mine}, at the exchange {positions}")
    if abs(wallet - books.wallet) >= CENT:
        raise Loss(f"wallet {wallet}, at the exchange {books.wallet}")


def check_end(store: Path, books: Books) -> None:
    """After the last life: the end of every order is known, nothing is open, and the run decided again is identical. Raises Loss."""
    ledger = read(store)
    if open_ends := ledger.ordered - ledger.ended:
        raise Loss(f"orders whose end is not known: {sorted(open_ends)}")
    if books.open or books.positions:
        raise Loss(f"still at the exchange: orders {books.open}, positions {sorted(books.positions)}")
    if unbooked := {trade.id for trade in books.trades if trade.kind == "Trade"} ^ set(ledger.booked):
        raise Loss(f"executions of which only one side knows: {sorted(unbooked)}")
    check_account(ledger, books)
    with closing(open_database(f"sqlite:///{store}")) as database:
        run = find_run(database)
        if run.final_equity is None or abs(Decimal(str(run.final_equity)) - books.wallet) >= CENT:
            raise Loss(f"the ledger ends with {run.final_equity}, the exchange's wallet with {books.wallet}")
        try:
            identical = verify(database, run).identical
        except StoreError as error:
            raise Loss(f"verify: {error}") from error
    if not identical:
        raise Loss("verify finds another decision")
