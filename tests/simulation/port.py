"""The line to the venue: requests that are lost, late or answered by nobody, views that lag, and a private stream that skips and repeats."""

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
from tests.simulation.market import Market
from tests.simulation.prices import utc
from tests.simulation.venue import COIN, RULES, Venue

_T = TypeVar("_T")
_LAG: Final = 2.5  # seconds that a view is behind, at most; the gateway allows for three
_AHEAD_MS: Final = 1_000  # so far may a request's stamp lie in the future


class Port:
    """`VenuePort` of one life; from `dead` on nothing leaves. `leaves` is told of each order before it does."""

    def __init__(
        self,
        venue: Venue,
        market: Market,
        clock: Clock,
        config: TestnetConfig,
        leaves: Callable[[Order], None],
    ) -> None:
        self.dead = False
        self._venue = venue
        self._market = market
        self._clock = clock
        self._config = config
        self._leaves = leaves
        self._skew = 0

    # -- the line ----------------------------------------------------------------------------------------------------

    async def _ask(self, work: Callable[[float], _T], *, stamped: bool = True) -> _T:
        """Carry it out when it arrives, if it does; the answer, if it comes."""
        market, dice, weather, loop = self._market, self._market.dice, self._market.weather, self._market.loop
        if self.dead:
            raise OutcomeUnknown("this life is over")
        stamp = self._clock.now() + self._skew
        patience = self._config.request_timeout / 1000
        latency = market.latency()
        if market.dark or dice.random() < weather.private_lost:
            market.say("    a request is lost")
            await asyncio.sleep(patience)
            raise OutcomeUnknown("no answer")
        if dice.random() < weather.private_late:
            latency += 8 * dice.random()  # the venue refuses what is older than five
        answer: asyncio.Future[_T] = loop.create_future()
        # perhaps nobody asks any more
        answer.add_done_callback(lambda future: future.cancelled() or future.exception())
        arrives = loop.time() + latency

        def arrive() -> None:
            try:
                self._judge(stamp, arrives, stamped=stamped)
                result = work(arrives)
            except Exception as error:  # noqa: BLE001 - the answer, whatever it is
                if not answer.done():
                    answer.set_exception(error)
            else:
                if not answer.done():
                    answer.set_result(result)

        loop.call_at(arrives, arrive)
        try:
            async with asyncio.timeout(patience):
                result = await asyncio.shield(answer)
                await asyncio.sleep(market.latency())
        except TimeoutError:
            market.say("    a request is late")
            raise OutcomeUnknown("no answer in time") from None
        if market.dark or dice.random() < weather.private_mute:
            market.say("    an answer is lost")
            raise OutcomeUnknown("connection reset")
        return result

    def _judge(self, stamp: int, at: float, *, stamped: bool) -> None:
        """What stands between a request and the account. Raises PortError."""
        dice, weather = self._market.dice, self._market.weather
        now = utc(at)
        if dice.random() < weather.private_error:
            raise OutcomeUnknown("HTTP 502", code=502)
        if dice.random() < weather.private_limit:
            banned = dice.random() < 0.1
            raise RateLimited(
                "too many visits", dice.choice((0.3, 2.0, 20.0)) if banned else 0.5, code=10006, banned=banned
            )
        if stamped and not now - self._config.recv_window <= stamp <= now + _AHEAD_MS:
            raise ClockSkewError(f"the request is of {stamp}, and it is {now}", code=10002)

    def _behind(self, at: float) -> float:
        """The moment that a view shows."""
        return at - self._market.weather.lag * _LAG * self._market.dice.random()

    # -- VenuePort ---------------------------------------------------------------------------------------------------

    async def server_time(self) -> int:
        """As `VenuePort` has it; so with all that follow."""
        return await self._ask(utc, stamped=False)

    def correct_clock(self, skew: int) -> None:
        """Stamp requests otherwise."""
        self._skew = skew

    async def rules(self, symbols: Sequence[str]) -> dict[str, VenueRules]:
        """The same for all."""
        return await self._ask(lambda _: dict.fromkeys(symbols, RULES), stamped=False)

    async def create(self, order: Order) -> str:
        """Place it."""
        if not self.dead:
            self._leaves(order)
        return await self._ask(lambda at: self._venue.create(order, at))

    async def amend(
        self, order: OrderRef, *, qty: Decimal | None = None, price: Decimal | None = None
    ) -> None:
        """Change it."""
        await self._ask(lambda at: self._venue.amend(order, qty, price, at))

    async def cancel(self, order: OrderRef) -> None:
        """Take it back."""
        await self._ask(lambda at: self._venue.cancel(order, at))

    async def cancel_all(self, symbol: str) -> None:
        """Take all back."""
        await self._ask(lambda at: self._venue.cancel_all(symbol, at))

    async def find(self, order: OrderRef) -> VenueOrder | None:
        """From a view that lags."""

        def look(at: float) -> VenueOrder | None:
            placed = self._venue.orders.get(order.client_id)
            return None if placed is None else placed.seen(self._behind(at))

        return await self._ask(look)

    async def open_orders(self) -> list[VenueOrder]:
        """From a view that lags."""
        return await self._ask(
            lambda at: [order for order in self._venue.seen(self._behind(at)) if not order.status.final]
        )

    async def executions(self, since: int) -> list[Execution]:
        """From a view that lags."""
        return await self._ask(lambda at: self._venue.executed(since, self._behind(at)))

    async def positions(self) -> list[VenuePosition]:
        """From a view that lags."""
        return await self._ask(lambda at: list(self._venue.account(self._behind(at))[0].values()))

    async def wallet(self) -> Wallet:
        """From a view that lags."""
        return await self._ask(
            lambda at: Wallet({COIN: self._venue.account(self._behind(at))[1].quantize(Decimal("1e-8"))})
        )

    async def set_leverage(self, symbol: str, leverage: Decimal) -> None:
        """As it is."""
        await self._ask(lambda _: None)

    async def position_mode(self, symbol: str) -> PositionMode:
        """One position a symbol."""
        return await self._ask(lambda _: "one-way")

    async def use_one_way(self, symbol: str) -> None:
        """As it is."""
        await self._ask(lambda _: None)

    async def stream(self, hear: Callable[[PrivateMessage], None], ready: Callable[[], None]) -> Never:
        """Each message by itself, since topics overtake each other; until the connection is lost."""
        market, dice, weather, loop = self._market, self._market.dice, self._market.weather, self._market.loop
        await asyncio.sleep(market.latency())
        if self.dead or market.dark or dice.random() < weather.private_refuse:
            raise OutcomeUnknown("no private stream")
        lost: asyncio.Future[Never] = loop.create_future()
        deaf = False

        def arrive(message: PrivateMessage) -> None:
            if not lost.done():
                hear(message)

        def end(reason: str) -> None:
            if not lost.done():
                market.say(f"    private stream lost: {reason}")
                lost.set_exception(OutcomeUnknown(reason))

        def send(message: VenueOrder | Execution, at: float) -> None:
            nonlocal deaf
            if dice.random() < weather.private_lose:
                end("reset")
            if dice.random() < weather.private_deaf and not deaf:
                deaf = True
                loop.call_later(
                    (self._config.ping_interval + self._config.pong_timeout) / 1000, end, "no pong"
                )
            if deaf or market.dark or dice.random() < weather.private_drop:
                return
            for _ in range(2 if dice.random() < weather.private_duplicate else 1):
                late = 20 * dice.random() if dice.random() < weather.private_delay else 0.0
                loop.call_at(at + market.latency() + late, arrive, message)

        self._venue.tell.append(send)
        ready()
        try:
            await lost
        finally:
            self._venue.tell.remove(send)
        raise AssertionError("unreachable")

    async def close(self) -> None:
        """Nothing is open."""
