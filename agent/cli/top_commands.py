"""`tapewire top`: a live view of a running agent, of this machine or elsewhere. It sends no command."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from agent.cli.command_options import ConfigFile
from agent.cli.console import out, print_json, stop_on_signals
from agent.cli.typer_setup import option
from agent.core.errors import NotRunning, TapewireError, UsageError

if TYPE_CHECKING:
    from rich.text import Text

    from agent.api.run_messages import HeadlineEntry, ScoreEntry
    from agent.cli.watched_agent import AgentRows, AgentWatch, WatchedAgent
    from agent.core.events import Fill, Sentiment, Signal
    from agent.live.agent_screen import AgentScreen, ShownHeadline

TOKEN: Final = "TAPEWIRE_API_TOKEN"
"""Environment variable with the token for --url."""

_EVERY: Final = 1.0  # seconds between two looks at the agent
_SHARE: Final = 5  # times as long as the last look took is waited before the next
_FRAME: Final = 0.25  # seconds between two refreshes of the screen


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("top")(top)


def top(
    agent: Annotated[
        Path | None,
        typer.Argument(
            metavar="FOLDER",
            help="Folder of the agent's config.toml, or its live.folder; by default the agent of --config.",
            show_default=False,
        ),
    ] = None,
    config: ConfigFile = None,
    url: Annotated[
        str,
        option("--url", f"Address of an agent elsewhere, whose token is in {TOKEN} or --token-file.", "URL"),
    ] = "",
    token_file: Annotated[
        Path | None,
        option("--token-file", "Token for --url, with scope read, in a file of mode 0600.", "FILE"),
    ] = None,
    allow_plain: Annotated[
        bool, option("--allow-plain", "Send the token to another machine without encryption.")
    ] = False,
    once: Annotated[
        bool, option("--once", "Print the state once, as without a terminal; exit code 1 if none runs.")
    ] = False,
    json: Annotated[bool, option("--json", "Print the state once, as one JSON object.")] = False,
) -> None:
    """Watch a running agent: account, positions, headlines, orders, health and alarms. `q` ends the view.

    It only reads. If the agent ends, the view shows it, and continues when it is back.
    """
    from agent.cli.watched_agent import AgentWatch
    from agent.live.agent_screen import AgentScreen

    watched = _watched(agent, config, url, token_file, allow_plain=allow_plain)
    watch = AgentWatch(watched)
    name = " · ".join(["tapewire top", *filter(None, (url, str(agent or "")))])
    try:
        rows = watch.read()
        if json:
            print_json(rows)
        elif once or not out.is_terminal:
            screen = AgentScreen(name)
            show(screen, rows)
            out.print(screen)
        else:
            screen = AgentScreen(name, live=True)
            screen.footer = "q quits"
            show(screen, rows)
            asyncio.run(_follow(screen, watch))
    finally:
        watched.close()


def _watched(
    folder: Path | None, config: Path | None, url: str, token_file: Path | None, *, allow_plain: bool
) -> WatchedAgent:
    from agent.cli.watched_agent import agent_in

    if not url:
        if token_file is not None or allow_plain:
            raise UsageError(
                "--token-file and --allow-plain are for an agent elsewhere", hint="name its --url"
            )
        return agent_in(folder, config)
    from agent.api.api_client import Client
    from agent.live.access_token import read_token

    if folder is not None:
        raise UsageError(f"both a folder, {folder}, and --url are given", hint="name one agent")
    token = os.environ.get(TOKEN, "") if token_file is None else read_token(token_file)
    if not token:
        raise UsageError(
            f"no token for {url}", hint=f"set {TOKEN}, or name a file: --token-file FILE (tapewire token add)"
        )
    return Client(url, token, timeout=10.0, allow_plain=allow_plain)


async def _follow(screen: AgentScreen, watch: AgentWatch) -> None:
    """Draw the screen until `q` is typed or a signal comes. Raises what ends the reading."""
    from rich.live import Live

    stop = stop_on_signals()
    with _keys(stop), Live(screen, console=out, auto_refresh=False, screen=True) as live:
        reading = asyncio.create_task(_read_again(screen, watch))
        reading.add_done_callback(lambda _: stop.set())
        try:
            while not stop.is_set():
                live.refresh()
                try:
                    await asyncio.wait_for(stop.wait(), _FRAME)
                except TimeoutError:
                    continue
            if reading.done():
                await reading
        finally:
            reading.cancel()


async def _read_again(screen: AgentScreen, watch: AgentWatch) -> None:
    """Keep the screen up to date. A thread reads, so that a slow agent doesn't stop keys and clock."""
    from agent.live.agent_screen import hour_minute
    from agent.system.daemon_threads import DaemonThreads

    loop, threads = asyncio.get_running_loop(), DaemonThreads("top")
    while True:
        began = loop.time()
        try:
            rows = await loop.run_in_executor(threads, watch.read)
        except TapewireError as error:
            gone = "the agent has ended" if isinstance(error, NotRunning) else "the agent doesn't answer"
            last = f"{gone}; this is its state at {hour_minute(screen.now)} UTC, and it is awaited"
            screen.problems = [last, error.message]
        else:
            show(screen, rows)
        await asyncio.sleep(max(_EVERY, _SHARE * (loop.time() - began)))


@contextmanager
def _keys(stop: asyncio.Event) -> Iterator[None]:
    """Set `stop` if `q` is typed, or the keyboard is gone; without a terminal no key is read."""
    if not sys.stdin.isatty():
        yield
        return
    import termios
    import tty

    keyboard, loop = sys.stdin.fileno(), asyncio.get_running_loop()

    def typed() -> None:
        keys = os.read(keyboard, 1024)
        if not keys or b"q" in keys.lower():
            stop.set()

    before = termios.tcgetattr(keyboard)
    tty.setcbreak(keyboard, termios.TCSANOW)  # what has been typed before stays
    loop.add_reader(keyboard, typed)
    try:
        yield
    finally:
        loop.remove_reader(keyboard)
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


def show(screen: AgentScreen, rows: AgentRows) -> None:
    """Put what has been read onto the screen."""
    from rich.text import Text

    status = rows.status
    new = screen.status is None or status.now != screen.status.now
    if screen.status is not None and screen.status.run != status.run:
        screen.prices.clear()
    screen.status, screen.now = status, status.now
    for one in status.positions:
        if one.mark is not None and new:
            screen.add_price(one.symbol, one.mark)
    screen.equity.clear()
    screen.equity.extend(point.equity for point in rows.equity if point.equity is not None)
    screen.headlines = [_headline(one) for one in rows.headlines]
    actions: list[tuple[int, Text]] = [
        (line["at"], Text(line["what"].replace(": ", "   ", 1), "yellow")) for line in rows.recent
    ]
    screen.actions = sorted((*actions, *_trading(rows)), key=lambda action: action[0])
    screen.problems = [f"headlines, orders and fills can't be read: {rows.missing}"] if rows.missing else []


def _trading(rows: AgentRows) -> Iterator[tuple[int, Text]]:
    """Yield the actions of fills, signals, and orders that are not just filled."""
    from agent.core.events import OrderStatus
    from agent.live.agent_screen import action_text, order_text

    for entry in rows.orders:
        if entry.status is not OrderStatus.FILLED:
            state = "" if entry.status is None else entry.status.value.replace("_", " ").lower()
            yield entry.order.ts, order_text(entry.order, f"{state} {entry.reason}")
    decisions: list[Signal | Fill] = [
        *(one.signal for one in rows.signals),
        *(one.fill for one in rows.fills),
    ]
    for decision in decisions:
        text = action_text(decision)
        if text is not None:
            yield decision.ts, text


def _headline(entry: HeadlineEntry) -> ShownHeadline:
    from agent.live.agent_screen import ShownHeadline

    first = entry.scores[0] if entry.scores else None
    replaced = first is not None and entry.score is not None and first is not entry.score
    return ShownHeadline(
        entry.available_at,
        entry.title,
        None if entry.score is None else _sentiment(entry, entry.score),
        _sentiment(entry, first) if first is not None and replaced and first != entry.score else None,
        entry.id,
    )


def _sentiment(entry: HeadlineEntry, score: ScoreEntry) -> Sentiment:
    from agent.core.events import AssetSentiment, Sentiment

    def shares(one: Any) -> tuple[float, float, float]:
        return one.bearish or 0.0, one.neutral or 0.0, one.bullish or 0.0

    return Sentiment(
        *(entry.id, entry.ts, score.available_at, *shares(score)),
        abstained=score.abstained,
        kind=score.kind,
        provisional=score.provisional,
        assets=tuple(AssetSentiment(own.asset, *shares(own)) for own in score.assets),
    )
