"""The twin of a running agent: its orders at the venue on paper as well, and an alarm if the model is wrong.

`LiveTwin` folds every event beside the core with the arithmetic of `tapewire twin`, without deciding anything
anew. It begins with each life of the agent, from the positions of the ledger. Of an order it keeps one
figure, once the next decision in its symbol is made: its difference, as a fraction of its value.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from decimal import Decimal
from statistics import fmean, stdev
from typing import Final, Never

import structlog

from agent.analysis.twin_parts import CostRules, OrderAttribution, TwinFill
from agent.config import Config
from agent.core.events import Decision, Event, Fill, Kline, Side
from agent.core.portfolio import Portfolio
from agent.core.risk import TWIN
from agent.live.interfaces.status import TwinStatus
from agent.live.model_drift import CLEARED, RAISED
from agent.replay.twin_fold import FollowedOrder, OwnOrders, find_holes, with_markets

LEAST_ORDERS: Final = 30
"""Orders without which nothing is judged."""

_Z: Final = 2.576  # of a two-sided interval of 99 %
_BPS: Final = 10_000
_KEPT: Final = 2_000  # prices by symbol
_POLL: Final = 1.0  # seconds between two checks for a due alarm
_log: Final = structlog.get_logger(__name__)


class LiveTwin:
    """An observer of the run. `ledger` is the run's own, from which the positions are taken at the start."""

    def __init__(self, config: Config, ledger: Portfolio) -> None:
        self._settings = config.twin
        self._config = config
        self._fold = OwnOrders(config, ledger.exact_equity())
        half_spread = config.paper.half_spread_bps * 1e-4
        self._rules = {
            symbol: CostRules(rules, half_spread) for symbol, rules in self._fold.instruments.items()
        }
        for position in ledger.open:
            side = Side.BUY if position.qty > 0 else Side.SELL
            qty, price = abs(position.qty), position.mark_decimal or position.entry_price
            for portfolio in (self._fold.venue, self._fold.paper):
                portfolio.apply(Fill("", "", position.symbol, 0, 0, side, qty, price, Decimal(0)))
        self._event: tuple[int, Event] | None = None  # waits for its decisions
        self._decisions: list[Decision] = []
        self._judged: deque[tuple[float, dict[str, float]]] = deque(maxlen=self._settings.window)
        self._raised = False
        self._problem = ""
        spread = config.costs.half_spread_bps
        fitted = (0.0, 0.0)
        if spread is not None:
            fitted = spread[0] - config.paper.half_spread_bps, spread[1] - config.paper.half_spread_bps
        self._allowed = (
            -max(fitted[1], 0.0) - self._settings.tolerance_bps,
            -min(fitted[0], 0.0) + self._settings.tolerance_bps,
        )

    # -- what it observes -------------------------------------------------------------------------------

    def event(self, seq: int, event: Event) -> None:
        """Fold the event before, whose decisions are known now."""
        self._fold_last()
        self._event = seq, event

    def decision(self, seq: int, decision: Decision) -> None:
        """Keep a decision for its event."""
        self._decisions.append(decision)

    def _fold_last(self) -> None:
        """Fold the last event. An error ends the twin, not the agent."""
        if self._event is None or self._problem:
            self._decisions = []
            return
        try:
            self._fold_event(*self._event)
        except (ArithmeticError, LookupError, ValueError) as error:
            self._problem = f"{type(error).__name__}: {error}"
            _log.exception("the twin has ended", event_id=self._event[0])

    def _fold_event(self, seq: int, event: Event) -> None:
        self._fold.handle(seq, event, self._decisions)
        self._decisions = []
        for record in self._fold.handed_over:
            self._judge(record)
            self._fold.records.pop(record.order.id, None)
        self._fold.handed_over.clear()
        self._fold.funding.clear()
        if isinstance(event, Kline):
            self._forget(event.symbol)

    def _forget(self, symbol: str) -> None:
        prices, fresh = self._fold.prices.get(symbol, []), self._fold.fresh.get(symbol, [])
        for kept in (prices, fresh):
            if len(kept) > 2 * _KEPT:
                del kept[:-_KEPT]

    def _judge(self, record: FollowedOrder) -> None:
        """Add the difference of an order that both sides, or one of them, has filled."""
        symbol = record.order.symbol
        moves = with_markets(record.moves, self._fold.prices[symbol])
        fills = [move for move in moves if isinstance(move, TwinFill) and not move.is_fee]
        venue = sum((move.qty * move.price for move in fills if move.venue), Decimal(0))
        value = venue or sum((move.qty * move.price for move in fills), Decimal(0))
        if not value:
            return
        mark = self._fold.paper.positions[symbol].mark_decimal
        holes = find_holes(self._fold.fresh[symbol], self._config)
        parts = OrderAttribution(record.facts(), self._rules[symbol], holes).attribute(moves, mark)
        causes: dict[str, float] = {
            cause: float(amount / value) * _BPS for cause, amount in parts.causes.items()
        }
        self._judged.append((float(parts.difference / value) * _BPS, causes))

    # -- what it finds ----------------------------------------------------------------------------------

    def status(self) -> TwinStatus:
        """Return the mean difference of the latest orders, its interval of 99 % and its causes."""
        differences = [difference for difference, _ in self._judged]
        count = len(differences)
        mean = fmean(differences) if count else None
        low = high = None
        if mean is not None and count >= LEAST_ORDERS:
            half = _Z * stdev(differences) / count**0.5
            low, high = mean - half, mean + half
        causes: Counter[str] = Counter()
        for _, parts in self._judged:
            causes.update({cause: amount / count for cause, amount in parts.items()})
        return TwinStatus(count, mean, low, high, *self._allowed, dict(causes), self._raised, self._problem)

    def due_alarm(self) -> dict[str, str] | None:
        """Return the arguments of the alarm that is to be raised or cleared now; None if none is.

        It is raised if the whole interval is outside what the model allows, and cleared if the mean is within
        it again.
        """
        found = self.status()
        if found.mean_bps is None or found.low is None or found.high is None:
            return None
        outside = found.high < found.allowed_low or found.low > found.allowed_high
        within = found.allowed_low <= found.mean_bps <= found.allowed_high
        if outside == self._raised or (self._raised and not within):
            return None
        self._raised = outside
        causes = sorted(found.causes_bps.items(), key=lambda part: -abs(part[1]))[:3]
        largest = ", ".join(f"{cause} {amount:+.2f}" for cause, amount in causes)
        detail = (
            f"{found.orders} orders at the venue differ from paper by {found.mean_bps:+.2f} bps on average "
            f"(99 % interval {found.low:+.2f} to {found.high:+.2f}; the model allows "
            f"{found.allowed_low:+.2f} to {found.allowed_high:+.2f}): {largest}"
        )
        return {"rule": TWIN, "state": RAISED if outside else CLEARED, "detail": detail}

    async def watch(self, alarm: Callable[..., Awaitable[None]]) -> Never:
        """Log and journal a due alarm until cancelled; `alarm` is `CommandHandler.alarm`."""
        while True:
            if (args := self.due_alarm()) is not None:
                log = _log.warning if args["state"] == RAISED else _log.info
                log(TWIN, state=args["state"], detail=args["detail"])
                await alarm(**args)
            await asyncio.sleep(_POLL)
