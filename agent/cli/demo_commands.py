"""`tapewire demo`: the whole agent at work in two minutes, without an account or the internet."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import typer
from rich.live import Live

from agent.cli.command_options import ConfigFile
from agent.cli.console import err, out, print_json, print_text
from agent.cli.typer_setup import option
from agent.core.events import DAY_MS, MINUTE_MS

if TYPE_CHECKING:
    from agent.analysis.report.report_data import ReportData, RevisionSummary
    from agent.config import Config
    from agent.config.llm import LlmConfig
    from agent.config.services import DashboardConfig
    from agent.live.terminal_view import TerminalView
    from agent.replay.verify import Verification
    from agent.sandbox.model_server import ModelServer
    from agent.store.database import Database
    from agent.store.runs import Run

SYMBOLS: Final = ("BTCUSDT", "ETHUSDT")
START: Final = 1_740_960_000_000  # 2025-03-03T00:00Z: the sample's second half, which has the headlines
_LENGTH: Final = DAY_MS - MINUTE_MS
_FRAME: Final = 0.25  # seconds between two refreshes of the screen
_MAX_SPEED: Final = 2_000.0  # beyond it headlines are too old when they are read
_LAUNCH: Final = 4.0  # seconds for connections and warm-up, during which the market runs already
_BUILT_IN: Final = "built-in"
_NONE: Final = "none"
_SHOWN: Final = 8  # revised headlines that are printed
_TITLE: Final = 70  # characters of each

SETTINGS: Final[dict[str, dict[str, Any]]] = {
    "market": {"symbols": SYMBOLS, "category": "linear", "interval": "1m"},
    "signals": {"threshold": 0.7, "half_life": "45m", "window": "4h"},
    "strategy": {
        "name": "sentiment",
        "params": {
            "position_size": 0.4,
            "confidence_threshold": 0.7,
            "allow_short": True,
            "stop": 0.02,
            "hold": "2h",
        },
    },
    "risk": {"max_order": 1.0, "stale_after": "2h"},
    "model": {"path": "starter", "threads": 1, "revise_within": "3s"},
    # Durations of [bybit], [news] and [model] are real time: at 720 times the speed a second is 12 minutes of
    # market
    "bybit": {
        "warmup_bars": 300,
        "settle": "40s",
        "audit_interval": "500ms",
        "reconnect": {"first": "50ms", "ceiling": "500ms"},
    },
    "news": {
        "spread": 0,
        "jitter": 0.0,
        "max_age": "1h",
        "backlog_age": "15m",
        "retry": {"first": "250ms", "ceiling": "1s"},
    },
    "live": {"folder": "var/demo", "score_wait": "5ms"},
    "log": {"level": "error"},
}
"""Configuration of the demo; all else is the default."""


class _Reviser(NamedTuple):
    """The second model: its path, how it is queried, and the server if the demo runs it."""

    path: str
    llm: LlmConfig
    server: ModelServer | None = None


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo")(demo)


def demo(
    seconds: Annotated[
        float, option("--seconds", "Duration, in which a day of market passes (less if it is short).", min=5)
    ] = 110.0,
    config: ConfigFile = None,
    model: Annotated[
        str, option("--model", "Sentiment model, or starter for the built-in one.", "FOLDER")
    ] = "starter",
    revise_with: Annotated[
        str,
        option(
            "--revise-with",
            "Second model, which revises the scores: built-in, openai:URL#MODEL, a folder, or none.",
            "MODEL",
        ),
    ] = _BUILT_IN,
    report: Annotated[
        Path | None, option("--report", "HTML report to write.", "FILE", "var/reports/RUN.html")
    ] = None,
    json: Annotated[bool, option("--json", "Print one JSON object at the end.")] = False,
) -> None:
    """Watch the agent trade a day of market in two minutes, on this machine only; then report and verify.

    A sandbox exchange and news feed replay recorded prices and invented headlines over loopback sockets. A
    second model, at a server of its own on this machine, revises the scores of the first within a deadline.
    The configuration is used for the store, the dashboard and the language model only.
    """
    from agent.analysis.report.html import write_report
    from agent.analysis.report.report_loader import load_report_data
    from agent.config import load
    from agent.live.output import guarded_output
    from agent.replay.verify import verify
    from agent.store.database import open_database
    from agent.store.queries import find_run

    settled = load(config)
    with ExitStack() as stack:
        reviser = _reviser(stack, revise_with, settled.llm)  # first, since its process takes time to start
        database = stack.enter_context(closing(open_database(settled.store.url)))
        if not json:
            second = f"; {reviser.path} revises the scores" if reviser else ""
            out.print(
                f"a day of market in {seconds:g} s: sandbox exchange, news feed and agent on this "
                f"machine{second}",
                markup=False,
            )
        with guarded_output():
            run = asyncio.run(_trade(database, seconds, model, reviser, settled.dashboard, quiet=json))
        exit_code = reviser.server.stop() if reviser and reviser.server else None
        data = load_report_data(database, run.id)
        page, _ = write_report(data, report or Path("var/reports") / f"{run.id}.html")
        proof = verify(database, find_run(database, run.id))
    trades, scored = data.metrics.trades.trades, sum(bool(news) for news in data.headlines.values())
    if json:
        print_json(
            {
                "run": run.id,
                "trades": trades,
                "orders_on_headlines": scored,
                "final_equity": run.final_equity,
                "report": str(page),
                "identical": proof.identical,
                "events": proof.events,
                "decisions": proof.decisions,
                "revisions": data.revisions and _as_json(data.revisions, exit_code),
            }
        )
    else:
        _show(data, page, proof, exit_code)
    if not proof.identical or not trades or not scored:
        raise typer.Exit(1)


def _reviser(stack: ExitStack, revise_with: str, llm: LlmConfig) -> _Reviser | None:
    """Return the second model, and start its server if it is the built-in one."""
    if revise_with == _NONE:
        return None
    if revise_with != _BUILT_IN:
        return _Reviser(revise_with, llm.model_copy(update={"fallback": ""}))
    from datetime import UTC, datetime

    from agent.config.llm import LlmConfig
    from agent.sandbox.model_server import MODEL, ModelServer
    from models.cards import read_card
    from models.sentiment import starter_dir

    server = stack.enter_context(ModelServer())
    known = datetime.fromtimestamp(read_card(starter_dir()).trained_until / 1000, UTC).date()
    own = {"reasons": True, "fallback": "", "request_timeout": "1s", "deadline": "2500ms"}
    return _Reviser(server.path, LlmConfig.model_validate(own | {"cutoffs": {MODEL: known}}), server)


async def _trade(
    database: Database,
    seconds: float,
    model: str,
    reviser: _Reviser | None,
    dashboard: DashboardConfig,
    *,
    quiet: bool,
) -> Run:
    """Run sandbox and agent until the time is up or the market data ends."""
    from agent.cli.console import stop_on_signals
    from agent.cli.dashboard_commands import serve_dashboard
    from agent.live.app import make_agent
    from agent.live.log import configure
    from agent.live.model_loader import model_loader
    from agent.live.terminal_view import LineView, TerminalView
    from agent.sandbox import Sandbox, SandboxOptions
    from agent.system.resources import resource

    samples = resource("sample_data")
    options = SandboxOptions(
        klines=tuple(Path(f"{symbol}={samples / f'{symbol}-1m.csv'}") for symbol in SYMBOLS),
        news=samples / "headlines.csv",
        start=START,
        speed=min(_LENGTH / 1000 / (seconds - _LAUNCH), _MAX_SPEED),
    )
    stop = stop_on_signals()
    async with Sandbox(options) as sandbox:
        config = _config(sandbox.rest_url, sandbox.feed_url(), model, reviser, dashboard)
        configure(config.log)
        load_model = model_loader(config, database)
        daemon = make_agent(config, database, load_model=load_model, clock=sandbox.clock, new=True)
        asyncio.get_running_loop().call_later(seconds, stop.set)
        ended = asyncio.create_task(_stop_when(sandbox.ended(), stop))
        try:
            async with serve_dashboard(config, database, daemon) as page:
                if page is not None:
                    (err if quiet else out).print(page.login_announcement(), soft_wrap=True)
                if quiet:
                    return await daemon.run(stop, complete=True)
                if not out.is_terminal:
                    daemon.observe(LineView(out, daemon.engine))
                    return await daemon.run(stop, complete=True)
                view = TerminalView(
                    *("tapewire demo", daemon.engine),
                    lambda: daemon.status() if daemon.started else None,
                    live=True,
                    spare=1,
                )
                daemon.observe(view)
                with Live(view, console=out, auto_refresh=False, transient=True) as live:
                    drawing = asyncio.create_task(_draw(live, view))
                    try:
                        return await daemon.run(stop, complete=True)
                    finally:
                        drawing.cancel()
        finally:
            ended.cancel()


async def _stop_when(done: Coroutine[Any, Any, None], stop: asyncio.Event) -> None:
    await done
    stop.set()


async def _draw(live: Live, view: TerminalView) -> None:
    """Refresh the screen from the event loop: a thread would draw state while it changes."""
    while True:
        view.refresh()
        live.refresh()
        await asyncio.sleep(_FRAME)


def _config(
    endpoint: str, feed: str, model: str, reviser: _Reviser | None, dashboard: DashboardConfig
) -> Config:
    from agent.config import parse

    settings = {name: dict(section) for name, section in SETTINGS.items()}
    settings["bybit"] |= {"endpoint": endpoint}
    settings["news"] |= {"feeds": [{"url": feed, "name": "sandbox", "interval": "250ms"}]}
    settings["model"] |= {"path": model, "revise_with": reviser.path if reviser else ""}
    services = {"dashboard": dashboard} | ({"llm": reviser.llm} if reviser else {})
    return parse(settings, where="the demo").model_copy(update=services)


def _as_json(found: RevisionSummary, exit_code: int | None) -> dict[str, Any]:
    names = ("provisional", "revisions", "changed", "abstained", "given_up", "waiting", "headlines")
    return {name: getattr(found, name) for name in names} | {"server_exit_code": exit_code}


def _show_revisions(found: RevisionSummary, exit_code: int | None) -> None:
    """Print which headlines the second model revised, and why others keep their first score."""
    from agent.analysis.report import formats
    from agent.analysis.report.revisions import ABSTAINED
    from agent.data.given_up import CAUSES
    from agent.data.text import one_line

    changed = found.headlines
    print_text(
        f"the second model revised {found.revisions:,} of {found.provisional:,} scores; "
        f"{len(changed):,} are of another class now{':' if changed else ''}",
        wrap=True,
    )
    for one in changed[:_SHOWN]:
        first, revised = (
            name if name == ABSTAINED else f"{name} {confidence:.2f}"
            for name, confidence in (
                (one.first, one.first_confidence),
                (one.revised, one.revised_confidence),
            )
        )
        print_text(f"  {formats.minute(one.at)[-5:]} {one_line(one.title, _TITLE)}: {first} → {revised}")
    if len(changed) > _SHOWN:
        print_text(f"  {len(changed) - _SHOWN:,} more are in the report")
    kept = [f"{count:,} {cause} ({CAUSES.get(cause, cause)})" for cause, count in found.given_up.items()]
    kept += [f"{found.waiting:,} waited at the end"] if found.waiting else []
    if kept:
        print_text(f"the others keep their first score: {'; '.join(kept)}", wrap=True)
    if exit_code is not None:
        how = f"was killed by signal {-exit_code}" if exit_code < 0 else f"ended with code {exit_code}"
        print_text(f"its server {how} during the run, and nothing waited for it", wrap=True)


def _show(data: ReportData, page: Path, proof: Verification, exit_code: int | None) -> None:
    from agent.analysis.report.verdict import verdict_of

    verdict = verdict_of(data)
    print_text(verdict.headline, style="bold", wrap=True)
    for line in (*verdict.sentences, *verdict.warnings):
        print_text(line, wrap=True)
    if data.revisions is not None:
        _show_revisions(data.revisions, exit_code)
    print_text(f"report: {page}")
    out.print("tapewire dashboard: this run in the browser, at any time of it", soft_wrap=True)
    if proof.identical:
        out.print(f"[bold green]identical[/]: {proof.events:,} events, {proof.decisions:,} decisions")
    else:
        err.print(f"[bold red]different[/]: tapewire verify {data.run.id} shows where")
