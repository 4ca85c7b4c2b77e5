"""`tapewire twin`: why a run at a venue earned more or less than on paper."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from agent.cli.command_options import ConfigFile, Json, RunId
from agent.cli.console import err, out, print_columns, print_json, print_text
from agent.cli.typer_setup import option
from agent.config import load
from agent.core.errors import UsageError
from agent.system.fitted_table import Column, figures

if TYPE_CHECKING:
    from collections.abc import Mapping
    from decimal import Decimal

    from agent.analysis.twin_parts import Cause
    from agent.analysis.twin_report import TwinReport

_SHOWN: Final = 40  # orders in the table, the largest differences


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("twin")(twin)


def twin(
    run: RunId = "latest",
    orders: Annotated[bool, option("--orders", "Show the orders with the largest differences.")] = False,
    costs: Annotated[
        Path | None,
        option("--costs", "Take [paper] from this file.", "FILE", "the run's own"),
    ] = None,
    own_orders: Annotated[
        bool, option("--own-orders", "Only execute the run's orders on paper; decide nothing anew.")
    ] = False,
    history: Annotated[
        bool, option("--history", "Also replay the run's window as a backtest of closed bars.")
    ] = False,
    klines: Annotated[
        list[str] | None,
        option(
            "--klines -k",
            "File of downloaded bars for --history, as FILE or SYMBOL=FILE; repeat it for several symbols.",
            "FILE",
            "the run's own bars",
        ),
    ] = None,
    output: Annotated[Path | None, option("--output -o", "HTML page to write.", "FILE")] = None,
    trust_strategy: Annotated[
        bool, option("--trust-strategy", "Import the run's strategy although its file has changed.")
    ] = False,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Explain why a run on a testnet earned more or less than on paper.

    The same events are traded on the paper exchange, and the difference of the two equities is divided by
    cause, by day and by order. The parts add up exactly.
    """
    from agent.analysis.report.page_parts import write_page
    from agent.analysis.report.twin_page import render_twin
    from agent.analysis.twin_report import attribute_run
    from agent.data.klines import KlineFile
    from agent.replay.twin import fold_twin
    from agent.store.database import open_database
    from agent.store.queries import find_run

    if output is not None and output.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--output {output}: the page is HTML", hint="use a name that ends with .html")
    if klines and not history:
        raise UsageError("--klines is for --history", hint="add --history")
    if history and own_orders:
        raise UsageError("--history needs decisions of its own", hint="leave --own-orders out")
    files = [KlineFile.parse_argument(text) for text in klines or ()]
    settings = load(config)
    with (
        closing(open_database(settings.store.url, create=False)) as database,
        err.status("Folding the run again …"),
    ):
        record = fold_twin(
            database,
            find_run(database, run),
            costs=load(costs) if costs is not None else None,
            anew=not own_orders,
            history=[(Path(path), symbol) for path, symbol in files] if history else None,
            trust_strategy=trust_strategy,
        )
        report = attribute_run(record)
    if output is not None:
        write_page(render_twin(report), output, "--output")
    if json:
        print_json(report)
        return
    _print(report, orders=orders)
    if output is not None:
        print_text(str(output))


def _print(report: TwinReport, *, orders: bool) -> None:
    from rich.text import Text

    from agent.analysis.report.twin_view import headline, sentences
    from agent.analysis.twin_parts import LABELS
    from agent.analysis.twin_report import waterfall

    print_text(headline(report), style="bold", wrap=True)
    for sentence in sentences(report):
        print_text(sentence, wrap=True)
    steps = []
    for step in waterfall(report).steps:
        amount = f"{step.amount:,.2f}" if step.is_total else f"{step.amount:+,.2f}"
        style = "bold" if step.is_total else ""
        steps.append((Text(step.label, style), Text(amount, style)))
    columns = (Column("from the twin to the venue", wraps=True), Column(report.currency, right=True))
    print_columns(columns, steps)
    if report.origins:
        print_text(f"the divergence of positions was opened by {_parts(report.origins)}", wrap=True)
    if len(report.days) > 1:
        days = [(day.day, _money(day.difference), _parts(day.causes)) for day in report.days]
        print_columns((Column("day"), Column("difference", right=True), Column("causes", wraps=True)), days)
    if orders:
        _print_orders(report)
    for bars in report.bars:
        print_text(
            f"{bars.symbol} ({bars.source}): {bars.differing:,} of {bars.compared:,} bars differ, by "
            f"{bars.mean_bps:.2f} bps on average and {bars.most_bps:.2f} at most; {bars.only_streamed:,} are "
            f"missing in the history, {bars.only_history:,} in the run",
            wrap=True,
        )
    print_text(f"costs of the twin: {report.costs}", style="dim", wrap=True)
    if report.venue_delays is not None and report.paper_delays is not None:
        venue, paper = report.venue_delays, report.paper_delays
        print_text(
            f"market orders were filled after {venue.median:,.0f} ms (median; {venue.p90:,.0f} at 90 %), on "
            f"paper after {paper.median:,.0f} ms",
            style="dim",
            wrap=True,
        )
    for note in report.notes:
        print_text(f"! {note}", wrap=True)
    unused = [label for cause, label in LABELS.items() if not report.causes[cause]]
    print_text(f"zero: {', '.join(unused)}", style="dim", wrap=True)


def _print_orders(report: TwinReport) -> None:
    from agent.system.clock import iso

    rows = []
    largest = sorted(report.orders, key=lambda order: -abs(order.difference))[:_SHOWN]
    for order in sorted(largest, key=lambda order: order.ts):
        venue = order.venue_status.lower() if order.venue_price is None else f"{order.venue_price:,.7g}"
        paper = order.paper_status.lower() if order.paper_price is None else f"{order.paper_price:,.7g}"
        name = f"{order.symbol} {order.side.lower()} {order.type.lower()}"
        when = iso(order.ts)[5:16].replace("T", " ")
        rows.append(
            (when, name, f"{order.qty:f}", venue, paper, _money(order.difference), _parts(order.causes))
        )
    titles = figures("quantity", "venue", "twin", "difference")
    print_columns((Column("decided"), Column("order"), *titles, Column("causes", wraps=True)), rows)
    if len(report.orders) > _SHOWN:
        out.print(f"the {_SHOWN} largest of {len(report.orders):,} orders; --json prints all")


def _money(amount: Decimal) -> str:
    return f"{amount:+,.2f}"


def _parts(causes: Mapping[Cause, Decimal]) -> str:
    return ", ".join(f"{cause} {_money(amount)}" for cause, amount in causes.items())
