"""`tapewire demo`: everything at work in two minutes, with no account and no internet."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.live import Live

from agent.cli.console import err, out, print_json
from agent.core.events import DAY_MS, MINUTE_MS

if TYPE_CHECKING:
    from agent.analysis.report.report_data import ReportData
    from agent.config import Config
    from agent.config.dashboard import DashboardConfig
    from agent.replay.verify import Verification
    from agent.store.database import Database
    from agent.store.runs import Run

SYMBOLS: Final = ("BTCUSDT", "ETHUSDT")
START: Final = 1_740_960_000_000  # 2025-03-03T00:00Z: the sample's second half, which has the headlines
_LENGTH: Final = DAY_MS - MINUTE_MS
_FRAME: Final = 0.25  # seconds between two pictures
_FASTEST: Final = 2_000.0  # beyond it headlines are old before they are read
_LAUNCH: Final = 4.0  # seconds for connections and warm-up, which the market doesn't wait for

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
    "model": {"path": "starter", "threads": 1},
    # Waits are real time: at a market of 720 times the speed a second is twelve minutes
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
"""Of the demo alone; everything else is the default."""


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    app.command("demo")(demo)


def demo(
    seconds: Annotated[
        float,
        typer.Option(
            min=5, help="How long it takes; a day of market is played in it, less where it is short."
        ),
    ] = 110.0,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Where the store and the dashboard are named.")
    ] = None,
    model: Annotated[str, typer.Option(help="Folder of the model that scores.")] = "starter",
    report: Annotated[Path | None, typer.Option(help="The page to write [var/reports/RUN.html].")] = None,
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object on standard output at the end.")
    ] = False,
) -> None:
    """Trade a recorded day against an exchange and a news feed on this machine, then report and verify.

    Sandbox and agent speak over real sockets on loopback; nothing leaves the machine. The headlines are invented.
    """
    from agent.analysis.report.html import write_report
    from agent.analysis.report.report_loader import load_report_data
    from agent.config import load
    from agent.live.output import guarded_output
    from agent.replay.verify import verify
    from agent.store.database import open_database
    from agent.store.queries import find_run

    settled = load(config)
    with closing(open_database(settled.store.url)) as database:
        if not json:
            out.print(
                f"a day of market in {seconds:g} s: sandbox exchange, news feed and agent on this machine"
            )
        with guarded_output():
            run = asyncio.run(_play(database, seconds, model, settled.dashboard, quiet=json))
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
            }
        )
    else:
        _tell(data, page, proof)
    if not proof.identical or not trades or not scored:
        raise typer.Exit(1)


async def _play(
    database: Database, seconds: float, model: str, dashboard: DashboardConfig, *, quiet: bool
) -> Run:
    """Sandbox, feed and agent together, until the time or the market is over."""
    from agent.cli.dashboard import beside
    from agent.cli.run import stop_on_signals
    from agent.live.app import make_agent
    from agent.live.log import configure
    from agent.live.model_loader import model_loader
    from agent.live.terminal_view import Lines, View
    from agent.sandbox import Sandbox, SandboxOptions
    from agent.system.resources import resource

    samples = resource("sample_data")
    options = SandboxOptions(
        klines=tuple(Path(f"{symbol}={samples / f'{symbol}-1m.csv'}") for symbol in SYMBOLS),
        news=samples / "headlines.csv",
        start=START,
        speed=min(_LENGTH / 1000 / (seconds - _LAUNCH), _FASTEST),
    )
    stop = stop_on_signals()
    async with Sandbox(options) as sandbox:
        config = _config(sandbox.rest_url, sandbox.feed_url(), model, dashboard)
        configure(config.log)
        daemon = make_agent(
            config, database, load_model=model_loader(config.model, database), clock=sandbox.clock, new=True
        )
        asyncio.get_running_loop().call_later(seconds, stop.set)
        ended = asyncio.create_task(_stop_when(sandbox.ended(), stop))
        try:
            async with beside(config, database, daemon) as page:
                if page is not None:
                    (err if quiet else out).print(page.login_announcement(), highlight=False, soft_wrap=True)
                if quiet:
                    return await daemon.run(stop, complete=True)
                if not out.is_terminal:
                    daemon.observe(Lines(out, daemon.engine))
                    return await daemon.run(stop, complete=True)
                view = View("tapewire demo", daemon.engine)
                daemon.observe(view)
                with Live(view, console=out, auto_refresh=False, transient=True) as live:
                    drawing = asyncio.create_task(_draw(live))
                    try:
                        return await daemon.run(stop, complete=True)
                    finally:
                        drawing.cancel()
        finally:
            ended.cancel()


async def _stop_when(done: Coroutine[Any, Any, None], stop: asyncio.Event) -> None:
    await done
    stop.set()


async def _draw(live: Live) -> None:
    """From the event loop's own thread: a thread of its own would draw what is just being changed."""
    while True:
        live.refresh()
        await asyncio.sleep(_FRAME)


def _config(endpoint: str, feed: str, model: str, dashboard: DashboardConfig) -> Config:
    from agent.config import parse

    settings = {name: dict(section) for name, section in SETTINGS.items()}
    settings["bybit"] |= {"endpoint": endpoint}
    settings["news"] |= {"feeds": [{"url": feed, "name": "sandbox", "interval": "250ms"}]}
    settings["model"] |= {"path": model}
    return parse(settings, where="the demo").model_copy(update={"dashboard": dashboard})


def _tell(data: ReportData, page: Path, proof: Verification) -> None:
    from agent.analysis.report.verdict import verdict_of

    verdict = verdict_of(data)
    out.print(verdict.headline, style="bold", highlight=False, markup=False)
    for line in (*verdict.sentences, *verdict.warnings):
        out.print(line, highlight=False, markup=False)
    out.print(f"report: {page}", highlight=False, soft_wrap=True, markup=False)
    out.print(
        "tapewire dashboard: the same run again, moved through in time", highlight=False, soft_wrap=True
    )
    if proof.identical:
        out.print(
            f"[bold green]identical[/]: {proof.events:,} events, {proof.decisions:,} decisions",
            highlight=False,
        )
    else:
        err.print(f"[bold red]different[/]: tapewire verify {data.run.id} says where", highlight=False)
