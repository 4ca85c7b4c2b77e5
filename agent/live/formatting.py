"""An event or a decision in a line for people: for the log, the status and the terminal alike."""

from __future__ import annotations

from typing import Any, Final, assert_never

from agent.core.events import (
    AccountSnapshot,
    Amend,
    Cancel,
    CashAdjustment,
    Command,
    Decision,
    Event,
    Fill,
    Funding,
    FundingPayment,
    FundingSettlement,
    Gap,
    Kline,
    News,
    Order,
    OrderUpdate,
    Prediction,
    RiskEvent,
    Sentiment,
    Signal,
)
from agent.core.masking import mask
from agent.data.text import one_line

_LONGEST: Final = 1_000  # characters of a line


def describe(message: Event | Decision) -> dict[str, Any]:
    """What is worth saying of it: `what` it is, and its fields by name. Times, ids of other things and raw texts are left out."""
    match message:
        case Kline():
            kind = "bar" if message.confirm else "open bar"
            return {"what": kind, "symbol": message.symbol, "close": message.close, "volume": message.volume}
        case News():
            return {
                "what": "headline",
                "title": message.title,
                "publisher": message.publisher or message.feed,
            }
        case Sentiment(abstained=True):
            return {"what": "sentiment", "news": message.news_id, "abstained": True}
        case Sentiment():
            return {
                "what": "sentiment", "news": message.news_id, "score": round(message.score, 3), "confidence": round(message.confidence, 3),
                "latency_ms": round(message.latency_ms, 1),
            }  # fmt: skip
        case Gap():
            return {
                "what": "gap",
                "symbol": message.symbol,
                "bars": (message.end - message.start) // message.interval,
            }
        case Funding():
            return {"what": "funding rate", "symbol": message.symbol, "rate": message.rate}
        case Command():
            return {"what": "command", "action": message.action, **message.args, "by": message.by}
        case Signal():
            return {
                "what": "signal", "symbol": message.symbol, "direction": message.direction.value,
                "confidence": round(message.confidence, 3), "actionable": message.actionable,
            }  # fmt: skip
        case Order():
            return {
                "what": "order", "id": message.id, "symbol": message.symbol, "side": message.side.value, "type": message.type.value,
                "qty": str(message.qty), "reason": message.reason,
            }  # fmt: skip
        case Cancel():
            return {
                "what": "cancel",
                "id": message.order_id,
                "symbol": message.symbol,
                "reason": message.reason,
            }
        case Amend():
            changes = {
                name: str(value) for name in ("qty", "price") if (value := getattr(message, name)) is not None
            }
            return {
                "what": "amend",
                "id": message.order_id,
                "symbol": message.symbol,
                **changes,
                "reason": message.reason,
            }
        case FundingSettlement():
            return {"what": "funding booked", "symbol": message.symbol, "amount": f"{message.amount:.4f}"}
        case AccountSnapshot():
            held = {holding.symbol: str(holding.qty) for holding in message.holdings}
            return {
                "what": "account",
                "balances": {coin: str(value) for coin, value in message.balances.items()},
                "holdings": held,
            }
        case OrderUpdate():
            return {
                "what": "order update",
                "id": message.order_id,
                "status": message.status.value,
                "reason": message.reason,
            }
        case Fill():
            return {
                "what": "fill", "order": message.order_id, "symbol": message.symbol, "side": message.side.value, "qty": str(message.qty),
                "price": str(message.price), "fee": f"{message.fee:.4f}",
            }  # fmt: skip
        case FundingPayment():
            return {"what": "funding", "symbol": message.symbol, "amount": f"{message.amount:.4f}"}
        case Prediction():
            return {
                "what": "prediction", "symbol": message.symbol, "down": round(message.down, 3), "flat": round(message.flat, 3),
                "up": round(message.up, 3),
            }  # fmt: skip
        case CashAdjustment():
            return {
                "what": "cash adjusted",
                "amount": f"{message.amount:.4f}",
                "currency": message.currency,
                "reason": message.reason,
            }
        case RiskEvent():
            return {
                "what": "risk", "state": message.state.value, "rule": message.rule, "detail": message.detail, "symbol": message.symbol,
            }  # fmt: skip
        case _:
            assert_never(message)


def sentence(message: Event | Decision) -> str:
    """The same as one line."""
    words = describe(message)
    what = words.pop("what")
    line = f"{what}: " + ", ".join(
        f"{key} {value}" for key, value in words.items() if value not in ("", None)
    )
    return mask(one_line(line, _LONGEST))
