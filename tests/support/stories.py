"""Random but repeatable stories of a run: a market with headlines and commands, on paper or at a venue that answers at random."""

from __future__ import annotations

import random
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

from agent.config import Config, StoreConfig
from agent.core.engine import Engine
from agent.core.events import (
    AccountSnapshot,
    Amend,
    Cancel,
    Command,
    Decision,
    Event,
    Fill,
    Kline,
    News,
    Order,
    OrderStatus,
    OrderUpdate,
    Sentiment,
)
from agent.core.fusion_inputs import Predictor
from agent.core.sinks import ListSink
from agent.core.venue import VenueExchange
from agent.store.chain import DecisionChain
from strategies import load_strategy
from tests.crash.market_script import KeywordModel, compose_script
from tests.simulation.random_config import random_config

_ONLY_UPDATES = (OrderStatus.NEW, OrderStatus.CANCELLED, OrderStatus.REJECTED)


class Chained(ListSink):
    """A sink that chains decisions as the recorder does."""

    def __init__(self) -> None:
        super().__init__()
        self.chain = DecisionChain()
        self.event_seq = 0

    def decision(self, decision: Decision) -> None:
        self.chain.add(decision, self.event_seq)
        super().decision(decision)


class Story:
    """A seed's configuration and events; `play` makes engines that hear them."""

    def __init__(
        self, seed: int, folder: Path, minutes: int = 60, predictor: Predictor | None = None
    ) -> None:
        self._dice = random.Random(seed)
        self.config: Config = random_config(self._dice, folder).model_copy(update={"store": StoreConfig()})
        self.predictor = predictor
        self.events: list[Event] = []
        engine, sink = self.fresh()
        for event in self._compose(seed, minutes, engine, sink):
            self.events.append(event)
            sink.event_seq = len(self.events)
            engine.handle(event)

    def fresh(self) -> tuple[Engine, Chained]:
        """An engine that has heard nothing."""
        strategy = load_strategy(self.config.strategy.name, self.config.strategy.params)
        sink = Chained()
        return Engine(
            self.config,
            strategy,
            sink,
            run_id="story",
            exchange=self.config.execution.exchange(),
            equity_block=1,
            predictor=self.predictor,
            contain_errors=True,
        ), sink

    def play(self, engine: Engine, sink: Chained, start: int, end: int) -> None:
        """Let it hear the events after number `start`, up to `end`."""
        for number in range(start, end):
            sink.event_seq = number + 1
            engine.handle(self.events[number])

    def _compose(self, seed: int, minutes: int, engine: Engine, sink: Chained) -> Iterator[Event]:
        heard = 0
        waiting: list[Event] = []
        now = 0
        testnet = isinstance(engine.exchange, VenueExchange)
        for burst in compose_script(seed, minutes):
            for event in burst:
                now = max(now, event.available_at)
                yield event
                if isinstance(event, News):
                    (score,) = KeywordModel().score([event.title])
                    yield Sentiment(
                        event.id, now, now, score.bearish, score.neutral, score.bullish, model="words", embedding=b"\0<\0@" if self.predictor else b"",
                        abstained=self._dice.random() < 0.1,
                    )  # fmt: skip
                if isinstance(event, Kline) and event.confirm and self._dice.random() < 0.05:
                    yield Command("heartbeat", now, now + 40_000, by="test")
            if testnet:
                waiting += self._answers(sink.decisions[heard:], now)
                if self._dice.random() < 0.3:
                    waiting.append(self._account(engine, now))
            heard = len(sink.decisions)
            while waiting and self._dice.random() < 0.8:
                yield waiting.pop(self._dice.randrange(len(waiting)))

    def _answers(self, decisions: list[Decision], now: int) -> Iterator[Event]:
        for one in decisions:
            if isinstance(one, Order):
                status = self._dice.choice(_ONLY_UPDATES)
                yield OrderUpdate(one.id, one.symbol, now, now, status, Decimal(0), "as the dice fell")
                part = (one.qty * Decimal(self._dice.choice(("0.5", "1")))).quantize(one.qty)
                price = one.price or one.trigger or Decimal("100.5")
                if part and status is OrderStatus.NEW:
                    yield Fill(
                        f"x-{one.id}", one.id, one.symbol, now, now, one.side, part, price, Decimal("0.01")
                    )
            elif isinstance(one, Cancel | Amend) and self._dice.random() < 0.7:
                yield OrderUpdate(one.order_id, one.symbol, now, now, OrderStatus.CANCELLED, Decimal(0), "")

    def _account(self, engine: Engine, now: int) -> AccountSnapshot:
        ledger = engine.exchange
        assert isinstance(ledger, VenueExchange)
        drift = Decimal(self._dice.choice((0, 0, 0, 5)))
        return AccountSnapshot(now, now, {"USDT": ledger.wallet() + drift}, foreign=self._dice.random() < 0.1)
