"""The account's money: whatever is traded, wallet, executions and the core's ledger say the same."""

from __future__ import annotations

import random
from decimal import Decimal
from typing import Any

import pytest

from agent.sandbox.errors import Refusal
from agent.sandbox.params import Params


def a_request(dice: random.Random) -> dict[str, Any]:
    """Something a client might ask for, sensible or not."""
    category = dice.choice(("linear", "spot"))
    kind = dice.choice(("Market", "Limit", "Limit"))
    order: dict[str, Any] = {
        "category": category,
        "symbol": "BTCUSDT",
        "side": dice.choice(("Buy", "Sell")),
        "orderType": kind,
        "qty": str(Decimal(dice.randint(1, 90)) / 1000),
    }
    if kind == "Limit":
        order["price"] = str(50_000 + dice.randint(-400, 400))
        order["timeInForce"] = dice.choice(("GTC", "GTC", "IOC", "FOK", "PostOnly"))
    elif category == "spot":
        order["marketUnit"] = "baseCoin"
    if dice.random() < 0.2:
        order["reduceOnly"] = True
    if category == "linear" and dice.random() < 0.2:
        order |= {
            "triggerPrice": str(50_000 + dice.choice((-150, 150))),
            "triggerDirection": dice.choice((1, 2)),
        }
    if category == "linear" and dice.random() < 0.2:
        order |= (
            {"takeProfit": "53000", "stopLoss": "47000"}
            if order["side"] == "Buy"
            else {"takeProfit": "47000", "stopLoss": "53000"}
        )
    return order


@pytest.mark.parametrize("seed", range(6))
async def test_after_any_orders_wallet_executions_and_ledger_agree(play: Any, seed: int) -> None:
    dice = random.Random(seed)
    wave = [50_000.0 + dice.randint(-300, 300) for _ in range(400)]
    async with (
        play(wave, speed=6_000.0, history_bars=5, seed=seed) as trader,
        trader.socket("/v5/public/linear", "kline.1.BTCUSDT") as bars,
    ):
        account = trader.sandbox.venue.account
        accepted = 0
        for _ in range(150):
            try:
                order = account.place(Params(a_request(dice)))
                accepted += 1
                if dice.random() < 0.3 and order.open:
                    account.cancel(order)
            except Refusal:
                pass  # not every wish can be granted
            if dice.random() < 0.4:
                await bars.item("kline.1.BTCUSDT")
        assert accepted > 30
        for order in list(account.open.values()):
            account.cancel(order)
        assert len(account.executions) > 10

        linear, spot = account.desks["linear"].portfolio, account.desks["spot"].portfolio
        account.wallet.fund_spot()
        for ledger in (linear, spot):
            ledger.reconcile()
        assert spot.cash == 0  # nothing is open, so nothing is set aside

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
        leg = account.desks["linear"].legs["BTCUSDT"][0]
        assert abs(leg.realised_ever - (linear.realised - linear.fees + linear.funding)) < tolerance
        assert all(order.filled <= order.qty for order in account.orders.values())


async def test_closed_profits_add_up_to_the_wallet_once_everything_is_closed(play: Any) -> None:
    async with play([50_000.0 + 40 * (n % 17) for n in range(400)], history_bars=5) as trader:
        for side, qty in (
            ("Buy", "0.01"),
            ("Buy", "0.02"),
            ("Sell", "0.015"),
            ("Sell", "0.025"),
            ("Buy", "0.01"),
        ):
            await trader.until(await trader.placed(side=side, qty=qty), "Filled")
        assert (await trader.position())["size"] == "0"
        closed = (await trader.get("/v5/position/closed-pnl", category="linear", symbol="BTCUSDT"))["result"][
            "list"
        ]
        earned = sum(float(row["closedPnl"]) for row in closed)
        assert float((await trader.coin())["walletBalance"]) == pytest.approx(10_000 + earned, abs=1e-6)
        assert float((await trader.coin())["cumRealisedPnl"]) == pytest.approx(earned, abs=1e-6)
        assert sum(float(row["closedSize"]) for row in closed) == pytest.approx(0.04)
