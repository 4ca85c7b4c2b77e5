"""The venue's private side: one account, its orders and what became of them, on the prices of the market. Nothing is forgotten here.

All that happens is appended with its time, so that a view that lags is the same record, read up to an earlier moment. Times are seconds
of the loop at which something was due: a process that stands still doesn't stop the venue.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from decimal import ROUND_DOWN, Decimal
from typing import Any, Final

from msgspec.structs import replace

from agent.core.events import MINUTE_MS, Order, OrderStatus, OrderType, Side, TimeInForce
from agent.live.gateway.venue_port import (
    Duplicate,
    Execution,
    ExecutionKind,
    OrderNotFound,
    OrderRef,
    OrderRejected,
    VenueOrder,
    VenuePosition,
    VenueRules,
)
from tests.simulation.market import Market
from tests.simulation.prices import SYMBOLS, utc
from tests.simulation.weather import Weather
from tests.support.netting import NetPosition

COIN: Final = "USDT"
HAND: Final = "hand"  # how the names of strangers' orders begin
CAPITAL: Final = Decimal("9876.54")
STEP: Final = Decimal("0.001")
RULES: Final = VenueRules(Decimal("0.01"), STEP, STEP, Decimal(5))
_TICK: Final = 5.0  # seconds between two looks of the venue at its book
_FUNDING: Final = 300.0
_FEES: Final = {False: Decimal("0.00055"), True: Decimal("0.0002")}
_PRICE: Final = Decimal("1e-8")  # to which an average price is rounded
_NOTHING: Final = Decimal(0)


class Placed:
    """An order as it is, and each state that it has had."""

    def __init__(self, asked: Order, order: VenueOrder, at: float) -> None:
        self.asked = asked
        self.now = order
        self.before = [(at, order)]

    def seen(self, at: float) -> VenueOrder | None:
        """As it was then."""
        return next((order for moment, order in reversed(self.before) if moment <= at), None)


class Venue:
    """`tell` is called with each change of an order and each execution, and its time."""

    def __init__(
        self, market: Market, dice: random.Random, weather: Weather, until: float, say: Callable[[str], None]
    ) -> None:
        self.orders: dict[str, Placed] = {}  # by client id
        self.executions: list[Execution] = []
        self.tell: list[Callable[[VenueOrder | Execution, float], None]] = []
        self._market = market
        self._dice = dice
        self._weather = weather
        self._until = until
        self._say = say
        market.loop.call_at(_TICK, self._tick, _TICK)
        market.loop.call_at(_FUNDING, self._pay_funding, _FUNDING)

    # -- strangers -----------------------------------------------------------------------------------------------------

    def invite_strangers(self, until: float, *, trade: bool) -> None:
        """Now and then somebody uses the same account by hand: he trades, or has an order lie there for a while."""
        at = 0.0
        while (at := at + self._dice.expovariate(1 / 240)) < until:
            symbol, side = self._dice.choice(SYMBOLS), self._dice.choice((Side.BUY, Side.SELL))
            if trade:
                self._market.loop.call_at(at, self._trade_by_hand, symbol, side, at)
            else:
                self._market.loop.call_at(
                    at, self._lie_there, symbol, side, at, min(until, at + self._dice.uniform(5, 120))
                )

    def strangers(self) -> list[str]:
        """Names of orders that are not of the run, whether they are open or not."""
        return [name for name in self.orders if name.startswith(HAND)]

    def _trade_by_hand(self, symbol: str, side: Side, at: float) -> None:
        qty, price = STEP * self._dice.randrange(1, 40), self.price(symbol, at)
        self._say(f"    venue: a stranger {side.value} {qty} {symbol}")
        self._record(
            at, f"{HAND}-{len(self.executions)}", "", symbol, side, qty, price, qty * price * _FEES[False]
        )

    def _lie_there(self, symbol: str, side: Side, at: float, until: float) -> None:
        far = self.price(symbol, at) * (Decimal("0.1") if side is Side.BUY else Decimal(10))
        name = f"{HAND}-{len(self.orders)}"
        asked = Order(name, symbol, utc(at), side, OrderType.LIMIT, STEP, price=far)
        self._say("    venue: a stranger's order lies there")
        self.create(asked, at)
        self._market.loop.call_at(until, self._take_away, name, until)

    def _take_away(self, name: str, at: float) -> None:
        if not self.orders[name].now.status.final:
            self.cancel(OrderRef("", name), at)

    # -- requests ------------------------------------------------------------------------------------------------------

    def create(self, order: Order, at: float) -> str:
        """Place an order. Raises Refused."""
        if order.id in self.orders:
            raise Duplicate("client id is taken", code=110072)
        side = order.side
        if order.reduce_only and not self._reducible(order.symbol, side):
            raise OrderRejected("nothing to reduce", code=110017)
        mine = not order.id.startswith(HAND)
        if mine and not order.reduce_only and self._dice.random() < self._weather.venue_refuses:
            raise OrderRejected("not enough balance", code=110007)
        price = self.price(order.symbol, at)
        if order.trigger is not None and _reached(order, price):
            raise OrderRejected("the price is there already", code=110092)
        status = OrderStatus.NEW if order.trigger is None else OrderStatus.UNTRIGGERED
        made = VenueOrder(
            f"v{len(self.orders)}", order.id, order.symbol, side, order.type, status, order.qty, _NOTHING, order.price, order.trigger,
            order.reduce_only, "", utc(at), utc(at),
        )  # fmt: skip
        placed = self.orders[order.id] = Placed(order, made, at)
        self._publish(made, at)
        if order.trigger is None:
            self._meet(placed, at, arrives=True)
        return made.id

    def amend(self, ref: OrderRef, qty: Decimal | None, price: Decimal | None, at: float) -> None:
        """Change an open order. Raises OrderNotFound, and Refused for less than is filled already."""
        placed = self._open(ref)
        if qty is not None and qty <= placed.now.filled:
            raise OrderRejected("less than was filled", code=110013)
        changed = replace(
            placed.now,
            qty=placed.now.qty if qty is None else qty,
            price=placed.now.price if price is None else price,
            updated=utc(at),
        )
        self._change(placed, changed, at)

    def cancel(self, ref: OrderRef, at: float) -> None:
        """Take an order back. Raises OrderNotFound."""
        self._end(self._open(ref), "by user", at)

    def cancel_all(self, symbol: str, at: float) -> None:
        """Take all back."""
        for placed in list(self.orders.values()):
            if placed.now.symbol == symbol and not placed.now.status.final:
                self._end(placed, "all by user", at)

    def _open(self, ref: OrderRef) -> Placed:
        placed = self.orders.get(ref.client_id)
        if placed is None or placed.now.status.final:
            raise OrderNotFound("order not exists or too late", code=110001)
        return placed

    # -- views -----------------------------------------------------------------------------------------------------------

    def seen(self, at: float) -> list[VenueOrder]:
        """All orders as they were then."""
        return [order for placed in self.orders.values() if (order := placed.seen(at)) is not None]

    def executed(self, since: int, at: float) -> list[Execution]:
        """Executions from `since` (UTC ms) up to `at`."""
        return [execution for execution in self.executions if since <= execution.ts <= utc(at)]

    def account(self, at: float) -> tuple[dict[str, VenuePosition], Decimal]:
        """Positions and wallet then, added up from all executions."""
        net = {symbol: NetPosition() for symbol in SYMBOLS}
        fees = _NOTHING
        for e in self.executed(0, at):
            fees += e.fee
            if e.kind is ExecutionKind.TRADE:
                net[e.symbol].trade(e.side.sign * e.qty, e.price)
        positions = {
            s: VenuePosition(s, one.qty, one.entry.quantize(_PRICE)) for s, one in net.items() if one.qty
        }
        return positions, CAPITAL + sum((one.realised for one in net.values()), -fees)

    def held(self, symbol: str) -> Decimal:
        """The position now."""
        trades = (e for e in self.executions if e.symbol == symbol and e.kind is ExecutionKind.TRADE)
        return sum((e.side.sign * e.qty for e in trades), _NOTHING)

    # -- prices ----------------------------------------------------------------------------------------------------------

    def price(self, symbol: str, at: float) -> Decimal:
        """The last price: from a bar's open by its low and its high to its close, or the other way round where it falls."""
        ms = utc(at)
        start = ms - ms % MINUTE_MS
        bar = self._market.bars[symbol, start]
        turns = (
            [bar.open, bar.low, bar.high, bar.close]
            if bar.close >= bar.open
            else [bar.open, bar.high, bar.low, bar.close]
        )
        leg, rest = divmod(3 * (ms - start), MINUTE_MS)
        value = turns[leg] + (turns[leg + 1] - turns[leg]) * rest / MINUTE_MS
        return Decimal(repr(round(value, 1)))

    # -- matching --------------------------------------------------------------------------------------------------------

    def _tick(self, at: float) -> None:
        if at < self._until:
            for placed in list(self.orders.values()):
                order = placed.now
                if order.status is OrderStatus.UNTRIGGERED and _reached(
                    placed.asked, self.price(order.symbol, at)
                ):
                    self._say(f"    venue: {order.type.value} {order.client_id[-6:]} is triggered")
                    self._change(placed, replace(order, status=OrderStatus.NEW, updated=utc(at)), at)
                    self._meet(placed, at, arrives=True)
                elif not order.status.final and order.type is OrderType.LIMIT:
                    self._meet(placed, at, arrives=False)
            self._market.loop.call_at(at + _TICK, self._tick, at + _TICK)

    def _meet(self, placed: Placed, at: float, *, arrives: bool) -> None:
        """An order and the other side of the book; what was called for later may find it gone."""
        order, asked, dice = placed.now, placed.asked, self._dice
        if order.status.final:
            return
        price, sign = self.price(order.symbol, at), order.side.sign
        maker = False
        if order.type is OrderType.LIMIT:
            if order.price is None or (price - order.price) * sign > 0:
                if asked.tif in (TimeInForce.IOC, TimeInForce.FOK):
                    self._end(placed, "nobody was there", at)
                return
            maker = not arrives
            price = order.price if maker else price
        left = order.qty - order.filled
        if order.reduce_only:
            left = min(left, self._reducible(order.symbol, order.side))
        taken = left
        if asked.tif is not TimeInForce.FOK and dice.random() < self._weather.venue_partial:
            taken = max(
                (left * Decimal(repr(round(dice.random(), 2)))).quantize(STEP, ROUND_DOWN), min(STEP, left)
            )
        if taken:
            self._execute(placed, taken, price, maker, at)
        if placed.now.status.final:
            return
        if order.reduce_only and not self._reducible(order.symbol, order.side):
            self._end(placed, "nothing is left to reduce", at)
        elif order.type is not OrderType.LIMIT or asked.tif is TimeInForce.IOC:
            if dice.random() < 0.3 or asked.tif is TimeInForce.IOC:
                self._end(placed, "nobody was there", at)
            else:
                later = at + dice.choice((0.0, 0.5, 4.0)) * dice.random()
                self._market.loop.call_at(later, lambda: self._meet(placed, later, arrives=True))

    def _execute(self, placed: Placed, qty: Decimal, price: Decimal, maker: bool, at: float) -> None:
        order = placed.now
        filled = order.filled + qty
        status = OrderStatus.FILLED if filled == order.qty else OrderStatus.PARTIALLY_FILLED
        self._say(
            f"    venue: {order.client_id[-6:]} {order.side.value} {qty} of {order.qty} {order.symbol} at {price}"
        )
        fee = qty * price * _FEES[maker]
        self._record(at, order.id, order.client_id, order.symbol, order.side, qty, price, fee, maker=maker)
        self._change(placed, replace(order, filled=filled, status=status, updated=utc(at)), at)

    def _reducible(self, symbol: str, side: Side) -> Decimal:
        """How much an order of that side may take off the position."""
        return max(_NOTHING, -side.sign * self.held(symbol))

    def _pay_funding(self, at: float) -> None:
        if at < self._until:
            for symbol in SYMBOLS:
                if held := self.held(symbol):
                    price, rate = self.price(symbol, at), Decimal("0.0001") * self._dice.choice((1, -1, 3))
                    side = Side.BUY if held > 0 else Side.SELL
                    paid = held * price * rate
                    self._record(
                        at,
                        "",
                        "",
                        symbol,
                        side,
                        abs(held),
                        price,
                        paid,
                        kind=ExecutionKind.FUNDING,
                        rate=rate,
                    )
            self._market.loop.call_at(at + _FUNDING, self._pay_funding, at + _FUNDING)

    def _record(
        self,
        at: float,
        order_id: str,
        client_id: str,
        symbol: str,
        side: Side,
        qty: Decimal,
        price: Decimal,
        fee: Decimal,
        **more: Any,
    ) -> None:
        """One execution more."""
        name, fee = f"x{len(self.executions)}", fee.quantize(Decimal("1e-8"))
        self.executions.append(
            Execution(name, order_id, client_id, symbol, utc(at), side, qty, price, fee, COIN, **more)
        )
        self._publish(self.executions[-1], at)

    def _end(self, placed: Placed, reason: str, at: float) -> None:
        self._change(
            placed, replace(placed.now, status=OrderStatus.CANCELLED, reason=reason, updated=utc(at)), at
        )

    def _change(self, placed: Placed, order: VenueOrder, at: float) -> None:
        placed.now = order
        placed.before.append((at, order))
        self._publish(order, at)

    def _publish(self, message: VenueOrder | Execution, at: float) -> None:
        for hear in list(self.tell):
            hear(message, at)


def _reached(order: Order, price: Decimal) -> bool:
    """Whether a conditional order's trigger lies behind the price."""
    assert order.trigger is not None
    falls = (order.type is OrderType.STOP) is (order.side is Side.SELL)
    return price <= order.trigger if falls else price >= order.trigger
