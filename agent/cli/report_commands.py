"""`tapewire report` and `tapewire slippage`: read what a run has recorded."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from msgspec import structs

from agent.cli.command_options import ConfigFile, Json, RunId
from agent.cli.console import err, out, print_columns, print_json, print_text
from agent.cli.typer_setup import option
from agent.config import load
from agent.core.errors import UsageError
from agent.system.fitted_table import Column, figures

if TYPE_CHECKING:
    from agent.analysis.report.report_data import ReportData
    from agent.analysis.report.verdict import Verdict
    from agent.analysis.venue_slippage import SlippageReport
    from agent.store.database import Database

_SHOWN: Final = 40  # newest orders in the table


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("report")(report)
    app.command("slippage")(slippage)


def report(
    run: RunId = "latest",
    output: Annotated[
        Path | None, option("--output -o", "HTML page to write.", "FILE", "var/reports/RUN.html")
    ] = None,
    config: ConfigFile = None,
    json: Json = False,
    open_page: Annotated[bool, option("--open", "Open the page in the browser.")] = False,
    no_twin: Annotated[
        bool, option("--no-twin", "Don't compare a run at a venue with its twin, which folds it again.")
    ] = False,
    stories: Annotated[
        bool, option("--stories", "Add which headlines earned or lost, which folds the run again.")
    ] = False,
    trust_strategy: Annotated[
        bool, option("--trust-strategy", "Import the run's strategy although its file has changed.")
    ] = False,
) -> None:
    """Write the report of a run: one self-contained HTML page, and its data as JSON beside it.

    Of a run on a testnet it shows why the run earned more or less than on paper, as `tapewire twin` does.
    RUN may also be the id of a walk-forward or the name of a study of `tapewire tune`.
    """
    from agent.analysis.report.html import write_report
    from agent.analysis.report.report_loader import load_report_data
    from agent.analysis.report.verdict import verdict_of
    from agent.replay.complete_report import load_complete_report
    from agent.store.database import open_database

    if output is not None and output.suffix.lower() not in (".html", ".htm"):
        raise UsageError(
            f"--output {output}: the report is an HTML page", hint="use a name that ends with .html"
        )
    if (study := _study_page(run)) is not None:
        given = {"--stories": stories, "--no-twin": no_twin, "--trust-strategy": trust_strategy}
        if unfit := [name for name, is_given in given.items() if is_given]:
            raise UsageError(
                f"{run} is a study, whose page takes no {unfit[0]}",
                hint="give the option with the id of a run",
            )
        _write_study(*study, output, json=json, open_page=open_page)
        return
    settings = load(config)
    with (
        closing(open_database(settings.store.url, create=False)) as database,
        err.status("Reading the run …"),
    ):
        if no_twin:
            data = load_report_data(database, run)
        else:
            data = load_complete_report(database, run, trust_strategy=trust_strategy)
        if stories:
            data = _with_stories(database, data, settings.live.folder, trust_strategy=trust_strategy)
    page, data_file = write_report(data, output or Path("var/reports") / f"{data.run.id}.html")
    verdict = verdict_of(data)
    if json:
        files = {"html": str(page), "data": str(data_file)}
        print_json(
            {"run": data.run.id, **files, "verdict": verdict, "metrics": data.metrics, "notes": data.notes}
        )
    else:
        print_text(verdict.headline, style="bold", wrap=True)
        for line in (*verdict.sentences, *(f"! {warning}" for warning in (*verdict.warnings, *data.notes))):
            print_text(line, wrap=True)
        print_text(str(page))
    if open_page:
        typer.launch(page.resolve().as_uri())


def _study_page(name: str) -> tuple[str, Verdict, str] | None:
    """Return id, verdict and page of a walk-forward or a parameter search; None if `name` is of neither."""
    from agent.research.study_comparison import find_study, is_study
    from agent.research.study_page import render_tuning, render_walk_forward
    from agent.research.tuning_results import find_result

    if is_study(name):
        study = find_study(name)
        return study.id, study.verdict, render_walk_forward(study)
    tuned = find_result(name)
    return None if tuned is None else (tuned.study, tuned.held_out.verdict, render_tuning(tuned))


def _write_study(
    name: str, verdict: Verdict, html: str, output: Path | None, *, json: bool, open_page: bool
) -> None:
    from agent.analysis.report.page_parts import write_page

    page = write_page(html, output or Path("var/reports") / f"{name}.html", "--output")
    if json:
        print_json({"study": name, "html": str(page), "verdict": verdict})
    else:
        print_text(verdict.headline, style="bold", wrap=True)
        for line in (*verdict.sentences, *(f"! {warning}" for warning in verdict.warnings)):
            print_text(line, wrap=True)
        print_text(str(page))
    if open_page:
        typer.launch(page.resolve().as_uri())


def _with_stories(database: Database, data: ReportData, folder: Path, *, trust_strategy: bool) -> ReportData:
    from agent.replay.recorded_inputs import load_inputs
    from agent.research.story_results import story_results

    source = load_inputs(database, data.run, folder, trust_strategy=trust_strategy)
    return structs.replace(data, stories=story_results(source))


def slippage(run: RunId = "latest", config: ConfigFile = None, json: Json = False) -> None:
    """Compare the venue's fills of a testnet run with those of the paper exchange, order by order.

    Costs are in basis points of the mark price at the decision. Excess is venue minus paper: if it is
    positive, the paper exchange is too optimistic. --json prints all orders.
    """
    from agent.analysis.venue_slippage import compare_with_paper
    from agent.store.database import open_database
    from agent.store.queries import find_run

    with closing(open_database(load(config).store.url, create=False)) as database:
        found = compare_with_paper(database, find_run(database, run))
    if json:
        print_json(found)
    else:
        _print_slippage(found)


def _print_slippage(found: SlippageReport) -> None:
    from agent.system.clock import iso

    rows = []
    for row in found.orders[-_SHOWN:]:
        filled = "" if not row.venue_qty else f"{row.venue_qty:f}"
        delay = "" if row.venue_delay_ms is None else f"{row.venue_delay_ms:,}"
        mark = "" if row.reference is None else f"{row.reference:,.7g}"
        costs = map(_bps, (row.paper_bps, row.venue_bps, row.excess_bps))
        order = f"{row.symbol} {row.side.lower()} {row.type.lower()}"
        rows.append((iso(row.ts)[5:19], order, filled, mark, *costs, delay))
    titles = figures("filled", "mark", "paper", "venue", "excess", "ms")
    print_columns((Column("decided"), Column("order", wraps=True), *titles), rows)
    out.print("paper, venue and excess in basis points of the mark", style="dim")
    if len(found.orders) > _SHOWN:
        out.print(f"the last {_SHOWN} of {len(found.orders):,} orders; --json prints all")
    total = found.summary
    out.print(
        f"run {found.run} at {found.venue}: {total.orders:,} orders, filled by both {total.both:,}, "
        f"by paper only {total.only_paper:,}, by the venue only {total.only_venue:,}"
    )
    if total.excess_bps is not None:
        out.print(
            f"paper {_bps(total.paper_bps)} bps, venue {_bps(total.venue_bps)} bps; "
            f"excess {_bps(total.excess_bps)} bps on average, {_bps(total.median_excess_bps)} median, "
            f"{_bps(total.worst_excess_bps)} at worst; "
            f"{total.excess:,.2f} in all on {total.notional:,.0f} traded; "
            f"{total.median_delay_ms:,.0f} ms to the first fill (median)"
        )


def _bps(value: float | None) -> str:
    return "" if value is None else f"{value:+.2f}"
