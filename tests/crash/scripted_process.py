"""Agent process with the real daemon that plays the market script until its end or SIGKILL.

The harness forks it, or starts it as `python -m tests.crash.scripted_process JSON`.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec
from sqlalchemy import event as sql

from agent.config.live import LogConfig
from agent.core.errors import TapewireError
from agent.core.events import Command, Decision, Event
from agent.live import daemon as daemon_module
from agent.live import session
from agent.live.app import make_agent
from agent.live.daemon import Daemon
from agent.live.interfaces.producer import Emit, Health, deliver
from agent.live.log import configure
from agent.store.database import open_database
from agent.store.journal import read_journal
from models.sentiment.serve.headline_score import HeadlineScore
from tests.crash.kill_points import KillMoment, install
from tests.crash.market_script import Burst, KeywordModel, compose_script, is_scripted, scripted_config
from tests.simulation.generated_data import T0

MAX_DURATION: Final = 300  # seconds; without a limit, a process whose script got stuck outlives its harness


class ProcessSpec(msgspec.Struct, frozen=True):
    """Parameters of an agent process: folder of the store, script, and when to kill it."""

    folder: str
    seed: int
    minutes: int
    moment: KillMoment = KillMoment()
    sleeves: bool = False

    @property
    def run_id(self) -> str:
        """Id of the run, shared by all processes of a script, since client order ids are hashes of it."""
        return f"script-{self.seed}"


class ScriptPlayer:
    """Plays the script from the end of the journal on: a producer of market data that also watches its
    effects.
    """

    name = "script"

    def __init__(
        self, bursts: Sequence[Burst], played: int, daemon: Daemon, over: asyncio.Event, warm: threading.Event
    ) -> None:
        self.health = Health(self.name)
        self._bursts = bursts
        self._handled = self._emitted = played
        self._daemon = daemon
        self._over = over
        self._warm = warm
        self._moved = asyncio.Event()
        self._trading = asyncio.Event()

    async def run(self, emit: Emit) -> None:
        """Emit the script burst by burst, each after all effects of the previous one have been decided."""
        self.health.state = "live"
        await self._trading.wait()
        self._warm.set()
        await self._wait_until_handled()
        skip = self._emitted
        for burst in self._bursts:
            if skip >= len(burst):
                skip -= len(burst)
                continue
            for event in islice(burst, skip, None):
                self._emitted += 1
                await deliver(emit, event)
            skip = 0
            await self._wait_until_handled()
        self._over.set()
        await asyncio.Event().wait()

    async def _wait_until_handled(self) -> None:
        """Wait until every event is handled and every headline is scored."""
        while self._handled < self._emitted or self._daemon.pipeline.memory.unscored:
            self._moved.clear()
            await self._moved.wait()

    def event(self, seq: int, event: Event) -> None:
        self._handled += is_scripted(event)
        if isinstance(event, Command) and event.action == "warm-up-done":
            self._trading.set()  # of this process: an earlier one's is folded, which isn't observed
        self._moved.set()

    def decision(self, seq: int, decision: Decision) -> None:
        """Do nothing."""


class _NoNews:
    """Producer without headlines, since they come from the script."""

    name = "rss"
    feeds: tuple[()] = ()

    def __init__(self) -> None:
        self.health = Health(self.name)

    async def run(self, emit: Emit) -> None:
        await asyncio.Event().wait()


class _ScriptClock:
    """Clock that shows the time of the last event."""

    daemon: Daemon

    def now(self) -> int:
        return (self.daemon.pipeline.memory.now if self.daemon.started else 0) or T0


class _BlockingModel(KeywordModel):
    """Model that waits for the end of the warm-up, as in an uninterrupted process."""

    def __init__(self, warm: threading.Event) -> None:
        self._warm = warm

    def score(self, texts: Sequence[str]) -> list[HeadlineScore]:
        self._warm.wait()
        return super().score(texts)


async def live(spec: ProcessSpec) -> None:
    """Play the script to its end and complete the run. Raises the error that ends the daemon early."""
    config = scripted_config(spec.folder, sleeves=spec.sleeves)
    bursts, over, warm, clock = (
        compose_script(spec.seed, spec.minutes, sleeves=spec.sleeves),
        asyncio.Event(),
        threading.Event(),
        _ScriptClock(),
    )
    # The number of processes differs from the uninterrupted run, but ids must be the same
    vars(session).update(new_run_id=lambda: spec.run_id, new_incarnation=lambda: "one")
    with closing(open_database(config.store.url)) as database:
        # Frequent checkpoints are one more place for a kill
        sql.listen(
            database.engine,
            "connect",
            lambda connection, _: connection.execute("PRAGMA wal_autocheckpoint=8"),
        )
        daemon = make_agent(config, database, load_model=lambda _: _BlockingModel(warm), clock=clock)
        clock.daemon = daemon
        played = sum(is_scripted(event) for _, event in read_journal(database, spec.run_id))
        player = ScriptPlayer(bursts, played, daemon, over, warm)
        daemon.observe(player)

        vars(daemon_module).update(
            make_kline_producer=lambda *_, **__: player, make_news_producer=lambda *_: _NoNews()
        )
        await daemon.run(over, complete=True)


def main(spec: ProcessSpec) -> int:
    """Run the process; the exit code is 0 if the script was played to its end. SIGALRM ends a process that
    takes longer than `MAX_DURATION`.
    """
    signal.alarm(MAX_DURATION)
    configure(LogConfig(level="error"))
    install(spec.moment)
    try:
        asyncio.run(live(spec))
    except TapewireError as error:
        print(f"{Path(spec.folder).name}: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(msgspec.json.decode(sys.argv[1], type=ProcessSpec)))
