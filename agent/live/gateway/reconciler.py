"""The account as a whole, held against the ledger: executions that were missed, orders, positions, wallet, and what isn't ours."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from decimal import Decimal
from functools import partial
from typing import Final

import structlog

from agent.config import Config
from agent.core.errors import SafetyError
from agent.core.events import AccountSnapshot, PositionSnapshot
from agent.core.venue import VenueExchange
from agent.live.gateway.gateway_health import GatewayHealth
from agent.live.gateway.in_flight_order import Intents, IntentState
from agent.live.gateway.order_tracker import OrderTracker
from agent.live.gateway.report_translator import EMERGENCY, ReportTranslator
from agent.live.gateway.throttled_client import ThrottledClient
from agent.live.gateway.venue_port import OrderRef, OrderRejected, VenueOrder, VenuePosition, Wallet

_log: Final = structlog.get_logger(__name__)
_TRIES: Final = 5
_ZERO: Final = Decimal(0)


class Reconciler:
    """Looks at the account. `ledger` is the core's, and only read."""

    def __init__(
        self,
        line: ThrottledClient,
        config: Config,
        ledger: VenueExchange,
        intents: Intents,
        reports: ReportTranslator,
        health: GatewayHealth,
    ) -> None:
        self._line = line
        self._ledger = ledger
        self._intents = intents
        self._reports = reports
        self._health = health
        self._symbols = config.market.symbols
        self._spot = config.market.category == "spot"
        self._coin = config.account.currency
        self._foreign = config.execution.testnet.foreign
        self._overlap = config.execution.testnet.overlap
        self.sweeping = False  # after a kill all orders that the record has lost are taken back
        self._catching_up = asyncio.Lock()
        self._caught_up = 0  # how often
        self._looks = ledger.looks  # accounts that the core has, or will have been told
        # all executions up to here are known, but for the venue's lag; UTC ms by its clock
        self._complete = 0

    async def catch_up(self) -> None:
        """Ask for all executions since the last time; of many who ask at once, one asks the venue.

        What the stream has told since then proves nothing of what it has not.
        """
        asked = self._caught_up
        async with self._catching_up:
            if self._caught_up > asked + 1:  # somebody's question began after ours was asked
                return
            now = self._line.clock.now() + self._health.skew
            since = (max(self._complete, self._ledger.seen) or self._first()) - self._overlap
            self._reports.executions(await self._line.ask(lambda: self._line.port.executions(since)))
            self._reports.all_booked()
            self._complete = now
            self._caught_up += 1

    def _first(self) -> int:
        """Where no account was seen yet: before it nothing is of interest but what became of orders of an earlier life."""
        return min([self._reports.began, *(intent.order.ts for intent in self._intents.all())])

    async def survey(self, keeper: OrderTracker) -> list[VenueOrder]:
        """Hear what became of every open order; returns those of the traded symbols that aren't ours."""
        asked = asyncio.get_running_loop().time()
        found = await self._line.ask(self._line.port.open_orders)
        for order in found:
            self._reports.order(order)
        there = {order.client_id for order in found}
        for intent in self._intents.all():
            accepted = intent.state is IntentState.ACCEPTED and intent.accepted_at < asked
            if accepted and intent.order.id not in there:
                await keeper.look(intent)
        ours = self._ledger.order_ids
        unknown = [o for o in found if o.client_id not in ours and not o.client_id.startswith(EMERGENCY)]
        lost = [order for order in unknown if self._reports.is_lost(order.client_id)]
        await self._take_back(lost)
        foreign = [order for order in unknown if order not in lost]
        names = [order.name for order in foreign]
        if names != self._health.foreign_orders:
            self._health.foreign_orders = names
            for order in foreign:
                _log.warning(
                    "an order in this account is not of this run", order=order.name, symbol=order.symbol, side=order.side.value,
                    qty=str(order.qty),
                )  # fmt: skip
        return foreign

    async def _take_back(self, lost: list[VenueOrder]) -> None:
        """Open orders that the record has lost: nobody looks after them. What protects stays until a person has resumed."""
        names = [order.client_id for order in lost]
        if new := [order for order in lost if order.client_id not in self._health.lost_orders]:
            self._reports.lose(len(new), 0, min(order.created for order in new))
        self._health.lost_orders = names
        for order in lost:
            if not order.reduce_only or self.sweeping or self._reports.accepted:
                try:
                    await self._line.ask(
                        partial(self._line.port.cancel, OrderRef(order.symbol, order.client_id))
                    )
                except OrderRejected as error:
                    _log.warning(
                        "an order that the record has lost could not be taken back", reason=error.message
                    )

    async def look(self) -> AccountSnapshot | None:
        """The account at a moment in which nothing changed; None where there was no such moment.

        A difference is only told again, and what others have changed is only taken for theirs, where nothing was executed for as long
        as the venue's views may lag behind: neither before the look, which would not show it yet, nor after it, for it may not be listed.
        The first account is where the ledger begins, and must be as good; so must one that a person accepts.
        """
        for _ in range(_TRIES):
            await self.catch_up()
            before = self._reports.count
            doubtful = self._is_doubtful()
            settle = self._line.config.settle / 1000 if doubtful else 0.0
            await asyncio.sleep(self._reports.heard_at + settle - asyncio.get_running_loop().time())
            positions = await self._line.ask(self._line.port.positions)
            wallet = await self._line.ask(self._line.port.wallet)
            await asyncio.sleep(settle)
            await self.catch_up()
            if self._reports.count == before:
                return self._account(positions, wallet, settled=doubtful)
        return None

    def _is_doubtful(self) -> bool:
        ledger = self._ledger
        return bool(
            not ledger.opened
            or ledger.accepting
            or ledger.drift
            or ledger.looks < self._looks
            or self._reports.foreign
        )

    def _account(
        self, positions: Sequence[VenuePosition], wallet: Wallet, *, settled: bool
    ) -> AccountSnapshot:
        balances = wallet.balances
        if self._reports.all_booked():
            self._note_foreign(positions)
        if self._spot:
            coins = {symbol: balances.get(symbol.removesuffix(self._coin), _ZERO) for symbol in self._symbols}
            holdings = tuple(PositionSnapshot(symbol, qty) for symbol, qty in coins.items() if qty)
        else:
            holdings = tuple(
                PositionSnapshot(p.symbol, p.qty, p.entry) for p in positions if p.symbol in self._symbols
            )
        foreign, self._reports.foreign = self._reports.foreign, False
        clock = self._line.clock
        now = clock.now()
        self._looks += 1
        foreign = foreign and self._foreign != "refuse"
        return AccountSnapshot(
            now + self._health.skew, now, balances, holdings, foreign=foreign, settled=settled
        )

    def _note_foreign(self, positions: Sequence[VenuePosition]) -> None:
        """A position that isn't ours: in another symbol, or more than the ledger has (0 as long as no account has been seen)."""
        foreign: dict[str, str] = {}
        for position in positions:
            ours = self._ledger.held(position.symbol)
            if position.qty != ours:
                foreign[position.symbol] = str(position.qty - ours)
        if foreign != self._health.foreign_positions:
            self._health.foreign_positions = foreign
            if foreign:
                _log.warning("positions in this account are not of this run", **foreign)

    def refuse_foreign(self) -> None:
        """Raises SafetyError where the account isn't ours alone, and by configuration has to be."""
        orders, positions = self._health.foreign_orders, self._health.foreign_positions
        if self._foreign != "refuse" or self._ledger.opened or not (orders or positions):
            return
        found = [f"order {name}" for name in orders] + [
            f"{qty} {symbol}" for symbol, qty in positions.items()
        ]
        raise SafetyError(
            f"the account is not empty: {', '.join(found)}",
            hint='close them, or say what is to become of them: execution.testnet.foreign = "adopt" or "ignore"',
        )
