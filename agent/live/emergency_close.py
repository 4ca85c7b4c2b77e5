"""Cancel and close at the venue without the core: no journal, no event loop of the agent, no strategy.

The kill switch's second way (`agent.live.kill_guard`, `agent.cli.offline_kill`). Orders have client ids of their own, which begin with
`twk-`; the ledger books their executions as the run's.
"""

from __future__ import annotations

import asyncio
import fcntl
import random
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import structlog

from agent.config import Config
from agent.core.engine import Engine
from agent.core.errors import TapewireError
from agent.core.events import Fill, Order, OrderType, Side
from agent.core.instruments import instrument_for
from agent.core.venue import VenueExchange
from agent.live.gateway.gateway_health import GatewayHealth
from agent.live.gateway.report_translator import EMERGENCY
from agent.live.gateway.throttled_client import ThrottledClient
from agent.live.gateway.venue_port import (
    ClockSkewError,
    Duplicate,
    OrderNotFound,
    OrderRef,
    OrderRejected,
    OutcomeUnknown,
    RateLimited,
    VenueOrder,
    VenuePort,
)
from agent.store.database import Database
from agent.store.queries import list_runs, read_rows
from agent.store.runs import RunKind
from agent.system.backoff import delays
from agent.system.clock import Clock

LOCK: Final = "emergency.lock"
"""Its name in `live.folder`: one emergency path at a time, as long as its holder lives."""

# seconds to wait for the other path; then that one may be stopped, and this one continues
_LOCK_WAIT: Final = 5.0
_SMALLEST: Final = 1 << 10  # the smallest share of a position that an order is cut down to
_LOOKS: Final = 2
_ZERO: Final = Decimal(0)
_log: Final = structlog.get_logger(__name__)


class EmergencyReport(msgspec.Struct):
    """What was done at the venue, and what is left to do."""

    by: str = ""
    cancelled: list[str] = msgspec.field(default_factory=list)  # orders
    # orders that were sent, as "SELL 0.02 BTCUSDT twk-…"
    closed: list[str] = msgspec.field(default_factory=list)
    left: list[str] = msgspec.field(default_factory=list)  # open orders and positions, as they were last seen
    error: str = ""

    @property
    def done(self) -> bool:
        """Nothing is left."""
        return not self.left and not self.error

    @property
    def acted(self) -> bool:
        """Something was cancelled or sent."""
        return bool(self.cancelled or self.closed)

    def sentence(self) -> str:
        """A summary for the user."""
        parts = [
            f"{len(self.cancelled)} orders cancelled at the venue",
            *(f"sent {order}" for order in self.closed),
        ]
        parts += ["nothing is left"] if self.done else [f"STILL OPEN: {', '.join(self.left) or 'unknown'}"]
        return "; ".join(parts) + (f"; {self.error}" if self.error else "")


class Share(msgspec.Struct, frozen=True):
    """This run's part of an account that it shares with others: its order ids, booked executions and holdings.

    Executions since `since` (UTC ms) of its orders that are not booked yet are added to `held`.
    """

    order_ids: frozenset[str]
    fill_ids: frozenset[str]
    held: dict[str, Decimal]
    since: int


def has_account_to_itself(config: Config) -> bool:
    """Whether every order and position in the traded symbols is this run's."""
    return config.market.category == "linear" and config.execution.testnet.foreign != "ignore"


def share_of(engine: Engine, config: Config) -> Share | None:
    """The share by the running core, which may be read from another thread. None on paper."""
    ledger = engine.exchange
    if not isinstance(ledger, VenueExchange):
        return None
    held = {symbol: position.qty for symbol, position in list(engine.portfolio.positions.items())}
    since = (ledger.seen or ledger.began) - config.execution.testnet.overlap
    # Holdings first: a fill that is booked in between is missing in them, and less is sold
    return Share(frozenset(ledger.order_ids), frozenset(ledger.fill_ids), held, since)


def stored_share(database: Database, config: Config) -> Share | None:
    """The share by the store's last live run; None without one. Raises StoreError."""
    run = next((run for run in list_runs(database) if run.kind is RunKind.LIVE), None)
    if run is None:
        return None
    held: dict[str, Decimal] = dict.fromkeys(config.market.symbols, _ZERO)
    fills: set[str] = set()
    last = run.started_at
    for fill in read_rows(database, run.id, Fill):
        held[fill.symbol] = held.get(fill.symbol, _ZERO) + fill.side.sign * fill.qty
        fills.add(fill.id)
        last = max(last, fill.ts)
    ids = frozenset(order.id for order in read_rows(database, run.id, Order))
    return Share(ids, frozenset(fills), held, last - config.execution.testnet.overlap)


class EmergencyExit:
    """Cancels orders, and closes positions by reduce-only market orders, through a port of its own.

    On linear with the account to itself (`foreign` is refuse or adopt): all orders and positions of the traded symbols. Else only
    what belongs to the run by `share`, which is called before each order; on spot at most what the wallet holds. Without a share
    nothing is sold, and all orders of the traded symbols are cancelled.
    """

    def __init__(
        self,
        config: Config,
        port: VenuePort,
        clock: Clock,
        rng: random.Random,
        share: Callable[[], Share | None],
    ) -> None:
        # a wrong clock is corrected, not refused
        settings = config.execution.testnet.model_copy(update={"max_skew": 1 << 50})
        self._config = config
        self._settings = settings
        self._symbols = config.market.symbols
        self._spot = config.market.category == "spot"
        self._whole = has_account_to_itself(config)
        self._port = port
        self._clock = clock
        self._rng = rng
        self._share = share
        self._line = ThrottledClient(port, settings, clock, GatewayHealth("emergency"), rng)
        self._sent: dict[str, tuple[Order, Decimal]] = {}  # by id: our orders, and how far they were filled
        self._parts: dict[str, int] = {}  # by symbol: a rejected order is split into so many

    async def run(
        self, *, flatten: bool, within: float, by: str = "", wanted: Callable[[], bool] = lambda: True
    ) -> EmergencyReport:
        """Work until two checks, `settle` apart, find nothing left, `within` seconds are over, or it is not `wanted` any more.

        The report contains the venue's errors.
        """
        report = EmergencyReport(by)
        try:
            async with asyncio.timeout(within), _only_one(self._config.live.folder / LOCK):
                await self._line.ask(self._line.measure)
                clear = 0  # checks in a row that found nothing
                while clear < _LOOKS and wanted():
                    await self._round(report, flatten)
                    clear = 0 if report.left else clear + 1
                    # the venue's views may lag
                    wait = self._settings.settle if clear else self._settings.ask_every
                    await asyncio.sleep(wait / 1000 if clear < _LOOKS else 0)
        except TimeoutError:
            report.error = f"not done within {within:g} s" + (
                f": {said}" if (said := self._line.health.last_error) else ""
            )
        except TapewireError as error:
            report.error = error.message
        return report

    async def close(self) -> None:
        """Close connections."""
        await self._port.close()

    async def _round(self, report: EmergencyReport, flatten: bool) -> None:
        """Cancel, close, and check what is left."""
        share = None if self._whole else self._share()
        found = await self._orders(share)
        await asyncio.gather(*(self._cancel_symbol(symbol, share, found) for symbol in self._symbols))
        report.cancelled += [order.name for order in found if order.name not in report.cancelled]
        orders = await self._orders(share) if found else []
        report.left = [f"order {order.name} ({order.symbol})" for order in orders]
        if not flatten:
            return
        if share is None and not self._whole:
            report.error = "what of the account is this run's is not known: nothing is sold"
            return
        for symbol, qty in (await self._open(share)).items():
            order = self._closing(symbol, qty)
            if order is None:
                continue
            report.left.append(f"{qty} {symbol}")
            report.closed.append(f"{order.side.value} {order.qty} {symbol} {order.id}")
            try:
                await self._submit(order)
            except OrderRejected as error:  # perhaps it is closed already; too large, perhaps
                report.closed.pop()
                self._parts[symbol] = min(2 * self._parts.get(symbol, 1), _SMALLEST)
                _log.warning("an emergency order was refused", symbol=symbol, reason=error.message)
            else:
                await self._await_end(order)

    # -- orders ------------------------------------------------------------------------------------------------------

    async def _orders(self, share: Share | None) -> list[VenueOrder]:
        found = await self._line.ask(self._port.open_orders)
        ours = [
            order for order in found if order.symbol in self._symbols and order.client_id not in self._sent
        ]
        if share is None or self._config.execution.testnet.foreign != "ignore":
            return ours  # a kill also cancels foreign orders in the account, unless they are to be ignored
        return [
            order
            for order in ours
            if order.client_id in share.order_ids or order.client_id.startswith(EMERGENCY)
        ]

    async def _cancel_symbol(self, symbol: str, share: Share | None, found: list[VenueOrder]) -> None:
        """Cancel all orders in one request; one by one if only some are ours."""
        if share is None or self._config.execution.testnet.foreign != "ignore":
            await self._cancel(partial(self._port.cancel_all, symbol))
            return
        for order in found:
            if order.symbol == symbol:
                await self._cancel(partial(self._port.cancel, OrderRef(symbol, order.client_id, order.id)))

    async def _cancel(self, request: Callable[[], object]) -> None:
        try:
            await self._line.ask(request)  # type: ignore[arg-type]
        except OrderNotFound:
            pass
        except OrderRejected as error:
            _log.warning("a cancel was refused", reason=error.message)

    # -- positions ---------------------------------------------------------------------------------------------------

    async def _open(self, share: Share | None) -> dict[str, Decimal]:
        """The signed quantities to close, by symbol."""
        if self._spot:
            coin = self._config.account.currency
            balances = (await self._line.ask(self._port.wallet)).balances
            there = {symbol: balances.get(symbol.removesuffix(coin), _ZERO) for symbol in self._symbols}
        else:
            there = {
                p.symbol: p.qty
                for p in await self._line.ask(self._port.positions)
                if p.symbol in self._symbols
            }
        if share is None:
            return there
        ours = await self._ours(share)
        return {symbol: _smaller(qty, ours.get(symbol, _ZERO)) for symbol, qty in there.items()}

    async def _ours(self, share: Share) -> dict[str, Decimal]:
        """The run's holdings, with executions that its ledger has not booked."""
        held = dict(share.held)
        booked: dict[str, Decimal] = {}  # of orders that were sent here
        for one in await self._line.ask(lambda: self._port.executions(share.since)):
            ours = one.client_id in share.order_ids or one.client_id.startswith(EMERGENCY)
            if one.id in share.fill_ids:
                booked[one.client_id] = booked.get(one.client_id, _ZERO) + one.qty
                continue
            if not ours or one.client_id in self._sent:
                continue
            in_base = bool(one.fee_coin) and one.symbol.startswith(one.fee_coin)
            held[one.symbol] = (
                held.get(one.symbol, _ZERO) + one.side.sign * one.qty - (one.fee if in_base else _ZERO)
            )
        # the list of executions may lag behind what is known of these orders
        for order, filled in self._sent.values():
            rest = filled - booked.get(order.id, _ZERO)
            held[order.symbol] = held.get(order.symbol, _ZERO) + order.side.sign * rest
        return held

    def _closing(self, symbol: str, qty: Decimal) -> Order | None:
        """The order that closes the position; None if `qty` is too small to trade."""
        rules = instrument_for(symbol, self._config)
        size = rules.round_qty(abs(qty) / self._parts.get(symbol, 1)) or rules.round_qty(abs(qty))
        if size <= 0 or (self._spot and size < rules.min_qty):
            return None
        side = Side.SELL if qty > 0 else Side.BUY
        name = EMERGENCY + secrets.token_hex(12)
        return Order(
            name,
            symbol,
            self._clock.now(),
            side,
            OrderType.MARKET,
            size,
            reduce_only=True,
            reason="emergency",
        )

    async def _submit(self, order: Order) -> None:
        """Submit until the venue has the order. After an unknown outcome the same id is sent again, which can't create a duplicate.

        Raises Refused.
        """
        self._sent[order.id] = order, _ZERO
        for wait in delays(self._settings.retry, self._rng):
            await self._line.calm()
            measured = self._line.measured
            try:
                await self._port.create(order)
            except Duplicate:
                return
            except OrderRejected:
                del self._sent[order.id]
                raise
            except (OutcomeUnknown, RateLimited, ClockSkewError) as error:
                await self._line.mend(error, measured)
            else:
                return
            await asyncio.sleep(wait)

    async def _await_end(self, order: Order) -> None:
        """Wait until a market order has ended, for at most `settle`."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._settings.settle / 1000
        while True:
            found = await self._line.ask(lambda: self._port.find(OrderRef(order.symbol, order.id)))
            if found is not None:
                self._sent[order.id] = order, found.filled
                if found.status.final:
                    return
            if loop.time() >= until:
                return
            await asyncio.sleep(min(0.1, self._settings.ask_every / 1000))


def _smaller(there: Decimal, ours: Decimal) -> Decimal:
    """The part of a holding that is ours: never more than the holding, 0 if ours has the opposite sign."""
    if there * ours <= 0:
        return _ZERO
    return there if abs(there) <= abs(ours) else ours


@asynccontextmanager
async def _only_one(path: Path) -> AsyncIterator[None]:
    """Hold the lock file if it is free in time; otherwise continue without it."""
    try:
        file = path.open("a")
    except OSError:
        yield
        return
    with file:
        loop = asyncio.get_running_loop()
        until = loop.time() + _LOCK_WAIT
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if loop.time() >= until:
                    break
                await asyncio.sleep(0.1)
        yield
