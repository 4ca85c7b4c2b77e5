"""Cancel and close at the venue without the core: no journal, no event loop of the agent, no strategy.

`agent.live.kill_guard` and `tapewire kill` use it if the core does not finish a kill. Its orders have client
ids that begin with `twk-`; the ledger books their executions as the run's.
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
from agent.core.errors import TapewireError
from agent.core.events import Fill, Order, OrderType, Side
from agent.core.exchange import EMERGENCY_PREFIX
from agent.core.instruments import instrument_for
from agent.core.sleeves import venue_of
from agent.core.trading_engine import TradingEngine
from agent.live.gateway.gateway_health import GatewayHealth
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
"""Lock file in `live.folder`: only one process closes positions at a time, as long as it lives."""

# seconds to wait for the lock; after that the holder may hang, and this process continues without the lock
_LOCK_WAIT: Final = 5.0
_MAX_PARTS: Final = 1 << 10  # into which a position is divided if larger orders are rejected
_CLEAR_CHECKS: Final = 2  # in a row, after which nothing is left
_ZERO: Final = Decimal(0)
_log: Final = structlog.get_logger(__name__)


class EmergencyReport(msgspec.Struct):
    """What was done at the venue, and what is left to do."""

    by: str = ""
    cancelled: list[str] = msgspec.field(default_factory=list)  # orders
    # orders that were sent, as "SELL 0.02 BTCUSDT twk-…"
    closed: list[str] = msgspec.field(default_factory=list)
    left: list[str] = msgspec.field(default_factory=list)  # open orders and positions at the last check
    error: str = ""

    @property
    def done(self) -> bool:
        """True if nothing is left."""
        return not self.left and not self.error

    @property
    def acted(self) -> bool:
        """True if something was cancelled or sent."""
        return bool(self.cancelled or self.closed)

    def sentence(self) -> str:
        """Return a summary for the user."""
        parts = [f"{len(self.cancelled)} orders cancelled at the venue"]
        parts += [f"sent {order}" for order in self.closed]
        parts += ["nothing is left"] if self.done else [f"STILL OPEN: {', '.join(self.left) or 'unknown'}"]
        return "; ".join(parts) + (f"; {self.error}" if self.error else "")


class Share(msgspec.Struct, frozen=True):
    """This run's part of an account that it shares with others.

    `held` is the booked position by symbol; executions of the run's orders since `since` (UTC ms) that are
    not in `fill_ids` are added to it.
    """

    order_ids: frozenset[str]
    fill_ids: frozenset[str]
    held: dict[str, Decimal]
    since: int


def has_account_to_itself(config: Config) -> bool:
    """True if every order and position in the traded symbols is this run's."""
    return config.market.category == "linear" and config.execution.testnet.foreign != "ignore"


def share_of(engine: TradingEngine, config: Config) -> Share | None:
    """Return the share of the running core's run; None in paper mode. May be called from another thread."""
    exchange = venue_of(engine)
    if exchange is None:
        return None
    # positions first: a fill that is booked in between is missing in them, and less is sold
    held = {symbol: position.qty for symbol, position in list(engine.portfolio.positions.items())}
    state = exchange.open_state()
    since = state.account.last_at - config.execution.testnet.overlap
    return Share(state.order_ids, state.fill_ids, held, since)


def stored_share(database: Database, config: Config) -> Share | None:
    """Return the share of the store's last live run; None without one. Raises StoreError."""
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

    If the run has the account to itself (linear, and `foreign` is refuse or adopt), these are all orders and
    positions of the traded symbols. Otherwise they are those of the run by `share`, which is called before
    each order; on spot at most what the wallet holds. If `share` returns None, all orders of the traded
    symbols are cancelled and nothing is sold.
    """

    def __init__(
        self,
        config: Config,
        port: VenuePort,
        clock: Clock,
        rng: random.Random,
        share: Callable[[], Share | None],
    ) -> None:
        # correct any clock skew instead of refusing it
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
        self._client = ThrottledClient(port, settings, clock, GatewayHealth("emergency"), rng)
        self._sent: dict[
            str, tuple[Order, Decimal]
        ] = {}  # by id: orders sent here, and how far they are filled
        self._parts: dict[str, int] = {}  # by symbol: into how many parts a rejected order is split

    async def run(
        self, *, flatten: bool, within: float, by: str = "", wanted: Callable[[], bool] = lambda: True
    ) -> EmergencyReport:
        """Cancel and close until two checks (`settle` apart) find nothing left; return a report.

        Stops after `within` seconds, or once `wanted` returns False.
        """
        report = EmergencyReport(by)
        try:
            async with asyncio.timeout(within), _only_one(self._config.live.folder / LOCK):
                await self._client.retry(self._client.sync_clock)
                clear = 0  # checks in a row that found nothing
                while clear < _CLEAR_CHECKS and wanted():
                    await self._round(report, flatten)
                    clear = 0 if report.left else clear + 1
                    # the venue's views may lag
                    wait = self._settings.settle if clear else self._settings.ask_every
                    await asyncio.sleep(wait / 1000 if clear < _CLEAR_CHECKS else 0)
        except TimeoutError:
            last_error = self._client.health.last_error
            report.error = f"not done within {within:g} s" + (f": {last_error}" if last_error else "")
        except TapewireError as error:
            report.error = error.message
        return report

    async def close(self) -> None:
        """Close connections."""
        await self._port.close()

    async def _round(self, report: EmergencyReport, flatten: bool) -> None:
        """Cancel and close once, and note what is left."""
        share = None if self._whole else self._share()
        found = await self._orders(share)
        await asyncio.gather(*(self._cancel_symbol(symbol, share, found) for symbol in self._symbols))
        report.cancelled += [order.name for order in found if order.name not in report.cancelled]
        orders = await self._orders(share) if found else []
        report.left = [f"order {order.name} ({order.symbol})" for order in orders]
        if not flatten:
            return
        if share is None and not self._whole:
            report.error = "the run's part of the account is not known: nothing is sold"
            return
        for symbol, qty in (await self._open(share)).items():
            order = self._closing(symbol, qty)
            if order is None:
                continue
            report.left.append(f"{qty} {symbol}")
            report.closed.append(f"{order.side.value} {order.qty} {symbol} {order.id}")
            try:
                await self._submit(order)
            except OrderRejected as error:  # the position is closed already, or the order is too large
                report.closed.pop()
                self._parts[symbol] = min(2 * self._parts.get(symbol, 1), _MAX_PARTS)
                _log.warning("an emergency order was refused", symbol=symbol, reason=error.message)
            else:
                await self._await_end(order)

    # -- orders ----------------------------------------------------------------------------------------------

    async def _orders(self, share: Share | None) -> list[VenueOrder]:
        found = await self._client.retry(self._port.open_orders)
        ours = [
            order for order in found if order.symbol in self._symbols and order.client_id not in self._sent
        ]
        if share is None or self._config.execution.testnet.foreign != "ignore":
            return ours  # a kill also cancels foreign orders in the account, unless they are to be ignored
        return [
            order
            for order in ours
            if order.client_id in share.order_ids or order.client_id.startswith(EMERGENCY_PREFIX)
        ]

    async def _cancel_symbol(self, symbol: str, share: Share | None, found: list[VenueOrder]) -> None:
        """Cancel all orders in one request, or one by one if only some are the run's."""
        if share is None or self._config.execution.testnet.foreign != "ignore":
            await self._cancel(partial(self._port.cancel_all, symbol))
            return
        for order in found:
            if order.symbol == symbol:
                await self._cancel(partial(self._port.cancel, OrderRef(symbol, order.client_id, order.id)))

    async def _cancel(self, request: Callable[[], object]) -> None:
        try:
            await self._client.retry(request)  # type: ignore[arg-type]
        except OrderNotFound:
            pass
        except OrderRejected as error:
            _log.warning("a cancel was refused", reason=error.message)

    # -- positions -------------------------------------------------------------------------------------------

    async def _open(self, share: Share | None) -> dict[str, Decimal]:
        """Return the signed quantities to close, by symbol."""
        if self._spot:
            coin = self._config.account.currency
            balances = (await self._client.retry(self._port.wallet)).balances
            there = {symbol: balances.get(symbol.removesuffix(coin), _ZERO) for symbol in self._symbols}
        else:
            positions = await self._client.retry(self._port.positions)
            there = {p.symbol: p.qty for p in positions if p.symbol in self._symbols}
        if share is None:
            return there
        ours = await self._ours(share)
        return {symbol: _smaller(qty, ours.get(symbol, _ZERO)) for symbol, qty in there.items()}

    async def _ours(self, share: Share) -> dict[str, Decimal]:
        """Return the run's positions, including executions that its ledger has not booked."""
        held = dict(share.held)
        booked: dict[str, Decimal] = {}  # of orders that were sent here
        for one in await self._client.retry(lambda: self._port.executions(share.since)):
            ours = one.client_id in share.order_ids or one.client_id.startswith(EMERGENCY_PREFIX)
            if one.id in share.fill_ids:
                booked[one.client_id] = booked.get(one.client_id, _ZERO) + one.qty
                continue
            if not ours or one.client_id in self._sent:
                continue
            in_base = bool(one.fee_coin) and one.symbol.startswith(one.fee_coin)
            received = one.side.sign * one.qty - (one.fee if in_base else _ZERO)
            held[one.symbol] = held.get(one.symbol, _ZERO) + received
        # the list of executions may lag behind the filled quantities of these orders
        for order, filled in self._sent.values():
            rest = filled - booked.get(order.id, _ZERO)
            held[order.symbol] = held.get(order.symbol, _ZERO) + order.side.sign * rest
        return held

    def _closing(self, symbol: str, qty: Decimal) -> Order | None:
        """Return an order that closes the position or a part of it; None if `qty` is too small to trade."""
        rules = instrument_for(symbol, self._config)
        size = rules.round_qty(abs(qty) / self._parts.get(symbol, 1)) or rules.round_qty(abs(qty))
        if size <= 0 or (self._spot and size < rules.min_qty):
            return None
        side = Side.SELL if qty > 0 else Side.BUY
        now, client_id = self._clock.now(), EMERGENCY_PREFIX + secrets.token_hex(12)
        return Order(
            client_id, symbol, now, side, OrderType.MARKET, size, reduce_only=True, reason="emergency"
        )

    async def _submit(self, order: Order) -> None:
        """Submit an order until the venue has it. The same id is sent again, so it can't be placed twice.

        Raises OrderRejected.
        """
        self._sent[order.id] = order, _ZERO
        for wait in delays(self._settings.retry, self._rng):
            await self._client.wait_if_banned()
            syncs = self._client.clock_syncs
            try:
                await self._port.create(order)
            except Duplicate:
                return
            except OrderRejected:
                del self._sent[order.id]
                raise
            except (OutcomeUnknown, RateLimited, ClockSkewError) as error:
                await self._client.handle_error(error, syncs)
            else:
                return
            await asyncio.sleep(wait)

    async def _await_end(self, order: Order) -> None:
        """Wait until a market order has ended, for at most `settle`."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._settings.settle / 1000
        while True:
            found = await self._client.retry(lambda: self._port.find(OrderRef(order.symbol, order.id)))
            if found is not None:
                self._sent[order.id] = order, found.filled
                if found.status.final:
                    return
            if loop.time() >= until:
                return
            await asyncio.sleep(min(0.1, self._settings.ask_every / 1000))


def _smaller(there: Decimal, ours: Decimal) -> Decimal:
    """Return `ours`, but at most what is there; 0 if the signs differ."""
    if there * ours <= 0:
        return _ZERO
    return there if abs(there) <= abs(ours) else ours


@asynccontextmanager
async def _only_one(path: Path) -> AsyncIterator[None]:
    """Hold the lock file if it becomes free in time; otherwise continue without it."""
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
