"""Balances of the account: wallet, executions and the core's ledger agree after any trades."""

from __future__ import annotations

import random
from decimal import Decimal
from typing import Any

import pytest

from agent.sandbox.bybit_errors import BybitError
from agent.sandbox.json_values import Params


def random_order(rng: random.Random) -> dict[str, Any]:
    """Return the parameters of a random order, valid or not."""
    category = rng.choice(("linear", "spot"))
    kind = rng.choice(("Market", "Limit", "Limit"))
    order: dict[str, Any] = {
        "category": category,
        "symbol": "BTCUSDT",
        "side": rng.choice(("Buy", "Sell")),
        "orderType": kind,
        "qty": str(Decimal(rng.randint(1, 90)) / 1000),
    }
    if kind == "Limit":
        order["price"] = str(50_000 + rng.randint(-400, 400))
        order["timeInForce"] = rng.choice(("GTC", "GTC", "IOC", "FOK", "PostOnly"))
    elif category == "spot":
        order["marketUnit"] = "baseCoin"
    if rng.random() < 0.2:
        order["reduceOnly"] = True
    if category == "linear" and rng.random() < 0.2:
        order |= {
            "triggerPrice": str(50_000 + rng.choice((-150, 150))),
            "triggerDirection": rng.choice((1, 2)),
        }
    if category == "linear" and rng.random() < 0.2:
        order |= (
            {"takeProfit": "53000", "stopLoss": "47000"}
            if order["side"] == "Buy"
            else {"takeProfit": "47000", "stopLoss": "53000"}
        )
    return order


@pytest.mark.parametrize("seed", range(6))
async def test_wallet_executions_and_ledger_agree_after_random_orders(play: Any, seed: int) -> None:
    rng = random.Random(seed)
    wave = [50_000.0 + rng.randint(-300, 300) for _ in range(400)]
    async with (
        play(wave, speed=6_000.0, history_bars=5, seed=seed) as client,
        client.socket("/v5/public/linear", "kline.1.BTCUSDT") as bars,
    ):
        account = client.sandbox.venue.account
        accepted = 0
        for _ in range(150):
            try:
                order = account.place_order(Params(random_order(rng)))
                accepted += 1
                if rng.random() < 0.3 and order.open:
                    account.cancel(order)
            except BybitError:
                pass  # some random orders are invalid
            if rng.random() < 0.4:
                await bars.item("kline.1.BTCUSDT")
        assert accepted > 30
        for order in list(account.open.values()):
            account.cancel(order)
        assert len(account.executions) > 10

        linear, spot = account.books["linear"].portfolio, account.books["spot"].portfolio
        account.wallet.fund_spot()
        for ledger in (linear, spot):
            ledger.reconcile()
        assert spot.cash == 0  # no open orders, so no cash is locked

        usdt, btc = Decimal(10_000), Decimal(0)
        for execution in account.executions:
            sign = 1 if execution.side.value == "BUY" else -1
            if execution.category == "spot":
                usdt -= sign * execution.qty * execution.price
                btc += sign * execution.qty
            if execution.fee_coin == "BTC":
                btc -= execution.fee
            else:
                usdt -= execution.fee
        coins = {balance.coin: balance for balance in account.wallet.balances()}
        tolerance = Decimal("1e-8")
        assert abs(coins["USDT"].wallet - (usdt + linear.realised)) < tolerance
        assert abs(account.wallet.holdings("BTC") - btc) < tolerance
        leg = account.books["linear"].legs["BTCUSDT"][0]
        assert abs(leg.realised_ever - (linear.realised - linear.fees + linear.funding)) < tolerance
        assert all(order.filled <= order.qty for order in account.orders.values())


async def test_closed_profits_add_up_to_the_wallet_balance(play: Any) -> None:
    async with play([50_000.0 + 40 * (n % 17) for n in range(400)], history_bars=5) as client:
        for side, qty in (
            ("Buy", "0.01"),
            ("Buy", "0.02"),
            ("Sell", "0.015"),
            ("Sell", "0.025"),
            ("Buy", "0.01"),
        ):
            await client.wait_for_status(await client.place_order(side=side, qty=qty), "Filled")
        assert (await client.position())["size"] == "0"
        closed = (await client.get("/v5/position/closed-pnl", category="linear", symbol="BTCUSDT"))["result"][
            "list"
        ]
        earned = sum(float(row["closedPnl"]) for row in closed)
        assert float((await client.coin())["walletBalance"]) == pytest.approx(10_000 + earned, abs=1e-6)
        assert float((await client.coin())["cumRealisedPnl"]) == pytest.approx(earned, abs=1e-6)
        assert sum(float(row["closedSize"]) for row in closed) == pytest.approx(0.04)
