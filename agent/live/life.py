"""One life of the agent: supervised producers feed one queue, from which the core takes and decides."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from functools import partial
from typing import Final, Never

import structlog
from msgspec.structs import replace

from agent.config import Config
from agent.core.durations import format_duration
from agent.core.errors import VenueError
from agent.core.events import Command, Event, News
from agent.core.risk import CLOCK
from agent.live import session
from agent.live.archiver import watch_segments
from agent.live.checkpoints import checkpoint_at_intervals
from agent.live.command_handler import CommandHandler
from agent.live.event_filter import EventFilter, OpenBarSampler
from agent.live.event_queue import EventQueue
from agent.live.feed_health import write_feed_health
from agent.live.gateway.venue_gateway import VenueGateway
from agent.live.interfaces.producer import Emit, Producer
from agent.live.interfaces.running_agent import HeadlineScorer, Services
from agent.live.kill_file import KillSwitch
from agent.live.live_twin import LiveTwin
from agent.live.model_drift import ModelDrift
from agent.live.news.news_producer import NewsProducer
from agent.live.pipeline import Pipeline
from agent.live.revision import RevisingConsumer
from agent.live.run_record import RunRecord
from agent.live.stale_data_watchdog import watch_for_stale_data
from agent.live.supervisor import Supervision, supervise
from agent.live.timekeeping import Timekeeper
from agent.store.database import Database
from agent.system.clock import Clock

_POLL: Final = 0.05  # seconds between two checks whether the history is complete
_log: Final = structlog.get_logger(__name__)


class Sources:
    """What feeds the queue. The agent is warm once `market` is live; `scorer` is offered each headline, and
    `reviser` each score of it and of `model`.

    `warm_up` are the bars by interval that the strategy needs before it trades.
    """

    def __init__(
        self,
        market: Producer,
        gateway: VenueGateway | None,
        news: NewsProducer | None,
        model: Producer | None,
        scorer: HeadlineScorer | None,
        reviser: RevisingConsumer | None = None,
        warm_up: Mapping[str, int] | None = None,
    ) -> None:
        self.warm_up = dict(warm_up or {})
        self.market = market
        self.gateway = gateway
        self.news = news
        self.model = model
        self.scorer = scorer
        self.reviser = reviser
        self.producers = [one for one in (market, gateway, news, model) if one is not None]


class Life:
    """The tasks of a running agent, from the open run to the last event."""

    def __init__(
        self,
        config: Config,
        database: Database,
        pipeline: Pipeline,
        queue: EventQueue,
        sources: Sources,
        services: Services,
        commands: CommandHandler,
        kill_switch: KillSwitch,
        record: RunRecord,
        time: Timekeeper,
        clock: Clock,
        rng: random.Random,
        drift: ModelDrift | None,
        twin: LiveTwin | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.queue = queue
        self.sources = sources
        self.commands = commands
        self.open_bars = OpenBarSampler(pipeline.engine, config.live.open_bars_every)
        self.supervised: list[tuple[Producer, Supervision]] = []
        self._config = config
        self._database = database
        self._services = services
        self._kill_switch = kill_switch
        self._record = record
        self._time = time
        self._clock = clock
        self._rng = rng
        self._drift = drift
        self.twin = twin
        self._begun = False
        self._stopped = False

    @property
    def warming_up(self) -> bool:
        """Whether history is still missing, also before the warm-up is recorded as begun."""
        return not self._begun or self.pipeline.engine.risk.warming_up

    async def run(self, stop: asyncio.Event) -> None:
        """Run all tasks until `stop` is set, then handle what waits. Raises what ends the life early, in
        a group.
        """
        live, sources = self._config.live, self.sources
        async with asyncio.TaskGroup() as tasks:
            deciding = tasks.create_task(self._decide())
            if sources.gateway is not None:
                await self.commands.put("reconciling")
            emit = EventFilter(
                self.open_bars, self.pipeline.memory, self.queue.emit, self.pipeline.storage.writable
            )
            answers: Emit = emit if sources.reviser is None else sources.reviser.first_answers(emit)
            shell = [
                tasks.create_task(self._supervise(producer, answers if producer is sources.model else emit))
                for producer in sources.producers
            ]
            if self._services.scorer is not None:
                shell.append(tasks.create_task(self._supervise(self._services.scorer, answers, vital=False)))
            if sources.reviser is not None:
                shell.append(tasks.create_task(self._supervise(sources.reviser, emit, vital=False)))
            shell.append(tasks.create_task(self._warm_up()))
            if sources.gateway is not None:
                shell.append(tasks.create_task(self._require_account(sources.gateway)))
            commands = self.commands
            shell.append(
                tasks.create_task(watch_for_stale_data(self.pipeline.engine, self._clock, commands.heartbeat))
            )
            alarm = partial(commands.alarm, CLOCK)
            shell.append(tasks.create_task(self._time.watch(self.pipeline.memory, alarm)))
            if self._drift is not None:
                shell.append(tasks.create_task(self._drift.watch(commands.alarm)))
            if self.twin is not None:
                shell.append(tasks.create_task(self.twin.watch(commands.alarm)))
            shell.append(tasks.create_task(self._kill_switch.watch(commands.kill, lambda: commands.killed)))
            shell.append(tasks.create_task(self._keep_feed_health()))
            if self._database.file is not None:
                shell.append(
                    tasks.create_task(checkpoint_at_intervals(self._database, self.pipeline.storage))
                )
            segments = watch_segments(
                self._config, self._database, self.pipeline.run.id, self.pipeline.snapshots
            )
            shell.append(tasks.create_task(segments))
            companions = [
                tasks.create_task(self._supervise(one, emit, vital=False))
                for one in self._services.companions
            ]
            await stop.wait()
            _log.info("stopping", waiting=len(self.queue))
            for task in shell:
                task.cancel()
            await asyncio.wait(shell)
            if commands.guard is not None:
                await commands.guard.stop()
            last = tasks.create_task(commands.put_last())
            await asyncio.wait({deciding}, timeout=live.drain_timeout / 1000)
            if not deciding.done():
                _log.error(
                    "stopped with events unhandled; they will be fetched again", events=len(self.queue)
                )
                self._stopped = True
                last.cancel()
                if self.pipeline.storage.failing.is_set():
                    deciding.cancel()
            else:
                await self._write_feed_health()
            for task in companions:  # last, so that they receive what was handled at the end
                task.cancel()

    async def _decide(self) -> None:
        """Run the core's loop: journal all that waits at once, and handle it event by event."""
        limit = self._config.live.batch
        now, since = self._clock.now(), asyncio.get_running_loop().time()
        abilities = {"cash": "stated", "transfers": "discounted"}
        life = Command("life", now, now, {"incarnation": session.new_incarnation()} | abilities, "daemon")
        warm_up = Command("warm-up", now, now, {}, "daemon")
        await self.pipeline.feed([(life, since), (warm_up, since)])  # before anything can decide on an order
        self._begun = True
        await self._report_strategy_error()  # of an earlier life that ended before it could report it
        scorer, guard, gateway = self.sources.scorer, self.commands.guard, self.sources.gateway
        while not self._stopped:
            taken = await self.queue.take(limit)
            urgent: list[tuple[Event, float]] = []

            def ahead(urgent: list[tuple[Event, float]] = urgent) -> list[tuple[Event, float]]:
                urgent += (found := self.queue.take_first())
                return found

            events = await self.pipeline.feed(taken, ahead)
            while first := ahead():  # before anything is sent
                events += await self.pipeline.feed(first, ahead)
            await self._report_strategy_error()
            for event in events:
                match event:
                    case News() if scorer is not None:
                        scorer.offer(event)
                    case Command(action="stop"):
                        self._stopped = True
                    case Command(action="kill") if guard is not None:
                        guard.settle()
            if gateway is not None:
                gateway.release()
            for event, _ in (*taken, *urgent):
                self.commands.settle(event)

    async def _report_strategy_error(self) -> None:
        """If a strategy has raised an error: halt it, and journal why."""
        for sleeve, failure in self.pipeline.engine.failures.items():
            now = self._clock.now()
            named = {"sleeve": sleeve} if sleeve else {}
            _log.error(
                "halted: the strategy failed; it rests until the operator resumes", reason=failure, **named
            )
            command = Command("strategy-error", now, now, {"detail": failure, **named}, "daemon")
            await self.pipeline.feed([(command, asyncio.get_running_loop().time())])

    async def _supervise(self, producer: Producer, emit: Emit, *, vital: bool = True) -> None:
        supervision = Supervision(producer.name, vital)
        self.supervised.append((producer, supervision))
        await supervise(producer, emit, self._config.live.restart, self._clock, supervision, self._rng)

    async def _warm_up(self) -> None:
        """End the warm-up once the history is in the queue."""
        while self.sources.market.health.state != "live":
            await asyncio.sleep(_POLL)
        needed = {name: str(bars) for name, bars in self.sources.warm_up.items()}
        await self.commands.put("warm-up-done", needed)

    async def _require_account(self, gateway: VenueGateway) -> None:
        """End the start if the account must not be traded, or is not reconciled in time."""
        venue = self._config.execution.testnet
        try:
            async with asyncio.timeout(venue.start_within / 1000):
                await gateway.begun()
        except TimeoutError:
            reason = gateway.health.last_error or "it never settled"
            raise VenueError(
                f"the account at {venue.venue} could not be reconciled "
                f"within {format_duration(venue.start_within)}: {reason}",
                hint="run tapewire doctor",
            ) from None

    async def _keep_feed_health(self) -> Never:
        """Write the feeds' health to the store at intervals."""
        while True:
            await asyncio.sleep(self._config.live.record_health / 1000)
            await self._write_feed_health()
            await self._record.renew_lock()

    async def _write_feed_health(self) -> None:
        if self.pipeline.storage.failing.is_set():
            return  # decisions come first
        news = self.sources.news
        health = [producer.health for producer, _ in self.supervised if producer is not news]
        health += news.feeds if news is not None else []  # each feed in place of the producer of all
        rows = [replace(one) for one in health]
        work = partial(write_feed_health, self._database, self.pipeline.run.id, rows, self._clock.now())
        await self.pipeline.storage.write(work)
