"""`tapewire record news` and `tapewire export news`: an archive of headlines as they were first seen."""

from __future__ import annotations

import asyncio
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from agent.cli.command_options import ConfigFile, Json
from agent.cli.console import out, print_json, print_text, stop_on_signals
from agent.cli.typer_setup import option
from agent.core.errors import UsageError

if TYPE_CHECKING:
    from agent.config import Config
    from agent.data.news_archive import NewsArchive
    from agent.live.news_recorder import NewsRecorder

_ARCHIVE: Final = Path("var/news")
_HELP: Final = "Folder of the archive: a file of JSON lines for each UTC day."


def register(app: typer.Typer) -> None:
    """Add the group."""
    recorder = typer.Typer(help="Record headlines without trading.", no_args_is_help=True)
    recorder.command("news")(record_news)
    app.add_typer(recorder, name="record")


def record_news(
    config: ConfigFile = None,
    archive: Annotated[Path, option("--archive", _HELP, "FOLDER")] = _ARCHIVE,
    seconds: Annotated[
        float | None, option("--seconds", "Stop after so many seconds.", default="run on", min=0)
    ] = None,
    json: Json = False,
) -> None:
    """Record the headlines of the configured feeds until it is stopped (Ctrl-C, SIGTERM); nothing is traded.

    Each headline is written once, when it is first seen, also over restarts. `backtest --news` reads the
    files, and `tapewire export news` checks them and makes one of them.
    """
    from agent.config import load
    from agent.data.news_archive import NewsArchive
    from agent.live.log import configure
    from agent.live.output import guarded_output

    settled = load(config)
    if not settled.news.feeds:
        raise UsageError("no feed is configured", hint="add [[news.feeds]] to the configuration")
    with guarded_output():
        configure(settled.log)
        with NewsArchive(archive) as file:
            recorder = asyncio.run(_record(settled, file, seconds))
    feeds = recorder.feeds
    if json:
        rows = [{"name": feed.name, "news": feed.news, "last_error": feed.last_error} for feed in feeds]
        print_json({"archive": str(archive), "recorded": recorder.recorded, "feeds": rows})
        return
    out.print(f"{archive}: {recorder.recorded:,} new headlines of {len(feeds)} feeds", soft_wrap=True)
    for feed in feeds:
        if feed.last_error:
            print_text(f"  {feed.name}: {feed.last_error}")


async def _record(config: Config, archive: NewsArchive, seconds: float | None) -> NewsRecorder:
    from agent.live.news_recorder import NewsRecorder
    from agent.system.clock import WallClock

    stop = stop_on_signals()
    if seconds is not None:
        asyncio.get_running_loop().call_later(seconds, stop.set)
    recorder = NewsRecorder(config.news, archive, WallClock())
    await recorder.run(stop)
    return recorder


def export_news(
    output: Annotated[
        Path, typer.Argument(metavar="FILE", help="Parquet file to write.", show_default=False)
    ],
    archive: Annotated[Path, option("--archive", _HELP, "FOLDER")] = _ARCHIVE,
    run: Annotated[
        str | None,
        option("--run", "Export the headlines of this live run instead: its id, or latest.", "RUN", "none"),
    ] = None,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Write recorded headlines and the times at which they were first seen to a file for `backtest --news`.

    The archive is checked: a record that was changed, inserted or removed since is an error.
    """
    from agent.data.news_archive import export_archive, export_recorded

    if run is None:
        count = export_archive(archive, output)
    else:
        from agent.config import load
        from agent.core.events import News
        from agent.store.database import open_database
        from agent.store.queries import find_run, read_rows

        with closing(open_database(load(config).store.url, create=False)) as database:
            count = export_recorded(read_rows(database, find_run(database, run).id, News), output)
    if json:
        print_json({"output": str(output), "headlines": count})
        return
    out.print(f"{output}: {count:,} headlines", soft_wrap=True)


def export_sentiment(
    output: Annotated[
        Path, typer.Argument(metavar="FILE", help="File of JSON lines to write.", show_default=False)
    ],
    run: Annotated[str, option("--run", "Id of the run, or latest.", "RUN")] = "latest",
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Write the scores of a run's headlines, with what language models answered, to a file for
    `backtest --sentiment`.

    If a headline has several, the last is written.
    """
    from agent.config import load
    from agent.core.events import News, Sentiment
    from agent.data.sentiment_export import export_sentiments
    from agent.store.database import open_database
    from agent.store.queries import find_run, read_rows

    with closing(open_database(load(config).store.url, create=False)) as database:
        found = find_run(database, run).id
        news = {one.id: one for one in read_rows(database, found, News)}
        done = export_sentiments(news, read_rows(database, found, Sentiment), output)
    if json:
        print_json({"output": str(output), "run": found, **done._asdict()})
        return
    out.print(f"{output}: {done.scores:,} scores of run {found}", soft_wrap=True)
    if done.replaced or done.unknown:
        left_out = f"{done.replaced:,} earlier scores of a headline, {done.unknown:,} of no recorded headline"
        out.print(f"left out: {left_out}", soft_wrap=True)
