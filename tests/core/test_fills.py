"""Matching of orders against bars: a table of bars, orders and the fills that they must lead to."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, NamedTuple

import pytest

from agent.core.events import Fill, FillKind, Order, OrderStatus, OrderType, OrderUpdate, Side, TimeInForce
from agent.core.instruments import instrument_for
from agent.core.paper import PaperExchange
from agent.core.portfolio import Portfolio
from tests.support.market import SYMBOL, T0, bars, config, order

BUY, SELL = Side.BUY, Side.SELL
MARKET, LIMIT, STOP, TAKE_PROFIT = OrderType.MARKET, OrderType.LIMIT, OrderType.STOP, OrderType.TAKE_PROFIT
IOC, FOK, POST_ONLY = TimeInForce.IOC, TimeInForce.FOK, TimeInForce.POST_ONLY

CALM = (100, 101, 99, 100)


class Scenario(NamedTuple):
    """One row of the table.

    Bars are (open, high, low, close[, volume]); orders (number of the bar after, order); fills (number of the
    bar, side, quantity, price).
    """

    name: str
    bars: list[tuple[float, ...]]
    orders: list[tuple[int, Order]]
    fills: list[tuple[int, str, str, str]]
    ends: dict[str, OrderStatus] = {}
    paper: dict[str, Any] = {}
    account: dict[str, Any] = {}
    category: str = "linear"


SCENARIOS = [
    Scenario(
        "a market order fills at the next open",
        [(101, 103, 100, 102)],
        [(0, order(1, BUY, MARKET, "1"))],
        [(0, "BUY", "1", "101")],
    ),
    Scenario(
        "an order that arrives after the open fills at the close, the only price that surely came later",
        [(101, 103, 100, 102)],
        [(0, order(1, BUY, MARKET, "1"))],
        [(0, "BUY", "1", "102")],
        paper={"latency": "250ms"},
    ),
    Scenario(
        "an order slower than a bar waits for the bar after it",
        [CALM, (110, 112, 109, 111)],
        [(0, order(1, BUY, MARKET, "1"))],
        [(1, "BUY", "1", "110")],
        paper={"latency": "1m"},
    ),
    Scenario(
        "the spread and fixed slippage are paid on top, rounded against the taker",
        [(100, 101, 99, 100)],
        [(0, order(1, BUY, MARKET, "1")), (0, order(2, SELL, MARKET, "1"))],
        [(0, "BUY", "1", "100.06"), (0, "SELL", "1", "99.94")],
        paper={"half_spread_bps": 5, "slippage": "fixed", "slippage_bps": 0.5},
    ),
    Scenario(
        "square-root impact grows with the share of the bar's volume: 0.5 * range 4 * sqrt(25 / 100) = 1",
        [(100, 102, 98, 100, 100)],
        [(0, order(1, BUY, MARKET, "25"))],
        [(0, "BUY", "25", "101")],
        paper={"slippage": "square_root", "impact": 0.5},
    ),
    Scenario(
        "participation limits each bar; the rest waits for the next",
        [(100, 101, 99, 100, 10), (102, 103, 101, 102, 10), (104, 105, 103, 104, 100)],
        [(0, order(1, BUY, MARKET, "2.5"))],
        [(0, "BUY", "1", "100"), (1, "BUY", "1", "102"), (2, "BUY", "0.5", "104")],
        paper={"liquidity": "participation", "max_participation": 0.1},
    ),
    Scenario(
        "two orders share a bar's volume in the order of their arrival",
        [(100, 101, 99, 100, 10), (102, 103, 101, 102, 100)],
        [(0, order(1, BUY, MARKET, "0.7")), (0, order(2, BUY, MARKET, "0.7"))],
        [(0, "BUY", "0.7", "100"), (0, "BUY", "0.3", "100"), (1, "BUY", "0.4", "102")],
        paper={"liquidity": "participation", "max_participation": 0.1},
    ),
    Scenario(
        "a resting limit needs the price to trade through it",
        [(100, 101, 99, 100), (100, 101, 98.99, 100)],
        [(0, order(1, BUY, LIMIT, "1", price="99"))],
        [(1, "BUY", "1", "99")],
    ),
    Scenario(
        "with limit_fill = touch a touch is enough",
        [(100, 101, 99, 100)],
        [(0, order(1, BUY, LIMIT, "1", price="99"))],
        [(0, "BUY", "1", "99")],
        paper={"limit_fill": "touch"},
    ),
    Scenario(
        "a limit that the open satisfies on arrival takes the open",
        [(98, 101, 97, 100)],
        [(0, order(1, BUY, LIMIT, "1", price="99"))],
        [(0, "BUY", "1", "98")],
    ),
    Scenario(
        "a resting limit that the open gaps through fills at its own price, no better",
        [CALM, (95, 96, 94, 95)],
        [(0, order(1, BUY, LIMIT, "1", price="98"))],
        [(1, "BUY", "1", "98")],
    ),
    Scenario(
        "a taker's limit caps the cost of spread and slippage",
        [(98.9, 101, 97, 100)],
        [(0, order(1, BUY, LIMIT, "1", price="99"))],
        [(0, "BUY", "1", "99")],
        paper={"half_spread_bps": 100},
    ),
    Scenario(
        "post-only is cancelled if it would take liquidity",
        [(98, 101, 97, 100)],
        [(0, order(1, BUY, LIMIT, "1", price="99", tif=POST_ONLY))],
        [],
        {"o1": OrderStatus.CANCELLED},
    ),
    Scenario(
        "post-only rests and fills as a maker",
        [(100, 101, 98, 100)],
        [(0, order(1, BUY, LIMIT, "1", price="99", tif=POST_ONLY))],
        [(0, "BUY", "1", "99")],
    ),
    Scenario(
        "IOC away from the market is cancelled",
        [(100, 101, 97, 100)],
        [(0, order(1, BUY, LIMIT, "1", price="99", tif=IOC))],
        [],
        {"o1": OrderStatus.CANCELLED},
    ),
    Scenario(
        "IOC fills what is available and cancels the rest",
        [(100, 101, 99, 100, 10), CALM],
        [(0, order(1, BUY, MARKET, "3", tif=IOC))],
        [(0, "BUY", "1", "100")],
        {"o1": OrderStatus.CANCELLED},
        paper={"liquidity": "participation", "max_participation": 0.1},
    ),
    Scenario(
        "FOK takes all or nothing",
        [(100, 101, 99, 100, 10), CALM],
        [(0, order(1, BUY, MARKET, "3", tif=FOK)), (0, order(2, BUY, MARKET, "1", tif=FOK))],
        [(0, "BUY", "1", "100")],
        {"o1": OrderStatus.CANCELLED, "o2": OrderStatus.FILLED},
        paper={"liquidity": "participation", "max_participation": 0.1},
    ),
    Scenario(
        "a buy stop triggers on the high and fills at its trigger",
        [(100, 105, 99, 101)],
        [(0, order(1, BUY, STOP, "1", trigger="103"))],
        [(0, "BUY", "1", "103")],
    ),
    Scenario(
        "a stop that the open gaps through fills at the open",
        [CALM, (90, 91, 89, 90)],
        [(0, order(1, BUY, MARKET, "1", stop="95"))],
        [(0, "BUY", "1", "100"), (1, "SELL", "1", "90")],
    ),
    Scenario(
        "stop and take-profit in one bar: the stop is assumed to come first",
        [CALM, (100, 110, 90, 100)],
        [(0, order(1, BUY, MARKET, "1", stop="95", take_profit="105"))],
        [(0, "BUY", "1", "100"), (1, "SELL", "1", "95")],
    ),
    Scenario(
        "the take-profit fills at its trigger and cancels the stop",
        [CALM, (100, 106, 99, 105), (100, 101, 80, 90)],
        [(0, order(1, BUY, MARKET, "1", stop="95", take_profit="105"))],
        [(0, "BUY", "1", "100"), (1, "SELL", "1", "105")],
    ),
    Scenario(
        "an entry at the open can be stopped within the same bar",
        [(100, 101, 94, 100)],
        [(0, order(1, BUY, MARKET, "1", stop="95"))],
        [(0, "BUY", "1", "100"), (0, "SELL", "1", "95")],
    ),
    Scenario(
        "an entry within the bar is stopped by that bar's range: pessimistic",
        [(100, 101, 94, 100)],
        [(0, order(1, BUY, LIMIT, "1", price="98", stop="95"))],
        [(0, "BUY", "1", "98"), (0, "SELL", "1", "95")],
    ),
    Scenario(
        "an entry within the bar takes its profit there only if the close is beyond it",
        [(100, 110, 97, 100), (100, 101, 99, 100)],
        [(0, order(1, BUY, LIMIT, "1", price="98", take_profit="105"))],
        [(0, "BUY", "1", "98")],
    ),
    Scenario(
        "an entry within the bar takes its profit at a close beyond it",
        [(100, 110, 97, 108)],
        [(0, order(1, BUY, LIMIT, "1", price="98", take_profit="105"))],
        [(0, "BUY", "1", "98"), (0, "SELL", "1", "108")],
    ),
    Scenario(
        "a short is protected from above",
        [CALM, (100, 106, 99, 100)],
        [(0, order(1, SELL, MARKET, "1", stop="105", take_profit="90"))],
        [(0, "SELL", "1", "100"), (1, "BUY", "1", "105")],
    ),
    Scenario(
        "reduce-only is cut to the position",
        [CALM, CALM],
        [(0, order(1, BUY, MARKET, "1")), (1, order(2, SELL, MARKET, "5", reduce_only=True))],
        [(0, "BUY", "1", "100"), (1, "SELL", "1", "100")],
    ),
    Scenario(
        "reduce-only without a position is cancelled",
        [CALM],
        [(0, order(1, SELL, MARKET, "1", reduce_only=True))],
        [],
        {"o1": OrderStatus.CANCELLED},
    ),
    Scenario(
        "a flip takes the old position's protection off the book",
        [CALM, CALM, (100, 101, 80, 90)],
        [(0, order(1, BUY, MARKET, "1", stop="90")), (1, order(2, SELL, MARKET, "2"))],
        [(0, "BUY", "1", "100"), (1, "SELL", "2", "100")],
    ),
    Scenario(
        "what the margin can't carry is not bought: 10,000 at 2x carries 200",
        [CALM],
        [(0, order(1, BUY, MARKET, "500"))],
        [(0, "BUY", "200", "100")],
        account={"leverage": 2},
    ),
    Scenario(
        "a long at 10x is liquidated where equity meets the maintenance margin",
        [CALM, (100, 101, 80, 85)],
        [(0, order(1, BUY, MARKET, "1000"))],
        [(0, "BUY", "1000", "100"), (1, "SELL", "1000", "90.45")],
        account={"leverage": 10},
    ),
    Scenario(
        "a liquidation that the open gaps through is filled at the open",
        [CALM, (70, 71, 60, 65)],
        [(0, order(1, BUY, MARKET, "1000"))],
        [(0, "BUY", "1000", "100"), (1, "SELL", "1000", "70")],
        account={"leverage": 10},
    ),
    Scenario(
        "spot can't be sold short",
        [CALM],
        [(0, order(1, SELL, MARKET, "1"))],
        [],
        {"o1": OrderStatus.CANCELLED},
        category="spot",
    ),
    Scenario(
        "spot can't be bought beyond cash and its fee: 10,000 / (100 * 1.001)",
        [CALM],
        [(0, order(1, BUY, MARKET, "200"))],
        [(0, "BUY", "99.9", "100")],
        paper={"fees": "maker_taker"},
        category="spot",
    ),
    Scenario(
        "spot without a fee can be bought for all of the cash",
        [CALM],
        [(0, order(1, BUY, MARKET, "200"))],
        [(0, "BUY", "100", "100")],
        category="spot",
    ),
    Scenario(
        "a quantity off the lot is rejected",
        [CALM],
        [(0, order(1, BUY, MARKET, "0.0005"))],
        [],
        {"o1": OrderStatus.REJECTED},
    ),
    Scenario(
        "a price off the tick is rejected",
        [CALM],
        [(0, order(1, BUY, LIMIT, "1", price="99.005"))],
        [],
        {"o1": OrderStatus.REJECTED},
    ),
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
def test_bars_fill_orders(scenario: Scenario) -> None:
    settings = config(paper=scenario.paper, account=scenario.account, market={"category": scenario.category})
    portfolio = Portfolio(settings.account.initial_capital, [SYMBOL])
    emitted: list[Any] = []
    ids = iter(range(100, 200))
    exchange = PaperExchange(
        settings,
        {SYMBOL: instrument_for(SYMBOL, settings)},
        portfolio,
        emitted.append,
        lambda: f"p{next(ids)}",
    )
    waiting = list(scenario.orders)
    klines = bars(scenario.bars)
    portfolio.positions[SYMBOL].mark = klines[0].open
    fills: list[tuple[int, str, str, str]] = []
    for number, kline in enumerate(klines):
        for before, placed in scenario.orders:
            if before == number:
                exchange.submit(placed, kline.start)
                waiting.remove((before, placed))
        count = len(emitted)
        exchange.on_kline(kline)
        portfolio.positions[SYMBOL].mark = kline.close
        for event in emitted[count:]:
            if isinstance(event, Fill):
                fills.append(
                    (number, event.side.value, f"{event.qty.normalize():f}", f"{event.price.normalize():f}")
                )
                assert kline.start <= event.ts <= kline.ts
    assert not waiting
    assert fills == scenario.fills
    last = {u.order_id: u.status for u in emitted if isinstance(u, OrderUpdate)}
    assert {k: last.get(k) for k in scenario.ends} == scenario.ends
    portfolio.reconcile()


def test_a_liquidation_fill_is_marked_and_charged() -> None:
    settings = config(account={"leverage": 10}, paper={"fees": "maker_taker", "liquidation_fee": "0.001"})
    portfolio = Portfolio(settings.account.initial_capital, [SYMBOL])
    emitted: list[Any] = []
    exchange = PaperExchange(
        settings, {SYMBOL: instrument_for(SYMBOL, settings)}, portfolio, emitted.append, lambda: "p"
    )
    portfolio.positions[SYMBOL].mark = 100.0
    exchange.submit(order(1, BUY, MARKET, "900"), T0)
    for kline in bars([CALM, (100, 101, 50, 60)]):
        exchange.on_kline(kline)
        portfolio.positions[SYMBOL].mark = kline.close
    fill = next(e for e in emitted if isinstance(e, Fill) and e.kind is FillKind.LIQUIDATION)
    assert fill.fee == fill.qty * fill.price * Decimal("0.00155")
    assert portfolio.positions[SYMBOL].qty == 0
