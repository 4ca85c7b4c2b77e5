"""Causes planted at the real sandbox: `tapewire twin` finds each by name and size.

The daemon trades over HTTP and WebSockets. What is expected comes from the sandbox's own list of executions
and the prices that it played, and from nothing of the twin.

An agent on a busy machine takes only the newest of several prices that have arrived at once. So the sizes are
those of orders whose price at the venue is in the run's journal, and each test trades until it has enough.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from agent.analysis.twin_report import TwinOrder, TwinReport
from agent.core.events import HOUR_MS, MINUTE_MS
from agent.core.strategy import Kline, Market, Strategy, StrategyParams
from agent.live.app import make_agent
from agent.sandbox import Sandbox, SandboxOptions
from agent.sandbox.account_events import AccountExecution
from agent.sandbox.faults import parse_fault
from agent.sandbox.replay_market import PublicTrade
from agent.store.database import Database
from agent.store.journal import read_journal
from agent.system.clock import Clock
from tests.cli.conftest import Outcome, tapewire
from tests.live.gateway.churning_strategy import churn, venue_settings
from tests.support.live import SAMPLES, living, load_words, settings, until

__all__ = ["tapewire"]
D = Decimal
SYMBOLS = tuple(f"C{number}USDT" for number in range(6))
CAPITAL = 1_000_000
OWN_RULES = {"latency": 0, "slippage": "none", "liquidity": "infinite", "half_spread_bps": 0.5}
"""The sandbox's own costs unless a test plants others."""
HALF_SPREAD, TAKER_FEE = D("0.00005"), D("0.00055")
"""Those of `OWN_RULES` as fractions."""
ENOUGH = 12
"""Orders filled soon after the bar on which they were decided: a test trades for so many."""

Tapewire = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAPEWIRE_API_KEY", "sandbox-key")
    monkeypatch.setenv("TAPEWIRE_API_SECRET", "sandbox-secret")


class PlayedPrice(NamedTuple):
    """A price: its time in the market, and when the sandbox streamed it."""

    ts: int
    streamed: int
    price: Decimal


class PlayedPrices:
    """Every price that the sandbox played, by symbol in order, with the time when it was streamed."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.trades: defaultdict[str, list[PlayedPrice]] = defaultdict(list)

    def on_trade(self, trade: PublicTrade) -> None:
        self.trades[trade.symbol].append(PlayedPrice(trade.time, self._clock.now(), D(repr(trade.price))))

    def on_close(self, symbol: str, index: int) -> None:
        pass

    def last(self, symbol: str, ts: int) -> Decimal:
        """Return the last price up to a time."""
        return self.last_streamed(symbol, ts).price

    def last_streamed(self, symbol: str, ts: int) -> PlayedPrice:
        return [one for one in self.trades[symbol] if one.streamed <= ts][-1]

    def met_by_paper(self, order: TwinOrder) -> Decimal:
        """Return the price at the moment of the order's fill on paper."""
        return self.last(order.symbol, order.ts + (order.paper_delay_ms or 0))


class Traded(NamedTuple):
    """What `tapewire twin` says of a run, and what the sandbox knows of it."""

    report: TwinReport
    executions: dict[str, list[AccountExecution]]  # by the run's order
    funding: list[AccountExecution]
    prices: PlayedPrices
    sandbox: Sandbox
    shown: dict[str, list[int]]  # times of the prices in the run's journal

    def filled_by_both(self) -> list[tuple[TwinOrder, list[AccountExecution]]]:
        """Return the orders that paper and the venue have filled, the venue at once and at a price that the
        run was shown.
        """
        both = []
        for order in self.report.orders:
            found = self.executions.get(order.id, [])
            whole = found and order.venue_qty == quantity(found)  # the last fills may not have arrived
            if whole and order.paper_qty and len({one.time for one in found}) == 1:
                at = found[0].time
                since = self.prices.last_streamed(order.symbol, at).streamed
                if any(since <= ts <= at for ts in self.shown[order.symbol]):
                    both.append((order, found))
        return both

    def tick(self, order: TwinOrder) -> Decimal:
        return self.sandbox.venue.instruments.by_category["linear"][order.symbol].tick_size


async def trade(
    database: Database,
    folder: Path,
    tapewire: Tapewire,
    *,
    enough: Callable[[Sandbox], Any],
    symbols: tuple[str, ...] = SYMBOLS,
    strategy: dict[str, Any] | None = None,
    paper: dict[str, Any] | None = None,
    fault: str = "",
    more: tuple[str, ...] = (),
    **options: Any,
) -> Traded:
    """Trade at a sandbox with these options until it has `enough`; run `tapewire twin` on the run."""
    files = tuple(
        Path(f"{symbol}={SAMPLES / ('BTCUSDT', 'ETHUSDT')[number % 2]}-1m.csv")
        for number, symbol in enumerate(symbols)
    )
    unlimited = {"ip_limit": 10**9, "socket_limit": 10**6, "seed": 1, "loop": True, "history_bars": 200}
    chosen = SandboxOptions(**({"klines": files, "balance": D(CAPITAL), "speed": 60.0} | unlimited | options))
    async with Sandbox(chosen) as sandbox:
        prices = PlayedPrices(sandbox.clock)
        sandbox.market.listeners.insert(0, prices)
        rules = sandbox.venue.instruments.by_category["linear"]
        names = ("tick_size", "qty_step", "min_qty")
        config = settings(
            sandbox.rest_url,
            folder,
            market={"symbols": symbols},
            account={"initial_capital": CAPITAL},
            instruments={s: {name: str(getattr(rules[s], name)) for name in names} for s in symbols},
            paper=OWN_RULES | (paper or {}),
            **venue_settings(
                sandbox.rest_url,
                execution={"start_within": "2m"},
                strategy=strategy or churn(weight=0.02, limit=False, guard=False),
            ),
        )
        daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
        async with living(daemon):
            await until(lambda: daemon.gateway is not None and daemon.gateway.reconciled.is_set())
            if fault:
                sandbox.venue.faults.add([parse_fault(fault)])
            await until(lambda: enough(sandbox))
        executions: defaultdict[str, list[AccountExecution]] = defaultdict(list)
        funding = []
        for one in sandbox.venue.account.executions:
            if one.order is None:
                funding.append(one)
            else:
                executions[one.order.link].append(one)
    Path("store.toml").write_text(f'[store]\nurl = "{config.store.url}"\n')
    said = tapewire("twin", "--own-orders", "--json", "--config", "store.toml", *more)
    assert said.code == 0, said.err
    report = msgspec.json.decode(said.out, type=TwinReport)
    assert not report.notes
    assert sum(report.causes.values()) == report.difference
    shown: defaultdict[str, list[int]] = defaultdict(list)
    for _, event in read_journal(database, report.run):
        if isinstance(event, Kline):
            shown[event.symbol].append(event.ts)
    return Traded(report, executions, funding, prices, sandbox, shown)


def prompt(number: int = ENOUGH, within: int = 15_000) -> Callable[[Sandbox], bool]:
    """Return whether the sandbox has filled so many orders soon after a bar, on which they were decided."""

    def enough(sandbox: Sandbox) -> bool:
        trades = [one for one in sandbox.venue.account.executions if one.order is not None]
        return len({one.order.id for one in trades if one.order and one.time % MINUTE_MS < within}) >= number

    return enough


def value(executions: list[AccountExecution]) -> Decimal:
    return sum((one.qty * one.price for one in executions), D(0))


def quantity(executions: list[AccountExecution]) -> Decimal:
    return sum((one.qty for one in executions), D(0))


@pytest.mark.slow
async def test_a_doubled_fee(database: Database, tmp_path: Path, tapewire: Tapewire) -> None:
    found = await trade(database, tmp_path, tapewire, enough=prompt(), taker_fee=2 * TAKER_FEE)
    both = [(order, of) for order, of in found.filled_by_both() if order.venue_qty == order.paper_qty]
    assert len(both) >= 3
    for order, executions in both:
        # half of what was paid, but for the fee of the price that paper met instead
        paid = sum((one.fee for one in executions), D(0))
        assert paid == 2 * TAKER_FEE * value(executions)
        assert order.causes["fee"] == pytest.approx(-paid / 2, rel=D("0.01"))
        assert set(order.causes) <= {"fee", "latency", "rounding"}
    expected = -sum((sum((one.fee for one in of), D(0)) for _, of in both), D(0)) / 2
    assert sum((order.causes["fee"] for order, _ in both), D(0)) == pytest.approx(expected, rel=D("0.002"))


@pytest.mark.slow
async def test_a_wider_spread(database: Database, tmp_path: Path, tapewire: Tapewire) -> None:
    wide = D("0.0005")
    found = await trade(database, tmp_path, tapewire, enough=prompt(), half_spread_bps=5.0)
    both = [(order, of) for order, of in found.filled_by_both() if order.venue_qty == order.paper_qty]
    assert len(both) >= 3
    for order, executions in both:
        sign = 1 if order.side == "BUY" else -1
        # what the execution price is beyond the market's, less the half spread that the twin expects
        market = [one.price / (1 + sign * wide) for one in executions]
        expected = -sum(
            (one.qty * price * (wide - HALF_SPREAD) for one, price in zip(executions, market, strict=True)),
            D(0),
        )
        assert order.causes["spread"] == pytest.approx(expected, abs=2 * found.tick(order) * order.qty)
        assert set(order.causes) <= {"spread", "latency", "rounding", "fee"}
        assert abs(order.causes.get("fee", D(0))) < abs(expected) / 100
    largest = max(found.report.causes, key=lambda cause: abs(found.report.causes[cause]))
    assert largest in ("spread", "latency", "positions")


@pytest.mark.slow
async def test_two_seconds_of_latency(database: Database, tmp_path: Path, tapewire: Tapewire) -> None:
    """The prices that the sandbox played tell where the market was at the two moments."""
    found = await trade(
        database, tmp_path, tapewire, enough=prompt(within=20_000), order_latency=2_000, speed=30.0, steps=60
    )
    late = found.filled_by_both()
    assert len(late) >= 3
    total = D(0)
    for order, executions in late:
        (filled,) = {one.time for one in executions}
        assert filled - order.ts >= 2_000
        assert order.venue_delay_ms == filled - order.ts
        sign = 1 if order.side == "BUY" else -1
        market = value(executions) / quantity(executions) / (1 + sign * HALF_SPREAD)
        moved = market - found.prices.met_by_paper(order)
        expected = -sign * quantity(executions) * moved
        assert order.causes.get("latency", D(0)) == pytest.approx(
            expected, abs=2 * found.tick(order) * order.qty
        )
        assert set(order.causes) <= {"latency", "rounding", "fee"}
        total += expected
    assert total
    assert found.report.venue_delays is not None
    assert found.report.venue_delays.median > 2_000


@pytest.mark.slow
async def test_rejected_orders(database: Database, tmp_path: Path, tapewire: Tapewire) -> None:
    def enough(sandbox: Sandbox) -> bool:
        faults = sandbox.venue.faults.state()
        return bool(faults) and faults[0]["hits"] >= 8 and prompt()(sandbox)

    found = await trade(
        database,
        tmp_path,
        tapewire,
        enough=enough,
        fault="retcode,on=rest/v5/order/create,code=110007,p=0.3",
    )
    rejected = [order for order in found.report.orders if order.venue_status == "REJECTED"]
    assert len(rejected) == found.sandbox.venue.faults.state()[0]["hits"]
    on_paper = [order for order in rejected if order.paper_qty]
    assert len(on_paper) >= 2
    for order in on_paper:
        assert not found.executions.get(order.id)
        # paper paid half the spread and the fee, which the venue did not charge
        price = found.prices.met_by_paper(order)
        saved = order.qty * price * (HALF_SPREAD + TAKER_FEE)
        assert order.causes["rejected"] == pytest.approx(saved, abs=2 * found.tick(order) * order.qty)
        assert set(order.causes) <= {"rejected", "positions"}
    assert found.report.causes["rejected"] == sum((o.causes["rejected"] for o in on_paper), D(0))
    assert "rejected" in found.report.origins


@pytest.mark.slow
async def test_partial_fills(database: Database, tmp_path: Path, tapewire: Tapewire) -> None:
    found = await trade(database, tmp_path, tapewire, enough=prompt(), participation=0.02)
    partly = [
        (order, of) for order, of in found.filled_by_both() if quantity(of) < order.qty == order.paper_qty
    ]
    assert len(partly) >= 3
    for order, executions in partly:
        assert order.venue_qty == quantity(executions)
        missing = order.qty - quantity(executions)
        saved = missing * found.prices.met_by_paper(order) * (HALF_SPREAD + TAKER_FEE)
        assert order.causes["partial"] == pytest.approx(saved, abs=2 * found.tick(order) * missing)
        assert set(order.causes) <= {"partial", "positions", "latency", "rounding", "fee"}
    assert "partial" in found.report.origins


@pytest.mark.slow
async def test_funding_at_another_rate(database: Database, tmp_path: Path, tapewire: Tapewire) -> None:
    rate, expected_rate = D("0.0003"), D("0.0001")

    def enough(sandbox: Sandbox) -> bool:
        paid = [one.time for one in sandbox.venue.account.executions if one.kind == "Funding"]
        return len(paid) >= 2 * 2 and sandbox.market.time > paid[-1] + 5 * MINUTE_MS

    found = await trade(
        database,
        tmp_path,
        tapewire,
        enough=enough,
        symbols=SYMBOLS[:2],
        strategy={"name": "buy_and_hold", "params": {}},
        paper={"funding_rate": str(expected_rate), "funding_interval": "1h"},
        speed=1_200.0,
        funding_rate=rate,
        funding_interval=HOUR_MS,
    )
    assert len(found.funding) >= 4
    paid = sum((one.fee for one in found.funding), D(0))
    assert paid == sum((one.qty * one.price * rate for one in found.funding), D(0)) > 0
    expected = -paid * (rate - expected_rate) / rate
    assert found.report.causes["funding"] == pytest.approx(expected, rel=D("0.001"))


class BuysTheSecondOnBarsOfTheFirst(Strategy):
    """Trades the second symbol on every fifth bar of the first: long, flat, and so on."""

    def __init__(self, params: StrategyParams | None = None) -> None:
        super().__init__(params)
        self.bars = 0

    def on_kline(self, kline: Kline, market: Market) -> None:
        if kline.symbol == SYMBOLS[0]:
            self.bars += 1
            if self.bars % 5 == 0:
                self.target(SYMBOLS[1], weight=0.1 if self.bars % 10 == 0 else 0.0)


@pytest.mark.slow
async def test_an_hour_of_gaps_in_the_stream(database: Database, tmp_path: Path, tapewire: Tapewire) -> None:
    """The venue goes on filling orders; paper meets no price until the stream is back."""
    symbol = SYMBOLS[1]
    ended: list[int] = []

    def enough(sandbox: Sandbox) -> bool:
        faults = sandbox.venue.faults.state()
        if faults and faults[0]["hits"] == 60 and not ended:
            ended.append(sandbox.market.time)
        return bool(ended) and sandbox.market.time > ended[0] + 12 * MINUTE_MS

    found = await trade(
        database,
        tmp_path,
        tapewire,
        enough=enough,
        symbols=SYMBOLS[:2],
        strategy={"name": f"{__name__}:BuysTheSecondOnBarsOfTheFirst", "params": {}},
        fault=f"gap,on=market/{symbol},count=60,rest=true",
        speed=600.0,
    )
    hidden = found.sandbox.market.quotes[symbol].series.hidden
    assert len(hidden) == 60
    begin, end = min(hidden), max(hidden) + MINUTE_MS
    played = found.prices.trades[symbol]
    before = [one.price for one in played if one.ts < begin][-1]
    after = next(one.price for one in played if one.ts >= end)
    inside = [
        (order, of)
        for order in found.report.orders
        if (of := found.executions.get(order.id))
        and order.ts > begin + 2 * MINUTE_MS
        and of[-1].time < end - 2 * MINUTE_MS
    ]
    assert len(inside) >= 5
    total = D(0)
    for number, (order, executions) in enumerate(inside):
        sign = 1 if order.side == "BUY" else -1
        if number + 1 < len(inside):
            # the next decision came before a price did: paper never filled it
            assert not order.paper_qty
            fees = sum((one.fee for one in executions), D(0))
            expected = sign * sum((one.qty * (before - one.price) for one in executions), D(0)) - fees
            assert order.causes["data"] == pytest.approx(expected, abs=D("1e-6"))
            assert set(order.causes) <= {"data", "positions"}
            total += expected
        elif order.paper_qty:
            met = after * (1 + sign * HALF_SPREAD)
            expected = -sign * sum((one.qty * (one.price - met) for one in executions), D(0))
            assert order.causes["data"] == pytest.approx(expected, abs=order.qty / 50)
            assert set(order.causes) <= {"data", "fee"}
    assert total
    assert found.report.holes == 1
