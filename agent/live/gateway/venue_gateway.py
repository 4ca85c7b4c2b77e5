"""The gateway: carries out the core's decisions at a venue, and turns the venue's reports into events.

An order is sent once what led to it is journalled and recorded (`VenueGateway.release`), so if the process
dies at any moment, the core that the journal rebuilds still has the order. Clock, event loop and RNG are
injected: over a simulated port the gateway runs on virtual time.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from typing import Final, Never

import msgspec
import structlog

from agent.config import Config
from agent.core.errors import first_error
from agent.core.events import Command, Decision, Event
from agent.core.venue import AccountState, OpenState
from agent.live.gateway.gateway_health import GatewayHealth
from agent.live.gateway.order_tracker import OrderTracker
from agent.live.gateway.preflight import preflight_checks
from agent.live.gateway.reconciler import Reconciler
from agent.live.gateway.throttled_client import ThrottledClient
from agent.live.gateway.venue_port import (
    Execution,
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


class VenueGateway:
    """Producer and observer that wires client, order tracker and reconciler, and runs the private stream.

    `past` is what the core's exchange knows when the gateway is made; from then on the gateway must observe
    every event and decision. `account_state` returns how the exchange compares with the account, which is in
    neither of them. Call `release` after each commit. `reconciled` is set while the account is known.
    """

    name = "gateway"

    def __init__(
        self,
        config: Config,
        port: VenuePort,
        past: OpenState,
        account_state: Callable[[], AccountState],
        clock: Clock,
        *,
        rng: random.Random | None = None,
    ) -> None:
        settings = config.execution.testnet
        self._config = config
        self._settings = settings
        self._port = port
        self._clock = clock
        self._rng = rng or random.Random()
        self._account_state = account_state
        self._health = GatewayHealth(self.name, venue=settings.venue)
        self._client = ThrottledClient(port, settings, clock, self._health, self._rng)
        self._tracker = OrderTracker(
            self._client,
            config,
            past,
            self._put,
            fetch_missed=lambda: self._reconciler.fetch_missed_executions(),
            report_loss=lambda *args: self._reconciler.report_loss(*args),
        )
        self._reconciler = Reconciler(self._client, config, past, account_state, self._put, self._tracker)
        self.reconciled = asyncio.Event()
        self._begun = asyncio.Event()  # the first reconciliation has succeeded or failed
        self._refusal: Exception | None = None
        self._outbox: deque[Event] = deque()  # events that the core's queue has yet to take
        self._has_events = asyncio.Event()
        self._commands: list[Command] = []  # observed, not committed yet
        self._reconcile_now = asyncio.Event()
        self._checked = False  # the preflight checks have passed
        self._connected_at = 0.0  # since when the private stream is connected, by the event loop's clock

    def pause_while(self, is_paused: Callable[[], bool]) -> None:
        """Send no order while `is_paused()`: decisions wait, so that a kill can still cancel them."""
        self._tracker.is_paused = is_paused

    @property
    def health(self) -> GatewayHealth:
        """A snapshot."""
        tracker = self._tracker
        return msgspec.structs.replace(
            self._health,
            intents=tracker.counts(),
            ended=dict(tracker.ended),
            drift=self._account_state().drift,
        )

    # -- observer of the core --------------------------------------------------------------------------------

    def event(self, seq: int, event: Event) -> None:
        """Observe an event: executions that are booked, and kills and resumptions."""
        self._reconciler.event(event)
        if isinstance(event, Command) and event.action in ("kill", "resume") and "sleeve" not in event.args:
            self._commands.append(event)

    def decision(self, seq: int, decision: Decision) -> None:
        """Observe a decision; it is carried out by `release`."""
        self._reconciler.decision(decision)
        self._tracker.decision(decision)

    def release(self) -> None:
        """Carry out all decisions so far: they are committed."""
        if self._tracker.is_paused():
            return
        commands, self._commands = self._commands, []
        for command in commands:
            if command.action == "kill":
                self._reconciler.cancels_lost_orders = True
                if self._settings.foreign != "ignore":
                    self._tracker.cancel_everything()
            if command.action == "resume" or self._health.lost_orders:
                self._reconcile_now.set()
        self._tracker.release()

    # -- producer --------------------------------------------------------------------------------------------

    async def run(self, emit: Emit) -> None:
        """Trade until cancelled.

        Raises SafetyError and ConfigError if the account must not be traded, AuthenticationError if the venue
        rejects the keys.
        """
        if self._checked:
            self._doubt_account("the gateway was interrupted")
        self._health.state = "connecting"
        self._reconcile_now.set()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._deliver(emit))
                if not self._checked:
                    await preflight_checks(self._client, self._config)
                    self._reconciler.start()
                    self._tracker.recover()
                    self._checked = True
                tasks.create_task(self._listen())
                tasks.create_task(self._tracker.run(tasks))
                await self._keep_reconciled()
        except BaseExceptionGroup as group:
            error = first_error(group)
            if not self._begun.is_set() and isinstance(error, Exception):
                self._refusal = error
                self._begun.set()
            raise error from None
        finally:
            self._health.state, self._health.stream = "stopped", False
            await self._port.close()

    async def begun(self) -> None:
        """Wait for the first reconciliation. Raises the error that ended `run` before."""
        await self._begun.wait()
        if self._refusal is not None:
            raise self._refusal

    def _put(self, event: Event) -> None:
        self._outbox.append(event)
        self._has_events.set()

    async def _deliver(self, emit: Emit) -> Never:
        """Pass events to the core's queue in order. What the queue has not taken survives an interruption."""
        while True:
            while self._outbox:
                await deliver(emit, self._outbox[0])
                self._outbox.popleft()
            self._has_events.clear()
            await self._has_events.wait()

    # -- the private stream ----------------------------------------------------------------------------------

    async def _listen(self) -> Never:
        """Read the private stream and reconnect for ever; without it, `_keep_reconciled` polls."""
        policy = Reconnection(self._settings.reconnect, self._rng)
        while True:
            self._connected_at = 0.0
            try:
                await self._client.wait_if_banned()
                await self._port.stream(self._on_message, self._on_connected)
            except (OutcomeUnknown, RateLimited) as error:
                self._health.stream = False
                self._reconcile_now.set()
                _log.warning("private stream lost", reason=error.message)
                await self._client.handle_error(error)
            self._health.reconnects += 1
            await asyncio.sleep(policy.after(self._now() - self._connected_at if self._connected_at else 0.0))

    def _on_connected(self) -> None:
        self._connected_at = self._now()
        self._health.connects += 1
        self._health.stream = True
        self._reconcile_now.set()  # messages may have been missed

    def _on_message(self, message: PrivateMessage) -> None:
        self._health.messages += 1
        self._health.last_message_at = self._clock.now()
        if isinstance(message, VenueOrder):
            self._tracker.on_order(self._tracker.named(message))
        elif isinstance(message, Execution):
            self._reconciler.on_execution(message)
            if self._reconciler.foreign_trades:
                self._reconcile_now.set()

    # -- the account -----------------------------------------------------------------------------------------

    async def _keep_reconciled(self) -> Never:
        """Reconcile every `reconcile_every`; while the stream is down, also poll orders and executions."""
        settings, due = self._settings, 0.0
        while True:
            if self._reconcile_now.is_set() or self._now() >= due:
                self._reconcile_now.clear()
                known, state = await self._reconcile(), self._account_state()
                soon = not known or state.drift or state.accepting
                due = self._now() + (settings.settle if soon else settings.reconcile_every) / 1000
            else:
                await self._reconciler.check_open_orders()
                await self._reconciler.fetch_missed_executions()
            self._health.state = "live" if self.reconciled.is_set() else "catching up"
            await self._rest(settings.settle / 1000 if self._health.stream else 0.0, due)

    async def _rest(self, least: float, due: float) -> None:
        """Wait at least `least` seconds, and until a reconciliation is requested or due, or a poll is."""
        wait = due - self._now()
        if not self._health.stream:
            wait = min(wait, self._settings.poll_every / 1000)
        await asyncio.sleep(max(0.0, min(wait, least)))
        if (left := wait - least) > 0:
            try:
                async with asyncio.timeout(left):
                    await self._reconcile_now.wait()
            except TimeoutError:
                pass

    async def _reconcile(self) -> bool:
        """Give the core a snapshot of the account.

        False if no quiet moment was found, or foreign orders are refused.
        """
        await self._client.retry(self._client.sync_clock)
        while not self.reconciled.is_set() and self._tracker.has_unknown_orders():
            await asyncio.sleep(self._settings.ask_every / 1000)
        foreign = await self._reconciler.check_open_orders()
        account = await self._reconciler.snapshot_account()
        self._reconciler.refuse_foreign()
        if foreign and self._settings.foreign == "refuse":
            self._doubt_account("orders in this account are not of this run")
            return False
        if account is None:
            return False
        self._put(account)
        self._health.reconciled_at = account.available_at
        if not self.reconciled.is_set():
            _log.info(
                "gateway reconciled", venue=self._settings.venue, open_orders=len(self._tracker.in_flight())
            )
        self.reconciled.set()
        self._begun.set()
        return True

    def _doubt_account(self, reason: str) -> None:
        """Inform the core that the account is not known, so that it opens no position until it is."""
        if self.reconciled.is_set():
            self.reconciled.clear()
            now = self._clock.now()
            _log.warning("not reconciled", reason=reason)
            self._put(Command("reconciling", now, now, {"reason": reason}, self.name))

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
