"""`tapewire backtest` and `tapewire verify`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from agent.cli import options
from agent.cli.console import err, out, print_json
from agent.config import load

if TYPE_CHECKING:
    from agent.replay.backtest import Result
    from agent.replay.history import History
    from agent.store.database import Database
    from agent.store.runs import Run


def register(app: typer.Typer) -> None:
    """Adds the verbs."""
    app.command("backtest")(backtest)
    app.command("verify")(verify)


def backtest(
    config: options.ConfigFile = None,
    klines: options.Klines = None,
    news: options.News = None,
    sentiment: options.Sentiment = None,
    funding: options.Funding = None,
    start: options.Start = None,
    end: options.End = None,
    strategy: options.Strategy = None,
    settings: options.Settings = None,
    symbol: options.Symbols = None,
    category: options.Category = None,
    timezone: options.Timezone = None,
    model: options.Model = None,
    fusion: options.Fusion = None,
    allow_leakage: options.AllowLeakage = False,
    report: Annotated[Path | None, typer.Option("--report", help="Write the HTML report here too.")] = None,
    json: options.Json = False,
) -> None:
    """Replay history through the engine: paper trades with costs, recorded, measured, ready for `verify`."""
    from agent.replay import backtest as rim
    from agent.replay.history import History
    from agent.research.replay_inputs import NO_SCORING, configured_scoring
    from agent.store.database import open_database

    settled = options.settle(load(config), strategy, settings, category, model, fusion)
    plan = options.make_plan(settled, klines, news, sentiment, funding, start, end, timezone, symbol)
    with err.status("checking the input files"):
        history = History(plan, settled)
    database = open_database(settled.store.url)
    try:
        scorer, stamps, versions = NO_SCORING
        if history.news:
            scorer, stamps, versions = configured_scoring(
                history.config, database, history.start, allow_leakage=allow_leakage
            )
        with replay_progress("replaying", history.start, history.end) as progress:
            result = rim.backtest(
                history,
                database,
                scorer=scorer,
                stamps=stamps,
                versions=versions,
                allow_leakage=allow_leakage,
                progress=progress,
            )
        if report is not None:
            _write_report(database, result.run.id, report)
    finally:
        database.close()
    if json:
        print_json(
            {
                "run": result.run.id,
                "trades": result.metrics.trades.trades,
                "final_equity": result.run.final_equity,
                "metrics": result.metrics,
                "stamps": result.run.stamps,
                "notes": result.notes,
                "seconds": round(result.seconds, 3),
            }
        )
    else:
        _print(result, history)


def verify(
    run: Annotated[
        str, typer.Argument(help="A run's id or its beginning; `latest` is the last one.")
    ] = "latest",
    config: Annotated[Path | None, typer.Option("--config", "-c", help="Where the store is named.")] = None,
    trust_strategy: Annotated[
        bool,
        typer.Option(
            "--trust-strategy",
            help="Import the run's strategy although its file isn't the one it was made with.",
        ),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Decide a recorded run again, and compare bit for bit.

    A strategy that isn't built in is imported only if its file is where it was, and the same, when the run was made.
    """
    from agent.replay.verify import verify as decide_again
    from agent.store.database import open_database
    from agent.store.queries import find_run

    database = open_database(load(config).store.url, create=False)
    try:
        recorded = find_run(database, run)
        with replay_progress(
            "deciding again", recorded.first_event_at or 0, recorded.last_event_at or 0
        ) as progress:
            result = decide_again(database, recorded, progress, trust_strategy=trust_strategy)
    finally:
        database.close()
    if json:
        print_json(
            {
                "identical": result.identical,
                **{field: getattr(result, field) for field in result.__struct_fields__},
            }
        )
    elif result.divergence is None:
        checked = f", {result.snapshots:,} snapshots" if result.snapshots else ""
        if result.differing:
            numbers = ", ".join(f"{number:,}" for number in result.differing)
            out.print(
                f"[bold red]different[/]: the snapshot after event {numbers} is another state",
                highlight=False,
            )
        else:
            out.print(
                f"identical: {result.events:,} events, {result.decisions:,} decisions{checked}",
                highlight=False,
            )
    else:
        found = result.divergence
        out.print(
            f"[bold red]different[/] at decision {found.seq:,}, on event {found.event_seq:,} of run {result.run}",
            highlight=False,
        )
        for title, what in (("event", result.event), ("recorded", found.recorded), ("again", found.again)):
            out.print(
                f"  {title:<9} {what if what is not None else 'nothing'}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
        if result.hint:
            out.print(f"  {result.hint}", highlight=False, markup=False, soft_wrap=True)
    if not result.identical:
        raise typer.Exit(1)


@contextmanager
def replay_progress(title: str, start: int, end: int) -> Iterator[Any]:
    """A bar on standard error that follows the market's time; yields the callback."""
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[date]}"), TimeElapsedColumn(), TimeRemainingColumn(),
        console=err, transient=True,
    ) as bar:  # fmt: skip
        task = bar.add_task(title, total=max(end - start, 1), date="")
        yield lambda now: bar.update(
            task, completed=now - start, date=f"{datetime.fromtimestamp(now / 1000, UTC):%Y-%m-%d}"
        )


def _write_report(database: Database, run_id: str, path: Path) -> None:
    from agent.analysis.report.html import write_report
    from agent.analysis.report.report_loader import load_report_data

    page, _ = write_report(load_report_data(database, run_id), path)
    err.print(f"report: {page}", highlight=False, soft_wrap=True)


def _print(result: Result, history: History) -> None:
    metrics, run = result.metrics, result.run
    performance, hold = metrics.performance, metrics.buy_and_hold
    currency = history.config.account.currency

    def percent(value: float | None) -> str:
        return "–" if value is None else f"{value:+.2%}"

    def number(value: float | None) -> str:
        return "–" if value is None else f"{value:,.2f}"

    for stamp in run.stamps:
        out.print(f"[bold white on red] {stamp} [/]")
    table = Table(
        title=f"{run.strategy} on {', '.join(history.config.market.symbols)}",
        title_justify="left",
        show_edge=False,
    )
    table.add_column()
    table.add_column("strategy", justify="right")
    table.add_column("buy and hold", justify="right")
    table.add_row(
        "total return", percent(performance.total_return), percent(hold.total_return if hold else None)
    )
    table.add_row("CAGR", percent(performance.cagr), percent(hold.cagr if hold else None))
    table.add_row("Sharpe ratio", number(performance.sharpe), number(hold.sharpe if hold else None))
    table.add_row(
        "max drawdown", percent(performance.max_drawdown), percent(hold.max_drawdown if hold else None)
    )
    table.add_row("round trips", f"{metrics.trades.trades:,}", "")
    table.add_row("win rate", percent(metrics.trades.win_rate).lstrip("+"), "")
    table.add_row("exposure", percent(metrics.exposure).lstrip("+"), "")
    table.add_row(f"fees, {currency}", number(metrics.fees), "")
    table.add_row(f"funding, {currency}", number(metrics.funding), "")
    table.add_row(f"slippage, {currency}", number(metrics.slippage), "")
    table.add_row(f"final equity, {currency}", number(metrics.final_equity), "")
    out.print(table)
    for note in result.notes:
        out.print(f"note: {note}", highlight=False)
    if _chosen(run):
        out.print(
            "note: parameters that were chosen on this window prove nothing about it: tapewire walkforward judges",
            highlight=False,
        )
    out.print(
        f"run {run.id}: {run.events:,} events, {run.decisions:,} decisions in {result.seconds:.1f} s "
        f"({history.bars / max(result.seconds, 1e-9):,.0f} bars/s); tapewire report {run.id}; tapewire verify {run.id}",
        highlight=False,
        soft_wrap=True,
    )


def _chosen(run: Run) -> bool:
    """Whether somebody chose the strategy's parameters."""
    from strategies import load_strategy

    return bool(run.params != load_strategy(run.strategy).params.model_dump(mode="json"))
