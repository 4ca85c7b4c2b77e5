"""Private side of the venue: one account with its complete record of orders and executions.

All changes are appended with their time, so a lagging view is the same record up to an earlier moment. Times
are loop times at which something was due: the venue goes on while the process is frozen.
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
from tests.simulation.fault_rates import FaultRates
from tests.simulation.generated_data import SYMBOLS, utc
from tests.simulation.simulated_market import SimulatedMarket
from tests.support.netting import NetPosition

COIN: Final = "USDT"
FOREIGN_PREFIX: Final = "hand"  # prefix of the names of foreign orders
TRAILING_PREFIX: Final = "trail"  # prefix of the keys of orders that trailing stops made
CAPITAL: Final = Decimal("9876.54")
STEP: Final = Decimal("0.001")
RULES: Final = VenueRules(Decimal("0.01"), STEP, STEP, Decimal(5))
_TICK: Final = 5.0  # seconds between two matching runs
_FUNDING: Final = 300.0
_FEES: Final = {False: Decimal("0.00055"), True: Decimal("0.0002")}
_PRICE: Final = Decimal("1e-8")  # resolution of an average price
_NOTHING: Final = Decimal(0)


class OrderHistory:
    """An order with all states that it has had."""

    def __init__(self, request: Order, order: VenueOrder, at: float) -> None:
        self.request = request
        self.current = order
        self.states = [(at, order)]

    def state_at(self, at: float) -> VenueOrder | None:
        """Return the order as it was at `at`, or None before it existed."""
        return next((order for moment, order in reversed(self.states) if moment <= at), None)


class TrailingStop:
    """A trailing stop of a position, which follows the best price from when it was set."""

    def __init__(self, side: Side, distance: Decimal, price: Decimal) -> None:
        self.side = side
        self.distance = distance
        self.best = price

    def is_due(self, price: Decimal) -> bool:
        """Follow the price; return whether it has come back by the distance."""
        sign = -self.side.sign
        self.best = max(self.best * sign, price * sign) * sign
        return (self.best - price) * sign >= self.distance


class SimulatedVenue:
    """Account at the venue. `listeners` are called with each change of an order and each execution, and
    its time.
    """

    def __init__(
        self,
        market: SimulatedMarket,
        rng: random.Random,
        rates: FaultRates,
        until: float,
        log: Callable[[str], None],
    ) -> None:
        self.orders: dict[str, OrderHistory] = {}  # by client id
        self.executions: list[Execution] = []
        self.listeners: list[Callable[[VenueOrder | Execution, float], None]] = []
        self.trails: dict[str, TrailingStop] = {}  # by symbol: those that follow the price
        self._trail_history: dict[str, list[tuple[float, Decimal]]] = {}  # symbol -> moment and distance
        self._market = market
        self._rng = rng
        self._rates = rates
        self._until = until
        self._log = log
        market.loop.call_at(_TICK, self._on_tick, _TICK)
        market.loop.call_at(_FUNDING, self._pay_funding, _FUNDING)

    # -- foreign orders -------------------------------------------------------------------------------------

    def schedule_foreign_activity(self, until: float, *, trade: bool) -> None:
        """Schedule foreign activity in the account: trades, or orders that rest for a while."""
        at = 0.0
        while (at := at + self._rng.expovariate(1 / 240)) < until:
            symbol, side = self._rng.choice(SYMBOLS), self._rng.choice((Side.BUY, Side.SELL))
            if trade:
                self._market.loop.call_at(at, self._foreign_trade, symbol, side, at)
            else:
                self._market.loop.call_at(
                    at, self._foreign_order, symbol, side, at, min(until, at + self._rng.uniform(5, 120))
                )

    def foreign_orders(self) -> list[str]:
        """Return the keys of all orders that the run has not named."""
        return [name for name in self.orders if name.startswith((FOREIGN_PREFIX, TRAILING_PREFIX))]

    def _foreign_trade(self, symbol: str, side: Side, at: float) -> None:
        qty, price = STEP * self._rng.randrange(1, 40), self.price(symbol, at)
        self._log(f"    venue: foreign {side.value} {qty} {symbol}")
        self._record(
            at,
            f"{FOREIGN_PREFIX}-{len(self.executions)}",
            "",
            symbol,
            side,
            qty,
            price,
            qty * price * _FEES[False],
        )

    def _foreign_order(self, symbol: str, side: Side, at: float, until: float) -> None:
        far = self.price(symbol, at) * (Decimal("0.1") if side is Side.BUY else Decimal(10))
        name = f"{FOREIGN_PREFIX}-{len(self.orders)}"
        request = Order(name, symbol, utc(at), side, OrderType.LIMIT, STEP, price=far)
        self._log("    venue: foreign order rests")
        self.create(request, at)
        self._market.loop.call_at(until, self._cancel_foreign_order, name, until)

    def _cancel_foreign_order(self, name: str, at: float) -> None:
        if not self.orders[name].current.status.final:
            self.cancel(OrderRef("", name), at)

    # -- requests -------------------------------------------------------------------------------------------

    def create(self, order: Order, at: float) -> str:
        """Place an order. Raises Refused."""
        if order.id in self.orders:
            raise Duplicate("client id is taken", code=110072)
        side = order.side
        if order.reduce_only and not self._reducible(order.symbol, side):
            raise OrderRejected("nothing to reduce", code=110017)
        mine = not order.id.startswith(FOREIGN_PREFIX)
        if mine and not order.reduce_only and self._rng.random() < self._rates.venue_refuses:
            raise OrderRejected("not enough balance", code=110007)
        price = self.price(order.symbol, at)
        if order.trigger is not None and _reached(order, price):
            raise OrderRejected("the trigger price has been reached already", code=110092)
        status = OrderStatus.NEW if order.trigger is None else OrderStatus.UNTRIGGERED
        made = VenueOrder(
            f"v{len(self.orders)}",
            order.id,
            order.symbol,
            side,
            order.type,
            status,
            order.qty,
            _NOTHING,
            order.price,
            order.trigger,
            order.reduce_only,
            "",
            utc(at),
            utc(at),
        )
        placed = self.orders[order.id] = OrderHistory(order, made, at)
        self._publish(made, at)
        if order.trigger is None:
            self._match(placed, at, arrives=True)
        return made.id

    def amend(self, ref: OrderRef, qty: Decimal | None, price: Decimal | None, at: float) -> None:
        """Change an open order. Raises OrderNotFound, or OrderRejected if the quantity is already filled."""
        placed = self._open(ref)
        if qty is not None and qty <= placed.current.filled:
            raise OrderRejected("less than was filled", code=110013)
        changed = replace(
            placed.current,
            qty=placed.current.qty if qty is None else qty,
            price=placed.current.price if price is None else price,
            updated=utc(at),
        )
        self._update(placed, changed, at)

    def cancel(self, ref: OrderRef, at: float) -> None:
        """Cancel an order. Raises OrderNotFound."""
        self._finish(self._open(ref), "by user", at)

    def cancel_all(self, symbol: str, at: float) -> None:
        """Cancel all orders of the symbol, and remove its trailing stop."""
        self._keep_trail(symbol, None, at)
        for placed in list(self.orders.values()):
            if placed.current.symbol == symbol and not placed.current.status.final:
                self._finish(placed, "all by user", at)

    # -- trailing stops -------------------------------------------------------------------------------------

    def set_trailing_stop(self, symbol: str, distance: Decimal, at: float) -> None:
        """Set, change or remove the trailing stop of a position. Raises OrderNotFound without a position."""
        held = self.position(symbol)
        if not held:
            raise OrderNotFound("can not set tp/sl/ts for zero position", code=10001)
        working = self.trails.get(symbol)
        if working is not None and working.distance == distance:
            return
        side = Side.SELL if held > 0 else Side.BUY
        self._keep_trail(
            symbol, TrailingStop(side, distance, self.price(symbol, at)) if distance else None, at
        )

    def trailing_stop_at(self, symbol: str, since: int, at: float) -> VenueOrder | None:
        """Return the trailing stop that the position had at `at`, or the newest order of one since then."""
        distance = next(
            (d for moment, d in reversed(self._trail_history.get(symbol, [])) if moment <= at), None
        )
        if distance and (held := self.account_at(at)[0].get(symbol)) is not None:
            side, kind, waits = (
                Side.SELL if held.qty > 0 else Side.BUY,
                OrderType.MARKET,
                OrderStatus.UNTRIGGERED,
            )
            order = VenueOrder("", "", symbol, side, kind, waits, abs(held.qty), _NOTHING, reduce_only=True)
            return replace(order, trailing=True, trail=distance)
        made = [one for one in self.orders_at(at) if one.trailing and one.symbol == symbol]
        return max((one for one in made if one.created >= since), key=lambda one: one.created, default=None)

    def _keep_trail(self, symbol: str, trail: TrailingStop | None, at: float) -> None:
        if trail is None:
            self.trails.pop(symbol, None)
        else:
            self.trails[symbol] = trail
        distance = trail.distance if trail is not None else _NOTHING
        self._trail_history.setdefault(symbol, []).append((at, distance))

    def _follow_trails(self, at: float) -> None:
        """Let trailing stops follow the price, and close the positions whose stop is due."""
        for symbol, trail in list(self.trails.items()):
            if not self._reducible(symbol, trail.side):
                self._keep_trail(symbol, None, at)
            elif trail.is_due(self.price(symbol, at)):
                self._keep_trail(symbol, None, at)
                self._log(f"    venue: the trailing stop in {symbol} is triggered")
                qty, key = self._reducible(symbol, trail.side), f"{TRAILING_PREFIX}-{len(self.orders)}"
                request = Order(key, symbol, utc(at), trail.side, OrderType.MARKET, qty, reduce_only=True)
                moment, new = utc(at), OrderStatus.NEW
                made = VenueOrder(
                    f"v{len(self.orders)}", "", symbol, trail.side, OrderType.MARKET, new, qty, _NOTHING
                )
                made = replace(made, reduce_only=True, created=moment, updated=moment, trailing=True)
                placed = self.orders[key] = OrderHistory(request, made, at)
                self._publish(made, at)
                self._match(placed, at, arrives=True)

    def _open(self, ref: OrderRef) -> OrderHistory:
        placed = self.orders.get(ref.client_id)
        if placed is None or placed.current.status.final:
            raise OrderNotFound("order not exists or too late", code=110001)
        return placed

    # -- views ----------------------------------------------------------------------------------------------

    def orders_at(self, at: float) -> list[VenueOrder]:
        """Return all orders as they were at `at`."""
        return [order for placed in self.orders.values() if (order := placed.state_at(at)) is not None]

    def executions_between(self, since: int, at: float) -> list[Execution]:
        """Return executions from `since` (UTC ms) up to loop time `at`."""
        return [execution for execution in self.executions if since <= execution.ts <= utc(at)]

    def account_at(self, at: float) -> tuple[dict[str, VenuePosition], Decimal]:
        """Return positions and wallet at `at`, summed from all executions."""
        net = {symbol: NetPosition() for symbol in SYMBOLS}
        fees = _NOTHING
        for e in self.executions_between(0, at):
            fees += e.fee
            if e.kind is ExecutionKind.TRADE:
                net[e.symbol].trade(e.side.sign * e.qty, e.price)
        positions = {
            s: VenuePosition(s, one.qty, one.entry.quantize(_PRICE)) for s, one in net.items() if one.qty
        }
        return positions, CAPITAL + sum((one.realised for one in net.values()), -fees)

    def position(self, symbol: str) -> Decimal:
        """Return the current position."""
        trades = (e for e in self.executions if e.symbol == symbol and e.kind is ExecutionKind.TRADE)
        return sum((e.side.sign * e.qty for e in trades), _NOTHING)

    # -- prices ---------------------------------------------------------------------------------------------

    def price(self, symbol: str, at: float) -> Decimal:
        """Return the last price: from open over low and high to close, or over high and low if the bar
        falls.
        """
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

    # -- matching -------------------------------------------------------------------------------------------

    def _on_tick(self, at: float) -> None:
        if at < self._until:
            self._follow_trails(at)
            for placed in list(self.orders.values()):
                order = placed.current
                if order.status is OrderStatus.UNTRIGGERED and _reached(
                    placed.request, self.price(order.symbol, at)
                ):
                    self._log(f"    venue: {order.type.value} {order.client_id[-6:]} is triggered")
                    self._update(placed, replace(order, status=OrderStatus.NEW, updated=utc(at)), at)
                    self._match(placed, at, arrives=True)
                elif not order.status.final and order.type is OrderType.LIMIT:
                    self._match(placed, at, arrives=False)
            self._market.loop.call_at(at + _TICK, self._on_tick, at + _TICK)

    def _match(self, placed: OrderHistory, at: float, *, arrives: bool) -> None:
        """Match an order against the book. A scheduled call may find the order in its final state."""
        order, request, rng = placed.current, placed.request, self._rng
        if order.status.final:
            return
        price, sign = self.price(order.symbol, at), order.side.sign
        maker = False
        if order.type is OrderType.LIMIT:
            if order.price is None or (price - order.price) * sign > 0:
                if request.tif in (TimeInForce.IOC, TimeInForce.FOK):
                    self._finish(placed, "no liquidity", at)
                return
            maker = not arrives
            price = order.price if maker else price
        left = order.qty - order.filled
        if order.reduce_only:
            left = min(left, self._reducible(order.symbol, order.side))
        taken = left
        if request.tif is not TimeInForce.FOK and rng.random() < self._rates.venue_partial:
            taken = max(
                (left * Decimal(repr(round(rng.random(), 2)))).quantize(STEP, ROUND_DOWN), min(STEP, left)
            )
        if taken:
            self._execute(placed, taken, price, maker, at)
        if placed.current.status.final:
            return
        if order.reduce_only and not self._reducible(order.symbol, order.side):
            self._finish(placed, "nothing is left to reduce", at)
        elif order.type is not OrderType.LIMIT or request.tif is TimeInForce.IOC:
            if rng.random() < 0.3 or request.tif is TimeInForce.IOC:
                self._finish(placed, "no liquidity", at)
            else:
                later = at + rng.choice((0.0, 0.5, 4.0)) * rng.random()
                self._market.loop.call_at(later, lambda: self._match(placed, later, arrives=True))

    def _execute(self, placed: OrderHistory, qty: Decimal, price: Decimal, maker: bool, at: float) -> None:
        order = placed.current
        filled = order.filled + qty
        status = OrderStatus.FILLED if filled == order.qty else OrderStatus.PARTIALLY_FILLED
        self._log(
            f"    venue: {order.client_id[-6:]} {order.side.value} {qty} of {order.qty} "
            f"{order.symbol} at {price}"
        )
        fee = qty * price * _FEES[maker]
        more = {"maker": maker, "trailing": order.trailing}
        self._record(at, order.id, order.client_id, order.symbol, order.side, qty, price, fee, **more)
        if not self.position(order.symbol) and order.symbol in self.trails:
            self._keep_trail(order.symbol, None, at)
        self._update(placed, replace(order, filled=filled, status=status, updated=utc(at)), at)

    def _reducible(self, symbol: str, side: Side) -> Decimal:
        """Return the quantity by which an order of that side may reduce the position."""
        return max(_NOTHING, -side.sign * self.position(symbol))

    def _pay_funding(self, at: float) -> None:
        if at < self._until:
            for symbol in SYMBOLS:
                if held := self.position(symbol):
                    price, rate = self.price(symbol, at), Decimal("0.0001") * self._rng.choice((1, -1, 3))
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
        """Append an execution."""
        name, fee = f"x{len(self.executions)}", fee.quantize(Decimal("1e-8"))
        self.executions.append(
            Execution(name, order_id, client_id, symbol, utc(at), side, qty, price, fee, COIN, **more)
        )
        self._publish(self.executions[-1], at)

    def _finish(self, placed: OrderHistory, reason: str, at: float) -> None:
        self._update(
            placed, replace(placed.current, status=OrderStatus.CANCELLED, reason=reason, updated=utc(at)), at
        )

    def _update(self, placed: OrderHistory, order: VenueOrder, at: float) -> None:
        placed.current = order
        placed.states.append((at, order))
        self._publish(order, at)

    def _publish(self, message: VenueOrder | Execution, at: float) -> None:
        for listener in list(self.listeners):
            listener(message, at)


def _reached(order: Order, price: Decimal) -> bool:
    """Return whether the price has reached the trigger of a conditional order."""
    assert order.trigger is not None
    falls = (order.type is OrderType.STOP) is (order.side is Side.SELL)
    return price <= order.trigger if falls else price >= order.trigger
