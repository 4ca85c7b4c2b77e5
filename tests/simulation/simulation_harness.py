"""Runs one seed: consecutive lives of the real daemon with faults, then a fault-free end."""

from __future__ import annotations

import asyncio
import json
import random
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from tempfile import gettempdir
from typing import Any, Final, NamedTuple

from agent.core.errors import SafetyError, StoreUnavailable, TapewireError, VenueError
from agent.core.events import RiskState
from agent.core.risk import RESUME_FROM_KILL
from agent.live.app import make_agent
from agent.live.daemon import Daemon
from agent.replay.verify import verify
from agent.store.queries import find_run
from agent.store.runs import Run, RunStatus
from agent.system.atomic import replaced_file
from models.sentiment.serve.headline_score import HeadlineScore
from tests.crash.market_script import KeywordModel
from tests.simulation import restless_strategy
from tests.simulation.boundaries import patched_boundaries
from tests.simulation.clocks import Clocks
from tests.simulation.failing_store import FailingStore, ProcessDied, SimulatedFailure
from tests.simulation.fault_rates import FaultRates, Outage
from tests.simulation.generated_data import SYMBOLS
from tests.simulation.invariants import AHEAD, Invariants, Violation, require
from tests.simulation.ledger_checks import PaperInvariants, RecordGapInvariants, VenueInvariants
from tests.simulation.random_config import random_config
from tests.simulation.simulated_feeds import SimulatedFeeds
from tests.simulation.simulated_market import SimulatedMarket
from tests.simulation.simulated_port import SimulatedPort
from tests.simulation.simulated_venue import SimulatedVenue
from tests.simulation.sleeve_checks import (
    SleeveGapInvariants,
    SleeveInvariants,
    VenueSleeveInvariants,
    random_command,
    with_sleeves,
)
from tests.simulation.virtual_loop import VirtualLoop

MINUTES: Final = 15  # of faults
QUIET: Final = 5  # minutes after the last fault within which the agent must recover
OVERRUN: Final = (
    20  # minutes by which a suspension and a wait after it may exceed MINUTES; the market has bars for them
)
SETTLED: Final = 4  # minutes within which ledger and venue must agree at some moment
HISTORY: Final = 40  # bars before the start
_CHANGING: Final = 5  # remainder of the seeds that change the strategy
_STRATEGIES: Final = (
    "sma_cross",
    "buy_and_hold",
    "sentiment",
    "tests.simulation.restless_strategy:RestlessStrategy",
)
_FLATTENS: Final = 0.2  # share of the changes that close positions
SLOW: Final = "slow"  # the model that revises the answers of the first one


class SeedOutcome(NamedTuple):
    """Result of a seed. `failure` is empty if no invariant was violated. `fingerprint` is reproducible."""

    seed: int
    failure: str
    fingerprint: str
    lives: int
    events: int
    orders: int
    fills: int
    trace: Sequence[str]


class Life(NamedTuple):
    """A life: one process of the agent, and the task that sends commands to it."""

    daemon: Daemon
    stop: asyncio.Event
    run: asyncio.Task[Run]
    operator: asyncio.Task[None]


class SimulationHarness:
    """Environment of one seed."""

    def __init__(self, seed: int, folder: Path, *, keep: int, sleeves: bool = False) -> None:
        self.trace: deque[str] = deque(maxlen=keep)
        self.rng = random.Random(seed)
        self.rates = FaultRates.draw(self.rng)
        self.loop = VirtualLoop(self.rng, freeze=self.rates.freeze, thread=self.rng.choice((0.0, 0.02, 0.5)))
        self.market = SimulatedMarket(
            self.loop, self.rng, self.rates, HISTORY, MINUTES, OVERRUN + QUIET + SETTLED + 2, self.log
        )
        self.feeds = SimulatedFeeds(self.market, self.rng, MINUTES * 60.0, self.log)
        self.clocks = Clocks(self.loop, self.rng, self.rates, self.market, self.log)
        self.store = FailingStore(folder, self.rng, self.rates, self.log, seed=seed, seconds=self.loop.time)
        self.config = random_config(self.rng, folder)
        if seed % 4 == 1:
            model = {"revise_with": SLOW, "revise_within": 1_000 if seed % 8 == 1 else 30_000}
            self.config = self.config.model_copy(update={"model": self.config.model.model_copy(update=model)})
        self.sleeve_rng = random.Random(f"sleeves of {seed}") if sleeves else None
        if self.sleeve_rng is not None:
            self.config = with_sleeves(self.config, self.sleeve_rng)
        self.venue: SimulatedVenue | None = None  # None in paper mode
        if self.config.execution.mode == "testnet":
            self.venue = SimulatedVenue(
                self.market, self.rng, self.rates, (MINUTES + QUIET + SETTLED) * 60.0, self.log
            )
            refuses = self.config.execution.testnet.foreign == "refuse"
            if not refuses or self.rng.random() < 0.3:
                self.venue.schedule_foreign_activity(MINUTES * 60.0, trade=not refuses)
        self.backup_rng = random.Random(f"backups of {seed}")
        self.backup = folder / "older.db"
        self.backed_up = self.restored = False
        self.seed = seed
        self.folder = folder
        self.lives = 0
        self.dropped = False  # a headline may have been dropped from a full queue
        self.invariants: Invariants
        self.port: SimulatedPort | None = None  # port of the current life
        self.violation: Violation | None = None
        self._clock_task: asyncio.Task[Any]
        self._commands: list[asyncio.Task[Any]] = []  # commands to the current life
        self._changes = 0  # of the strategy that were requested
        for _ in range(self.rng.choice((0, 0, 1, 3))):
            begin = self.rng.uniform(0, MINUTES * 60)
            self.market.outages.append(
                Outage(begin, min(begin + self.rng.choice((5, 40, 300)), MINUTES * 60))
            )

    def log(self, words: str) -> None:
        """Append a line to the trace."""
        if self.trace.maxlen != 0:
            self.trace.append(f"{self.loop.time():10.3f}  {words}")

    def _load_model(self, path: str) -> _FlakyModel:
        return _Reviser(self) if path == SLOW else _FlakyModel(self)

    def run_check(self, check: Callable[[Any], None], what: Any) -> None:
        """Run a check and keep the first violation, since the code through which it is raised may
        continue.
        """
        try:
            check(what)
        except Violation as violation:
            self.violation = self.violation or violation
            raise

    def _kill_life(self) -> None:
        """Disconnect the life from the environment, so that nothing it still does has an effect."""
        self.store.dead = True
        self.loop.cancel_threads()
        if self.port is not None:
            self.port.dead = True

    def shut_down(self) -> None:
        """End all remaining tasks."""
        self._kill_life()
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))

    # -- the run --------------------------------------------------------------------------------------------

    async def run(self) -> Run | None:
        """Run lives until the faults end, then one that must recover; return its run. Raises Violation.

        Returns None if the store lost records of orders at a venue; then the last life must not open
        positions.
        """
        end = MINUTES * 60.0
        self._clock_task = self.loop.create_task(self.clocks.disturb())
        survives = self.rng.random() < 0.5  # the life during which the faults end goes on
        while (begun := self.loop.time()) < end:
            until = begun + self.rng.choice((3, 60, 300, 900, 3600)) * self.rng.random()
            last = survives and until >= end
            life = self._start_life(complete=last)
            await self._run_life(life, min(until, end), may_stop=not last)
            if last and not life.run.done() and self.market.banned_until < end:
                self._end_faults()
                await asyncio.wait({life.run}, timeout=60)  # it may already have waited too long
                if not life.run.done():
                    return await self._finish(life)
            await self._end_life(life)
            self.store.between_lives(sends=self.venue is not None)
            if self.venue is not None and self.store.lost:
                await self._run_life_after_loss()
                return None
            self._maybe_restore()
            await asyncio.sleep(self.rng.choice((0.1, 2, 30, 150)) * self.rng.random())
            if self.rng.random() < 0.3:  # most activity is around the close of a bar
                await asyncio.sleep(60 - self.loop.time() % 60 + self.rng.uniform(-0.5, 1.5))
        self._end_faults()
        return await self._finish(self._start_life(complete=True))

    async def _run_life_after_loss(self) -> None:
        """Run a life whose store lost orders that are at the venue: it must report this and open nothing,
        or refuse to start.
        """
        self._end_faults()
        life = self._start_life(gap=True)
        life.operator.cancel()
        await asyncio.wait({life.run}, timeout=QUIET * 60)
        refused = life.run.done() and isinstance(life.run.exception(), SafetyError | VenueError)
        if life.run.done() and not refused:
            raise Violation("the life after the loss ended by itself") from life.run.exception()
        require(refused or not self.store.lost, f"{self.store.lost} events are lost without a report")
        if refused:
            self._kill_life()
            return
        risk = life.daemon.pipeline.engine.risk
        require(
            risk.state is not RiskState.ACTIVE, f"{risk.state.value} by {risk.rule}, although events are lost"
        )
        await self._end_life(life)

    def _maybe_restore(self) -> None:
        """Perhaps replace the store by an older copy; later records exist at the venue only."""
        rng = self.backup_rng
        if self.venue is None or self.restored:
            return
        if self.backed_up and rng.random() < 0.2:
            self.log("older store restored")
            self.store.restore_copy(self.backup)
            self.restored = self.dropped = True
        elif rng.random() < 0.3:
            self.backed_up = self.store.back_up(self.backup) or self.backed_up

    def _end_faults(self) -> None:
        self.log("faults end")
        self._clock_task.cancel()
        self.rates.clear()
        self.store.clear_faults()
        self.loop.freeze = 0.0
        # Otherwise the clock stays wrong, which must not matter if the other two sources agree
        if self.rng.random() < 0.7 or self.clocks.missed_time:
            self.clocks.set_skew(max(-500, min(500, self.clocks.skew)))

    def _start_life(self, *, complete: bool = False, gap: bool = False) -> Life:
        self.lives += 1
        self.log(f"life {self.lives} begins")
        self.store.dead = False
        port = None
        clock = self.clocks.new_disciplined_clock()
        sleeved = self.sleeve_rng is not None
        if self.venue is None:
            on_paper = SleeveInvariants if sleeved else PaperInvariants
            self.invariants = on_paper(self.config, self.market, given_up=self.lives > 1)
        else:
            books: type[VenueInvariants]
            if gap:
                books = SleeveGapInvariants if sleeved else RecordGapInvariants
            else:
                books = VenueSleeveInvariants if sleeved else VenueInvariants
            self.invariants = books(
                self.venue,
                self.folder / "store.db",
                self.restored,
                self.config,
                self.market,
                given_up=self.lives > 1,
            )
            port = self.port = SimulatedPort(
                self.venue,
                self.market,
                clock,
                self.config.execution.testnet,
                partial(self.run_check, self.invariants.before_send),
            )
        daemon = make_agent(
            self.config,
            self.store,
            load_model=self._load_model,
            clock=clock,
            rng=random.Random(self.rng.random()),
            port=port,
        )
        stop = asyncio.Event()
        run = self.loop.create_task(daemon.run(stop, complete=complete))
        return Life(daemon, stop, run, self.loop.create_task(self._operate(daemon)))

    async def _run_life(self, life: Life, until: float, *, may_stop: bool) -> None:
        """Wait until the life ends by itself or `until` is reached; perhaps stop it."""
        await asyncio.wait({life.run}, timeout=until - self.loop.time())
        if not life.run.done() and may_stop and self.rng.random() < 0.25:
            self.log("stop")
            life.stop.set()
            await asyncio.wait({life.run}, timeout=60)

    async def _end_life(self, life: Life) -> None:
        if not life.run.done():
            self.log("killed")
            self._kill_life()
        for task in (life.operator, *self._commands):
            task.cancel()
        self._commands.clear()
        while not life.run.done():
            life.run.cancel()
            await asyncio.wait({life.run}, timeout=5)
        self._kill_life()
        self._record_drops(life.daemon)
        if self.violation:
            raise self.violation
        if not life.run.cancelled() and (error := life.run.exception()) and not self._is_expected_end(error):
            if isinstance(error, TapewireError):
                raise Violation(f"a life ended by itself: {error.message}") from error
            raise error

    def _is_expected_end(self, error: BaseException) -> bool:
        """Return whether an error may end a life: store failure, unavailable venue, or foreign activity in
        the account. No other error of the store may: for example, that the next life decides differently on
        the same events.
        """
        if isinstance(error, SafetyError):
            foreign = self.venue.foreign_orders() if self.venue is not None else []
            return bool(foreign) and error.message.startswith("the account is not empty")
        return isinstance(error, ProcessDied | SimulatedFailure | StoreUnavailable | VenueError)

    async def _finish(self, life: Life) -> Run:
        """Let the last life recover without faults, then stop it and return its run."""
        life.operator.cancel()
        end = self.loop.time() + QUIET * 60
        await asyncio.wait({life.run}, timeout=end - self.loop.time())
        if life.run.done():
            await self._end_life(life)
            raise Violation(f"the last life ended by itself: {life.run.exception() or life.run.result()}")
        if self.violation:
            raise self.violation
        self._check_recovered(life.daemon)
        await self._wait_until_consistent()
        life.stop.set()
        run = await life.run
        if self.violation:
            raise self.violation
        return run

    def _check_recovered(self, daemon: Daemon) -> None:
        """Check that nothing is missing long after the end of the faults."""
        self._record_drops(daemon)
        now, memory = self.market.now(), daemon.pipeline.memory
        due = now - now % 60_000 - 60_000  # the bar before the running one
        for symbol in SYMBOLS:
            last = memory.bars.get((symbol, 60_000), 0)
            open_or_withheld = (symbol, due) in self.market.withheld or now % 60_000 < 15_000
            require(
                last >= due - 60_000 * open_or_withheld, f"{symbol}: the last bar is {last}, expected {due}"
            )
        clock = daemon.status().clock
        expected = self.clocks.expected_trouble
        if memory.now > now + AHEAD:  # the run began with a wrong clock while the venue was unreachable
            expected = {"run"}
        require(
            clock.trouble in expected,
            f"the system clock is wrong by {self.clocks.skew} ms, but the status is {clock}",
        )
        require(not clock.trouble or self.invariants.alarms, f"no clock alarm: {clock}")
        require(not daemon.pipeline.engine.risk.warming_up, "the history is still being read")
        names = [one.name for one in daemon.config.strategies().values()]
        if any(name == "sentiment" or "Restless" in name for name in names):
            unscored = self.invariants.news.keys() - self.invariants.scored
            require(not unscored or self.dropped, f"headlines without a score: {sorted(unscored)}")
            had = {news.title for news in self.invariants.news.values()}
            missing = [item.title for item in self.feeds.items if item.title not in had]
            require(not missing or self.dropped, f"headlines that never arrived: {missing}")
            require(len(had) == len(self.invariants.news), "a headline has two ids")

    async def _wait_until_consistent(self) -> None:
        """Wait until ledger and venue agree. At a venue something is always in flight, but agreement must
        come at some moment.
        """
        books, differences = self.invariants, ""
        if not isinstance(books, VenueInvariants):
            return
        for _ in range(SETTLED * 60):
            if not (differences := books.differences()):
                return
            await asyncio.sleep(1)
        raise Violation(differences)

    def _record_drops(self, daemon: Daemon) -> None:
        if daemon.started:
            self.dropped |= any(kind.dropped for kind in daemon.queue.stats().kinds.values())
            self.dropped |= daemon.model is not None and daemon.model.health.dropped > 0

    async def _operate(self, daemon: Daemon) -> None:
        """Send commands, and in some seeds change the strategy."""
        if self.seed % 8 != _CHANGING:  # in these, all other draws stay as they are
            await self._send_commands(daemon)
        else:
            await asyncio.gather(self._send_commands(daemon), self._change_strategies(daemon))

    async def _send_commands(self, daemon: Daemon) -> None:
        """Send random commands now and then."""
        while True:
            await asyncio.sleep(self.rng.expovariate(1 / 200))
            if daemon.started:
                action = self.rng.choice(("pause", "halt", "flatten", "kill", *["resume"] * 6))
                self.log(f"the operator sends {action}")
                args = {
                    "resume": {"confirm": RESUME_FROM_KILL},
                    "kill": self.rng.choice(({}, {"flatten": "true"})),
                }
                self._send(daemon, action, args.get(action))
                if self.sleeve_rng is not None:
                    self._send(daemon, *random_command(self.sleeve_rng, len(self._commands)))

    def _send(self, daemon: Daemon, action: str, args: dict[str, str] | None) -> None:
        command = self.loop.create_task(daemon.command(action, args, by="person"))
        # writing the store may fail
        command.add_done_callback(lambda task: task.cancelled() or task.exception())
        self._commands.append(command)

    async def _change_strategies(self, daemon: Daemon) -> None:
        """Replace the strategy, or its parameters, now and then."""
        rng = random.Random(f"{self.seed} {self.loop.time()}")
        source = Path(restless_strategy.__file__).read_text()
        while True:
            await asyncio.sleep(rng.expovariate(1 / 120))
            if not daemon.started:
                continue
            self._changes += 1
            # at the same path in each run of a seed: the path is part of the decisions
            file = Path(gettempdir()) / f"tapewire_restless_{self._changes}.py"
            with replaced_file(file) as written:
                written.write(f"{source}\n# {self._changes}\n".encode())
            name = rng.choice((*_STRATEGIES, str(file), str(file)))
            params = {"every": rng.randint(1, 5), "rich": True} if "estless" in name else {}
            args = {"strategy": name, "params": json.dumps(params)}
            action = rng.choice(("use-strategy", "use-strategy", "set-strategy"))
            if action == "set-strategy":
                args = {"params": json.dumps({"every": rng.randint(1, 5)})}
            args |= {"flatten": "true"} if rng.random() < _FLATTENS else {}
            self.log(f"the operator sends {action} {args}")
            command = self.loop.create_task(daemon.command(action, args, by="person"))
            command.add_done_callback(lambda task: task.cancelled() or task.exception())
            self._commands.append(command)


class _FlakyModel(KeywordModel):
    """A model that sometimes fails."""

    def __init__(self, harness: SimulationHarness) -> None:
        self._harness = harness

    def score(self, texts: Sequence[str]) -> list[HeadlineScore]:
        if self._harness.rng.random() < self._harness.rates.model_fails:
            self._harness.log("the model fails")
            raise RuntimeError("out of memory")
        return super().score(texts)


class _Reviser(_FlakyModel):
    """A model that often sees a headline differently, or isn't sure, and sometimes abstains or fails."""

    fingerprint = "slow words"

    def score(self, texts: Sequence[str]) -> list[HeadlineScore]:
        return [
            self._doubt(len(text), score) for text, score in zip(texts, super().score(texts), strict=True)
        ]

    def _doubt(self, number: int, score: HeadlineScore) -> HeadlineScore:
        opposite = HeadlineScore(score.bullish, score.neutral, score.bearish)
        unsure, abstained = HeadlineScore(0.3, 0.3, 0.4), HeadlineScore(1 / 3, 1 / 3, 1 / 3, abstained=True)
        return (opposite, unsure, score, abstained)[number % 4]


def simulate(seed: int, folder: Path, *, keep: int = 0, sleeves: bool = False) -> SeedOutcome:
    """Run a seed in an empty folder and keep the last `keep` lines of the trace; `sleeves` gives the account
    several strategies.
    """
    harness = SimulationHarness(seed, folder, keep=keep, sleeves=sleeves)
    failure, fingerprint, events = "", "", 0
    asyncio.set_event_loop(harness.loop)
    with closing(harness.store), closing(harness.loop), patched_boundaries(harness):
        try:
            ended = harness.loop.run_until_complete(harness.run())
            harness.store.dead = False
            run = ended or find_run(harness.store)
            require(ended is None or run.status is RunStatus.COMPLETE, f"the run ended {run.status.value}")
            events = run.events
            if not harness.store.lost:  # a life that refused to start has reported nothing
                require(verify(harness.store, run).identical, "verify found a different decision")
            fingerprint = f"{run.chain_head} {run.events} {harness.loop.steps} {harness.loop.time():.6f}"
        except Exception as error:  # noqa: BLE001 - any error is the seed's result
            failure = f"{type(error).__name__}: {error}"
            fingerprint = f"{failure} {harness.loop.steps} {harness.loop.time():.6f}"
            harness.log(failure)
        finally:
            harness.shut_down()
    books = harness.invariants
    return SeedOutcome(
        seed,
        failure,
        fingerprint,
        harness.lives,
        events,
        len(books.orders),
        len(books.fills),
        list(harness.trace),
    )
