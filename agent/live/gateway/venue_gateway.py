"""The gateway: what the core decides goes to a venue, what the venue says comes back as events, and nothing is lost or done twice.

It is a producer of events, and it looks on while the core decides. An order is sent once what led to it is journalled and recorded
(`release`), so a process that dies at any moment finds its intents in the core that the journal makes again. Its time is the given
clock's, its waits are the event loop's, its dice are given: over a simulated port it runs on virtual time.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final, Never

import msgspec
import structlog

from agent.config import Config
from agent.core.errors import first_error
from agent.core.events import Amend, Cancel, Command, Decision, Event, Order
from agent.core.venue import SentOrder, VenueExchange
from agent.live.gateway.gateway_health import GatewayHealth
from agent.live.gateway.in_flight_order import Intent, Intents, IntentState
from agent.live.gateway.order_tracker import OrderTracker
from agent.live.gateway.preflight import prepare
from agent.live.gateway.reconciler import Reconciler
from agent.live.gateway.report_translator import ReportTranslator
from agent.live.gateway.throttled_client import ThrottledClient
from agent.live.gateway.venue_port import Execution as VenueExecution
from agent.live.gateway.venue_port import (
    OrderRejected,
    OutcomeUnknown,
    PrivateMessage,
    RateLimited,
    VenueOrder,
    VenuePort,
)
from agent.live.interfaces.producer import Emit, deliver
from agent.system.backoff import Reconnection
from agent.system.clock import Clock

_log: Final = structlog.get_logger(__name__)


class Gateway:
    """Between `ledger`, the core's exchange, which is only read, and the venue behind `port`.

    Let it hear the core as a observer, call `release` after each commit, and `run` it under supervision. `reconciled` is set as long as
    the account is known. The first life begins with checks of the account; what speaks against trading in it ends `run` by an error.
    """

    name = "gateway"

    def __init__(
        self,
        config: Config,
        port: VenuePort,
        ledger: VenueExchange,
        clock: Clock,
        *,
        rng: random.Random | None = None,
    ) -> None:
        settings = config.execution.testnet
        self._config = config
        self._settings = settings
        self._port = port
        self._ledger = ledger
        self._clock = clock
        self._rng = rng or random.Random()
        self._health = GatewayHealth(self.name, venue=settings.venue)
        self._intents = Intents()
        self._line = ThrottledClient(port, settings, clock, self._health, self._rng)
        self._reports = ReportTranslator(
            ledger, self._intents, config.market.symbols, clock, self._health, self._put,
            foreign=settings.foreign, spot=config.market.category == "spot",
        )  # fmt: skip
        self._auditor = Reconciler(self._line, config, ledger, self._intents, self._reports, self._health)
        self._keeper = OrderTracker(self._line, self._reports, settings, self._health, self._auditor.catch_up)
        self.reconciled = asyncio.Event()
        self._judged = asyncio.Event()  # the first look at the account has led to something
        self._refusal: Exception | None = None
        self._outbox: deque[Event] = deque()  # told, and not yet in the queue
        self._waiting: list[Order | Cancel | Amend | Command] = []  # decided, and not yet committed
        self._filled = asyncio.Event()
        self._look = asyncio.Event()  # at the account, soon
        self._untended: deque[str] = deque()  # intents that have no task yet
        self._kill = False  # all orders are to be taken back
        self._work = asyncio.Event()  # one of these two
        self._prepared = False
        self._heard_at = 0.0  # of the event loop's clock: since when the private stream is there

    def hold(self, held: Callable[[], bool]) -> None:
        """Send no order while `held`: what the core decides waits, so that a kill can take it back unsent."""
        self._line.held = held

    @property
    def health(self) -> GatewayHealth:
        """A snapshot."""
        health = msgspec.structs.replace(
            self._health, intents=self._intents.counts(), ended=dict(self._intents.ended)
        )
        health.drift = self._ledger.drift
        return health

    # -- the core's side ---------------------------------------------------------------------------------------------

    def event(self, seq: int, event: Event) -> None:
        """An input; a kill also takes back what the core does not know of, and a resumption what its record has lost."""
        if isinstance(event, Command) and event.action in ("kill", "resume"):
            self._waiting.append(event)

    def decision(self, seq: int, decision: Decision) -> None:
        """Kept until it is released."""
        if isinstance(decision, Order | Cancel | Amend):
            self._waiting.append(decision)

    def release(self) -> None:
        """All that was decided so far is durable: do it."""
        if self._line.held():
            return
        waiting, self._waiting = self._waiting, []
        for decision in waiting:
            if isinstance(decision, Command):
                self._obey(decision)
            elif isinstance(decision, Order):
                if decision.id in self._ledger.orders:  # else it broke a rule of ours, and was rejected
                    made = Intent(decision, self._now())
                    made.after = self._clock.now() + self._health.skew - self._settings.max_skew
                    self._intents.add(made)
                    self._untended.append(decision.id)
                    self._work.set()
            elif (intent := self._intents.get(decision.order_id)) is None:
                continue
            elif isinstance(decision, Cancel):
                self._keeper.cancel(intent, decision)
            else:
                self._keeper.amend(intent, decision)

    def _obey(self, command: Command) -> None:
        if command.action == "kill":
            self._auditor.sweeping = True
            if self._settings.foreign != "ignore":
                self._kill = True
                self._work.set()
        if command.action == "resume" or self._health.lost_orders:
            self._look.set()

    # -- the venue's side --------------------------------------------------------------------------------------------

    async def run(self, emit: Emit) -> None:
        """Trade until cancelled. Raises SafetyError and ConfigError where the account must not be traded, AuthenticationError."""
        if self._prepared:
            self._doubt_all("the gateway was interrupted")
        self._health.state = "connecting"
        self._look.set()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._deliver(emit))
                if not self._prepared:
                    await prepare(self._line, self._config)
                    self._recover()
                    self._prepared = True
                tasks.create_task(self._listen())
                self._untended = deque(intent.order.id for intent in self._intents.all())
                tasks.create_task(self._tend(tasks))
                await self._watch()
        except BaseExceptionGroup as group:
            raise self._judge(first_error(group)) from None
        finally:
            self._health.state, self._health.stream = "stopped", False
            await self._port.close()

    async def begun(self) -> None:
        """Until the account was reconciled for the first time. Raises what ended `run` before."""
        await self._judged.wait()
        if self._refusal is not None:
            raise self._refusal

    def _judge(self, error: BaseException) -> BaseException:
        if not self._judged.is_set() and isinstance(error, Exception):
            self._refusal = error
            self._judged.set()
        return error

    def _recover(self) -> None:
        """Know the intents of earlier lives: whether they were sent, only the venue can say."""
        ledger, now = self._ledger, self._now()
        self._reports.begin(ledger.began or self._clock.now() + self._health.skew)
        for sent in ledger.orders.values():
            if self._intents.get(sent.order.id) is None:
                self._intents.add(self._intent_of(sent, now))

    def _intent_of(self, sent: SentOrder, now: float) -> Intent:
        age = max(0, self._clock.now() - sent.order.ts) / 1000
        intent = Intent(sent.order, now - age, IntentState.ENDED if sent.ended else IntentState.UNKNOWN)
        intent.doubted_at = now
        if sent.order.ts <= self._clock.now():  # else the core's time was wrong, and proves nothing
            intent.after = sent.order.ts + self._health.skew - self._settings.max_skew
        intent.cancelled = sent.cancelling
        intent.booked = sent.filled
        intent.filled = sent.order.qty if sent.ended else sent.reported_filled
        return intent

    def _put(self, event: Event) -> None:
        self._outbox.append(event)
        self._filled.set()

    async def _deliver(self, emit: Emit) -> Never:
        """Into the core's queue, in order; what it hasn't taken is still there after an interruption."""
        while True:
            while self._outbox:
                await deliver(emit, self._outbox[0])
                self._outbox.popleft()
            self._filled.clear()
            await self._filled.wait()

    async def _tend(self, tasks: asyncio.TaskGroup) -> Never:
        """A task for each intent, and for what a kill asks."""
        while True:
            if self._kill:
                self._kill = False
                for symbol in self._config.market.symbols:
                    tasks.create_task(self._cancel_all(symbol))
            while self._untended:
                intent = self._intents.get(self._untended.popleft())
                if intent is not None:
                    tasks.create_task(self._keeper.keep(intent))
            self._work.clear()
            await self._work.wait()

    async def _cancel_all(self, symbol: str) -> None:
        try:
            await self._line.ask(partial(self._port.cancel_all, symbol))
        except OrderRejected as error:
            _log.error("not all orders could be taken back", symbol=symbol, reason=error.message)

    # -- the private stream ------------------------------------------------------------------------------------------

    async def _listen(self) -> Never:
        """Hear what the venue tells, connecting again for ever; meanwhile it is asked instead."""
        loop = asyncio.get_running_loop()
        policy = Reconnection(self._settings.reconnect, self._rng)
        while True:
            self._heard_at = 0.0
            try:
                await self._line.calm()
                await self._port.stream(self._hear, self._ready)
            except (OutcomeUnknown, RateLimited) as error:
                self._health.stream = False
                self._look.set()
                _log.warning("private stream lost", reason=error.message)
                await self._line.mend(error)
            self._health.reconnects += 1
            await asyncio.sleep(policy.after(loop.time() - self._heard_at if self._heard_at else 0.0))

    def _ready(self) -> None:
        self._heard_at = self._now()
        self._health.connects += 1
        self._health.stream = True
        self._look.set()  # what was told while nobody listened

    def _hear(self, message: PrivateMessage) -> None:
        self._health.messages += 1
        self._health.last_message_at = self._clock.now()
        if isinstance(message, VenueOrder):
            self._reports.order(message)
        elif isinstance(message, VenueExecution):
            self._reports.execution(message)
            if self._reports.foreign:
                self._look.set()

    # -- the account -------------------------------------------------------------------------------------------------

    async def _watch(self) -> Never:
        """Ask for what the stream may not tell: all of the time while it is down, the whole account now and then."""
        settings, due = self._settings, 0.0
        while True:
            if self._look.is_set() or self._now() >= due:
                self._look.clear()
                known = await self._reconcile()
                soon = not known or self._ledger.drift or self._ledger.accepting
                due = self._now() + (settings.settle if soon else settings.reconcile_every) / 1000
            else:
                await self._auditor.survey(self._keeper)
                await self._auditor.catch_up()
            self._health.state = "live" if self.reconciled.is_set() else "catching up"
            await self._rest(settings.settle / 1000 if self._health.stream else 0.0, due)

    async def _rest(self, least: float, due: float) -> None:
        """Until the account is to be looked at, or orders while nobody tells of them; at least `least` seconds."""
        wait = due - self._now()
        if not self._health.stream:
            wait = min(wait, self._settings.poll_every / 1000)
        await asyncio.sleep(max(0.0, min(wait, least)))
        if (left := wait - least) > 0:
            try:
                async with asyncio.timeout(left):
                    await self._look.wait()
            except TimeoutError:
                pass

    async def _reconcile(self) -> bool:
        """Hold the account against the ledger; whether a moment was found in which that can be done, and nothing speaks against it."""
        await self._line.ask(self._line.measure)
        while not self.reconciled.is_set() and any(
            i.state is IntentState.UNKNOWN for i in self._intents.all()
        ):
            await asyncio.sleep(self._settings.ask_every / 1000)
        foreign = await self._auditor.survey(self._keeper)
        account = await self._auditor.look()
        self._auditor.refuse_foreign()
        if foreign and self._settings.foreign == "refuse":
            self._doubt_all("orders in this account are not of this run")
            return False
        if account is None:
            return False
        self._put(account)
        self._health.reconciled_at = account.available_at
        if not self.reconciled.is_set():
            _log.info("gateway reconciled", venue=self._settings.venue, open_orders=len(self._intents))
        self.reconciled.set()
        self._judged.set()
        return True

    def _doubt_all(self, reason: str) -> None:
        """The account isn't known: until it is, the core may not open anything."""
        if self.reconciled.is_set():
            self.reconciled.clear()
            now = self._clock.now()
            _log.warning("not reconciled", reason=reason)
            self._put(Command("reconciling", now, now, {"reason": reason}, self.name))

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
