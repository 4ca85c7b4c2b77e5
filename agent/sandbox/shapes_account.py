"""Private JSON: orders, executions, positions, balances. REST and WebSocket differ in few fields, and those matter to clients."""

from __future__ import annotations

from decimal import Decimal
from math import isnan
from typing import Any, Final

from agent.core.events import Side
from agent.sandbox.account import Account
from agent.sandbox.decimals import owned, rounded, text
from agent.sandbox.desk import Leg
from agent.sandbox.executions import ClosedProfit, Execution
from agent.sandbox.listing import PRICE_BAND, SETTLE_COIN
from agent.sandbox.orders import VenueOrder
from agent.sandbox.wallet import Balance

Json = dict[str, Any]
_RISK_LIMIT: Final = "100000000"


def side_name(side: Side) -> str:
    """Buy or Sell."""
    return "Buy" if side is Side.BUY else "Sell"


def _maybe(value: Decimal | None) -> str:
    return "" if value is None else text(value)


def order_shape(order: VenueOrder, account: Account) -> Json:
    """An order, for REST and WebSocket alike. A market order's price is the cap that it could have been filled at."""
    spot = order.category == "spot"
    sign = order.side.sign
    rules = account.listing.instrument(order.category, order.symbol)
    cap = rules.round_price(order.last_on_created * (1 + sign * PRICE_BAND / 2), order.side)
    coin = next(iter(order.fees), "")
    shape: Json = {
        "category": order.category,
        "symbol": order.symbol,
        "orderId": order.id,
        "orderLinkId": order.link,
        "blockTradeId": "",
        "side": side_name(order.side),
        "positionIdx": order.index,
        "orderType": order.type,
        "price": text(order.price if order.price is not None else cap),
        "qty": text(order.qty if order.quote_qty is None else order.quote_qty),
        "timeInForce": order.tif,
        "orderStatus": order.status,
        "createType": order.create_type,
        "cancelType": order.cancel_type,
        "rejectReason": order.reject_reason,
        "avgPrice": "" if order.average is None else rounded(order.average),
        "leavesQty": text(order.remaining),
        "leavesValue": text(order.remaining * (order.price or order.last_on_created)),
        "cumExecQty": text(order.filled),
        "cumExecValue": text(order.value),
        "cumExecFee": rounded(order.fees.get(coin, Decimal(0))),
        "cumFeeDetail": {name: rounded(fee) for name, fee in order.fees.items()},
        "closedPnl": rounded(order.closed_pnl),
        "feeCurrency": coin if spot else "",
        "orderIv": "",
        "isLeverage": "0" if spot else "",
        "marketUnit": "" if order.quote_qty is None else "quoteCoin",
        "stopOrderType": order.kind,
        "triggerPrice": _maybe(order.trigger),
        "triggerDirection": 0 if order.trigger is None else (1 if order.trigger_rises else 2),
        "triggerBy": order.trigger_by,
        "takeProfit": _maybe(order.take_profit),
        "stopLoss": _maybe(order.stop_loss),
        "tpslMode": "Full" if order.take_profit is not None or order.stop_loss is not None else "",
        "tpTriggerBy": "LastPrice" if order.take_profit is not None else "",
        "slTriggerBy": "LastPrice" if order.stop_loss is not None else "",
        "tpLimitPrice": "",
        "slLimitPrice": "",
        "ocoTriggerBy": "",
        "lastPriceOnCreated": text(order.last_on_created),
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
        del shape["tpslMode"], shape["createType"]  # clients tell contracts from spot by the key
    return shape


def execution_shape(execution: Execution) -> Json:
    """An execution, for REST and WebSocket alike."""
    order = execution.order
    spot = execution.category == "spot"
    return {
        "category": execution.category,
        "symbol": execution.symbol,
        "orderId": order.id if order else "",
        "orderLinkId": order.link if order else "",
        "side": side_name(execution.side),
        "orderPrice": text(order.price or order.last_on_created) if order else "0",
        "orderQty": text(order.qty) if order else "0",
        "leavesQty": text(max(execution.leaves, Decimal(0))),
        "createType": order.create_type if order else "",
        "orderType": order.type if order else "UNKNOWN",
        "stopOrderType": (order.kind if order else "") or "UNKNOWN",
        "execFee": rounded(execution.fee),
        "feeCurrency": execution.fee_coin if spot else "",
        "execFeeV2": "",
        "execId": execution.id,
        "execPrice": text(execution.price),
        "execQty": text(execution.qty),
        "execType": execution.kind,
        "execValue": text(execution.qty * execution.price),
        "execTime": str(execution.time),
        "execPnl": rounded(execution.pnl),
        "isMaker": execution.maker,
        "feeRate": text(execution.fee_rate),
        "tradeIv": "",
        "markIv": "",
        "markPrice": text(execution.mark),
        "indexPrice": "",
        "underlyingPrice": "",
        "blockTradeId": "",
        "closedSize": text(execution.closed),
        "extraFees": "",
        "isLeverage": "0",
        "marketUnit": "",
        "seq": execution.time,
    }


def fast_execution_shape(execution: Execution) -> Json:
    """What `execution.fast` tells."""
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
    whole = execution_shape(execution)
    return {name: whole[name] for name in names}


def position_shape(leg: Leg, account: Account, *, stream: bool) -> Json:
    """A position; the stream names its price entryPrice where REST says avgPrice."""
    desk, wallet = account.desks["linear"], account.wallet
    held = leg.held
    liquidation = desk.exchange.margin.liquidation_price(held) if held.qty else float("nan")
    margin, maintenance = rounded(wallet.position_margin(leg)), rounded(wallet.maintenance(leg))
    entry = rounded(held.entry_price)
    shape: Json = {
        "positionIdx": leg.index,
        "tradeMode": 0,
        "riskId": 1,
        "riskLimitValue": _RISK_LIMIT,
        "symbol": leg.symbol,
        "side": "" if not held.qty else side_name(leg.opening_side),
        "size": text(abs(held.qty)),
        "leverage": text(desk.leverage(leg)),
        "breakEvenPrice": "" if not held.qty else rounded(_break_even(leg, desk.rules[leg.key].taker_fee)),
        "positionValue": rounded(abs(held.cost)),
        "positionBalance": margin,
        "markPrice": text(held.mark_decimal),
        "positionIM": margin,
        "positionIMByMp": margin,
        "positionMM": maintenance,
        "positionMMByMp": maintenance,
        "takeProfit": text(leg.take_profit or 0),
        "stopLoss": text(leg.stop_loss or 0),
        "trailingStop": text(leg.trailing or 0),
        "unrealisedPnl": rounded(held.unrealised),
        "curRealisedPnl": rounded(leg.realised),
        "cumRealisedPnl": rounded(leg.realised_ever),
        "sessionAvgPrice": "",
        "createdTime": str(leg.created),
        "updatedTime": str(leg.updated),
        "openTime": leg.created,
        "tpslMode": "Full",
        "liqPrice": "" if isnan(liquidation) else rounded(liquidation),
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
    return {"category": "linear", **shape, "entryPrice": entry} if stream else shape | {"avgPrice": entry}


def _break_even(leg: Leg, taker: Decimal) -> Decimal:
    """(cost - realised) / (qty - |qty| * taker): what must be reached so that closing costs nothing."""
    held = leg.held
    return (held.cost - leg.realised) / (held.qty - abs(held.qty) * taker)


def balance_shape(balance: Balance) -> Json:
    """One coin of a wallet. What may be withdrawn is a deprecated field, there but empty."""
    return {
        "coin": balance.coin,
        "equity": owned(balance.equity),
        "usdValue": rounded(balance.usd),
        "walletBalance": owned(balance.wallet),
        "availableToWithdraw": "",
        "availableToBorrow": "",
        "borrowAmount": "0",
        "accruedInterest": "0",
        "totalOrderIM": rounded(balance.order_margin),
        "totalPositionIM": rounded(balance.position_margin),
        "totalPositionMM": rounded(balance.maintenance),
        "unrealisedPnl": rounded(balance.unrealised),
        "cumRealisedPnl": rounded(balance.realised),
        "bonus": "0",
        "collateralSwitch": balance.coin == SETTLE_COIN,
        "marginCollateral": balance.coin == SETTLE_COIN,
        "locked": rounded(balance.locked),
        "spotHedgingQty": "0",
        "spotBorrow": "0",
    }


def wallet_shape(account: Account, coins: tuple[str, ...] = ()) -> Json:
    """The unified account; `coins` picks some, owned or not."""
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
        "totalEquity": owned(sum((balance.usd for balance in held.values()), Decimal(0))),
        "totalWalletBalance": owned(settled.wallet),
        "totalMarginBalance": rounded(margin_balance),
        "totalAvailableBalance": rounded(available),
        "totalPerpUPL": rounded(settled.unrealised),
        "totalInitialMargin": rounded(initial),
        "totalInitialMarginByMp": rounded(initial),
        "totalMaintenanceMargin": rounded(settled.maintenance),
        "totalMaintenanceMarginByMp": rounded(settled.maintenance),
        "coin": [balance_shape(balance) for balance in listed],
    }


def _ratio(part: Decimal, whole: Decimal) -> str:
    return rounded(part / whole) if whole > 0 else "0"


def closed_shape(closed: ClosedProfit) -> Json:
    """An item of position/closed-pnl."""
    order = closed.order
    return {
        "symbol": order.symbol,
        "orderId": order.id,
        "side": side_name(order.side),
        "qty": text(order.qty),
        "orderPrice": text(order.price or order.last_on_created),
        "orderType": order.type,
        "execType": "Trade",
        "closedSize": text(closed.qty),
        "cumEntryValue": rounded(closed.qty * closed.entry),
        "avgEntryPrice": rounded(closed.entry),
        "cumExitValue": rounded(closed.qty * closed.exit),
        "avgExitPrice": rounded(closed.exit),
        "closedPnl": rounded(closed.pnl),
        "openFee": rounded(closed.open_fee),
        "closeFee": rounded(closed.close_fee),
        "fillCount": "1",
        "leverage": text(closed.leverage),
        "createdTime": str(order.created),
        "updatedTime": str(closed.time),
    }
