"""`tapewire backtest` and `tapewire verify`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from agent.cli.console import err, out, print_json
from agent.cli.moments import parse_moment
from agent.config import Category, Config, load
from agent.errors import UsageError

if TYPE_CHECKING:
    from agent.backtest import History, Plan, Result
    from agent.store.database import Database
    from models.sentiment.cache import CachedScorer


def register(app: typer.Typer) -> None:
    """Adds the verbs."""
    app.command("backtest")(backtest)
    app.command("verify")(verify)


def backtest(
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Default: ./config.toml, else the one that ships.")
    ] = None,
    klines: Annotated[
        list[str] | None, typer.Option("--klines", help="FILE or SYMBOL=FILE, parquet or CSV; may be repeated.")
    ] = None,
    news: Annotated[Path | None, typer.Option("--news", help="Headlines: parquet, CSV or JSONL.")] = None,
    sentiment: Annotated[Path | None, typer.Option("--sentiment", help="Headlines that are scored already.")] = None,
    funding: Annotated[Path | None, typer.Option("--funding", help="History of funding rates.")] = None,
    start: Annotated[
        str | None, typer.Option("--start", help="First bar's open, e.g. 2025-01-31 or 2025-01-31T12:00Z (UTC).")
    ] = None,
    end: Annotated[str | None, typer.Option("--end", help="The same; bars that open at it or later are left out.")] = None,
    strategy: Annotated[str | None, typer.Option("--strategy", help="A built-in's name, or package.module:Class.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE: a parameter of the strategy; may be repeated.")
    ] = None,
    symbol: Annotated[
        list[str] | None, typer.Option("--symbol", help="Trade only these of the files' symbols; may be repeated.")
    ] = None,
    category: Annotated[str | None, typer.Option("--category", help="linear, spot or equity.")] = None,
    timezone: Annotated[str | None, typer.Option("--timezone", help="Of times in files that name none, e.g. UTC.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="An exported model's folder, or starter.")] = None,
    fusion: Annotated[str | None, typer.Option("--fusion", help="A folder made by `tapewire train fusion`.")] = None,
    allow_leakage: Annotated[
        bool, typer.Option("--allow-leakage", help="Run although the model saw this window; reports say so.")
    ] = False,
    report: Annotated[Path | None, typer.Option("--report", help="Write the HTML report here too.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Replay history through the engine: paper trades with costs, recorded, measured, ready for `verify`."""
    from agent import backtest as rim
    from agent.fusion import wants_headlines
    from agent.store.database import open_database

    settled = _settle(load(config), strategy, settings, category, model, fusion)
    plan = _plan(settled, klines, news, sentiment, funding, start, end, timezone, symbol)
    if not wants_headlines(settled):
        plan = plan._replace(news=None, sentiment=None)
    elif plan.news is None and plan.sentiment is None:
        raise UsageError(
            f"strategy {settled.strategy.name} or its model reads headlines, and none are named",
            hint="--news FILE or --sentiment FILE",
        )
    with err.status("checking the input files"):
        history = rim.History(plan, settled)
    database = open_database(settled.store.url)
    try:
        scorer, stamps, versions = (
            _scorer(history, database, allow_leakage) if history.news and not plan.sentiment else (None, (), {})
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
    run: Annotated[str, typer.Argument(help="A run's id or its beginning; `latest` is the last one.")] = "latest",
    config: Annotated[Path | None, typer.Option("--config", "-c", help="Where the store is named.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Decide a recorded run again, and compare bit for bit."""
    from agent.store.database import open_database
    from agent.store.queries import find_run
    from agent.verify import verify as decide_again

    database = open_database(load(config).store.url, create=False)
    try:
        recorded = find_run(database, run)
        with replay_progress("deciding again", recorded.first_event_at or 0, recorded.last_event_at or 0) as progress:
            result = decide_again(database, recorded, progress)
    finally:
        database.close()
    if json:
        print_json({"identical": result.identical, **{field: getattr(result, field) for field in result.__struct_fields__}})
    elif result.divergence is None:
        out.print(f"identical: {result.events:,} events, {result.decisions:,} decisions", highlight=False)
    else:
        found = result.divergence
        out.print(
            f"[bold red]different[/] at decision {found.seq:,}, on event {found.event_seq:,} of run {result.run}",
            highlight=False,
        )
        for title, what in (("event", result.event), ("recorded", found.recorded), ("again", found.again)):
            out.print(f"  {title:<9} {what if what is not None else 'nothing'}", highlight=False, markup=False, soft_wrap=True)
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
        yield lambda now: bar.update(task, completed=now - start, date=f"{datetime.fromtimestamp(now / 1000, UTC):%Y-%m-%d}")


def _settle(
    config: Config,
    strategy: str | None,
    settings: list[str] | None,
    category: str | None,
    model: str | None,
    fusion: str | None,
) -> Config:
    """The configuration with the command line's word in it."""
    changes: dict[str, Any] = {}
    name = strategy or config.strategy.name
    params = dict(config.strategy.params) if name == config.strategy.name else {}
    for pair in settings or []:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {pair!r} sets nothing", hint="write NAME=VALUE, e.g. --set fast=20")
        params[key.strip()] = value.strip()
    changes["strategy"] = config.strategy.model_copy(update={"name": name, "params": params})
    if category is not None:
        if category not in get_args(Category):
            raise UsageError(f"unknown category {category!r}", hint=f"one of {', '.join(get_args(Category))}")
        changes["market"] = config.market.model_copy(update={"category": category})
    if model is not None:
        changes["model"] = config.model.model_copy(update={"path": model})
    if fusion is not None:
        changes["fusion"] = config.fusion.model_copy(update={"path": fusion})
    return config.model_copy(update=changes)


def _plan(
    config: Config, klines: list[str] | None, news: Path | None, sentiment: Path | None, funding: Path | None, start: str | None,
    end: str | None, timezone: str | None, symbols: list[str] | None,
) -> Plan:  # fmt: skip
    from agent.backtest import Plan
    from agent.feeds.history.klines import KlineFile
    from agent.resources import resource

    history = config.history
    named = klines or list(history.klines)
    if not named:
        samples = resource("sample_data")
        named = [f"{symbol}={samples / f'{symbol}-1m.csv'}" for symbol in ("BTCUSDT", "ETHUSDT")]
        news = news or (None if sentiment else samples / "headlines.csv")
        err.print(f"no kline files are named: replaying the sample data in {samples}", highlight=False, soft_wrap=True)
    files = tuple(KlineFile.parse_argument(text) for text in named)
    if symbols:
        by_symbol = {symbol or KlineFile(path).symbol: (path, symbol) for path, symbol in files}
        missing = [s for s in symbols if s.upper() not in by_symbol]
        if missing:
            raise UsageError(f"no klines for {', '.join(missing)}", hint=f"the files hold {', '.join(by_symbol)}")
        files = tuple(by_symbol[s.upper()] for s in symbols)
    begin = parse_moment(start, "--start") if start else None
    finish = parse_moment(end, "--end") if end else None
    if begin is not None and finish is not None and begin >= finish:
        raise UsageError(f"--start {start} is not before --end {end}")
    return Plan(
        files,
        news or _path(history.news),
        sentiment or _path(history.sentiment),
        funding or _path(history.funding),
        begin,
        finish,
        timezone or history.timezone or None,
    )


def _path(text: str) -> Path | None:
    return Path(text) if text else None


def _scorer(history: History, database: Database, allow_leakage: bool) -> tuple[CachedScorer, tuple[str, ...], dict[str, str]]:
    """The configured model, its stamps, and what to record of it."""
    from agent.backtest import refuse_leakage
    from models.cards import read_card
    from models.sentiment import model_dir
    from models.sentiment.cache import CachedScorer, SqlScoreCache
    from models.sentiment.scorer import Scorer

    settings = history.config.model
    folder = model_dir(settings.path)
    card = read_card(folder)
    stamps = refuse_leakage(card.trained_until, history.start, model=settings.path, allow=allow_leakage)
    scorer = CachedScorer(Scorer.load(folder, threads=settings.threads or None), SqlScoreCache(database))
    return scorer, stamps, {"model": scorer.fingerprint}


def _write_report(database: Database, run_id: str, path: Path) -> None:
    from agent.analysis.report.load import load_report_data
    from agent.analysis.report.write import write_report

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
    table = Table(title=f"{run.strategy} on {', '.join(history.config.market.symbols)}", title_justify="left", show_edge=False)
    table.add_column()
    table.add_column("strategy", justify="right")
    table.add_column("buy and hold", justify="right")
    table.add_row("total return", percent(performance.total_return), percent(hold.total_return if hold else None))
    table.add_row("CAGR", percent(performance.cagr), percent(hold.cagr if hold else None))
    table.add_row("Sharpe ratio", number(performance.sharpe), number(hold.sharpe if hold else None))
    table.add_row("max drawdown", percent(performance.max_drawdown), percent(hold.max_drawdown if hold else None))
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
    out.print(
        f"run {run.id}: {run.events:,} events, {run.decisions:,} decisions in {result.seconds:.1f} s "
        f"({history.bars / max(result.seconds, 1e-9):,.0f} bars/s); tapewire report {run.id}; tapewire verify {run.id}",
        highlight=False,
        soft_wrap=True,
    )
