"""`tapewire download` and `tapewire import`: data in."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agent.cli.console import err, out, print_json

if TYPE_CHECKING:
    from agent.data.download import Progress, Wanted


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    download = typer.Typer(help="Fetch history.", no_args_is_help=True)
    app.add_typer(download, name="download")
    importer = typer.Typer(help="Read other people's files into ours.", no_args_is_help=True)
    app.add_typer(importer, name="import")

    @download.callback()
    def downloads() -> None:  # with a callback a single verb stays a verb
        pass

    @importer.callback()
    def imports() -> None:
        pass

    @download.command()
    def klines(
        symbol: Annotated[str, typer.Argument(help="E.g. BTCUSDT; with --source yahoo e.g. SPY.")],
        start: Annotated[
            str, typer.Option("--from", help="First bar's open, e.g. 2025-01-31 or 2025-01-31T12:00Z (UTC).")
        ],
        end: Annotated[
            str | None, typer.Option("--to", help="Where to stop, not included; now where left out.")
        ] = None,
        interval: Annotated[
            str | None, typer.Option(help="E.g. 1m, 5m, 1h, 1d; default 1m, with --source yahoo 1d.")
        ] = None,
        category: Annotated[str, typer.Option(help="linear (perpetuals) or spot.")] = "linear",
        output: Annotated[
            Path | None, typer.Option(help="Parquet file; default var/klines/SYMBOL-INTERVAL.parquet.")
        ] = None,
        source: Annotated[str, typer.Option(help="bybit or yahoo.")] = "bybit",
        url: Annotated[
            str, typer.Option(help="mainnet, testnet, or a sandbox such as http://127.0.0.1:8787.")
        ] = "mainnet",
        as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    ) -> None:
        """Fetch klines into a parquet file that `backtest --klines` reads. Run it again to go on where it stopped.

        Bybit: the running bar is left out, and gaps are reported. Yahoo: adjusted for splits and dividends, so the file is
        always fetched whole; daily bars are stamped with their session's date.
        """
        from agent.core.durations import format_duration
        from agent.data.download import default_output
        from agent.data.klines import KlineFile
        from agent.system.clock import iso

        wanted = _wanted(
            symbol, start, end, interval or ("1d" if source == "yahoo" else "1m"), category, source
        )
        path = output or default_output(wanted)
        unsound = _fetch(wanted, path, source, url)
        found = KlineFile(path, wanted.symbol, wanted.interval, around_the_clock=source == "bybit").describe()
        if as_json:
            print_json(found | {"unsound": unsound, "source": source})
            return
        first, last = (iso(int(str(found[key]))) for key in ("first", "last"))
        out.print(
            f"{path}: {found['rows']:,} bars of {format_duration(wanted.interval)}, {first} to {last}",
            soft_wrap=True,
        )
        out.print(
            f"  gaps {found['gaps']} ({found['missing']} bars), rows that are no possible bar {unsound}"
        )
        out.print(f"  sha256 {found['sha256']}", highlight=False)

    @download.command()
    def instruments(
        category: Annotated[str, typer.Option(help="linear (perpetuals) or spot.")] = "linear",
        url: Annotated[
            str, typer.Option(help="mainnet, testnet, or a sandbox such as http://127.0.0.1:8787.")
        ] = "mainnet",
        output: Annotated[
            Path | None, typer.Option(help="Default var/instruments.json, which `backtest` reads.")
        ] = None,
        as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    ) -> None:
        """Fetch tick, lot and minima of all of Bybit's instruments, so that backtests trade by its present rules."""
        from agent.config.bybit import endpoint
        from agent.core.errors import UsageError
        from agent.data.trading_rules import REFRESHED, write_table
        from agent.live.gateway.instrument_rules import fetch_rules

        if category not in ("linear", "spot"):
            raise UsageError(f"--category {category!r} is not known", hint="one of linear, spot")
        try:
            base = endpoint(url).rest
        except ValueError as error:
            raise UsageError(f"--url: {error}") from None
        found = asyncio.run(fetch_rules(base, category))
        path = output or REFRESHED
        count = write_table(path, category, ((symbol, rules._asdict()) for symbol, rules in found.items()))
        if as_json:
            print_json({"path": str(path), "category": category, "instruments": count})
            return
        out.print(f"{path}: {count:,} instruments of {category}", soft_wrap=True)

    @importer.command()
    def news(
        file: Annotated[
            Path, typer.Argument(help="Parquet, CSV or JSON lines with at least published_at and title.")
        ],
        output: Annotated[Path, typer.Option(help="Parquet file to write.")] = Path("var/news.parquet"),
        timezone: Annotated[
            str | None, typer.Option(help="Zone of times that don't state theirs, e.g. UTC.")
        ] = None,
        as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    ) -> None:
        """Clean a news file, drop its duplicates and sort it, ready for `backtest --news`."""
        from agent.data.news_import import import_news
        from agent.system.clock import iso

        found: dict[str, Any] = import_news(file, output, timezone=timezone)
        if as_json:
            print_json(found)
            return
        out.print(
            f"{output}: {found['news']:,} headlines, {iso(found['first'])} to {iso(found['last'])}",
            soft_wrap=True,
        )
        out.print(f"  of {found['rows']:,} rows")
        for note in found["notes"]:
            out.print(f"  {note}", highlight=False, soft_wrap=True)


def _wanted(symbol: str, start: str, end: str | None, interval: str, category: str, source: str) -> Wanted:
    from agent.cli.moments import parse_moment
    from agent.core.durations import parse_duration
    from agent.core.errors import UsageError
    from agent.data.download import Wanted
    from agent.system.clock import WallClock

    for option, value, choices in (
        ("--category", category, ("linear", "spot")),
        ("--source", source, ("bybit", "yahoo")),
    ):
        if value not in choices:
            raise UsageError(f"{option} {value!r} is not known", hint=f"one of {', '.join(choices)}")
    try:
        length = parse_duration(interval)
    except ValueError as error:
        raise UsageError(f"--interval: {error}") from None
    now = WallClock().now()
    begin, stop = parse_moment(start, "--from"), min(parse_moment(end, "--to") if end else now, now)
    if begin >= stop:
        raise UsageError(
            f"--from {start} is not before {f'--to {end}' if end else 'now'}",
            hint="give the earlier one first",
        )
    return Wanted(symbol.upper(), length, begin, stop, "spot" if category == "spot" else "linear")


def _fetch(wanted: Wanted, path: Path, source: str, url: str) -> int:
    """Fetch into `path`; the number of rows that were left out because they are no possible bars."""
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as ProgressBar

    from agent.data.download import BybitKlines, yahoo_klines
    from agent.data.kline_writer import KlineWriter
    from agent.system.clock import WallClock

    writer = KlineWriter(path, wanted.labels(source))
    if source == "yahoo":
        writer.rewrite(yahoo_klines(wanted, WallClock().now()))
        return 0

    async def fetch(progress: Progress) -> int:
        async with BybitKlines(wanted, url) as klines:
            return await klines.fetch(writer, progress)

    columns = (
        TextColumn(f"{wanted.symbol} klines"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with ProgressBar(*columns, console=err, transient=True) as bar:
        task = bar.add_task("", total=wanted.end - wanted.start)
        return asyncio.run(fetch(lambda moment: bar.update(task, completed=moment - wanted.start)))
