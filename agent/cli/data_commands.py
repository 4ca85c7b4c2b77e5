"""`tapewire download` and `tapewire import`: get history."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from msgspec import to_builtins
from rich.progress import TaskProgressColumn

from agent.cli.command_options import Json, parse_span, parse_time
from agent.cli.console import out, print_json, print_text, progress_bar
from agent.cli.typer_setup import option
from agent.core.errors import UsageError

if TYPE_CHECKING:
    from agent.data.download import KlineRequest, Progress

Category = Annotated[str, option("--category", "Kind of market: linear (perpetuals) or spot.", "NAME")]
Url = Annotated[str, option("--url", "mainnet, testnet, or a sandbox such as http://127.0.0.1:8787.", "URL")]


def register(app: typer.Typer) -> None:
    """Add the groups."""
    download = typer.Typer(help="Download klines, or the trading rules of instruments.", no_args_is_help=True)
    download.command("klines")(klines)
    download.command("instruments")(instruments)
    app.add_typer(download, name="download")
    importer = typer.Typer(help="Convert files from other sources.", no_args_is_help=True)
    importer.command("news")(news)
    app.add_typer(importer, name="import")
    app.command("data")(data)


def klines(
    symbol: Annotated[
        str,
        typer.Argument(
            metavar="SYMBOL",
            help="Symbol, such as BTCUSDT; with --source yahoo such as SPY.",
            show_default=False,
        ),
    ],
    start: Annotated[
        str,
        option(
            "--from", "Open time of the first bar (UTC), such as 2025-01-31 or 2025-01-31T12:00Z.", "TIME"
        ),
    ],
    end: Annotated[
        str | None, option("--to", "Time before which the last bar opens (UTC).", "TIME", "now")
    ] = None,
    interval: Annotated[
        str | None,
        option(
            "--interval", "Length of a bar, such as 1m, 5m, 1h, 1d.", "DURATION", "1m, with --source yahoo 1d"
        ),
    ] = None,
    category: Category = "linear",
    output: Annotated[
        Path | None,
        option("--output", "Parquet file to write.", "FILE", "var/klines/SYMBOL-INTERVAL.parquet"),
    ] = None,
    source: Annotated[str, option("--source", "bybit or yahoo.", "NAME")] = "bybit",
    url: Url = "mainnet",
    json: Json = False,
) -> None:
    """Download klines to a Parquet file for `backtest --klines`. Run it again to continue where it stopped.

    Bybit: the bar that is still open is left out, and gaps are reported. Yahoo: prices are adjusted for
    splits and dividends, so the file is always downloaded in full; the time of a daily bar is the date of its
    session.
    """
    from agent.core.durations import format_duration
    from agent.data.download import default_output
    from agent.data.klines import KlineFile
    from agent.system.clock import iso

    wanted = _wanted(symbol, start, end, interval or ("1d" if source == "yahoo" else "1m"), category, source)
    path = output or default_output(wanted)
    unsound = _download(wanted, path, source, url)
    found = KlineFile(path, wanted.symbol, wanted.interval, around_the_clock=source == "bybit").describe()
    if json:
        print_json(found | {"unsound": unsound, "source": source})
        return
    first, last = (iso(int(str(found[key]))) for key in ("first", "last"))
    length = format_duration(wanted.interval)
    out.print(f"{path}: {found['rows']:,} bars of {length}, {first} to {last}", soft_wrap=True)
    out.print(f"  {found['gaps']} gaps ({found['missing']} bars), {unsound} rows left out as impossible bars")
    out.print(f"  sha256 {found['sha256']}")


def instruments(
    category: Category = "linear",
    url: Url = "mainnet",
    output: Annotated[
        Path | None,
        option("--output", "File to write.", "FILE", "var/instruments.json, which `backtest` reads"),
    ] = None,
    json: Json = False,
) -> None:
    """Download tick size, lot size and minimum order of Bybit's instruments, for use by backtests."""
    from agent.config.bybit import endpoint
    from agent.data.trading_rules import DOWNLOADED_TABLE, write_table
    from agent.live.gateway.instrument_rules import fetch_rules

    if category not in ("linear", "spot"):
        raise UsageError(f"--category {category!r} is not known", hint="one of linear, spot")
    try:
        base = endpoint(url).rest
    except ValueError as error:
        raise UsageError(f"--url: {error}") from None
    found = asyncio.run(fetch_rules(base, category))
    path = output or DOWNLOADED_TABLE
    count = write_table(path, category, ((symbol, rules._asdict()) for symbol, rules in found.items()))
    if json:
        print_json({"path": str(path), "category": category, "instruments": count})
        return
    out.print(f"{path}: {count:,} instruments of {category}", soft_wrap=True)


def news(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="Parquet, CSV or JSON lines with at least published_at and title.",
            show_default=False,
        ),
    ],
    output: Annotated[Path, option("--output", "Parquet file to write.", "FILE")] = Path("var/news.parquet"),
    timezone: Annotated[
        str | None, option("--timezone", "Zone of times in the file that state none, such as UTC.", "ZONE")
    ] = None,
    json: Json = False,
) -> None:
    """Convert a news file for `backtest --news`: clean the texts, drop duplicates, sort by time."""
    from agent.data.news_import import import_news
    from agent.system.clock import iso

    found: dict[str, Any] = import_news(file, output, timezone=timezone)
    if json:
        print_json(found)
        return
    times = f"{iso(found['first'])} to {iso(found['last'])}"
    out.print(f"{output}: {found['news']:,} headlines, {times}", soft_wrap=True)
    out.print(f"  from {found['rows']:,} rows")
    for note in found["notes"]:
        out.print(f"  {note}", soft_wrap=True)


def data(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Klines, headlines or funding rates.")],
    timezone: Annotated[
        str | None, option("--timezone", "Zone of times in the files that state none, such as UTC.", "ZONE")
    ] = None,
    json: Annotated[
        bool, option("--json", "Print a JSON list on standard output: one object a file.")
    ] = False,
) -> None:
    """Describe data files: kind, symbol, interval, range, gaps. Exit code 1 if one can't be used."""
    from agent.core.durations import format_bar_length
    from agent.data.file_facts import read_facts
    from agent.system.clock import iso

    found = []
    with progress_bar("reading files", len(files)) as update:
        for file in files:
            found.append(read_facts(file, timezone))
            update(advance=1)
    if json:
        print_json([{"path": str(file)} | to_builtins(one) for file, one in zip(files, found, strict=True)])
    else:
        for file, one in zip(files, found, strict=True):
            print_text(str(file), style="bold")
            if one.rows:
                what = (
                    f"bars of {format_bar_length(one.interval)}, {one.symbol}" if one.interval else one.kind
                )
                print_text(f"  {one.rows:,} {what}: {iso(one.first)} to {iso(one.end)}", wrap=True)
            if one.interval:
                print_text(f"  {one.gaps:,} gaps ({one.missing:,} bars)")
            if one.note:
                print_text(f"  {one.note}", wrap=True)
    if any(one.kind == "unknown" for one in found):
        raise typer.Exit(1)


def _wanted(
    symbol: str, start: str, end: str | None, interval: str, category: str, source: str
) -> KlineRequest:
    from agent.data.download import KlineRequest
    from agent.system.clock import WallClock

    choices = ("--category", category, ("linear", "spot")), ("--source", source, ("bybit", "yahoo"))
    for name, value, known in choices:
        if value not in known:
            raise UsageError(f"{name} {value!r} is not known", hint=f"one of {', '.join(known)}")
    length = parse_span(interval, "--interval")
    now = WallClock().now()
    first, stop = parse_time(start, "--from"), min(parse_time(end, "--to") if end else now, now)
    if first >= stop:
        raise UsageError(
            f"--from {start} is not before {f'--to {end}' if end else 'now'}",
            hint="give the earlier one first",
        )
    return KlineRequest(symbol.upper(), length, first, stop, "spot" if category == "spot" else "linear")


def _download(wanted: KlineRequest, path: Path, source: str, url: str) -> int:
    """Download to `path`, and return the number of rows left out because they can't be bars."""
    from agent.data.download import BybitKlines, yahoo_klines
    from agent.data.kline_writer import KlineWriter
    from agent.system.clock import WallClock

    writer = KlineWriter(path, wanted.labels(source))
    if source == "yahoo":
        writer.rewrite(yahoo_klines(wanted, WallClock().now()))
        return 0

    async def fetch(progress: Progress) -> int:
        async with BybitKlines(wanted, url) as client:
            return await client.fetch(writer, progress)

    span = wanted.end - wanted.start
    with progress_bar(f"{wanted.symbol} klines", span, TaskProgressColumn()) as update:
        return asyncio.run(fetch(lambda now: update(completed=now - wanted.start)))
