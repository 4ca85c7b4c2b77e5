"""The agent as a long-lived daemon: opens store, run, model and venue, and runs until it is stopped."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any, Final

import structlog

from agent.config import Config
from agent.config.control import split_address
from agent.core.errors import ConfigError, NotRunning, UsageError, first_error
from agent.core.events import News
from agent.core.sleeves import engines_of
from agent.core.strategy_version import bars_needed
from agent.core.trading_engine import TradingEngine
from agent.data.sentiment import NamedScorer
from agent.live.access_token import make_token
from agent.live.command_handler import CommandHandler
from agent.live.control_socket import SOCKET, ControlRequest, control_port, control_socket
from agent.live.event_queue import EventQueue
from agent.live.gateway.venue_gateway import VenueGateway
from agent.live.gateway.venue_port import VenuePort
from agent.live.interfaces.observer import Observer
from agent.live.interfaces.running_agent import Services
from agent.live.interfaces.status import Status
from agent.live.kill_file import KillSwitch
from agent.live.life import Life, Sources
from agent.live.live_twin import LiveTwin
from agent.live.market_data.kline_producer import KlineProducer
from agent.live.model_drift import ModelDrift
from agent.live.observers import LogObserver, RecentActivity
from agent.live.order_routing import open_gateway, open_guard, venue_port
from agent.live.pipeline import Pipeline
from agent.live.revision import RevisingConsumer
from agent.live.run_record import RunRecord, open_record
from agent.live.scoring import SentimentConsumer
from agent.live.session import find_resumable, load_first_strategy, open_run
from agent.live.sources import check_live_config, make_kline_producer, make_news_producer
from agent.live.status_report import report_status
from agent.live.strategy_switch import StrategySwitch, keep_first_source
from agent.live.timekeeping import Timekeeper
from agent.live.venue_rules import with_venue_rules
from agent.replay.fusion_model import open_predictor, wants_headlines
from agent.replay.needed_bars import needed_bars
from agent.store.database import Database
from agent.store.lock import LOCK, instance_lock
from agent.store.runs import Run
from agent.system.clock import Clock, WallClock
from agent.system.clock_discipline import DisciplinedClock
from agent.system.latency_histogram import LatencyHistogram
from agent.system.listening_sockets import Listener

_log: Final = structlog.get_logger(__name__)

LoadModel = Callable[[str], NamedScorer]
"""Opens a model folder; blocking."""


class Daemon:
    """The agent: `run` it until `stop` is set. `agent.live.app.make_agent` makes one with the configured
    services.

    `load_model` opens a model folder; it is called only if the strategy or the fusion model reads headlines.
    `clock` is the market's time: a sandbox may run faster, and the system clock is disciplined by the
    venue's. `port` is the venue that receives orders in testnet mode, by default the configured one.
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
        is_wall = clock is None or isinstance(clock, WallClock)
        self.clock: Clock = DisciplinedClock(WallClock()) if clock is None or is_wall else clock
        self.listeners: list[Listener] = []
        self.login_link: Callable[[], str] | None = None
        self.kill_switch = KillSwitch(config.live.folder)
        self.control_port = 0  # on loopback; 0 if no control port is configured
        # before anything requests the strategy
        self._first_loaded = not new and load_first_strategy(config, database)
        self.predictor = open_predictor(config)
        self.model: SentimentConsumer | None = None
        self.reviser: RevisingConsumer | None = None
        self.drift: ModelDrift | None = None
        if wants_headlines(config):
            self.model = SentimentConsumer(config.live, self.clock, load_model, self.predictor)
            if config.model.revise_with:
                self.reviser = RevisingConsumer(config, self.clock, load_model, self._unscored)
        self.services = Services()
        self._database = database
        self._time = Timekeeper(self.clock, config)
        self._new = new
        self._rng = rng or random.Random()
        self._port = port
        self._recent = RecentActivity()
        self._observers: list[Observer] = [LogObserver(), self._recent]
        self._run_observers: list[Callable[[Run], Observer]] = []
        if self.model is not None:
            self.drift = drift = ModelDrift(config, self.model)
            self.model.on_score = drift.note_score
            self.observe_run(lambda _: drift)
        self._life: Life | None = None
        self._began = 0.0  # of the event loop's clock
        self.record = RunRecord()

    # -- before it runs -------------------------------------------------------------------------------

    def attach(self, services: Services) -> None:
        """Attach services. Call before the agent runs."""
        self.services = services
        self._observers += services.observers

    def observe(self, observer: Observer) -> None:
        """Add an observer of this life of the agent. Call before it runs."""
        self._observers.append(observer)

    def observe_run(self, make: Callable[[Run], Observer]) -> None:
        """Add an observer that also receives the past of a resumed run; `make` is called with the run."""
        self._run_observers.append(make)

    # -- while it runs --------------------------------------------------------------------------------

    @property
    def started(self) -> bool:
        """True once the run is open and commands are accepted."""
        return self._life is not None

    @property
    def life(self) -> Life:
        """The running part. Raises NotRunning before the run is open."""
        if self._life is None:
            raise NotRunning("the agent has not started yet")
        return self._life

    @property
    def pipeline(self) -> Pipeline:
        """The run's engine, journal and recorder. Raises NotRunning before the run is open."""
        return self.life.pipeline

    @property
    def queue(self) -> EventQueue:
        """The queue between producers and core. Raises NotRunning before the run is open."""
        return self.life.queue

    @property
    def gateway(self) -> VenueGateway | None:
        """The gateway to the venue in testnet mode, once it runs."""
        return None if self._life is None else self._life.sources.gateway

    @property
    def run_id(self) -> str:
        """Id of the run that is recorded."""
        return self.pipeline.run.id

    @property
    def stuck_for(self) -> float:
        """Seconds that the oldest queued event has waited; 0 while the store can't be written."""
        return 0.0 if self.pipeline.storage.failing.is_set() else self.queue.longest_wait

    @property
    def latencies(self) -> Mapping[str, LatencyHistogram]:
        """Time from arrival in the queue to handled and recorded, by kind of event."""
        return self.pipeline.latencies

    @property
    def spans(self) -> Mapping[str, LatencyHistogram]:
        """Time of the stages named in `agent.live.interfaces.status`."""
        return self.pipeline.spans

    def engine(self) -> TradingEngine | None:
        """Return the engine, to read; None before the run is open."""
        return None if self._life is None else self._life.pipeline.engine

    async def command(self, action: str, args: dict[str, str] | None = None, by: str = "") -> dict[str, Any]:
        """Journal and handle a command, as `CommandHandler.command`."""
        return await self.life.commands.command(action, args, by)

    def status(self) -> Status:
        """Take a snapshot of the agent's state."""
        return report_status(
            self.life,
            self.config,
            self.clock.now(),
            uptime=asyncio.get_running_loop().time() - self._began,
            clock=self._time.status(self.pipeline.memory),
            model=self.model.health.model if self.model else "",
            revising_model=self.reviser.health.model if self.reviser else "",
            drift=self.drift,
            listeners=self.listeners,
            recent=self._recent,
            record=self.record,
        )

    async def run(self, stop: asyncio.Event, *, complete: bool = False) -> Run:
        """Run until `stop` is set, then handle what waits and end: `complete`, or to be resumed by the next
        life.

        Raises what ends it early: StoreError if the journal can't be written, SafetyError if another agent is
        running, ModelError, ConfigError.
        """
        check_live_config(self.config)
        live = self.config.live
        async with AsyncExitStack() as stack:
            stack.enter_context(instance_lock(live.folder / LOCK))
            self.kill_switch.refuse("no start")
            await self._time.begin()
            port = self._port or venue_port(self.config, self.clock)
            loop = asyncio.get_running_loop()
            self._began = loop.time()
            queue = EventQueue(live.queue, live.queue_news, timer=loop.time)
            self.record = stack.enter_context(
                open_record(self.config, self._database, new=self._new, orders=port is not None)
            )
            run, resume = await self._open_run(port)
            if self._first_loaded and not resume:
                raise ConfigError(
                    f"{run.strategy} has changed since the last run, which can't be resumed",
                    hint="begin a new run: tapewire run --new",
                )
            run = self.record.stamped(run)
            keep_first_source(self.config, self._database, run)
            stack.enter_context(structlog.contextvars.bound_contextvars(run=run.id))
            if self.model is not None:
                stack.callback(self.model.close)
            if self.reviser is not None:
                stack.callback(self.reviser.close)
            loaded = None if self.model is None else await self.model.use(self.config.model.path)
            pipeline = stack.enter_context(
                Pipeline(
                    self.config,
                    self._database,
                    run,
                    resume=resume,
                    observers=self._observers,
                    run_observers=[make(run) for make in self._run_observers],
                    rng=self._rng,
                    predictor=self.predictor,
                    latest=self._time.latest,
                    mark=self.record.mark,
                )
            )
            gateway = twin = None
            if port is not None and self.config.twin.enabled:
                twin = LiveTwin.of_run(self.config, self._database, pipeline.run, pipeline.journal.last_seq)
                pipeline.observers.append(twin)
            if port is not None:
                gateway = open_gateway(self.config, port, pipeline, self.clock, self._rng)
            sources, market = self._sources(pipeline, gateway)
            strategies = StrategySwitch(
                self.config, self._database, pipeline, market, reads_headlines=self.model is not None
            )
            commands = CommandHandler(
                self.config, pipeline, queue, self.clock, self.kill_switch, self.model, strategies
            )
            if self._port is None:
                commands.guard = open_guard(
                    self.config, self.kill_switch, pipeline, self.clock, commands.note_emergency
                )
                stack.push_async_callback(commands.guard.stop)
                if gateway is not None:
                    gateway.pause_while(commands.guard.holds_orders)
            life = Life(
                self.config,
                self._database,
                pipeline,
                queue,
                sources,
                self.services,
                commands,
                self.kill_switch,
                self.record,
                self._time,
                self.clock,
                self._rng,
                self.drift,
                twin,
            )
            self._life = life
            _log.info(
                "resumed" if resume else "begun",
                strategy=run.strategy,
                symbols=list(self.config.market.symbols),
            )
            if self.record.gap is not None:
                handled = await commands.put("record-behind", self.record.gap.args)
                handled.add_done_callback(lambda _: self.record.acknowledge())
            if loaded is not None:
                await commands.settle_model(loaded)
            await stack.enter_async_context(
                control_socket(live.folder / SOCKET, self._answer, self.config.control, self.listeners)
            )
            await self._open_control_port(stack)
            try:
                await life.run(stop)
            except BaseExceptionGroup as group:
                raise first_error(group) from group
            return pipeline.end(complete=complete)

    async def _open_run(self, port: VenuePort | None) -> tuple[Run, bool]:
        """Return the run to record and whether it is resumed; from then on `config` has the run's trading
        rules.
        """
        found = None if self._new else find_resumable(self.config, self._database, predictor=self.predictor)
        if found is not None:
            run, self.config = found
            return run, True
        self.config = await with_venue_rules(self.config, port, self._database)
        return open_run(self.config, self._database, new=True, predictor=self.predictor)

    def _sources(self, pipeline: Pipeline, gateway: VenueGateway | None) -> tuple[Sources, KlineProducer]:
        needed = _needed_now(pipeline.engine, self.config)
        market = make_kline_producer(
            self.config, self.clock, pipeline.memory, self._rng, self.predictor, warm_up=needed
        )
        if self.model is None:
            return Sources(market, gateway, None, None, None, warm_up=needed), market
        scorer = self.services.scorer or self.model
        for news in pipeline.memory.unscored.values():
            scorer.offer(news)
        if self.reviser is not None:
            for news, answered_at in pipeline.memory.unrevised.values():
                self.reviser.resume(news, answered_at)
        news_feeds = make_news_producer(self.config, self.clock, self._rng)
        return Sources(market, gateway, news_feeds, self.model, scorer, self.reviser, needed), market

    def _unscored(self, news_id: str) -> News | None:
        """Return a headline without a sentiment, or None if it can't vote."""
        pipeline = self.pipeline
        headline = pipeline.engine.signals.waiting(news_id)
        can_vote = headline is not None and headline.actionable and headline.symbols
        return pipeline.memory.unscored.get(news_id) if can_vote else None

    async def _open_control_port(self, stack: AsyncExitStack) -> None:
        """Open the control port if one is configured."""
        control = self.config.control
        if control.address:
            host, port = split_address(control.address)
            token = make_token(self.config.token_file())
            self.control_port = await stack.enter_async_context(
                control_port(host, port, token, self._answer, control, self.listeners)
            )
            _log.info("commands are taken", host=host, port=self.control_port)

    async def _answer(self, request: ControlRequest, by: str) -> Any:
        if request.do == "dashboard":
            if self.login_link is None:
                raise UsageError("this agent serves no dashboard", hint="dashboard.enabled = true")
            return {"url": self.login_link()}
        return self.status() if request.do == "status" else await self.command(request.do, request.args, by)


def _needed_now(engine: TradingEngine, config: Config) -> dict[str, int]:
    """Return how many bars by interval the strategies need that decide now."""
    needed: dict[str, int] = {}
    engines = engines_of(engine)
    if not all(one.version for one in engines.values()):
        needed = needed_bars(config)
    for one in engines.values():
        for interval, bars in bars_needed(one.version).items():
            needed[interval] = max(int(bars), needed.get(interval, 0))
    return needed
