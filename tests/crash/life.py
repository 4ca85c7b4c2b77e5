"""One life of the real daemon in a process of its own, until the script is played or SIGKILL comes.

The harness forks it, or starts it as `python -m tests.crash.life JSON`.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path

import msgspec
from sqlalchemy import event as sql

from agent.config.live import LogConfig
from agent.core.errors import TapewireError
from agent.core.events import Decision, Event
from agent.live import daemon as daemon_module
from agent.live import session
from agent.live.app import make_agent
from agent.live.daemon import Daemon
from agent.live.interfaces.producer import Emit, Health, deliver
from agent.live.log import configure
from agent.store.database import open_database
from agent.store.journal import read_journal
from models.sentiment.serve.scorer import Score
from tests.crash.points import Moment, install
from tests.crash.script import Burst, Words, compose, is_scripted, settings
from tests.simulation.prices import T0


class Fate(msgspec.Struct, frozen=True):
    """What a life needs to know: its store's folder, its script, and when it is to die."""

    folder: str
    seed: int
    minutes: int
    moment: Moment = Moment()

    @property
    def run_id(self) -> str:
        """All lives of a script are one run, and client order ids are hashes of its name."""
        return f"script-{self.seed}"


class Player:
    """Plays the script from where the journal ends: a producer of market data, and a watcher that waits for its effect."""

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

    async def run(self, emit: Emit) -> None:
        """Burst by burst; the next one comes when all that follows from the last one has been decided."""
        self.health.state = "live"
        await self._until_settled()
        self._warm.set()
        await self._until_settled()
        skip = self._emitted
        for burst in self._bursts:
            if skip >= len(burst):
                skip -= len(burst)
                continue
            for event in islice(burst, skip, None):
                self._emitted += 1
                await deliver(emit, event)
            skip = 0
            await self._until_settled()
        self._over.set()
        await asyncio.Event().wait()

    async def _until_settled(self) -> None:
        """Until everything is handled, and every headline scored; at first, until the life is warm."""
        core = self._daemon.core
        while (
            self._handled < self._emitted
            or core.engine.risk.warming
            or (self._warm.is_set() and core.memory.unscored)
        ):
            self._moved.clear()
            await self._moved.wait()

    def event(self, seq: int, event: Event) -> None:
        """Count."""
        self._handled += is_scripted(event)
        self._moved.set()

    def decision(self, seq: int, decision: Decision) -> None:
        """Nothing follows from it here."""


class _Silence:
    """Headlines come from the script."""

    name = "rss"
    feeds: tuple[()] = ()

    def __init__(self) -> None:
        self.health = Health(self.name)

    async def run(self, emit: Emit) -> None:
        """Nothing, for ever."""
        await asyncio.Event().wait()


class _StandingClock:
    """The market's time is that of the last event: only the script moves it."""

    daemon: Daemon

    def now(self) -> int:
        """UTC ms."""
        return (self.daemon.core.memory.now if self.daemon.started else 0) or T0


class _PatientWords(Words):
    """Scores once the life is warm: an uninterrupted life doesn't score while history is read either."""

    def __init__(self, warm: threading.Event) -> None:
        self._warm = warm

    def score(self, texts: Sequence[str]) -> list[Score]:
        """As `Words`."""
        self._warm.wait()
        return super().score(texts)


async def live(fate: Fate) -> None:
    """Play the script to its end, and close the run. Raises what ends the daemon early."""
    config = settings(fate.folder)
    bursts, over, warm, clock = (
        compose(fate.seed, fate.minutes),
        asyncio.Event(),
        threading.Event(),
        _StandingClock(),
    )
    # The lives of an uninterrupted run are another number, and its ids are to be the same
    vars(session).update(new_run_id=lambda: fate.run_id, new_incarnation=lambda: "one")
    with closing(open_database(config.store.url)) as database:
        # A log that is folded into the file all the time is one more place to die in.
        sql.listen(
            database.engine,
            "connect",
            lambda connection, _: connection.execute("PRAGMA wal_autocheckpoint=8"),
        )
        daemon = make_agent(config, database, load_model=lambda _: _PatientWords(warm), clock=clock)
        clock.daemon = daemon
        played = sum(is_scripted(event) for _, event in read_journal(database, fate.run_id))
        player = Player(bursts, played, daemon, over, warm)
        daemon.observe(player)

        vars(daemon_module).update(market_data=lambda *_: player, headlines=lambda *_: _Silence())
        await daemon.run(over, complete=True)


def main(fate: Fate) -> int:
    """Live; the exit code is 0 where the script was played to its end."""
    configure(LogConfig(level="error"))
    install(fate.moment)
    try:
        asyncio.run(live(fate))
    except TapewireError as error:
        print(f"{Path(fate.folder).name}: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(msgspec.json.decode(sys.argv[1], type=Fate)))
