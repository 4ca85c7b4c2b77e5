"""Connection to the venue: lost and late requests, lagging views, an unreliable private stream."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Final, Never, TypeVar

from agent.config.execution import TestnetConfig
from agent.core.events import Order
from agent.live.gateway.venue_port import (
    ClockSkewError,
    Execution,
    OrderRef,
    OutcomeUnknown,
    PositionMode,
    PrivateMessage,
    RateLimited,
    VenueOrder,
    VenuePosition,
    VenueRules,
    Wallet,
)
from agent.system.clock import Clock
from tests.simulation.generated_data import utc
from tests.simulation.simulated_market import SimulatedMarket
from tests.simulation.simulated_venue import COIN, RULES, SimulatedVenue

_T = TypeVar("_T")
_LAG: Final = 2.5  # maximum lag of a view in seconds; the gateway allows three
_AHEAD_MS: Final = 1_000  # a request's timestamp may be this far in the future


class SimulatedPort:
    """`VenuePort` of one life. Nothing is sent once `dead` is set. `before_send` is called before an order
    is sent.
    """

    def __init__(
        self,
        venue: SimulatedVenue,
        market: SimulatedMarket,
        clock: Clock,
        config: TestnetConfig,
        before_send: Callable[[Order], None],
    ) -> None:
        self.dead = False
        self._venue = venue
        self._market = market
        self._clock = clock
        self._config = config
        self._before_send = before_send
        self._skew = 0

    # -- network --------------------------------------------------------------------------------------------

    async def _request(self, work: Callable[[float], _T], *, stamped: bool = True) -> _T:
        """Carry out a request on arrival, if it arrives, and return the response, if it comes back."""
        market, rng, rates, loop = self._market, self._market.rng, self._market.rates, self._market.loop
        if self.dead:
            raise OutcomeUnknown("the process is dead")
        stamp = self._clock.now() + self._skew
        timeout = self._config.request_timeout / 1000
        latency = market.latency()
        if market.unreachable or rng.random() < rates.private_lost:
            market.log("    request lost")
            await asyncio.sleep(timeout)
            raise OutcomeUnknown("no response")
        if rng.random() < rates.private_late:
            latency += 8 * rng.random()  # the venue rejects requests older than five seconds
        response: asyncio.Future[_T] = loop.create_future()
        response.add_done_callback(
            lambda future: future.cancelled() or future.exception()
        )  # retrieved even without a waiter
        arrives = loop.time() + latency

        def arrive() -> None:
            try:
                self._validate(stamp, arrives, stamped=stamped)
                result = work(arrives)
            except Exception as error:  # noqa: BLE001 - becomes the response
                if not response.done():
                    response.set_exception(error)
            else:
                if not response.done():
                    response.set_result(result)

        loop.call_at(arrives, arrive)
        try:
            async with asyncio.timeout(timeout):
                result = await asyncio.shield(response)
                await asyncio.sleep(market.latency())
        except TimeoutError:
            market.log("    request late")
            raise OutcomeUnknown("no response in time") from None
        if market.unreachable or rng.random() < rates.private_response_lost:
            market.log("    response lost")
            raise OutcomeUnknown("connection reset")
        return result

    def _validate(self, stamp: int, at: float, *, stamped: bool) -> None:
        """Apply the venue's errors, limits and timestamp check. Raises PortError."""
        rng, rates = self._market.rng, self._market.rates
        now = utc(at)
        if rng.random() < rates.private_error:
            raise OutcomeUnknown("HTTP 502", code=502)
        if rng.random() < rates.private_limit:
            banned = rng.random() < 0.1
            raise RateLimited(
                "too many visits", rng.choice((0.3, 2.0, 20.0)) if banned else 0.5, code=10006, banned=banned
            )
        if stamped and not now - self._config.recv_window <= stamp <= now + _AHEAD_MS:
            raise ClockSkewError(f"request timestamp {stamp}, server time {now}", code=10002)

    def _view_time(self, at: float) -> float:
        """Return the moment that a lagging view shows."""
        return at - self._market.rates.lag * _LAG * self._market.rng.random()

    # -- VenuePort ------------------------------------------------------------------------------------------

    async def server_time(self) -> int:
        return await self._request(utc, stamped=False)

    def correct_clock(self, skew: int) -> None:
        self._skew = skew

    async def rules(self, symbols: Sequence[str]) -> dict[str, VenueRules]:
        return await self._request(lambda _: dict.fromkeys(symbols, RULES), stamped=False)

    async def create(self, order: Order) -> str:
        if not self.dead:
            self._before_send(order)
        return await self._request(lambda at: self._venue.create(order, at))

    async def amend(
        self, order: OrderRef, *, qty: Decimal | None = None, price: Decimal | None = None
    ) -> None:
        await self._request(lambda at: self._venue.amend(order, qty, price, at))

    async def cancel(self, order: OrderRef) -> None:
        await self._request(lambda at: self._venue.cancel(order, at))

    async def cancel_all(self, symbol: str) -> None:
        await self._request(lambda at: self._venue.cancel_all(symbol, at))

    async def set_trailing_stop(self, symbol: str, distance: Decimal) -> None:
        await self._request(lambda at: self._venue.set_trailing_stop(symbol, distance, at))

    async def find_trailing_stop(self, symbol: str, since: int) -> VenueOrder | None:
        def lookup(at: float) -> VenueOrder | None:
            return self._venue.trailing_stop_at(symbol, since, self._view_time(at))

        return await self._request(lookup)

    async def find(self, order: OrderRef) -> VenueOrder | None:
        def lookup(at: float) -> VenueOrder | None:
            placed = self._venue.orders.get(order.client_id)
            return None if placed is None else placed.state_at(self._view_time(at))

        return await self._request(lookup)

    async def open_orders(self) -> list[VenueOrder]:
        return await self._request(
            lambda at: [
                order for order in self._venue.orders_at(self._view_time(at)) if not order.status.final
            ]
        )

    async def executions(self, since: int) -> list[Execution]:
        return await self._request(lambda at: self._venue.executions_between(since, self._view_time(at)))

    async def positions(self) -> list[VenuePosition]:
        return await self._request(lambda at: list(self._venue.account_at(self._view_time(at))[0].values()))

    async def wallet(self) -> Wallet:
        return await self._request(
            lambda at: Wallet(
                {COIN: self._venue.account_at(self._view_time(at))[1].quantize(Decimal("1e-8"))}
            )
        )

    async def set_leverage(self, symbol: str, leverage: Decimal) -> None:
        await self._request(lambda _: None)

    async def position_mode(self, symbol: str) -> PositionMode:
        return await self._request(lambda _: "one-way")

    async def use_one_way(self, symbol: str) -> None:
        await self._request(lambda _: None)

    async def stream(
        self, on_message: Callable[[PrivateMessage], None], on_connected: Callable[[], None]
    ) -> Never:
        """Deliver each message on its own, since topics overtake each other, until the connection is lost."""
        market, rng, rates, loop = self._market, self._market.rng, self._market.rates, self._market.loop
        await asyncio.sleep(market.latency())
        if self.dead or market.unreachable or rng.random() < rates.private_refuse:
            raise OutcomeUnknown("no private stream")
        lost: asyncio.Future[Never] = loop.create_future()
        silent = False

        def arrive(message: PrivateMessage) -> None:
            if not lost.done():
                on_message(message)

        def end(reason: str) -> None:
            if not lost.done():
                market.log(f"    private stream lost: {reason}")
                lost.set_exception(OutcomeUnknown(reason))

        def send(message: VenueOrder | Execution, at: float) -> None:
            nonlocal silent
            if rng.random() < rates.private_lose:
                end("reset")
            if rng.random() < rates.private_silent and not silent:
                silent = True
                loop.call_later(
                    (self._config.ping_interval + self._config.pong_timeout) / 1000, end, "no pong"
                )
            if silent or market.unreachable or rng.random() < rates.private_drop:
                return
            for _ in range(2 if rng.random() < rates.private_duplicate else 1):
                late = 20 * rng.random() if rng.random() < rates.private_delay else 0.0
                loop.call_at(at + market.latency() + late, arrive, message)

        self._venue.listeners.append(send)
        on_connected()
        try:
            await lost
        finally:
            self._venue.listeners.remove(send)
        raise AssertionError("unreachable")

    async def close(self) -> None:
        pass
