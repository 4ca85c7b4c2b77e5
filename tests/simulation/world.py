"""One seed: lives of the real daemon, one after the other, in a market and on a network where much goes wrong, until all is quiet."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple
from unittest.mock import patch

from agent.core.errors import SafetyError, StoreError, VenueError
from agent.core.events import RiskState
from agent.core.risk import RESUME_FROM_KILL
from agent.live import daemon as daemon_module
from agent.live import run_record, session, venue_rules
from agent.live.app import make_agent
from agent.live.daemon import Daemon
from agent.live.market_data import public_stream
from agent.live.news import news_producer as news_producer
from agent.replay.verify import verify
from agent.store.queries import find_run
from agent.store.runs import Run, RunStatus
from models.sentiment.serve.scorer import Score
from tests.crash.script import Words
from tests.simulation.books import PaperBooks, RecordGap, VenueBooks
from tests.simulation.clocks import Clocks
from tests.simulation.invariants import AHEAD, Invariants, Violation, hold
from tests.simulation.loop import VirtualLoop
from tests.simulation.market import Market, Rest
from tests.simulation.port import Port
from tests.simulation.prices import SYMBOLS
from tests.simulation.settings import settings
from tests.simulation.store import Died, Store
from tests.simulation.venue import Venue
from tests.simulation.weather import Blackout, Weather
from tests.simulation.wire import InlineParsers, NoAccess, Wire
from tests.simulation.witness import CheckedCore, CheckedQueue

MINUTES: Final = 15  # of faults
QUIET: Final = 5  # minutes after the last fault, by when everything must be mended
# minutes that a suspension and a wait after it may last beyond the faults: the market has bars for them
OVERRUN: Final = 20
SETTLED: Final = 4  # minutes within which a moment must come in which ledger and venue agree
HISTORY: Final = 40  # bars before the first


class Outcome(NamedTuple):
    """What came of a seed; `failure` is empty where every invariant held. `fingerprint` is the same whenever it is run."""

    seed: int
    failure: str
    fingerprint: str
    lives: int
    events: int
    orders: int
    fills: int
    trace: Sequence[str]


class Life(NamedTuple):
    """One process of the agent, and who talks to it."""

    daemon: Daemon
    stop: asyncio.Event
    run: asyncio.Task[Run]
    person: asyncio.Task[None]


class World:
    """Everything of one seed. `say` takes lines of the trace."""

    def __init__(self, seed: int, folder: Path, *, keep: int) -> None:
        self.trace: deque[str] = deque(maxlen=keep)
        self.dice = random.Random(seed)
        self.weather = Weather.draw(self.dice)
        self.loop = VirtualLoop(
            self.dice, freeze=self.weather.freeze, thread=self.dice.choice((0.0, 0.02, 0.5))
        )
        self.market = Market(
            self.loop, self.dice, self.weather, HISTORY, MINUTES, OVERRUN + QUIET + SETTLED + 2, self.say
        )
        self.wire = Wire(self.market, self.dice, MINUTES * 60.0, self.say)
        self.clocks = Clocks(self.loop, self.dice, self.weather, self.market, self.say)
        self.store = Store(folder, self.dice, self.weather, self.say, seed=seed, seconds=self.loop.time)
        self.config = settings(self.dice, folder)
        self.venue: Venue | None = None  # where orders go, on paper nowhere
        if self.config.execution.mode == "testnet":
            self.venue = Venue(
                self.market, self.dice, self.weather, (MINUTES + QUIET + SETTLED) * 60.0, self.say
            )
            refuses = self.config.execution.testnet.foreign == "refuse"
            if not refuses or self.dice.random() < 0.3:
                self.venue.invite_strangers(MINUTES * 60.0, trade=not refuses)
        self.archivist = random.Random(f"backups of {seed}")
        self.backup = folder / "older.db"
        self.backed_up = self.restored = False
        self.seed = seed
        self.folder = folder
        self.lives = 0
        self.dropped = False  # whether a headline may have been dropped from a full queue
        self.invariants: Invariants
        self.port: Port | None = None  # the present life's
        self.violation: Violation | None = None
        self._turning: asyncio.Task[Any]
        self._said: list[asyncio.Task[Any]] = []  # a person's words to the present life
        for _ in range(self.dice.choice((0, 0, 1, 3))):
            begin = self.dice.uniform(0, MINUTES * 60)
            self.market.blackouts.append(
                Blackout(begin, min(begin + self.dice.choice((5, 40, 300)), MINUTES * 60))
            )

    def say(self, words: str) -> None:
        """A line of the trace."""
        if self.trace.maxlen != 0:
            self.trace.append(f"{self.loop.time():10.3f}  {words}")

    def checked(self, check: Callable[[Any], None], what: Any) -> None:
        """Check it, and remember the first violation: whoever it is raised through may live on."""
        try:
            check(what)
        except Violation as violation:
            self.violation = self.violation or violation
            raise

    def _die(self) -> None:
        """From here on the life has no effect."""
        self.store.dead = True
        self.loop.end_threads()
        if self.port is not None:
            self.port.dead = True

    def bury(self) -> None:
        """End what still runs."""
        self._die()
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))

    # -- the whole -----------------------------------------------------------------------------------------------------

    async def live(self) -> Run | None:
        """Lives until the faults end, then one that must mend everything; the run, complete. Raises Violation.

        None for a seed in which the store lost what had been sent to a venue: it ends with a life that must trade nothing.
        """
        end = MINUTES * 60.0
        self._turning = self.loop.create_task(self.clocks.turn())
        survives = self.dice.random() < 0.5  # the life in which the faults end
        while (begun := self.loop.time()) < end:
            until = begun + self.dice.choice((3, 60, 300, 900, 3600)) * self.dice.random()
            last = survives and until >= end
            life = self._begin(complete=last)
            await self._live(life, min(until, end), may_stop=not last)
            if last and not life.run.done() and self.market.banned_until < end:
                self._calm()
                await asyncio.wait({life.run}, timeout=60)  # what it waits for may have been too long already
                if not life.run.done():
                    return await self._mend(life)
            await self._end(life)
            self.store.between_lives(sends=self.venue is not None)
            if self.venue is not None and self.store.lost:
                await self._live_with_a_gap()
                return None
            self._perhaps_restore()
            await asyncio.sleep(self.dice.choice((0.1, 2, 30, 150)) * self.dice.random())
            if self.dice.random() < 0.3:  # when a bar closes, most is under way
                await asyncio.sleep(60 - self.loop.time() % 60 + self.dice.uniform(-0.5, 1.5))
        self._calm()
        return await self._mend(self._begin(complete=True))

    async def _live_with_a_gap(self) -> None:
        """Orders are at the venue that the store has lost: the life must say so, and open nothing, or refuse to begin."""
        self._calm()
        life = self._begin(gap=True)
        life.person.cancel()
        await asyncio.wait({life.run}, timeout=QUIET * 60)
        refused = life.run.done() and isinstance(life.run.exception(), SafetyError | VenueError)
        if life.run.done() and not refused:
            raise Violation("the life after the gap ended by itself") from life.run.exception()
        hold(refused or not self.store.lost, f"{self.store.lost} events are lost, and nobody has noticed")
        if refused:
            self._die()
            return
        risk = life.daemon.core.engine.risk
        hold(risk.state is not RiskState.ACTIVE, f"{risk.state.value} by {risk.rule}, though events are lost")
        await self._end(life)

    def _perhaps_restore(self) -> None:
        """Between two lives an older copy of the store may take its place: what happened since then is at the venue alone."""
        dice = self.archivist
        if self.venue is None or self.restored:
            return
        if self.backed_up and dice.random() < 0.2:
            self.say("an older store is restored")
            self.store.put_back(self.backup)
            self.restored = self.dropped = True
        elif dice.random() < 0.3:
            self.backed_up = self.store.back_up(self.backup) or self.backed_up

    def _calm(self) -> None:
        self.say("quiet")
        self._turning.cancel()
        self.weather.clear()
        self.store.clear_faults()
        self.loop.freeze = 0.0
        # Else it stays wrong, and that must not matter as long as the other two sources agree
        if self.dice.random() < 0.7 or self.clocks.stood_still:
            self.clocks.set(max(-500, min(500, self.clocks.skew)))

    def _begin(self, *, complete: bool = False, gap: bool = False) -> Life:
        self.lives += 1
        self.say(f"life {self.lives} begins")
        self.store.dead = False
        port = None
        clock = self.clocks.disciplined()
        if self.venue is None:
            self.invariants = PaperBooks(self.config, self.market, given_up=self.lives > 1)
        else:
            books = RecordGap if gap else VenueBooks
            self.invariants = books(
                self.venue,
                self.folder / "store.db",
                self.restored,
                self.config,
                self.market,
                given_up=self.lives > 1,
            )
            port = self.port = Port(
                self.venue,
                self.market,
                clock,
                self.config.execution.testnet,
                partial(self.checked, self.invariants.leaves),
            )
        daemon = make_agent(
            self.config,
            self.store,
            load_model=lambda _: _Model(self),
            clock=clock,
            rng=random.Random(self.dice.random()),
            port=port,
        )
        stop = asyncio.Event()
        run = self.loop.create_task(daemon.run(stop, complete=complete))
        return Life(daemon, stop, run, self.loop.create_task(self._person(daemon)))

    async def _live(self, life: Life, until: float, *, may_stop: bool) -> None:
        """It ends by itself where the store fails, by a stop, or lives on."""
        await asyncio.wait({life.run}, timeout=until - self.loop.time())
        if not life.run.done() and may_stop and self.dice.random() < 0.25:
            self.say("stop")
            life.stop.set()
            await asyncio.wait({life.run}, timeout=60)

    async def _end(self, life: Life) -> None:
        if not life.run.done():
            self.say("killed")
            self._die()
        for task in (life.person, *self._said):
            task.cancel()
        self._said.clear()
        while not life.run.done():
            life.run.cancel()
            await asyncio.wait({life.run}, timeout=5)
        self._die()
        self._remember_drops(life.daemon)
        if self.violation:
            raise self.violation
        if not life.run.cancelled() and (error := life.run.exception()) and not self._may_end(error):
            raise error

    def _may_end(self, error: BaseException) -> bool:
        """Whether an error is a reason to end: the store, a venue that isn't there, an account that isn't ours alone."""
        if isinstance(error, SafetyError):
            strangers = self.venue.strangers() if self.venue is not None else []
            return bool(strangers) and error.message.startswith("the account is not empty")
        return isinstance(error, Died | StoreError | VenueError)

    async def _mend(self, life: Life) -> Run:
        """All faults are over."""
        life.person.cancel()
        end = self.loop.time() + QUIET * 60
        await asyncio.wait({life.run}, timeout=end - self.loop.time())
        if life.run.done():
            await self._end(life)
            raise Violation(f"the last life ended by itself: {life.run.exception() or life.run.result()}")
        if self.violation:
            raise self.violation
        self._check_mended(life.daemon)
        await self._settled()
        life.stop.set()
        run = await life.run
        if self.violation:
            raise self.violation
        return run

    def _check_mended(self, daemon: Daemon) -> None:
        """All faults were over long ago: nothing may be missing any more."""
        self._remember_drops(daemon)
        now, memory = self.market.now(), daemon.core.memory
        due = now - now % 60_000 - 60_000  # the bar before the running one
        for symbol in SYMBOLS:
            last = memory.bars.get((symbol, 60_000), 0)
            open_or_withheld = (symbol, due) in self.market.withheld or now % 60_000 < 15_000
            hold(
                last >= due - 60_000 * open_or_withheld,
                f"{symbol}: the last bar is that of {last}, and {due} was due",
            )
        clock = daemon.status().clock
        expected = self.clocks.expected
        if memory.now > now + AHEAD:  # the run began with a wrong clock while the venue could not be reached
            expected = {"run"}
        hold(
            clock.trouble in expected,
            f"the system clock is wrong by {self.clocks.skew} ms, and the status has {clock}",
        )
        hold(not clock.trouble or self.invariants.alarms, f"no alarm: {clock}")
        hold(not daemon.core.engine.risk.warming, "the history is still being read")
        if daemon.config.strategy.name == "sentiment" or "Restless" in daemon.config.strategy.name:
            expired = self.invariants.news.keys() - self.invariants.scored
            hold(not expired or self.dropped, f"headlines that nobody scored: {sorted(expired)}")
            had = {news.title for news in self.invariants.news.values()}
            missing = [item.title for item in self.wire.items if item.title not in had]
            hold(not missing or self.dropped, f"headlines that were never heard of: {missing}")
            hold(len(had) == len(self.invariants.news), "a headline twice under two ids")

    async def _settled(self) -> None:
        """At a venue something is always under way; but a moment comes in which it has all been told."""
        books, differs = self.invariants, ""
        if not isinstance(books, VenueBooks):
            return
        for _ in range(SETTLED * 60):
            if not (differs := books.differs()):
                return
            await asyncio.sleep(1)
        raise Violation(differs)

    def _remember_drops(self, daemon: Daemon) -> None:
        if hasattr(daemon, "queue"):
            self.dropped |= any(kind.dropped for kind in daemon.queue.stats().kinds.values())
            self.dropped |= daemon.model is not None and daemon.model.health.dropped > 0

    async def _person(self, daemon: Daemon) -> None:
        """Says something now and then."""
        while True:
            await asyncio.sleep(self.dice.expovariate(1 / 200))
            if daemon.started:
                action = self.dice.choice(("pause", "halt", "flatten", "kill", *["resume"] * 6))
                self.say(f"a person says {action}")
                args = {
                    "resume": {"confirm": RESUME_FROM_KILL},
                    "kill": self.dice.choice(({}, {"flatten": "true"})),
                }
                word = self.loop.create_task(daemon.command(action, args.get(action), by="person"))
                # perhaps the store can't be written
                word.add_done_callback(lambda task: task.cancelled() or task.exception())
                self._said.append(word)


class _Model(Words):
    """A model that is slow, or fails."""

    def __init__(self, world: World) -> None:
        self._world = world

    def score(self, texts: Sequence[str]) -> list[Score]:
        """As `Words`."""
        if self._world.dice.random() < self._world.weather.model_fails:
            self._world.say("the model fails")
            raise RuntimeError("out of memory")
        return super().score(texts)


@contextmanager
def _surroundings(world: World) -> Iterator[None]:
    """The product's boundaries to the outside lead into the simulated world."""
    runs = f"seed-{world.seed}"

    @asynccontextmanager
    async def no_socket(*_: object) -> Any:
        yield

    async def no_rules(*_: object, **__: object) -> Any:
        raise VenueError("no trading rules in this world: those that ship apply")

    with ExitStack() as stack:
        for target, name, substitute in (
            (public_stream, "connect", world.market.connect),
            (news_producer, "fetch", world.wire.fetch),
            (news_producer, "FeedAccess", NoAccess),
            (news_producer, "ParserPool", InlineParsers),
            (daemon_module, "Core", type("_Core", (CheckedCore,), {"world": world})),
            (daemon_module, "EventQueue", type("_Queue", (CheckedQueue,), {"world": world})),
            (daemon_module, "instance_lock", lambda _: nullcontext()),
            (run_record, "store_lock", lambda *_: nullcontext()),
            (daemon_module, "control_socket", no_socket),
            (venue_rules, "fetch_rules", no_rules),
            (session, "new_run_id", lambda: runs),
            (session, "new_incarnation", lambda: f"{world.dice.getrandbits(128):032x}"),
        ):
            stack.enter_context(patch.object(target, name, substitute))
        stack.enter_context(patch("ccxt.async_support.bybit", lambda options: Rest(world.market)))
        yield


def simulate(seed: int, folder: Path, *, keep: int = 0) -> Outcome:
    """Run a seed in an empty folder; the last `keep` lines of the trace are kept."""
    world = World(seed, folder, keep=keep)
    failure, fingerprint, events = "", "", 0
    asyncio.set_event_loop(world.loop)
    with closing(world.store), closing(world.loop), _surroundings(world):
        try:
            ended = world.loop.run_until_complete(world.live())
            world.store.dead = False
            run = ended or find_run(world.store)
            hold(ended is None or run.status is RunStatus.COMPLETE, f"the run ended {run.status.value}")
            events = run.events
            if not world.store.lost:  # a life that refused to begin has reported nothing
                hold(verify(world.store, run).identical, "verify finds another decision")
            fingerprint = f"{run.chain_head} {run.events} {world.loop.steps} {world.loop.time():.6f}"
        except Exception as error:  # noqa: BLE001 - whatever a seed breaks is its result
            failure = f"{type(error).__name__}: {error}"
            fingerprint = f"{failure} {world.loop.steps} {world.loop.time():.6f}"
            world.say(failure)
        finally:
            world.bury()
    books = world.invariants
    return Outcome(
        seed,
        failure,
        fingerprint,
        world.lives,
        events,
        len(books.orders),
        len(books.fills),
        list(world.trace),
    )
