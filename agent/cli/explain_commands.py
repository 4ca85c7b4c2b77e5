"""`tapewire explain`: why an order was placed, and what became of it."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli.command_options import ConfigFile, Json, RunId
from agent.cli.console import err, print_columns, print_json, print_text
from agent.cli.typer_setup import option
from agent.config import load
from agent.system.fitted_table import Column, figures

if TYPE_CHECKING:
    from agent.replay.order_history import OrderHistory

_LISTED = 40  # newest orders in the list


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("explain")(explain)


def explain(
    run: RunId = "latest",
    order: Annotated[
        str | None,
        typer.Argument(
            metavar="[ORDER]",
            help="Number of an order in the run, its id or first characters, or t3: the third round trip.",
            show_default="list the orders",
        ),
    ] = None,
    trust_strategy: Annotated[
        bool, option("--trust-strategy", "Import the run's strategy even if it isn't the file of the run.")
    ] = False,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Explain an order: event, headlines, votes, features, prediction, target, size, risk checks and fills.

    The recorded run is folded up to the order's event by the same engine, as `verify` does. Without ORDER,
    the orders are listed.
    """
    from agent.cli.explain_output import print_explanation
    from agent.replay.explanation import explain_orders
    from agent.replay.order_history import order_history
    from agent.store.database import open_database
    from agent.store.queries import find_run
    from agent.system.clock import iso

    settled = load(config)
    with closing(open_database(settled.store.url, create=False)) as database:
        found = find_run(database, run)
        history = order_history(database, found)
        if order is None:
            _list_orders(history, json=json)
            return
        records = history.find(order)
        with err.status("folding the run …") as status:
            explained = explain_orders(
                database,
                found,
                history,
                records,
                lambda at: status.update(f"folded up to {iso(at)[:16]}"),
                folder=settled.live.folder,
                trust_strategy=trust_strategy,
            )
    if json:
        print_json({"run": found.id, "orders": explained})
        return
    for one in explained:
        print_explanation(one)


def _list_orders(history: OrderHistory, *, json: bool) -> None:
    from agent.replay.order_history import describe_end
    from agent.system.clock import iso

    trips = {
        name: number
        for number, trip in enumerate(history.trips, 1)
        for name in (trip.entry_order, trip.exit_order)
    }
    records = list(history.orders.values())
    if json:
        rows = [
            {
                "number": one.number,
                "order": one.order,
                "event_seq": one.event_seq,
                "filled": one.filled,
                "trip": trips.get(one.order.id),
                "ended": describe_end(one),
            }
            for one in records
        ]
        print_json({"run": history.run, "orders": rows, "trips": history.trips})
        return
    sleeved = any(one.order.sleeve for one in records)
    columns = [
        *map(Column, ("number", "decided", *(("sleeve",) if sleeved else ()), "order")),
        *figures("quantity", "filled"),
        *(Column("trip"), Column("ended", wraps=True), Column("id")),
    ]
    listed = []
    for one in records[-_LISTED:]:
        order = one.order
        trip = trips.get(order.id)
        listed.append(
            [
                str(one.number),
                iso(order.ts)[:19],
                *((order.sleeve or "",) if sleeved else ()),
                f"{order.symbol} {order.side.value.lower()} {order.type.value.lower().replace('_', ' ')}",
                f"{order.qty:f}",
                f"{one.filled:f}",
                f"t{trip}" if trip else "",
                describe_end(one),
                order.id[:12],
            ]
        )
    if listed:
        print_columns(columns, listed)
    if len(records) > _LISTED:
        print_text(f"the last {_LISTED} of {len(records):,} orders; --json lists all")
    elif not records:
        print_text(f"run {history.run} placed no orders")
