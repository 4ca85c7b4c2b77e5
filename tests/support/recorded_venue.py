"""A recorded run at a venue whose rules are known: the real engine and store, on a simulated clock.

The venue fills orders with the core's paper exchange under rules of its own, some time after the decision.
What the run is told of the market can lack bars, which the venue still has.
"""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import count
from typing import Any

import msgspec
from msgspec import UNSET

from agent.config import Config, PaperConfig, parse
from agent.core.engine import CORE, CORE_REVISION, Engine
from agent.core.events import (
    MINUTE_MS,
    AccountSnapshot,
    Amend,
    Cancel,
    Command,
    Decision,
    Event,
    Fill,
    FundingPayment,
    FundingSettlement,
    Kline,
    Order,
    OrderStatus,
    OrderType,
    OrderUpdate,
)
from agent.core.exchange import Report
from agent.core.instruments import instrument_for
from agent.core.paper import PaperExchange
from agent.core.portfolio import Portfolio
from agent.data.funding import constant_funding
from agent.live.observers import LiveSink
from agent.store.database import Database
from agent.store.journal import Journal
from agent.store.recorder import Recorder
from agent.store.runs import Run, RunKind
from strategies import load_strategy

BEGIN = 1_735_732_800_000  # 2025-01-01T12:00Z
STREAM_MS = 50  # from a price to its arrival
CLOSE_MS = 100  # the same for the close of a bar
REPORT_MS = 80  # from an execution to the arrival of its report
CAPITAL = Decimal(100_000)


@dataclass
class Venue:
    """The venue's rules, and what of its market the run is shown."""

    rules: dict[str, Any] = field(default_factory=dict)  # of [paper]; the latency is that of all orders
    at_once: bool = False  # a market order meets the last price, not the next one
    gap: tuple[int, int] | None = None  # minutes since BEGIN of which the run is shown nothing
    reject: int = 0  # every n-th order is rejected
    executions: int = 1  # reports of a fill
    funding_rate: str = "0"


PAPER: dict[str, Any] = {
    "latency": 250,
    "half_spread_bps": 0.5,
    "slippage": "none",
    "liquidity": "infinite",
    "funding_rate": "0",
}
"""Costs of the run's configuration; a venue with the same rules fills orders as the twin does."""


def configuration(symbols: tuple[str, ...], strategy: dict[str, Any], **sections: Any) -> Config:
    """Return the configuration of a run at a venue."""
    raw: dict[str, Any] = {
        "market": {"symbols": symbols},
        "account": {"initial_capital": CAPITAL},
        "execution": {"mode": "testnet", "testnet": {"venue": "http://127.0.0.1:1"}},
        "instruments": {
            symbol: {"tick_size": "0.01", "qty_step": "0.001", "min_notional": 0} for symbol in symbols
        },
        "risk": {
            "max_daily_loss": 1,
            "max_drawdown": 1,
            "max_orders_per_minute": 10_000,
            "stale_after": "8h",
        },
        "strategy": strategy,
        "paper": PAPER,
    }
    for name, section in sections.items():
        raw[name] = raw.get(name, {}) | section
    return parse(raw, where="test")


def record(
    database: Database,
    config: Config,
    venue: Venue | None = None,
    *,
    minutes: int = 60,
    seed: int = 1,
    run_id: str = "run",
    step: int = 1_000,
    volatility: float = 2e-4,
    begin: int = BEGIN,
) -> Run:
    """Record a run of so many minutes, with a price each `step` ms and symbol; return it, complete."""
    return _Recording(database, config, venue or Venue(), seed, run_id, step, volatility, begin).play(minutes)


class _Recording:
    def __init__(
        self,
        database: Database,
        config: Config,
        venue: Venue,
        seed: int,
        run_id: str,
        step: int,
        volatility: float,
        begin: int,
    ) -> None:
        self.begin = begin
        self.config, self.venue, self.step, self.volatility = config, venue, step, volatility
        self.rng = random.Random(seed)
        strategy = load_strategy(config.strategy.name, config.strategy.params)
        self.run = Run(
            run_id,
            RunKind.LIVE,
            self.begin,
            config.strategy.name,
            params=strategy.params.model_dump(mode="json"),
            config=config.persisted(),
            versions={CORE: CORE_REVISION},
        )
        self.database = database
        self.recorder = Recorder(database, self.run)
        self.events: list[Event] = []  # journalled in one transaction at the end
        sink = LiveSink(self.recorder, config.market.interval)
        sink.observers.append(self)
        self.sink = sink
        self.engine = Engine(
            config,
            strategy,
            sink,
            run_id=run_id,
            exchange=config.execution.exchange(),
            equity_block=1,
            contain_errors=True,
        )
        self.queue: list[tuple[int, int, Any]] = []
        self.numbers = count()
        self.now = self.begin
        self.orders = 0
        symbols = config.market.symbols
        rules = PaperConfig.model_validate(PAPER | venue.rules | {"latency": 0})
        self.latency = PaperConfig.model_validate(PAPER | venue.rules).latency
        own = config.model_copy(update={"paper": rules})
        own = own.model_copy(update={"account": config.account.model_copy(update={"leverage": Decimal(10)})})
        self.held = Portfolio(CAPITAL, symbols)
        self.exchange = PaperExchange(
            own, {s: instrument_for(s, own) for s in symbols}, self.held, self._on_report, self._new_id
        )
        self.prices = {symbol: 100.0 * (number + 1) for number, symbol in enumerate(symbols)}
        self.bars: dict[str, Kline] = {}

    # -- time -------------------------------------------------------------------------------------------

    def play(self, minutes: int) -> Run:
        end = self.begin + minutes * MINUTE_MS
        self._input(
            Command(
                "life",
                self.begin,
                self.begin,
                {"incarnation": "a", "cash": "stated", "transfers": "discounted"},
            )
        )
        self._input(Command("reconciling", self.begin, self.begin))
        self._input(AccountSnapshot(self.begin, self.begin, {"USDT": CAPITAL}))
        for ts in range(self.begin + self.step // 2, end, self.step):
            for symbol in self.config.market.symbols:
                self._at(ts, ("price", symbol))
        for start in range(self.begin, end, MINUTE_MS):
            for symbol in self.config.market.symbols:
                self._at(start + MINUTE_MS, ("close", symbol, start))
        if self.config.market.category == "linear" and float(self.venue.funding_rate):
            for stamp in constant_funding(
                self.config.market.symbols, float(self.venue.funding_rate), 28_800_000, self.begin, end
            ):
                self._at(stamp.ts, ("funding", stamp))
        while self.queue:
            self.now, _, what = heapq.heappop(self.queue)
            getattr(self, f"_do_{what[0]}")(*what[1:])
        self.engine.finish()
        Journal(self.database, self.run.id).append(self.events)
        return self.recorder.finish(
            first_event_at=self.begin,
            last_event_at=self.now,
            final_equity=self.engine.portfolio.exact_equity(),
            metrics={},
        )

    def _at(self, time: int, what: tuple[Any, ...]) -> None:
        heapq.heappush(self.queue, (time, next(self.numbers), what))

    def _input(self, event: Event) -> None:
        self.events.append(event)
        self.recorder.event_seq = self.sink.event_seq = len(self.events)
        self.engine.handle(event)

    def _do_event(self, event: Event) -> None:
        self._input(msgspec.structs.replace(event, available_at=self.now))

    # -- the market -------------------------------------------------------------------------------------

    def _do_price(self, symbol: str) -> None:
        price = round(self.prices[symbol] * (1 + self.rng.gauss(0, self.volatility)), 2)
        self.prices[symbol] = price
        start = self.now // MINUTE_MS * MINUTE_MS
        bar = self.bars.get(symbol)
        if bar is None or bar.start != start:
            opened, high, low, volume = price, price, price, 0.0
        else:
            opened, high, low, volume = bar.open, max(bar.high, price), min(bar.low, price), bar.volume
        bar = Kline(
            symbol,
            MINUTE_MS,
            start,
            self.now,
            self.now + STREAM_MS,
            opened,
            high,
            low,
            price,
            volume + 10,
            confirm=False,
        )
        self.bars[symbol] = bar
        self.held.positions[symbol].mark = price
        if self.exchange.books[symbol]:
            self.exchange.on_price(bar)
        if not self._hidden(self.now):
            self._at(self.now + STREAM_MS, ("event", bar))

    def _do_close(self, symbol: str, start: int) -> None:
        if symbol in self.bars and not self._hidden(start):
            closed = msgspec.structs.replace(self.bars[symbol], ts=start + MINUTE_MS, confirm=True)
            self._at(self.now + CLOSE_MS, ("event", closed))

    def _hidden(self, ts: int) -> bool:
        gap = self.venue.gap
        return gap is not None and gap[0] <= (ts - self.begin) // MINUTE_MS < gap[1]

    def _do_funding(self, stamp: Any) -> None:
        self.exchange.on_funding(stamp)

    # -- what the run decides ---------------------------------------------------------------------------

    def event(self, seq: int, event: Event) -> None: ...

    def decision(self, seq: int, decision: Decision) -> None:
        if isinstance(decision, Order | Cancel | Amend):
            self._at(self.now + self.latency, ("request", decision))

    def _do_request(self, request: Order | Cancel | Amend) -> None:
        if isinstance(request, Order):
            self._submit(request)
            return
        working = [w for w in self.exchange.books[request.symbol] if w.order.id == request.order_id]
        if isinstance(request, Cancel):
            self.exchange.cancel(working, self.now, request.reason)
        else:
            for one in working:
                self.exchange.amend(one, qty=request.qty, price=request.price)

    def _submit(self, order: Order) -> None:
        self.orders += 1
        if self.venue.reject and self.orders % self.venue.reject == 0:
            self._report(
                OrderUpdate(order.id, order.symbol, self.now, 0, OrderStatus.REJECTED, reason="busy")
            )
            return
        trail = order.trail if order.type is OrderType.TRAILING_STOP else UNSET
        alone = msgspec.structs.replace(order, stop=None, take_profit=None, trail=trail)
        self._report(OrderUpdate(order.id, order.symbol, self.now, 0, OrderStatus.NEW))
        self.exchange.submit(msgspec.structs.replace(alone, take_profits=UNSET, expires=UNSET), self.now)
        if self.venue.at_once and order.type in (OrderType.MARKET, OrderType.LIMIT):
            bar = self.bars[order.symbol]
            met = msgspec.structs.replace(bar, ts=self.now + 1, available_at=self.now + 1)
            self.exchange.on_price(met)

    # -- what the venue reports -------------------------------------------------------------------------

    def _new_id(self) -> str:
        return f"venue-{next(self.numbers)}"

    def _on_report(self, report: Report) -> None:
        if isinstance(report, OrderUpdate):
            self._report(report)
        elif isinstance(report, FundingPayment):
            p = report
            self._report(
                FundingSettlement(
                    f"f{next(self.numbers)}", p.symbol, p.ts, 0, p.rate, p.qty, p.mark, p.amount
                )
            )
        elif isinstance(report, Fill):
            rules = instrument_for(report.symbol, self.config)
            part = rules.round_qty(report.qty / self.venue.executions)
            parts = [part] * (self.venue.executions - 1) if part else []
            for number, qty in enumerate([*parts, report.qty - sum(parts, Decimal(0))]):
                fee = report.fee * qty / report.qty
                self._report(
                    msgspec.structs.replace(
                        report, id=f"{report.id}/{number}", qty=qty, fee=fee, slippage=Decimal(0), reason=""
                    )
                )

    def _report(self, event: Event) -> None:
        self._at(self.now + REPORT_MS, ("event", event))
