"""JSON of orders, executions, positions and balances, for REST and the private WebSocket.

The two interfaces name a few fields differently, and clients depend on that.
"""

from __future__ import annotations

from decimal import Decimal
from math import isnan
from typing import Any, Final

from agent.core.events import Side
from agent.sandbox.account_events import AccountExecution, ClosedProfit
from agent.sandbox.category_book import Leg
from agent.sandbox.json_values import format_balance, format_number, format_rounded
from agent.sandbox.listed_instruments import PRICE_BAND, SETTLE_COIN
from agent.sandbox.sandbox_order import SandboxOrder
from agent.sandbox.unified_account import UnifiedAccount
from agent.sandbox.wallet import Balance

Json = dict[str, Any]
_RISK_LIMIT: Final = "100000000"


def side_name(side: Side) -> str:
    return "Buy" if side is Side.BUY else "Sell"


def _optional(value: Decimal | None) -> str:
    return "" if value is None else format_number(value)


def order_json(order: SandboxOrder, account: UnifiedAccount) -> Json:
    """Return an order. The price of a market order is the limit up to which it could have been filled."""
    spot = order.category == "spot"
    sign = order.side.sign
    rules = account.instruments.find(order.category, order.symbol)
    cap = rules.round_price(order.last_on_created * (1 + sign * PRICE_BAND / 2), order.side)
    coin = next(iter(order.fees), "")
    row: Json = {
        "category": order.category,
        "symbol": order.symbol,
        "orderId": order.id,
        "orderLinkId": order.link,
        "blockTradeId": "",
        "side": side_name(order.side),
        "positionIdx": order.index,
        "orderType": order.type,
        "price": format_number(order.price if order.price is not None else cap),
        "qty": format_number(order.qty if order.quote_qty is None else order.quote_qty),
        "timeInForce": order.tif,
        "orderStatus": order.status,
        "createType": order.create_type,
        "cancelType": order.cancel_type,
        "rejectReason": order.reject_reason,
        "avgPrice": "" if order.average is None else format_rounded(order.average),
        "leavesQty": format_number(order.remaining),
        "leavesValue": format_number(order.remaining * (order.price or order.last_on_created)),
        "cumExecQty": format_number(order.filled),
        "cumExecValue": format_number(order.value),
        "cumExecFee": format_rounded(order.fees.get(coin, Decimal(0))),
        "cumFeeDetail": {name: format_rounded(fee) for name, fee in order.fees.items()},
        "closedPnl": format_rounded(order.closed_pnl),
        "feeCurrency": coin if spot else "",
        "orderIv": "",
        "isLeverage": "0" if spot else "",
        "marketUnit": "" if order.quote_qty is None else "quoteCoin",
        "stopOrderType": order.kind,
        "triggerPrice": _optional(order.trigger),
        "triggerDirection": 0 if order.trigger is None else (1 if order.trigger_rises else 2),
        "triggerBy": order.trigger_by,
        "takeProfit": _optional(order.take_profit),
        "stopLoss": _optional(order.stop_loss),
        "tpslMode": "Full" if order.take_profit is not None or order.stop_loss is not None else "",
        "tpTriggerBy": "LastPrice" if order.take_profit is not None else "",
        "slTriggerBy": "LastPrice" if order.stop_loss is not None else "",
        "tpLimitPrice": "",
        "slLimitPrice": "",
        "ocoTriggerBy": "",
        "lastPriceOnCreated": format_number(order.last_on_created),
        "reduceOnly": order.reduce_only,
        "closeOnTrigger": order.close_on_trigger,
        "placeType": "",
        "smpType": "None",
        "smpGroup": 0,
        "smpOrderId": "",
        "slippageTolerance": "",
        "slippageToleranceType": "UNKNOWN",
        "rpiTakerAccess": False,
        "rpiMatchedQty": "0",
        "createdTime": str(order.created),
        "updatedTime": str(order.updated),
    }
    if spot:
        del row["tpslMode"], row["createType"]  # clients recognise contracts by these keys
    return row


def execution_json(execution: AccountExecution) -> Json:
    """Return an execution, for REST and WebSocket alike."""
    order = execution.order
    spot = execution.category == "spot"
    return {
        "category": execution.category,
        "symbol": execution.symbol,
        "orderId": order.id if order else "",
        "orderLinkId": order.link if order else "",
        "side": side_name(execution.side),
        "orderPrice": format_number(order.price or order.last_on_created) if order else "0",
        "orderQty": format_number(order.qty) if order else "0",
        "leavesQty": format_number(max(execution.leaves, Decimal(0))),
        "createType": order.create_type if order else "",
        "orderType": order.type if order else "UNKNOWN",
        "stopOrderType": (order.kind if order else "") or "UNKNOWN",
        "execFee": format_rounded(execution.fee),
        "feeCurrency": execution.fee_coin if spot else "",
        "execFeeV2": "",
        "execId": execution.id,
        "execPrice": format_number(execution.price),
        "execQty": format_number(execution.qty),
        "execType": execution.kind,
        "execValue": format_number(execution.qty * execution.price),
        "execTime": str(execution.time),
        "execPnl": format_rounded(execution.pnl),
        "isMaker": execution.maker,
        "feeRate": format_number(execution.fee_rate),
        "tradeIv": "",
        "markIv": "",
        "markPrice": format_number(execution.mark),
        "indexPrice": "",
        "underlyingPrice": "",
        "blockTradeId": "",
        "closedSize": format_number(execution.closed),
        "extraFees": "",
        "isLeverage": "0",
        "marketUnit": "",
        "seq": execution.time,
    }


def fast_execution_json(execution: AccountExecution) -> Json:
    """Return the fields of an execution that the topic `execution.fast` carries."""
    names = (
        "category",
        "symbol",
        "execId",
        "execPrice",
        "execQty",
        "orderId",
        "isMaker",
        "orderLinkId",
        "side",
        "execTime",
        "seq",
    )
    whole = execution_json(execution)
    return {name: whole[name] for name in names}


def position_json(leg: Leg, account: UnifiedAccount, *, stream: bool) -> Json:
    """Return a position. Its entry price is `entryPrice` on the WebSocket (`stream`), `avgPrice` in REST."""
    book, wallet = account.books["linear"], account.wallet
    held = leg.held
    liquidation = book.exchange.margin.liquidation_price(held) if held.qty else float("nan")
    margin, maintenance = format_rounded(wallet.position_margin(leg)), format_rounded(wallet.maintenance(leg))
    entry = format_rounded(held.entry_price)
    row: Json = {
        "positionIdx": leg.index,
        "tradeMode": 0,
        "riskId": 1,
        "riskLimitValue": _RISK_LIMIT,
        "symbol": leg.symbol,
        "side": "" if not held.qty else side_name(leg.opening_side),
        "size": format_number(abs(held.qty)),
        "leverage": format_number(book.leverage(leg)),
        "breakEvenPrice": ""
        if not held.qty
        else format_rounded(_break_even(leg, book.rules[leg.key].taker_fee)),
        "positionValue": format_rounded(abs(held.cost)),
        "positionBalance": margin,
        "markPrice": format_number(held.mark_decimal),
        "positionIM": margin,
        "positionIMByMp": margin,
        "positionMM": maintenance,
        "positionMMByMp": maintenance,
        "takeProfit": format_number(leg.take_profit or 0),
        "stopLoss": format_number(leg.stop_loss or 0),
        "trailingStop": format_number(leg.trailing or 0),
        "unrealisedPnl": format_rounded(held.unrealised),
        "curRealisedPnl": format_rounded(leg.realised),
        "cumRealisedPnl": format_rounded(leg.realised_ever),
        "sessionAvgPrice": "",
        "createdTime": str(leg.created),
        "updatedTime": str(leg.updated),
        "openTime": leg.created,
        "tpslMode": "Full",
        "liqPrice": "" if isnan(liquidation) else format_rounded(liquidation),
        "bustPrice": "",
        "positionStatus": "Normal",
        "adlRankIndicator": 0,
        "autoAddMargin": 0,
        "leverageSysUpdatedTime": "",
        "mmrSysUpdatedTime": "",
        "mmrSysUpdateTime": "",
        "seq": leg.updated,
        "isReduceOnly": False,
    }
    return {"category": "linear", **row, "entryPrice": entry} if stream else row | {"avgPrice": entry}


def _break_even(leg: Leg, taker: Decimal) -> Decimal:
    """Return the price at which closing costs nothing: (cost - realised) / (qty - |qty| * taker fee)."""
    held = leg.held
    return (held.cost - leg.realised) / (held.qty - abs(held.qty) * taker)


def balance_json(balance: Balance) -> Json:
    """Return one coin of a wallet. `availableToWithdraw` is deprecated, so it is present but empty."""
    return {
        "coin": balance.coin,
        "equity": format_balance(balance.equity),
        "usdValue": format_rounded(balance.usd),
        "walletBalance": format_balance(balance.wallet),
        "availableToWithdraw": "",
        "availableToBorrow": "",
        "borrowAmount": "0",
        "accruedInterest": "0",
        "totalOrderIM": format_rounded(balance.order_margin),
        "totalPositionIM": format_rounded(balance.position_margin),
        "totalPositionMM": format_rounded(balance.maintenance),
        "unrealisedPnl": format_rounded(balance.unrealised),
        "cumRealisedPnl": format_rounded(balance.realised),
        "bonus": "0",
        "collateralSwitch": balance.coin == SETTLE_COIN,
        "marginCollateral": balance.coin == SETTLE_COIN,
        "locked": format_rounded(balance.locked),
        "spotHedgingQty": "0",
        "spotBorrow": "0",
    }


def wallet_json(account: UnifiedAccount, coins: tuple[str, ...] = ()) -> Json:
    """Return the unified account. `coins` selects coins, owned or not; the default is all owned coins."""
    held = {balance.coin: balance for balance in account.wallet.balances()}
    settled = held[SETTLE_COIN]
    initial = settled.order_margin + settled.position_margin
    margin_balance = settled.equity - settled.locked
    available = max(Decimal(0), account.wallet.available())
    listed = [held.get(coin) or account.wallet.coin(coin) for coin in coins] or list(held.values())
    rates = {
        "accountIMRate": _ratio(initial, margin_balance),
        "accountMMRate": _ratio(settled.maintenance, margin_balance),
    }
    return {
        "accountType": "UNIFIED",
        "accountLTV": "0",
        **rates,
        **{f"{name}ByMp": value for name, value in rates.items()},
        "totalEquity": format_balance(sum((balance.usd for balance in held.values()), Decimal(0))),
        "totalWalletBalance": format_balance(settled.wallet),
        "totalMarginBalance": format_rounded(margin_balance),
        "totalAvailableBalance": format_rounded(available),
        "totalPerpUPL": format_rounded(settled.unrealised),
        "totalInitialMargin": format_rounded(initial),
        "totalInitialMarginByMp": format_rounded(initial),
        "totalMaintenanceMargin": format_rounded(settled.maintenance),
        "totalMaintenanceMarginByMp": format_rounded(settled.maintenance),
        "coin": [balance_json(balance) for balance in listed],
    }


def _ratio(part: Decimal, whole: Decimal) -> str:
    return format_rounded(part / whole) if whole > 0 else "0"


def closed_json(closed: ClosedProfit) -> Json:
    """Return an item of position/closed-pnl."""
    order = closed.order
    return {
        "symbol": order.symbol,
        "orderId": order.id,
        "side": side_name(order.side),
        "qty": format_number(order.qty),
        "orderPrice": format_number(order.price or order.last_on_created),
        "orderType": order.type,
        "execType": "Trade",
        "closedSize": format_number(closed.qty),
        "cumEntryValue": format_rounded(closed.qty * closed.entry),
        "avgEntryPrice": format_rounded(closed.entry),
        "cumExitValue": format_rounded(closed.qty * closed.exit),
        "avgExitPrice": format_rounded(closed.exit),
        "closedPnl": format_rounded(closed.pnl),
        "openFee": format_rounded(closed.open_fee),
        "closeFee": format_rounded(closed.close_fee),
        "fillCount": "1",
        "leverage": format_number(closed.leverage),
        "createdTime": str(order.created),
        "updatedTime": str(closed.time),
    }
