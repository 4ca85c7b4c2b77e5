"""Random but repeatable runs: market data, headlines and commands, on paper or at a randomised venue."""

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
    """The configuration and events of a seed; `play` feeds them to an engine."""

    def __init__(
        self, seed: int, folder: Path, minutes: int = 60, predictor: Predictor | None = None
    ) -> None:
        self._rng = random.Random(seed)
        self.config: Config = random_config(self._rng, folder).model_copy(update={"store": StoreConfig()})
        self.predictor = predictor
        self.events: list[Event] = []
        engine, sink = self.fresh()
        for event in self._compose(seed, minutes, engine, sink):
            self.events.append(event)
            sink.event_seq = len(self.events)
            engine.handle(event)

    def fresh(self) -> tuple[Engine, Chained]:
        """Return a fresh engine and its sink."""
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
        """Feed the events after number `start`, up to `end`."""
        for number in range(start, end):
            sink.event_seq = number + 1
            engine.handle(self.events[number])

    def _compose(self, seed: int, minutes: int, engine: Engine, sink: Chained) -> Iterator[Event]:
        decided = 0
        waiting: list[Event] = []
        now = 0
        revising = random.Random(f"revisions of {seed}")
        provisional: list[str] = []  # headlines that await a revision
        testnet = isinstance(engine.exchange, VenueExchange)
        for burst in compose_script(seed, minutes):
            for event in burst:
                now = max(now, event.available_at)
                yield event
                if isinstance(event, News):
                    (score,) = KeywordModel().score([event.title])
                    if revises := revising.random() < 0.5:
                        provisional.append(event.id)
                    yield Sentiment(
                        event.id,
                        now,
                        now,
                        score.bearish,
                        score.neutral,
                        score.bullish,
                        model="words",
                        embedding=b"\0<\0@" if self.predictor else b"",
                        abstained=self._rng.random() < 0.1,
                        provisional=revises,
                    )
                while provisional and revising.random() < 0.2:
                    yield self._revision(provisional.pop(0), now, revising)
                if isinstance(event, Kline) and event.confirm and self._rng.random() < 0.05:
                    yield Command("heartbeat", now, now + 40_000, by="test")
            if testnet:
                waiting += self._venue_events(sink.decisions[decided:], now)
                if self._rng.random() < 0.3:
                    waiting.append(self._account(engine, now))
            decided = len(sink.decisions)
            while waiting and self._rng.random() < 0.8:
                yield waiting.pop(self._rng.randrange(len(waiting)))

    def _revision(self, news_id: str, now: int, rng: random.Random) -> Sentiment:
        weights = [rng.random() ** 4 for _ in range(3)]
        chances = [weight / sum(weights) for weight in weights]
        return Sentiment(news_id, now, now, *chances, model="slow words", abstained=rng.random() < 0.1)

    def _venue_events(self, decisions: list[Decision], now: int) -> Iterator[Event]:
        for one in decisions:
            if isinstance(one, Order):
                status = self._rng.choice(_ONLY_UPDATES)
                yield OrderUpdate(one.id, one.symbol, now, now, status, Decimal(0), "random")
                part = (one.qty * Decimal(self._rng.choice(("0.5", "1")))).quantize(one.qty)
                price = one.price or one.trigger or Decimal("100.5")
                if part and status is OrderStatus.NEW:
                    yield Fill(
                        f"x-{one.id}", one.id, one.symbol, now, now, one.side, part, price, Decimal("0.01")
                    )
            elif isinstance(one, Cancel | Amend) and self._rng.random() < 0.7:
                yield OrderUpdate(one.order_id, one.symbol, now, now, OrderStatus.CANCELLED, Decimal(0), "")

    def _account(self, engine: Engine, now: int) -> AccountSnapshot:
        exchange = engine.exchange
        assert isinstance(exchange, VenueExchange)
        drift = Decimal(self._rng.choice((0, 0, 0, 5)))
        return AccountSnapshot(
            now, now, {"USDT": exchange.wallet() + drift}, foreign=self._rng.random() < 0.1
        )
