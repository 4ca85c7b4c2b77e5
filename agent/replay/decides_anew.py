"""The engine of a twin, which decides for itself on paper from the inputs of a venue run."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from agent.config import Config
from agent.core.engine import Engine
from agent.core.events import (
    CashAdjustment,
    Command,
    Decision,
    Event,
    Fill,
    FillKind,
    FundingSettlement,
    Kline,
    Order,
    OrderUpdate,
    RiskState,
)
from agent.core.fusion_inputs import Predictor
from agent.core.paper import PaperExchange
from agent.core.sinks import NullSink
from agent.core.strategy import Strategy
from agent.replay.twin_events import PaperFunding, is_strategys


class DecidesAnew:
    """An engine that decides on paper from the inputs of a venue run, without the venue's reports."""

    def __init__(self, config: Config, strategy: Strategy, run_id: str, predictor: Predictor | None) -> None:
        self._seq = 0
        self.orders: list[tuple[int, Order]] = []
        self._engine = Engine(
            config,
            strategy,
            _OrderSink(self),
            run_id=run_id,
            exchange=PaperExchange,
            predictor=predictor,
            contain_errors=True,
        )
        self._engine.risk.set_reconciled(False)
        self._stamps = PaperFunding(config)

    def handle(self, seq: int, event: Event, decisions: Sequence[Decision]) -> None:
        """Handle an event; of the venue's `decisions` only those count that changed its capital."""
        self._seq = seq
        engine = self._engine
        for decision in decisions:
            if isinstance(decision, CashAdjustment):
                engine.transfer(decision.amount)
            elif isinstance(decision, Fill) and decision.kind is FillKind.TRANSFER:
                engine.portfolio.apply(decision)
        if isinstance(event, OrderUpdate | Fill | FundingSettlement):
            return
        engine.handle(event)
        if isinstance(event, Command) and event.action == "reconciling":
            engine.risk.set_reconciled(False)
        if isinstance(event, Kline) and event.confirm and event.symbol in engine.states:
            for stamp in self._stamps.due(event):
                engine.handle(stamp)

    @property
    def state(self) -> RiskState:
        return self._engine.risk.state

    @property
    def equity(self) -> Decimal:
        return self._engine.portfolio.exact_equity()

    def record(self, decision: Decision) -> None:
        """Keep an order of the strategy."""
        if isinstance(decision, Order) and is_strategys(decision):
            self.orders.append((self._seq, decision))


class _OrderSink(NullSink):
    def __init__(self, owner: DecidesAnew) -> None:
        self._owner = owner

    def decision(self, decision: Decision) -> None:
        self._owner.record(decision)
