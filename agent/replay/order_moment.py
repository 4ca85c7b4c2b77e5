"""What the engine knew when it placed an order: captured while a recorded run is folded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from math import inf
from typing import Literal

import msgspec

from agent.config import Config
from agent.core.engine import Engine
from agent.core.events import Decision, News, Order, OrderType, Prediction, Sentiment, Side, Signal
from agent.core.sizing import protection_of, size
from agent.core.sleeve import sleeve_config
from agent.core.sleeves import SleevedEngine
from agent.core.target import Target
from agent.core.trading_engine import TradingEngine
from agent.core.votes import CountedVote
from agent.replay.watched_strategy import NotedTarget, TargetLog
from agent.store.comparison_sink import ComparisonSink

Origin = Literal["target", "protection", "closing", "liquidation"]
"""What placed an order: a target of the strategy; the exchange, to protect a position; the engine, to close
one (kill, flatten, drawdown, stale data); the paper exchange, because margin ran out."""


class DerivedSize(msgspec.Struct, frozen=True):
    """How a target became a quantity. Quantities are in base coin or shares, amounts in account currency.

    - `price`: the price that the size refers to: the limit, the trigger of a stop entry, or the last price.
    - `aimed`: the position that the target means, before it is rounded to `lot`.
    - `qty`: the order's quantity, from `held` to `position_after`.
    - `confirmed`: True if this derivation gives the recorded order.
    """

    equity: float
    price: float
    held: Decimal
    aimed: float
    lot: Decimal
    position_after: Decimal
    qty: Decimal
    reduces: bool
    limited: bool  # True if a risk limit reduced a target by risk
    confirmed: bool


class RiskCheck(msgspec.Struct, frozen=True):
    """A limit that the order passed: its value and the limit, both in the unit that `rule` names."""

    rule: str
    value: float
    limit: float

    @property
    def used(self) -> float:
        """Share of the limit that is used."""
        return self.value / self.limit if self.limit else inf


class OrderMoment(msgspec.Struct, frozen=True):
    """The engine's state as it placed an order. `target` is the strategy's last one for the symbol."""

    order: Order
    origin: Origin
    target: NotedTarget | None
    size: DerivedSize | None
    signal: Signal | None
    votes: list[CountedVote]
    features: dict[str, float]
    prediction: Prediction | None
    risk_state: str
    floor: float | None  # equity at which the daily loss or the drawdown would act; None without a check
    checks: list[RiskCheck]


class MomentSink:
    """A sink that compares all decisions with the recorded ones and captures the moments of some orders.

    `logs` have the targets by sleeve; without sleeves the only key is "".
    """

    def __init__(
        self,
        inner: ComparisonSink,
        config: Config,
        logs: Mapping[str, TargetLog],
        wanted: Sequence[str],
    ) -> None:
        self.moments: dict[str, OrderMoment] = {}
        self.engine: TradingEngine | None = None  # set once it is made
        self._inner = inner
        self._config = config
        self._logs = logs
        self._wanted = frozenset(wanted)

    def decision(self, decision: Decision) -> None:
        """Compare a decision; if it is an order to explain, capture the engine's state."""
        self._inner.decision(decision)
        if isinstance(decision, Order) and decision.id in self._wanted and self.engine is not None:
            self.moments[decision.id] = self._moment(self.engine, decision)

    def _moment(self, engine: TradingEngine, order: Order) -> OrderMoment:
        if isinstance(engine, SleevedEngine):
            sleeve = engine.sleeves[order.sleeve or ""]
            config = sleeve_config(self._config, sleeve.settings, sleeve.engine.portfolio.initial)
            moment = _capture(sleeve.engine, config, self._logs[sleeve.name], order)
            if moment.checks:
                moment.checks.extend(_account_checks(engine, self._config, order))
            return moment
        if not isinstance(engine, Engine):
            raise AssertionError("an engine is that of a strategy or of several")
        return _capture(engine, self._config, self._logs[""], order)

    def equity(
        self, ts: Sequence[int], equity: Sequence[float], cash: Sequence[float], exposure: Sequence[float]
    ) -> None:
        """Ignore the samples: they follow from the decisions."""

    def news(self, news: News, symbols: tuple[str, ...], story: str) -> None:
        """Ignore an input."""

    def sentiment(self, sentiment: Sentiment) -> None:
        """Ignore an input."""

    def sleeve_equity(
        self,
        sleeve: str,
        ts: Sequence[int],
        equity: Sequence[float],
        cash: Sequence[float],
        exposure: Sequence[float],
    ) -> None:
        """Ignore the samples: they follow from the decisions."""


def _capture(engine: Engine, config: Config, log: TargetLog, order: Order) -> OrderMoment:
    symbol, now = order.symbol, engine.market.now
    origin = _origin(engine, order)
    noted = log.last.get(symbol) if origin == "target" else None
    derived = _derive(engine, config, noted.target, order) if noted is not None else None
    floor = engine.risk.floor
    return OrderMoment(
        order,
        origin,
        noted,
        derived,
        engine.signals.current(symbol),
        engine.signals.votes(symbol, now),
        engine.states[symbol].tracker.latest()._asdict(),
        engine.market.prediction(symbol),
        engine.risk.state.value,
        floor if abs(floor) < inf else None,
        _checks(engine, config, order, derived, now) if origin == "target" else [],
    )


def _origin(engine: Engine, order: Order) -> Origin:
    if order.reduce_only and order.type in (OrderType.STOP, OrderType.TAKE_PROFIT, OrderType.TRAILING_STOP):
        return "protection"
    if order.reduce_only and order.reason == "liquidation":
        return "liquidation"
    pursuit = engine.flattener.pursuits.get(order.symbol)
    if pursuit is not None and order.reduce_only and order.reason == pursuit.reason:
        return "closing"
    return "target"


def _derive(engine: Engine, config: Config, target: Target, order: Order) -> DerivedSize | None:
    """Derive the size again, with the engine's own functions and numbers; None if nothing is to trade."""
    state = engine.states[order.symbol]
    position, rules = state.position, state.instrument
    mark, equity = position.mark, engine.portfolio.equity()
    most = inf
    if target.risk is not None:
        others = engine.portfolio.gross_notional() - abs(position.size) * mark
        toward = float(position.qty) * mark * (1 if target.weight > 0 else -1)
        most = max(engine.risk.largest_position(equity, others, toward), toward, 0.0)
    sized = size(target, rules, position.qty, mark, equity, config.paper.rebalance_band, most)
    if sized is None:
        return None
    price = mark if target.anchor is None else target.anchor
    sign = 1 if target.weight > 0 else -1
    limited = False
    if target.qty is not None:
        units = float(target.qty)
    elif target.risk is not None:
        side = Side.SELL if target.weight > 0 else Side.BUY
        stop = protection_of(target, rules, mark, side).stop
        distance = 0.0 if stop is None else abs(float(Decimal(repr(float(price))) - stop))
        units = target.risk * equity / distance if distance else 0.0
        limited = units > most / price
        units = min(units, most / price)
    else:
        units = abs(target.weight) * max(equity, 0.0) / price
    return DerivedSize(
        equity,
        price,
        position.qty,
        sign * units if target.weight else 0.0,
        rules.qty_step,
        sized.position_after,
        sized.qty,
        sized.reduces,
        limited,
        sized.side is order.side and sized.qty == order.qty and sized.limit == order.price,
    )


def _checks(
    engine: Engine, config: Config, order: Order, derived: DerivedSize | None, now: int
) -> list[RiskCheck]:
    """Return the limits that an order which opens or adds had to pass, in the order of the checks."""
    if derived is None or derived.reduces:
        return []
    limits, state = config.risk, engine.states[order.symbol]
    mark, equity = state.position.mark, derived.equity
    after = abs(float(derived.position_after)) * mark
    gross = engine.portfolio.gross_notional() - abs(state.position.size) * mark + after
    return [
        RiskCheck("data overdue, ms", float(state.overdue(now)), float(limits.stale_after)),
        RiskCheck(
            "orders in a minute", float(engine.risk.recent_orders(now)), float(limits.max_orders_per_minute)
        ),
        RiskCheck("order, x equity", float(order.qty) * mark / equity, limits.max_order),
        RiskCheck("position, x equity", after / equity, limits.max_position),
        RiskCheck("all positions, x equity", gross / equity, limits.max_leverage),
    ]


def _account_checks(engine: SleevedEngine, config: Config, order: Order) -> list[RiskCheck]:
    """Return the account's limits on its net positions that a sleeve's order had to pass as well.

    An order that shrinks the account's position had to pass none.
    """
    portfolio, limits = engine.portfolio, config.risk
    position, equity = portfolio.positions[order.symbol], portfolio.equity()
    before = position.size * position.mark if position.size else 0.0
    change = float(order.qty) * position.mark * order.side.sign
    after = abs(before + change)
    if after <= abs(before):
        return []
    gross = portfolio.gross_notional() - abs(before) + after
    return [
        RiskCheck("account: order, x equity", abs(change) / equity, limits.max_order),
        RiskCheck("account: net position, x equity", after / equity, limits.max_position),
        RiskCheck("account: all positions, x equity", gross / equity, limits.max_leverage),
    ]
