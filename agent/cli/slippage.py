"""`tapewire slippage`: a venue's fills against the paper exchange's."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli.console import out, print_json

if TYPE_CHECKING:
    from agent.analysis.venue_slippage import SlippageReport

_SHOWN = 40


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    app.command("slippage")(slippage)


def slippage(
    run: Annotated[str, typer.Argument(help="Id of a run in testnet mode, or how it begins.")] = "latest",
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Configuration file; its store.url is read.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object, with every order.")] = False,
) -> None:
    """What the venue's fills of a run cost against the paper exchange's on the same bars, order by order.

    Costs are basis points of the mark at the decision; excess is the venue's less paper's, so positive means worse than the model.
    """
    from agent.analysis.venue_slippage import compare_with_paper as compare
    from agent.config import load
    from agent.store.database import open_database
    from agent.store.queries import find_run

    with closing(open_database(load(config).store.url, create=False)) as database:
        found = compare(database, find_run(database, run))
    if json:
        print_json(found)
    else:
        _print(found)


def _print(found: SlippageReport) -> None:
    from rich.table import Table

    from agent.system.clock import iso

    table = Table(
        "decided",
        "order",
        "filled",
        "mark",
        "paper",
        "venue",
        "excess",
        "ms",
        box=None,
        header_style="dim",
        pad_edge=False,
    )
    for row in found.orders[-_SHOWN:]:
        filled = "" if not row.venue_qty else f"{row.venue_qty:f}"
        delay = "" if row.venue_delay_ms is None else f"{row.venue_delay_ms:,}"
        mark = "" if row.reference is None else f"{row.reference:,.7g}"
        costs = map(_bps, (row.paper_bps, row.venue_bps, row.excess_bps))
        table.add_row(
            iso(row.ts)[5:19],
            f"{row.symbol} {row.side.lower()} {row.type.lower()}",
            filled,
            mark,
            *costs,
            delay,
        )
    out.print(table)
    out.print("paper, venue and excess in basis points of the mark", style="dim")
    if len(found.orders) > _SHOWN:
        out.print(f"the last {_SHOWN} of {len(found.orders):,} orders; --json has them all", highlight=False)
    s = found.summary
    out.print(
        f"run {found.run} at {found.venue}: {s.orders:,} orders, filled by both {s.both:,}, by paper alone {s.only_paper:,}, "
        f"by the venue alone {s.only_venue:,}",
        highlight=False,
    )
    if s.excess_bps is not None:
        out.print(
            f"paper {_bps(s.paper_bps)} bps, venue {_bps(s.venue_bps)} bps; excess {_bps(s.excess_bps)} bps on average, "
            f"{_bps(s.median_excess_bps)} in the middle, {_bps(s.worst_excess_bps)} at worst; {s.excess:,.2f} in all "
            f"on {s.notional:,.0f} traded; {s.median_delay_ms:,.0f} ms to the first fill",
            highlight=False,
        )


def _bps(value: float | None) -> str:
    return "" if value is None else f"{value:+.2f}"
