"""The twin of a running agent: its orders at the venue on paper as well, and an alarm if the model is wrong.

`LiveTwin` folds every event beside the core with the arithmetic of `tapewire twin`, without deciding anything
anew. It is a fold of the run's journal from its first event on: after a restart it reads the journal again,
in the background, and then goes on with what has happened meanwhile. So its amounts are those of
`tapewire twin RUN --own-orders`, whatever the number of restarts.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Generator
from contextlib import closing
from decimal import Decimal
from itertools import islice
from statistics import fmean, stdev
from typing import Final, Never

import structlog

from agent.analysis.twin_parts import (
    LABELS,
    Cause,
    CostRules,
    OrderAttribution,
    OrderParts,
    TwinFill,
    exact,
)
from agent.analysis.twin_report import funding_parts
from agent.config import Config
from agent.core.errors import TapewireError
from agent.core.events import Command, Decision, Event, Kline
from agent.core.risk import TWIN
from agent.live.interfaces.status import TwinStatus
from agent.live.model_drift import CLEARED, RAISED
from agent.replay.twin_events import recorded_events
from agent.replay.twin_fold import FollowedOrder, OwnOrders, find_holes, forget_prices, with_markets
from agent.store.database import Database
from agent.store.runs import Run

LEAST_ORDERS: Final = 30
"""Orders without which nothing is judged."""

_Z: Final = 2.576  # of a two-sided interval of 99 %
_BPS: Final = 10_000
_KEPT: Final = 2_000  # prices by symbol
_POLL: Final = 1.0  # seconds between two checks for a due alarm
_SLICE: Final = 50  # events of the journal that are folded at once, between two turns of the event loop
_ZERO: Final = Decimal(0)
_log: Final = structlog.get_logger(__name__)

Folded = tuple[int, Event, list[Decision]]
"""An event with its number and the decisions that it led to."""


class LiveTwin:
    """An observer of the run. `past` yields the first `behind` events of the journal, to fold first."""

    def __init__(
        self, config: Config, past: Generator[Folded, None, None] | None = None, behind: int = 0
    ) -> None:
        self._settings = config.twin
        self._config = config
        self._fold = OwnOrders(config, config.account.initial_capital)
        half_spread = config.paper.half_spread_bps * 1e-4
        self._rules = {
            symbol: CostRules(rules, half_spread) for symbol, rules in self._fold.instruments.items()
        }
        self._past = past
        self._behind = behind
        self._waiting: deque[Folded] = deque()  # the last one waits for its decisions
        self._judged: deque[tuple[float, dict[str, float]]] = deque(maxlen=self._settings.window)
        self._causes: defaultdict[Cause, Decimal] = defaultdict(Decimal)  # of the settled orders
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

    @classmethod
    def of_run(cls, config: Config, database: Database, run: Run, last_seq: int) -> LiveTwin:
        """Return the twin of a run whose journal has `last_seq` events so far."""
        return cls(config, recorded_events(database, run, config), last_seq)

    # -- what it observes -------------------------------------------------------------------------------

    def event(self, seq: int, event: Event) -> None:
        """Fold the event before, whose decisions are known now."""
        if not self._behind:
            self._fold_waiting()
        if not self._problem:
            self._waiting.append((seq, event, []))

    def decision(self, seq: int, decision: Decision) -> None:
        """Keep a decision for its event."""
        if self._waiting:
            self._waiting[-1][2].append(decision)

    async def catch_up(self) -> None:
        """Fold the journal as it was at the start, a few events at a time, then what has happened since."""
        if self._past is None or not self._behind:
            return
        began, total = time.perf_counter(), self._behind
        with closing(self._past) as past:
            try:
                for folded in islice(past, total):
                    self._fold_event(folded)
                    self._behind -= 1
                    if self._behind % _SLICE == 0:
                        await asyncio.sleep(0)
                self._behind = 0
            except (ArithmeticError, LookupError, ValueError, TapewireError) as error:
                self._end(error, total - self._behind)
        if not self._problem:
            seconds = round(time.perf_counter() - began, 3)
            _log.info("twin rebuilt from the journal", events=total, seconds=seconds)

    def _fold_waiting(self) -> None:
        """Fold what waits. An error ends the twin, not the agent."""
        while self._waiting and not self._problem:
            folded = self._waiting.popleft()
            try:
                self._fold_event(folded)
            except (ArithmeticError, LookupError, ValueError) as error:
                self._end(error, folded[0])

    def _end(self, error: Exception, seq: int) -> None:
        self._problem = (
            error.message if isinstance(error, TapewireError) else f"{type(error).__name__}: {error}"
        )
        self._behind = 0
        self._waiting.clear()
        _log.error("the twin has ended", event_id=seq, exc_info=error)

    def _fold_event(self, folded: Folded) -> None:
        seq, event, decisions = folded
        with exact():
            self._fold.handle(seq, event, decisions)
            for record in self._fold.settled:
                self._judge(record)
                self._fold.records.pop(record.order.id, None)
        self._fold.settled.clear()
        if isinstance(event, Kline):
            forget_prices(self._fold, event.symbol, _KEPT)
        elif isinstance(event, Command) and event.action == "alarm" and event.args.get("rule") == TWIN:
            self._raised = event.args.get("state") == RAISED  # also in an earlier life

    def _judge(self, record: FollowedOrder) -> None:
        """Add the difference of an order that both sides, or one of them, has filled."""
        fills = [move for move in record.moves if isinstance(move, TwinFill) and not move.is_fee]
        venue = sum((move.qty * move.price for move in fills if move.venue), _ZERO)
        value = venue or sum((move.qty * move.price for move in fills), _ZERO)
        if not record.moves:
            return
        parts = self._attribute(record)
        for name, part in parts.causes.items():
            self._causes[name] += part
        if not value:
            return
        causes: dict[str, float] = {
            cause: float(amount / value) * _BPS for cause, amount in parts.causes.items()
        }
        self._judged.append((float(parts.difference / value) * _BPS, causes))

    def _attribute(self, record: FollowedOrder) -> OrderParts:
        symbol = record.order.symbol
        moves, holes = record.moves, record.holes
        if holes is None:  # not settled yet
            moves = with_markets(moves, self._fold.prices[symbol])
            holes = find_holes(self._fold.fresh[symbol], self._config)
        mark = self._fold.paper.positions[symbol].mark_decimal
        return OrderAttribution(record.facts(), self._rules[symbol], holes).attribute(moves, mark)

    # -- what it finds ----------------------------------------------------------------------------------

    def status(self) -> TwinStatus:
        """Return the mean difference of the latest orders, its interval of 99 % and its causes, and the
        difference of the whole run in the account's currency.
        """
        if not self._behind:
            self._fold_waiting()  # between two events the decisions of the last one are complete
        count, mean, low, high = self._latest()
        difference, amounts = self._totals()
        return TwinStatus(
            count,
            mean,
            low,
            high,
            *self._allowed,
            self._mean_causes(),
            self._raised,
            self._problem,
            difference,
            amounts,
            self._behind,
        )

    def _latest(self) -> tuple[int, float | None, float | None, float | None]:
        """Return number, mean difference and interval of the latest orders."""
        differences = [difference for difference, _ in self._judged]
        count = len(differences)
        mean = fmean(differences) if count else None
        if mean is None or count < LEAST_ORDERS:
            return count, mean, None, None
        half = _Z * stdev(differences) / count**0.5
        return count, mean, mean - half, mean + half

    def _mean_causes(self) -> dict[str, float]:
        """Return the causes of the mean difference, in basis points."""
        causes: Counter[str] = Counter()
        for _, parts in self._judged:
            causes.update({cause: amount / len(self._judged) for cause, amount in parts.items()})
        return dict(causes)

    def _totals(self) -> tuple[Decimal | None, dict[str, Decimal]]:
        """Return the difference of the two equities and its causes; None if they don't add up."""
        if self._problem or self._behind:
            return None, {}
        with exact():
            totals = defaultdict(Decimal, self._causes)
            for record in self._fold.records.values():
                if record.moves:
                    for cause, amount in self._attribute(record).causes.items():
                        totals[cause] += amount
            for cause, amount in funding_parts(self._fold.funding).items():
                totals[cause] += amount
            difference = self._fold.venue.exact_equity() - self._fold.paper.exact_equity()
            found = sum(totals.values(), _ZERO)
        if found != difference:
            self._problem = f"its parts add up to {found}, but the equities differ by {difference}"
            _log.error("the twin has ended", reason=self._problem)
            return None, {}
        return difference, {cause: totals[cause] for cause in LABELS if totals.get(cause)}

    def due_alarm(self) -> dict[str, str] | None:
        """Return the arguments of the alarm that is to be raised or cleared now; None if none is.

        It is raised if the whole interval is outside what the model allows, and cleared if the mean is within
        it again.
        """
        count, mean, low, high = self._latest()
        if mean is None or low is None or high is None:
            return None
        allowed_low, allowed_high = self._allowed
        outside = high < allowed_low or low > allowed_high
        within = allowed_low <= mean <= allowed_high
        if outside == self._raised or (self._raised and not within):
            return None
        self._raised = outside
        causes = sorted(self._mean_causes().items(), key=lambda part: -abs(part[1]))[:3]
        largest = ", ".join(f"{cause} {amount:+.2f}" for cause, amount in causes)
        detail = (
            f"{count} orders at the venue differ from paper by {mean:+.2f} bps on average "
            f"(99 % interval {low:+.2f} to {high:+.2f}; the model allows "
            f"{allowed_low:+.2f} to {allowed_high:+.2f}): {largest}"
        )
        return {"rule": TWIN, "state": RAISED if outside else CLEARED, "detail": detail}

    async def watch(self, alarm: Callable[..., Awaitable[None]]) -> Never:
        """Catch up with the journal; then log and journal a due alarm until cancelled. `alarm` is
        `CommandHandler.alarm`.
        """
        await self.catch_up()
        while True:
            if (args := self.due_alarm()) is not None:
                log = _log.warning if args["state"] == RAISED else _log.info
                log(TWIN, state=args["state"], detail=args["detail"])
                await alarm(**args)
            await asyncio.sleep(_POLL)
