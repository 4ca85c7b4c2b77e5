"""One seed: lives of the real daemon, one after the other, in a market and on a network where much goes wrong, until all is quiet."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final, NamedTuple
from unittest.mock import patch

from agent.config import Config, parse
from agent.errors import StoreError
from agent.events import Decision, Event
from agent.feeds.bybit import stream
from agent.feeds.rss import producer as news_producer
from agent.live import daemon as daemon_module
from agent.live import session
from agent.live.core import Core
from agent.live.daemon import Daemon
from agent.live.words import sentence
from agent.store.runs import Run, RunStatus
from agent.verify import verify
from models.sentiment.scorer import Score
from tests.crash.script import Words
from tests.simulation.invariants import Invariants, Violation, hold
from tests.simulation.loop import VirtualLoop
from tests.simulation.market import Market, Rest
from tests.simulation.prices import SYMBOLS
from tests.simulation.store import Died, Store
from tests.simulation.weather import Blackout, Weather
from tests.simulation.wire import FEEDS, NoSession, Wire

MINUTES: Final = 15  # of faults
QUIET: Final = 5  # minutes after the last fault, by when everything must be mended
HISTORY: Final = 40  # bars before the first
STEPS: Final = 400_000  # of the loop; a seed that takes more never ends


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


class Clock:
    """The agent's clock: the venue's, and wrong by `skew` ms."""

    def __init__(self, market: Market) -> None:
        self.skew = 0
        self._market = market

    def now(self) -> int:
        """UTC ms."""
        return self._market.now() + self.skew


class World:
    """Everything of one seed. `say` takes lines of the trace."""

    def __init__(self, seed: int, folder: Path, *, keep: int) -> None:
        self.trace: deque[str] = deque(maxlen=keep)
        self.dice = random.Random(seed)
        self.weather = Weather.draw(self.dice)
        self.loop = VirtualLoop(self.dice, freeze=self.weather.freeze, thread=self.dice.choice((0.0, 0.02, 0.5)))
        self.market = Market(self.loop, self.dice, self.weather, HISTORY, MINUTES, QUIET + 2, self.say)
        self.wire = Wire(self.market, self.dice, MINUTES * 60.0, self.say)
        self.clock = Clock(self.market)
        self.store = Store(folder, self.dice, self.weather, self.say)
        self.config = settings(self.dice, folder)
        self.seed = seed
        self.folder = folder
        self.lives = 0
        self.gave_up = False
        self.dropped = False  # whether a headline may have been dropped from a full queue
        self.invariants: Invariants
        self.violation: Violation | None = None
        for _ in range(self.dice.choice((0, 0, 1, 3))):
            begin = self.dice.uniform(0, MINUTES * 60)
            self.market.blackouts.append(Blackout(begin, min(begin + self.dice.choice((5, 40, 300)), MINUTES * 60)))

    def say(self, words: str) -> None:
        """A line of the trace."""
        if self.trace.maxlen != 0:
            self.trace.append(f"{self.loop.time():10.3f}  {words}")

    def bury(self) -> None:
        """End what still runs; it has no effect any more."""
        self.store.dead = True
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))

    # -- the whole -----------------------------------------------------------------------------------------------------

    async def live(self) -> Run:
        """Lives until the faults end, then one that must mend everything; the run, complete. Raises Violation."""
        end = MINUTES * 60.0
        while self.loop.time() < end:
            await self._life(until=min(end, self.loop.time() + self._span()))
            await asyncio.sleep(self.dice.choice((0.1, 2, 30, 150)) * self.dice.random())
        self.weather.clear()
        self.loop.freeze = 0.0
        self.clock.skew = max(-500, min(500, self.clock.skew))
        self.say("quiet")
        return await self._last_life()

    def _span(self) -> float:
        return self.dice.choice((3, 60, 300, 900, 3600)) * self.dice.random()

    def _begin(self, *, complete: bool = False) -> tuple[Daemon, asyncio.Event, asyncio.Task[Run], asyncio.Task[None]]:
        self.lives += 1
        self.say(f"life {self.lives} begins")
        self.store.dead = False
        self.invariants = Invariants(self.config, self.market, given_up=self.lives > 1)
        daemon = Daemon(
            self.config, self.store, load_model=lambda _: _Model(self), clock=self.clock, rng=random.Random(self.dice.random())
        )
        stop = asyncio.Event()
        return (
            daemon,
            stop,
            self.loop.create_task(daemon.run(stop, complete=complete)),
            self.loop.create_task(self._person(daemon)),
        )

    async def _life(self, until: float) -> None:
        """It ends by itself where the store fails, by death or by a stop."""
        daemon, stop, life, person = self._begin()
        await asyncio.wait({life}, timeout=until - self.loop.time())
        if not life.done() and self.dice.random() < 0.25:
            self.say("stop")
            stop.set()
            await asyncio.wait({life}, timeout=60)
        await self._end(daemon, life, person)

    async def _end(self, daemon: Daemon, life: asyncio.Task[Run], person: asyncio.Task[None]) -> None:
        if not life.done():
            self.say("killed")
            self.store.dead = True
        person.cancel()
        while not life.done():
            life.cancel()
            await asyncio.wait({life}, timeout=5)
        self.store.dead = True
        self._remember_drops(daemon)
        if self.violation:
            raise self.violation
        if not life.cancelled() and (error := life.exception()) and not isinstance(error, Died | StoreError):
            raise error

    async def _last_life(self) -> Run:
        daemon, stop, life, person = self._begin(complete=True)
        person.cancel()
        end = self.loop.time() + QUIET * 60
        await asyncio.wait({life}, timeout=end - self.loop.time())
        if life.done():
            await self._end(daemon, life, person)
            raise Violation(f"the last life ended by itself: {life.exception() or life.result()}")
        self._check_mended(daemon)
        stop.set()
        run = await life
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
            hold(last >= due - 60_000 * open_or_withheld, f"{symbol}: the last bar is that of {last}, and {due} was due")
        hold(not daemon.core.engine.risk.warming, "the history is still being read")
        if daemon.config.strategy.name == "sentiment" or "Restless" in daemon.config.strategy.name:
            expired = self.invariants.news.keys() - self.invariants.scored
            hold(not expired or self.dropped, f"headlines that nobody scored: {sorted(expired)}")
            had = {news.title for news in self.invariants.news.values()}
            missing = [item.title for item in self.wire.items if item.title not in had]
            hold(not missing or self.dropped, f"headlines that were never heard of: {missing}")
            hold(len(had) == len(self.invariants.news), "a headline twice under two ids")

    def _remember_drops(self, daemon: Daemon) -> None:
        if hasattr(daemon, "queue"):
            self.dropped |= any(kind.dropped for kind in daemon.queue.stats().kinds.values())
            self.dropped |= daemon._model is not None and daemon._model.health.dropped > 0

    async def _person(self, daemon: Daemon) -> None:
        """Says something now and then, and turns the clock."""
        while True:
            await asyncio.sleep(self.dice.expovariate(1 / 200))
            if self.dice.random() < 0.2:
                self.clock.skew = round(self.dice.gauss(0, self.dice.choice((50, 1_000, 20_000))))
                self.say(f"clock wrong by {self.clock.skew} ms")
            elif hasattr(daemon, "core"):
                action = self.dice.choice(("pause", "halt", "flatten", "resume", "resume"))
                self.say(f"a person says {action}")
                self.loop.create_task(daemon.command(action, by="person"))


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


def settings(dice: random.Random, folder: Path) -> Config:
    """A configuration out of the seed: bounds small and large, strategies of all kinds."""
    strategy = dice.choice(
        (
            {"name": "tests.simulation.strategy:Restless", "params": {"every": dice.choice((1, 2, 6))}},
            {"name": "tests.simulation.strategy:Restless", "params": {"every": 3, "largest": 0.9}},
            {"name": "sma_cross", "params": {"fast": 1, "slow": 3, "weight": 0.4, "allow_short": True}},
            {"name": "sentiment", "params": {"position_size": 0.3, "allow_short": True, "stop": 0.01, "take_profit": 0.02}},
        )
    )
    return parse(
        {
            "market": {"symbols": SYMBOLS},
            "strategy": strategy,
            "signals": {"half_life": "3m", "window": "10m"},
            "account": {"leverage": dice.choice((1, 3, 20))},
            "risk": {
                "max_position": dice.choice((0.3, 1.0)), "max_order": dice.choice((0.3, 1.0)), "max_leverage": dice.choice((0.5, 1.5)),
                "max_orders_per_minute": dice.choice((1, 3, 60)), "max_daily_loss": dice.choice((0.02, 0.5)),
                "max_drawdown": dice.choice((0.04, 0.9)), "stale_after": dice.choice(("30s", "5m")),
            },
            "paper": {
                "funding_interval": "5m", "funding_rate": "0.001", "max_participation": dice.choice((0.001, 0.1)),
                "limit_fill": dice.choice(("through", "touch")), "latency": dice.choice((0, 250, 90_000)),
            },
            "bybit": {"endpoint": "http://127.0.0.1:9", "warmup_bars": dice.choice((0, 5, 30)), "backfill_timeout": "60s"},
            "news": {"feeds": [{"url": url, "name": url[-7:], "interval": "30s"} for url in FEEDS], "backlog_age": "1h", "retry": {"first": "10s", "ceiling": "1m"}},
            "live": {
                "folder": str(folder), "queue": dice.choice((2, 100, 10_000)), "queue_news": dice.choice((2, 1_000, 1_000)),
                "batch": dice.choice((1, 5, 1_000)), "open_bars_every": dice.choice((0, 20_000)),
                "score_batch": dice.choice((1, 4, 32)), "score_wait": dice.choice((1, 500)),
            },
        },
        where="tests/simulation/world.py",
    )  # fmt: skip


class _CheckedCore(Core):
    """The core, with the invariants of its world looked at around every event."""

    world: World

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.invariants = self.world.invariants
        self.invariants.engine = self.engine
        self._witnesses.append(self)  # from the first event of the journal on
        self.watchers.append(self)

    def _fold(self) -> None:
        self._folding = True
        super()._fold()
        self._folding = False
        self.invariants.live = True

    def event(self, seq: int, event: Event) -> None:
        """The product's watchers hear of events that are not handled yet; what follows happens in `_handle`."""

    def decision(self, seq: int, decision: Decision) -> None:
        """Checked as it is taken."""
        if self.invariants.live:
            self.world.say(f"    {sentence(decision)}")
        self._checked(self.invariants.decision, decision)

    def _handle(self, seq: int, event: Event) -> None:
        if self.invariants.live:
            self.world.say(f"{seq}: {sentence(event)}")
        self._checked(self.invariants.before, event)
        super()._handle(seq, event)
        self._checked(self.invariants.after, event)

    def _checked(self, check: Callable[[Any], None], what: Event | Decision) -> None:
        try:
            check(what)
        except Violation as violation:
            self.world.violation = self.world.violation or violation
            raise


@contextmanager
def _surroundings(world: World) -> Iterator[None]:
    """The product's boundaries to the outside lead into the simulated world."""
    runs = f"seed-{world.seed}"

    @asynccontextmanager
    async def no_socket(*_: object) -> Any:
        yield

    with ExitStack() as stack:
        for target, name, substitute in (
            (stream, "connect", world.market.connect),
            (news_producer, "fetch", world.wire.fetch),
            (news_producer, "aiohttp", NoSession),
            (daemon_module, "Core", type("_Core", (_CheckedCore,), {"world": world})),
            (daemon_module, "instance_lock", lambda _: nullcontext()),
            (daemon_module, "control_socket", no_socket),
            (session, "new_run_id", lambda: runs),
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
            run = world.loop.run_until_complete(world.live())
            hold(run.status is RunStatus.COMPLETE, f"the run ended {run.status.value}")
            world.store.dead = False
            events = run.events
            hold(verify(world.store, run).identical, "verify finds another decision")
            fingerprint = f"{run.chain_head} {run.events} {world.loop.steps} {world.loop.time():.6f}"
        except Exception as error:  # noqa: BLE001 - whatever a seed breaks is its result
            failure = f"{type(error).__name__}: {error}"
            fingerprint = f"{failure} {world.loop.steps} {world.loop.time():.6f}"
            world.say(failure)
        finally:
            world.bury()
    books = world.invariants
    return Outcome(seed, failure, fingerprint, world.lives, events, len(books.orders), len(books._fills), list(world.trace))
