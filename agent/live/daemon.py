"""The live rim: supervised producers into one queue, and the core that journals, decides and records what comes out of it."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Never

import structlog
from msgspec import to_builtins
from msgspec.structs import replace

from agent.config import Config
from agent.config.control import split_address
from agent.core.durations import format_duration
from agent.core.engine import Engine
from agent.core.errors import (
    ModelError,
    SafetyError,
    StoreUnavailable,
    TapewireError,
    UsageError,
    VenueError,
    first_error,
)
from agent.core.events import Command, Event, News, RiskState
from agent.core.risk import CLOCK, KILL, RESUME_FROM_KILL
from agent.data.sentiment import NamedScorer
from agent.live import session
from agent.live.access_token import make_token
from agent.live.app import Outside
from agent.live.archiver import watch_segments
from agent.live.control_socket import COMMANDS, SOCKET, Request, control_port, control_socket
from agent.live.emergency_close import EmergencyReport
from agent.live.event_filter import OpenBars
from agent.live.event_queue import EventQueue
from agent.live.feed_health import write_feed_health
from agent.live.gateway.venue_gateway import Gateway
from agent.live.gateway.venue_port import VenuePort
from agent.live.kill_file import KillSwitch
from agent.live.kill_guard import KillGuard
from agent.live.log import status as log_status
from agent.live.news.news_producer import NewsProducer
from agent.live.observers import LogWatcher, Recent, Watcher
from agent.live.order_routing import open_gateway, open_guard, venue_port
from agent.live.pipeline import Core
from agent.live.producer import Emit, Producer
from agent.live.resume import Memory
from agent.live.run_record import Record, open_record
from agent.live.scoring import SentimentConsumer
from agent.live.session import open_run, resumable
from agent.live.sources import Gate, check, headlines, market_data
from agent.live.stale_data_watchdog import watch_silence
from agent.live.status_report import Status, drawdown_of, positions_of, producers_of
from agent.live.supervisor import Supervision, supervise
from agent.live.timekeeping import Timekeeper
from agent.live.venue_rules import with_venue_rules
from agent.replay.fusion_model import open_predictor, wants_headlines
from agent.store.database import Database
from agent.store.lock import LOCK, instance_lock
from agent.store.runs import Run
from agent.system.clock import Clock, WallClock, iso
from agent.system.clock_discipline import DisciplinedClock
from agent.system.listening_sockets import Listener

if TYPE_CHECKING:
    from agent.live.services.mqtt.worker_pool import WorkerPool

_AT_ONCE: Final = ("halt", "kill")  # before all that waits in the queue

_EMERGENCY: Final = 4.0  # seconds that a kill's answer waits for the venue while the store can't be written
_LOOK: Final = 0.05  # seconds between two looks at whether the history is complete
_log: Final = structlog.get_logger(__name__)

LoadModel = Callable[[str], NamedScorer]
"""Opens a model folder; blocking."""


class Daemon:
    """One life of the agent: `run` it until `stop` is set.

    `load_model` opens a model folder; it is called only for strategies that hear of headlines. `clock` is the market's time,
    which a sandbox may play faster; the system clock is disciplined by the venue's.
    `port` is the venue where orders go in testnet mode; without it the configured one.
    """

    def __init__(
        self,
        config: Config,
        database: Database,
        *,
        load_model: LoadModel,
        clock: Clock | None = None,
        new: bool = False,
        rng: random.Random | None = None,
        port: VenuePort | None = None,
    ) -> None:
        self.config = config
        self._database = database
        self._clock = (
            DisciplinedClock(WallClock()) if clock is None or isinstance(clock, WallClock) else clock
        )
        self._time = Timekeeper(self._clock, config)
        self._new = new
        self._rng = rng or random.Random()
        self.listeners: list[Listener] = []  # whose counts the status has
        self.login_link: Callable[[], str] | None = None  # of the page that is served beside
        self._recent = Recent()
        self._watchers: list[Watcher] = [LogWatcher(), self._recent]
        self._witnesses: list[Callable[[Run], Watcher]] = []
        self._predictor = open_predictor(config)
        hears = wants_headlines(config)
        self._model = (
            SentimentConsumer(config.live, self._clock, load_model, self._predictor) if hears else None
        )
        self._news: NewsProducer | None = None
        self._port = port
        self.gateway: Gateway | None = None  # in testnet mode, once it runs
        self._supervised: list[tuple[Producer, Supervision]] = []
        # by identity: events that somebody waits for
        self._handled: dict[int, tuple[Event, asyncio.Future[None]]] = {}
        self._stopped = False
        # that the journal has yet to take in
        self._emergencies: dict[int, tuple[EmergencyReport, asyncio.Task[None]]] = {}
        self._began = 0.0  # of the event loop's clock
        self._loop: asyncio.AbstractEventLoop
        self.kill_switch = KillSwitch(config.live.folder)
        self.guard: KillGuard | None = None  # once it runs, unless the port is given
        self._swap = asyncio.Lock()  # one model is loaded at a time
        self._outside = Outside(config, self, self._clock, self._model)
        self._scores = self._outside.pool or self._model  # whom headlines are offered to
        self._watchers += self._outside.watchers
        self.record = Record()
        self.queue: EventQueue
        self.open_bars: OpenBars
        self.core: Core
        self.control_port = 0  # of loopback; 0: there is none

    def watch(self, watcher: Watcher) -> None:
        """Let somebody look on, from the beginning of `run` on."""
        self._watchers.append(watcher)

    def witness(self, make: Callable[[Run], Watcher]) -> None:
        """Let somebody look on who hears the run's past as well, where it is resumed: `make` is called once the run is known."""
        self._witnesses.append(make)

    @property
    def pool(self) -> WorkerPool | None:
        """The sentiment workers, where they are configured."""
        return self._outside.pool

    async def _open_run(self, port: VenuePort | None) -> tuple[Run, bool]:
        """The run to record and whether it is resumed; from now on the configuration has its trading rules."""
        found = None if self._new else resumable(self.config, self._database, predictor=self._predictor)
        if found is not None:
            run, self.config = found
            return run, True
        self.config = await with_venue_rules(self.config, port, self._database)
        return open_run(self.config, self._database, new=True, predictor=self._predictor)

    def account(self) -> Engine | None:
        """The core, to look at; None before it runs."""
        return self.core.engine if hasattr(self, "core") else None

    async def run(self, stop: asyncio.Event, *, complete: bool = False) -> Run:
        """Live until `stop` is set, then handle what waits, and end: `complete`, or to be resumed by the next life.

        Raises what ends it early: StoreError where the journal can't be written, SafetyError where another agent is running,
        ModelError, ConfigError.
        """
        check(self.config)
        live = self.config.live
        async with AsyncExitStack() as stack:
            stack.enter_context(instance_lock(live.folder / LOCK))
            self.kill_switch.refuse("no start")
            await self._time.begin()
            port = self._port or venue_port(self.config, self._clock)
            loop = asyncio.get_running_loop()
            self._loop, self._began = loop, loop.time()
            self.queue = EventQueue(live.queue, live.queue_news, timer=loop.time)
            orders = port is not None
            self.record = stack.enter_context(
                open_record(self.config, self._database, new=self._new, orders=orders)
            )
            run, resume = await self._open_run(port)
            run = self.record.stamped(run)
            stack.enter_context(structlog.contextvars.bound_contextvars(run=run.id))
            loaded = None if self._model is None else await self._model.use(self.config.model.path)
            witnesses = [make(run) for make in self._witnesses]
            core = Core(
                self.config,
                self._database,
                run,
                resume=resume,
                watchers=self._watchers,
                witnesses=witnesses,
                rng=self._rng,
                predictor=self._predictor,
                latest=self._time.latest,
                mark=self.record.mark,
            )
            self.core = stack.enter_context(core)
            memory = self.core.memory
            if port is not None:
                self.gateway = open_gateway(self.config, port, self.core, self._clock, self._rng)
            if self._port is None:
                self.guard = open_guard(
                    self.config, self.kill_switch, self.core, self._clock, self._note_emergency
                )
                stack.push_async_callback(self.guard.stop)
            if self.gateway is not None and self.guard is not None:
                self.gateway.hold(self.guard.holds)
            _log.info(
                "resumed" if resume else "begun",
                strategy=run.strategy,
                symbols=list(self.config.market.symbols),
            )
            if self.record.gap is not None:
                handled = await self._put("record-behind", self.record.gap.args)
                handled.add_done_callback(lambda _: self.record.acknowledge())
            if loaded is not None:
                await self._settle_model(loaded, memory)
            await stack.enter_async_context(
                control_socket(live.folder / SOCKET, self._answer, self.config.control, self.listeners)
            )
            await self._open_port(stack)
            try:
                await self._live(stop, self._producers(memory))
            except BaseExceptionGroup as group:
                raise first_error(group) from group
            return self.core.end(complete=complete)

    async def _open_port(self, stack: AsyncExitStack) -> None:
        """The control port, where one is configured."""
        control = self.config.control
        if control.address:
            host, port = split_address(control.address)
            token = make_token(self.config.token_file())
            self.control_port = await stack.enter_async_context(
                control_port(host, port, token, self._answer, control, self.listeners)
            )
            _log.info("commands are taken", host=host, port=self.control_port)

    def _producers(self, memory: Memory) -> list[Producer]:
        """Market data first: when it is complete, the agent is warm."""
        producers: list[Producer] = [
            market_data(self.config, self._clock, memory, self._rng, self._predictor)
        ]
        if self.gateway is not None:
            producers.append(self.gateway)
        if self._model is not None and self._scores is not None:
            for news in memory.unscored.values():
                self._scores.offer(news)
            self._news = headlines(self.config, self._clock, self._rng)
            producers += [self._news, self._model]
        return producers

    async def _live(self, stop: asyncio.Event, producers: Sequence[Producer]) -> None:
        async with asyncio.TaskGroup() as tasks:
            core = tasks.create_task(self._decide())
            if self.gateway is not None:
                await self._put("reconciling")
            self.open_bars = OpenBars(self.core.engine, self.config.live.open_bars_every)
            emit = Gate(self.open_bars, self.core.memory, self.queue.put, self.core.storage.writable)
            rim = [tasks.create_task(self._supervise(producer, emit)) for producer in producers]
            if self._outside.pool is not None:
                rim.append(tasks.create_task(self._supervise(self._outside.pool, emit, vital=False)))
            rim.append(tasks.create_task(self._warm_up(producers[0])))
            if self.gateway is not None:
                rim.append(tasks.create_task(self._reconciled(self.gateway)))
            rim.append(tasks.create_task(watch_silence(self.core.engine, self._clock, self._heartbeat)))
            rim.append(tasks.create_task(self._time.watch(self.core.memory, self._alarm)))
            rim.append(tasks.create_task(self.kill_switch.watch(self._kill, self._killed)))
            rim.append(tasks.create_task(self._keep_feed_health()))
            rim.append(
                tasks.create_task(
                    watch_segments(self.config, self._database, self.core.run.id, self.core.snapshots)
                )
            )
            companions = [
                tasks.create_task(self._supervise(one, emit, vital=False)) for one in self._outside.companions
            ]
            await stop.wait()
            _log.info("stopping", waiting=len(self.queue))
            for task in rim:
                task.cancel()
            await asyncio.wait(rim)
            if self.guard is not None:
                await self.guard.stop()
            last = tasks.create_task(self._put_last())
            await asyncio.wait({core}, timeout=self.config.live.drain_timeout / 1000)
            if not core.done():
                _log.error(
                    "stopped with events unhandled; their sources will be asked again", events=len(self.queue)
                )
                self._stopped = True
                last.cancel()
                if self.core.storage.failing.is_set():
                    core.cancel()
            else:
                await self._write_feed_health()
            for task in companions:  # last, so that they hear of what was handled at the end
                task.cancel()

    async def _decide(self) -> None:
        """The core's loop: all that waits is journalled at once, and handled one by one."""
        limit = self.config.live.batch
        now, since = self._clock.now(), asyncio.get_running_loop().time()
        life = Command(
            "life", now, now, {"incarnation": session.new_incarnation(), "cash": "stated"}, "daemon"
        )
        warm_up = Command("warm-up", now, now, {}, "daemon")
        await self.core.feed([(life, since), (warm_up, since)])  # before anything can decide on an order
        await self._report_strategy_error()  # that a life before has left unreported
        while not self._stopped:
            taken = await self.queue.take(limit)
            urgent: list[tuple[Event, float]] = []

            def ahead(urgent: list[tuple[Event, float]] = urgent) -> list[tuple[Event, float]]:
                urgent += (found := self.queue.take_first())
                return found

            events = await self.core.feed(taken, ahead)
            while first := ahead():  # before anything is sent
                events += await self.core.feed(first, ahead)
            await self._report_strategy_error()
            for event in events:
                match event:
                    case News() if self._scores is not None:
                        self._scores.offer(event)
                    case Command(action="stop"):
                        self._stopped = True
                    case Command(action="kill") if self.guard is not None:
                        self.guard.settle()
            if self.gateway is not None:
                self.gateway.release()
            for event, _ in (*taken, *urgent):
                waiting = self._handled.pop(id(event), None)
                if waiting and not waiting[1].done():  # who waited may have been cancelled
                    waiting[1].set_result(None)

    async def _report_strategy_error(self) -> None:
        """The strategy has raised an error: halt, and journal why."""
        guard = self.core.engine.guard
        if guard is not None and guard.failure:
            now = self._clock.now()
            _log.error("halted: the strategy failed, and rests until a person resumes", reason=guard.failure)
            command = Command("strategy-error", now, now, {"detail": guard.failure}, "daemon")
            await self.core.feed([(command, asyncio.get_running_loop().time())])

    async def _supervise(self, producer: Producer, emit: Emit, *, vital: bool = True) -> None:
        supervision = Supervision(producer.name, vital)
        self._supervised.append((producer, supervision))
        await supervise(producer, emit, self.config.live.restart, self._clock, supervision, self._rng)

    async def _warm_up(self, market: Producer) -> None:
        """Once the history is in the queue, the present begins."""
        while market.health.state != "live":
            await asyncio.sleep(_LOOK)
        await self._put("warm-up-done")

    async def _reconciled(self, gateway: Gateway) -> None:
        """An account that must not be traded, or isn't known in time, ends the start."""
        venue = self.config.execution.testnet
        try:
            async with asyncio.timeout(venue.start_within / 1000):
                await gateway.begun()
        except TimeoutError:
            reason = gateway.health.last_error or "it is never quiet"
            raise VenueError(
                f"the account at {venue.venue} could not be reconciled within {format_duration(venue.start_within)}: {reason}",
                hint="tapewire doctor says more",
            ) from None

    async def _keep_feed_health(self) -> Never:
        """Write how the feeds are, now and then, for whoever looks into the store."""
        while True:
            await asyncio.sleep(self.config.live.record_health / 1000)
            await self._write_feed_health()
            await self.record.keep_lock()

    async def _write_feed_health(self) -> None:
        if self.core.storage.failing.is_set():
            return  # what was decided comes first
        feeds = [producer.health for producer, _ in self._supervised if producer is not self._news]
        feeds += self._news.feeds if self._news else []
        now = self._clock.now()
        work = partial(
            write_feed_health, self._database, self.core.run.id, [replace(one) for one in feeds], now
        )
        await self.core.storage.write(work)

    # -- commands ----------------------------------------------------------------------------------------------------

    async def _put(
        self, action: str, args: dict[str, str] | None = None, by: str = "daemon"
    ) -> asyncio.Future[None]:
        """Into the queue with a command; the future is done when it was journalled and handled."""
        now = self._clock.now()
        command = Command(action, now, now, args or {}, by)
        handled = asyncio.get_running_loop().create_future()
        self._handled[id(command)] = command, handled
        if action in _AT_ONCE:
            self.queue.put_first(command)
        else:
            await self.queue.put(command)
        return handled

    async def _kill(self, args: dict[str, str], by: str) -> None:
        await (await self._put("kill", args, by))

    async def _heartbeat(self) -> None:
        await (await self._put("heartbeat"))

    async def _alarm(self, detail: str) -> None:
        await (await self._put("alarm", {"rule": CLOCK, "detail": detail}))

    async def command(self, action: str, args: dict[str, str] | None = None, by: str = "") -> dict[str, Any]:
        """A person's word, journalled and handled; returns what it led to. Raises UsageError for one that isn't known.

        `use-model` takes the folder in `args` and returns when the model scores; it raises ModelError where the old one stays.
        """
        if action not in COMMANDS:
            raise UsageError(f"unknown command {action!r}", hint=f"one of {', '.join(COMMANDS)}")
        args = args or {}
        if action == "use-model" and self._model is None:
            raise UsageError(f"strategy {self.config.strategy.name} uses no model")
        if action == "use-model" and not args.get("folder"):
            raise UsageError("use-model needs a folder")
        if action == "resume":
            self.kill_switch.refuse("no resumption")
        if action == "kill" and self.guard is not None:
            emergency = await self._kill_by_command(self.guard, args, by)
            if emergency is not None:
                return {
                    "action": action,
                    "risk": self.core.engine.risk.state.value,
                    "emergency": to_builtins(emergency),
                }
        else:
            await self._obeyed(action, await self._put(action, args, by))
        if action == "resume" and self._killed():
            risk = self.core.engine.risk
            raise SafetyError(
                f"the agent was killed at {iso(risk.since)} ({risk.detail}): resuming from that has to be confirmed",
                hint=f'tapewire resume --confirm "{RESUME_FROM_KILL}"',
            )
        if action == "resume" and self.guard is not None:
            self.guard.resumed()
        answer = {
            "action": action,
            "event": self.core.journal.last_seq,
            "risk": self.core.engine.risk.state.value,
        }
        if action == "use-model":
            answer |= await self._use_model(args["folder"], by)
        return answer

    async def _kill_by_command(
        self, guard: KillGuard, args: dict[str, str], by: str
    ) -> EmergencyReport | None:
        """Until the core has handled it; or, while the store can't be written, what was done at the venue instead."""
        pull = guard.pull(args, by)
        handled = await self._put("kill", args, by)
        try:
            await self._obeyed("kill", handled)
        except StoreUnavailable:
            if guard.way_out is None:
                raise
            outcome = asyncio.shield(asyncio.wrap_future(pull.outcome))
            either: set[asyncio.Future[Any]] = {outcome, handled}
            await asyncio.wait(either, timeout=_EMERGENCY, return_when=asyncio.FIRST_COMPLETED)
            if not outcome.done() or not outcome.result().done:
                raise
            return outcome.result()
        return None

    def _note_emergency(self, report: EmergencyReport) -> None:
        """From the guard's thread: let the journal say what it did."""
        with suppress(RuntimeError):  # the agent has ended
            self._loop.call_soon_threadsafe(self._take_emergency, report)

    def _take_emergency(self, report: EmergencyReport) -> None:
        self._emergencies[id(report)] = report, self._loop.create_task(self._journal_emergency(report))

    async def _journal_emergency(self, report: EmergencyReport) -> None:
        """Behind the kill itself."""
        while not self._killed():
            await asyncio.sleep(_LOOK)
        await self._put_emergency(report)

    async def _put_emergency(self, report: EmergencyReport) -> None:
        """Once."""
        if self._emergencies.pop(id(report), None) is None:
            return
        args = {
            "cancelled": " ".join(report.cancelled),
            "sent": "; ".join(report.closed),
            "left": "; ".join(report.left),
        }
        await self._put("emergency-kill", {name: text for name, text in args.items() if text}, report.by)

    async def _put_last(self) -> None:
        """What the guard did that the journal has yet to take in, though its kill may wait for the store, and the end."""
        for report, task in list(self._emergencies.values()):
            await self._put_emergency(report)
            task.cancel()
        await self._put("stop")

    async def _obeyed(self, action: str, handled: asyncio.Future[None]) -> None:
        """Until it is handled. Raises StoreUnavailable where that can't be now: it waits like everything else."""
        storage = self.core.storage
        failing: asyncio.Future[Any] = asyncio.ensure_future(storage.failing.wait())
        try:
            await asyncio.wait([handled, failing], return_when=asyncio.FIRST_COMPLETED)
        finally:
            failing.cancel()
        if not handled.done():
            raise StoreUnavailable(
                f"nothing is traded: {storage.status.error}",
                hint=f"{action} is kept, and done as soon as the store can be written",
            )

    def _killed(self) -> bool:
        risk = self.core.engine.risk
        return risk.state is RiskState.HALTED and risk.rule == KILL

    async def _use_model(self, folder: str, by: str) -> dict[str, str]:
        if self._model is None:
            return {}
        async with self._swap:
            try:
                model = await self._model.use(folder)
            except TapewireError as error:
                await (await self._put("model-refused", {"folder": folder, "reason": error.message}, by))
                raise ModelError(f"{error.message}; the old model stays", hint=error.hint) from None
            await (await self._put("model-in-use", {"folder": folder, "model": model, "chosen": folder}, by))
        return {"model": model, "folder": folder}

    async def _settle_model(self, loaded: str, memory: Memory) -> None:
        """Say which model scores from now on: the configured one, unless a person chose another one in an earlier life."""
        model, folder = self._model, self.config.model.path
        if model is not None and memory.model:
            try:
                loaded = await model.use(memory.model)
                folder = memory.model
            except TapewireError as error:
                _log.warning(
                    "the model chosen before can't be loaded",
                    folder=memory.model,
                    reason=error.message,
                    instead=folder,
                )
        chosen = {"chosen": folder} if folder == memory.model else {}
        await self._put("model-in-use", {"folder": folder, "model": loaded, **chosen})

    async def _answer(self, request: Request, by: str) -> Any:
        if request.do == "dashboard":
            if self.login_link is None:
                raise UsageError("this agent serves no dashboard", hint="dashboard.enabled = true")
            return {"url": self.login_link()}
        return self.status() if request.do == "status" else await self.command(request.do, request.args, by)

    def status(self) -> Status:
        """A snapshot."""
        core, engine, run, now = self.core, self.core.engine, self.core.run, self._clock.now()
        left_out = self.open_bars.left_out if hasattr(self, "open_bars") else 0
        return Status(
            run=run.id,
            pid=os.getpid(),
            started_at=run.started_at,
            uptime_s=round(asyncio.get_running_loop().time() - self._began, 3),
            now=now,
            clock=self._time.status(core.memory),
            strategy=run.strategy,
            endpoint=self.config.bybit.endpoint,
            orders="paper" if self.gateway is None else self.config.execution.testnet.venue,
            unreconciled=engine.risk.unreconciled,
            warming_up=engine.risk.warming,
            model=self._model.health.model if self._model else "",
            equity=engine.portfolio.equity(),
            cash=engine.portfolio.cash_float,
            positions=positions_of(engine, max(now, engine.market.now)),
            risk=engine.risk.state,
            risk_rule=engine.risk.rule,
            risk_detail=engine.risk.detail,
            risk_since=engine.risk.since,
            flattening=engine.flattener.open,
            drawdown=drawdown_of(engine),
            abstain_rate=engine.signals.abstain_rate,
            events=core.journal.last_seq,
            decisions=core.decisions,
            producers=producers_of([p.health for p, _ in self._supervised], [s for _, s in self._supervised]),
            feeds=self._news.feeds if self._news else [],
            listeners=[one.status for one in self.listeners],
            queue=self.queue.stats(),
            storage=core.storage.status,
            log=log_status(),
            snapshots=replace(core.snapshots.status),
            latencies={kind: histogram.summary() for kind, histogram in sorted(core.latencies.items())},
            spans={name: histogram.summary() for name, histogram in sorted(core.spans.items())},
            ignored=dict(engine.counts) | ({"open bars left out": left_out} if left_out else {}),
            headlines=dict(engine.signals.counts),
            recent=list(self._recent.lines),
            record=self.record.problem,
        )
