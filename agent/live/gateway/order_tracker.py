"""What becomes of each intent: placed once, whatever the network does; taken back and amended; looked after until all is known.

A request without an answer leaves a doubt. It is resolved by questions after the client id: an order that is there was placed; one
that is still not there once the venue's views have caught up is sent again, under the same id, so that it can't be there twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from msgspec.structs import replace

from agent.config.execution import TestnetConfig
from agent.core.durations import format_duration
from agent.core.events import Amend, Cancel, OrderStatus
from agent.live.gateway.gateway_health import GatewayHealth
from agent.live.gateway.in_flight_order import Intent, IntentState
from agent.live.gateway.report_translator import ReportTranslator
from agent.live.gateway.throttled_client import ThrottledClient
from agent.live.gateway.venue_port import (
    AuthenticationError,
    ClockSkewError,
    Duplicate,
    OrderNotFound,
    OrderRejected,
    OutcomeUnknown,
    RateLimited,
    VenueOrder,
)

_log: Final = structlog.get_logger(__name__)
_MISSES: Final = 3
"""So many looks in vain, after the venue's views have caught up, say that it has forgotten an order."""
_PATIENCE: Final = 5
"""The waits for fills that are overdue double so often."""


class OrderTracker:
    """Keeps intents. `catch_up` asks for executions that were not heard of."""

    def __init__(
        self,
        line: ThrottledClient,
        reports: ReportTranslator,
        config: TestnetConfig,
        health: GatewayHealth,
        catch_up: Callable[[], Awaitable[None]],
    ) -> None:
        self._line = line
        self._reports = reports
        self._health = health
        self._catch_up = catch_up
        self._settle = config.settle / 1000
        # a request that is under way for longer is refused by the venue
        self._late = config.recv_window / 1000
        self._ask_every = config.ask_every / 1000
        self._expire_after = config.expire_after

    # -- decisions ---------------------------------------------------------------------------------------------------

    @staticmethod
    def cancel(intent: Intent, _: Cancel) -> None:
        """The core wants it back."""
        intent.cancelled = True
        intent.changed.set()

    @staticmethod
    def amend(intent: Intent, amend: Amend) -> None:
        """The core wants it otherwise; what was never sent is simply sent otherwise."""
        order = intent.order
        intent.order = replace(
            order,
            qty=order.qty if amend.qty is None else amend.qty,
            price=order.price if amend.price is None else amend.price,
        )
        if intent.attempts or intent.state is not IntentState.WAITING:
            intent.amend_qty = intent.amend_qty if amend.qty is None else amend.qty
            intent.amend_price = intent.amend_price if amend.price is None else amend.price
        intent.changed.set()

    # -- a life ------------------------------------------------------------------------------------------------------

    async def keep(self, intent: Intent) -> None:
        """Until it has ended and all of its fills were told. Raises AuthenticationError and SafetyError; may be called again then."""
        if intent.state is IntentState.SENDING:  # we were interrupted
            self._doubt(intent)
        while not intent.done:
            intent.changed.clear()
            if intent.ended:
                await self._await_fills(intent)
            elif intent.state is IntentState.ACCEPTED:
                await self._attend(intent)
            else:
                await self._place(intent)

    async def look(self, intent: Intent) -> None:
        """Ask what became of an order that the venue has accepted."""
        asked = self._now()
        found = await self._find(intent)
        if found is not None:
            self._reports.order(found)
        elif not intent.ended and asked > max(intent.accepted_at, intent.missed_at) + self._settle:
            intent.missed, intent.missed_at = intent.missed + 1, asked
            if intent.missed >= _MISSES:
                await self._catch_up()
                self._reports.close(intent, OrderStatus.CANCELLED, "the venue does not know it any more")

    # -- placing -----------------------------------------------------------------------------------------------------

    async def _place(self, intent: Intent) -> None:
        if intent.state is IntentState.UNKNOWN and not await self._is_absent(intent):
            return
        if intent.cancelled:
            self._reports.close(intent, OrderStatus.CANCELLED, "taken back before it arrived")
        elif self._expired(intent):
            limit = format_duration(self._expire_after)
            self._reports.close(
                intent, OrderStatus.REJECTED, f"could not be sent within {limit} of its decision"
            )
        elif self._line.held():
            await self._stirred(intent, self._ask_every)
        else:
            await self._send(intent)

    def _expired(self, intent: Intent) -> bool:
        """Too late to open a position; to reduce one, late is better than never."""
        return not intent.order.reduce_only and self._now() - intent.since > self._expire_after / 1000

    async def _is_absent(self, intent: Intent) -> bool:
        """Whether an order of which we don't know surely has not arrived, after as long as it takes to say so.

        To send it again, it is enough that the venue's views have caught up, since its id is taken if it came after all. To give it
        up, it must also be too late for a request that is still under way.
        """
        while intent.state is IntentState.UNKNOWN:
            asked = self._now()
            found = await self._find(intent)
            if found is not None:
                self._reports.order(found)
                break
            given_up = intent.cancelled or self._expired(intent)
            if asked >= (intent.doubted_at or 0.0) + self._settle + (self._late if given_up else 0.0):
                return intent.state is IntentState.UNKNOWN
            await self._stirred(intent, self._ask_every)
        return False

    async def _send(self, intent: Intent) -> None:
        if intent.taken >= _MISSES:
            await self._catch_up()
            self._reports.disown(intent, "the venue says that its id is taken, and shows no order of it")
            return
        await self._line.calm()
        if intent.certain or intent.cancelled or self._expired(intent):  # while it waited
            return
        intent.state = IntentState.SENDING
        intent.attempts += 1
        self._health.sent += 1
        self._health.resent += intent.attempts > 1 and intent.doubted_at is not None
        measured = self._line.measured
        try:
            await self._line.port.create(intent.order)
        except OutcomeUnknown as error:
            self._health.unknown += 1
            self._doubt(intent)
            await self._line.mend(error)
        except Duplicate:
            self._health.existed += 1
            intent.taken += 1
            self._doubt(intent)  # by this order, or by another one: what the venue has is compared
        except (RateLimited, ClockSkewError) as error:
            self._unsent(intent)
            await self._line.mend(error, measured)
        except AuthenticationError:
            self._unsent(intent)
            raise
        except OrderRejected as error:
            self._reports.close(intent, OrderStatus.REJECTED, error.message)
        else:
            self._reports.accept(intent)

    def _doubt(self, intent: Intent) -> None:
        """It may have arrived, or may arrive still; unless somebody has told already that it did."""
        if intent.state is IntentState.SENDING:
            intent.state = IntentState.UNKNOWN
        intent.doubted_at = self._now()

    @staticmethod
    def _unsent(intent: Intent) -> None:
        """This request was not carried out; an earlier one may have been."""
        if intent.state is IntentState.SENDING:
            intent.state = IntentState.WAITING if intent.doubted_at is None else IntentState.UNKNOWN

    # -- afterwards --------------------------------------------------------------------------------------------------

    async def _attend(self, intent: Intent) -> None:
        """One step with an order that the venue has: ask for what the core wants of it, or wait for news."""
        if intent.cancelled and not intent.cancel_asked:
            intent.cancel_asked = True
            try:
                await self._line.ask(lambda: self._line.port.cancel(intent.ref))
            except OrderNotFound:
                await self.look(intent)
            except OrderRejected as error:
                _log.warning("a cancel was refused", order=intent.order.id, reason=error.message)
        elif intent.amend_qty is not None or intent.amend_price is not None:
            qty, price, intent.amend_qty, intent.amend_price = (
                intent.amend_qty,
                intent.amend_price,
                None,
                None,
            )
            try:
                await self._line.ask(lambda: self._line.port.amend(intent.ref, qty=qty, price=price))
            except OrderNotFound:
                await self.look(intent)
            except OrderRejected as error:
                _log.warning("an amendment was refused", order=intent.order.id, reason=error.message)
        else:
            due = intent.immediate or intent.cancelled
            if not await self._stirred(intent, self._settle if due else None):
                await self.look(intent)
                intent.cancel_asked = False  # still there? then ask once more

    async def _await_fills(self, intent: Intent) -> None:
        """It was filled further than we have heard."""
        wait = self._settle * 2 ** min(intent.missed, _PATIENCE)
        if not await self._stirred(intent, wait):
            intent.missed += 1
            await self._catch_up()

    # -- helpers -----------------------------------------------------------------------------------------------------

    async def _find(self, intent: Intent) -> VenueOrder | None:
        return await self._line.ask(lambda: self._line.port.find(intent.ref))

    @staticmethod
    async def _stirred(intent: Intent, seconds: float | None) -> bool:
        """Wait for news of it; False where there was none in so long."""
        try:
            async with asyncio.timeout(seconds):
                await intent.changed.wait()
        except TimeoutError:
            return False
        return True

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
