"""Helpers that run an agent against a sandbox."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from agent.config import Config, parse
from agent.core.engine import Engine
from agent.core.events import Command, Event, Fill, Gap, Kline, News, Order, Sentiment
from agent.core.sinks import ListSink
from agent.live.daemon import Daemon
from agent.live.observers import LiveSink
from agent.replay.fusion_model import open_predictor
from agent.replay.strategy_versions import StrategyVersions
from agent.replay.verify import verify
from agent.sandbox import Sandbox, SandboxOptions
from agent.store.database import Database
from agent.store.journal import read_journal
from agent.store.queries import find_run, read_decisions, read_frame
from agent.store.runs import Run
from models.sentiment.serve.headline_score import HeadlineScore
from tests.conftest import ROOT

SAMPLES = ROOT / "tests" / "sample_data"
SYMBOLS = ("BTCUSDT", "ETHUSDT")
NEWS_BEGIN = 1_741_011_900_000  # 2025-03-03T14:25Z: headlines follow each other closely
SPEED = 1_200.0  # a bar in 50 ms
PATIENCE = 180.0  # seconds until a waiting test fails, on a machine that does much else

FAST: dict[str, Any] = {
    "settle": "40s",
    "audit_interval": "200ms",
    "silence_timeout": "2s",
    "open_timeout": "2s",
    "ack_timeout": "2s",
    "rest_timeout": "2s",
    "backfill_timeout": "5s",
    "ping_interval": "300ms",
    "pong_timeout": "300ms",
    "ban_wait": "300ms",
    "throttle_wait": "200ms",
    "max_connects": 500,
    "max_requests": 600,
    "reconnect": {"first": "10ms", "ceiling": "50ms"},
    "retry": {"first": "10ms", "ceiling": "50ms"},
}
"""Market data settings with short waits, for a nearby venue and a fast market."""


def options(
    *, speed: float = SPEED, start: int = NEWS_BEGIN, news: bool = False, **more: Any
) -> SandboxOptions:
    """Sandbox options with real bars of two symbols."""
    klines = tuple(Path(f"{symbol}={SAMPLES / f'{symbol}-1m.csv'}") for symbol in SYMBOLS)
    return SandboxOptions(
        klines=klines, speed=speed, start=start, news=SAMPLES / "headlines.csv" if news else None, **more
    )


def settings(url: str, folder: Path, **sections: Any) -> Config:
    """Return a configuration for the sandbox at `url`; `folder` holds the lock, the socket and the store."""
    raw: dict[str, Any] = {
        "market": {"symbols": SYMBOLS},
        "strategy": {"name": "sma_cross", "params": {"fast": 2, "slow": 5}},
        "bybit": {"endpoint": url, "warmup_bars": 60, **FAST},
        "news": {
            "feeds": [{"url": f"{url}/feeds/all.rss", "interval": "50ms"}],
            "spread": 0,
            "jitter": 0.0,
            "backlog_age": "1h",
            "retry": {"first": "10ms", "ceiling": "100ms"},
        },
        "risk": {"stale_after": "8h"},  # at this speed a pause of one second is a quarter of an hour
        "live": {"folder": str(folder), "score_wait": "1ms", "restart": {"first": "10ms", "ceiling": "50ms"}},
        "store": {"url": f"sqlite:///{folder / 'store.db'}"},
        "log": {"format": "json"},
    }
    for name, section in sections.items():
        raw[name] = raw.get(name, {}) | section
    return parse(raw, where="test")


SENTIMENT: dict[str, Any] = {
    "name": "sentiment",
    "params": {"position_size": 0.3, "allow_short": True, "hold": "1h"},
}


class Words:
    """A sentiment model that scores two keywords."""

    def __init__(self, fingerprint: str = "words") -> None:
        self.fingerprint = fingerprint
        self.batches: list[list[str]] = []

    def score(self, texts: Sequence[str]) -> list[HeadlineScore]:
        self.batches.append(list(texts))
        return [self._one(text.lower()) for text in texts]

    def _one(self, text: str) -> HeadlineScore:
        if "bitcoin" in text:
            return HeadlineScore(0.05, 0.05, 0.9)
        return HeadlineScore(0.9, 0.05, 0.05) if "ether" in text else HeadlineScore(0.1, 0.8, 0.1)


def load_words(folder: str) -> Words:
    return Words(folder)


async def until(condition: Callable[[], Any]) -> None:
    """Let the event loop run until the condition holds; to look takes a fifth of the time at most."""
    async with asyncio.timeout(PATIENCE):
        while True:
            began = time.perf_counter()
            if condition():
                return
            await asyncio.sleep(max(0.005, 4 * (time.perf_counter() - began)))


@asynccontextmanager
async def living(daemon: Daemon, *, complete: bool = False) -> AsyncIterator[asyncio.Task[Run]]:
    """Run the daemon and stop it at the end of the context; an error that ends it early is raised."""
    stop = asyncio.Event()
    task = asyncio.create_task(daemon.run(stop, complete=complete))
    try:
        await until(lambda: task.done() or daemon.started)
        if not daemon.started:
            task.result()  # raises why
        yield task
    finally:
        stop.set()
        async with asyncio.timeout(PATIENCE):
            await asyncio.wait({task})
    task.result()


def handled(daemon: Daemon) -> int:
    """Return the number of closed bars handled live, without the history."""
    return len(daemon.pipeline.latencies["Kline"])


def journal(database: Database, run: str = "latest") -> list[Event]:
    return [event for _, event in read_journal(database, find_run(database, run).id)]


def of(kind: type, events: Sequence[Any]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def assert_every_bar_once(events: Sequence[Event]) -> None:
    """Check that closed bars and gaps of each symbol are contiguous without overlap."""
    for symbol in SYMBOLS:
        pieces = [
            (e.start, e.start + e.interval) if isinstance(e, Kline) else (e.start, e.end)
            for e in events
            if ((isinstance(e, Kline) and e.confirm) or isinstance(e, Gap)) and e.symbol == symbol
        ]
        assert pieces
        assert all(before[1] == after[0] for before, after in itertools.pairwise(pieces)), symbol


def assert_sound(database: Database, which: str, config: Config) -> list[Event]:
    """Check that the record equals one fold of the journal and time never decreases; return the journal."""
    run = find_run(database, which)
    events = journal(database, run.id)
    assert all(before.available_at <= after.available_at for before, after in itertools.pairwise(events))
    assert_every_bar_once(events)
    sink = ListSink()
    thinned = LiveSink(sink, config.market.interval)
    versions = StrategyVersions(database, run, config.live.folder)
    engine = Engine(
        config,
        versions.first(),
        thinned,
        run_id=run.id,
        exchange=config.execution.exchange(),
        equity_block=1,
        predictor=open_predictor(config),
        contain_errors=True,
        loader=versions,
    )
    for event in events:
        engine.handle(event)
    assert [item.decision for item in read_decisions(database, run.id)] == sink.decisions
    recorded = read_frame(database, run.id, "equity")
    assert recorded.ts.tolist() == [sample.ts for sample in sink.samples]
    assert recorded.equity.tolist() == [sample.equity for sample in sink.samples]
    assert len(read_frame(database, run.id, "news")) == len(of(News, events))
    assert len(read_frame(database, run.id, "sentiments")) == len(of(Sentiment, events))
    proof = verify(database, run, folder=config.live.folder)
    assert proof.identical
    assert proof.events == len(events)
    return events


__all__ = [
    "Command",
    "Fill",
    "Gap",
    "Kline",
    "News",
    "Order",
    "Sandbox",
    "Sentiment",
    "Words",
    "assert_every_bar_once",
    "assert_sound",
    "handled",
    "journal",
    "living",
    "load_words",
    "of",
    "options",
    "settings",
    "until",
]
