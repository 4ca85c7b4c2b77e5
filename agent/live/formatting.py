"""One-line descriptions of events and decisions, for the log, the status and the terminal."""

from __future__ import annotations

from decimal import Decimal
from enum import Enum
from typing import Any, Final, assert_never

from msgspec import UNSET

from agent.core.events import (
    AccountSnapshot,
    Amend,
    Cancel,
    CashAdjustment,
    Command,
    Decision,
    Event,
    Fill,
    FillKind,
    Funding,
    FundingPayment,
    FundingSettlement,
    Gap,
    Kline,
    News,
    Notice,
    Order,
    OrderUpdate,
    PastBars,
    Plot,
    Prediction,
    RiskEvent,
    Sentiment,
    Signal,
    StrategyChange,
)
from agent.core.masking import mask
from agent.data.given_up import counted
from agent.data.provenance import MAX_REASON, shown_reason
from agent.data.text import one_line
from agent.system.clock import iso

_LONGEST: Final = 1_000  # characters of a line


def describe(message: Event | Decision) -> dict[str, Any]:
    """Return the fields worth showing by name, and the kind as `what`; times, other ids and raw texts are
    left out.
    """
    fields = _describe(message)
    sleeve = getattr(message, "sleeve", UNSET)
    return fields | {"sleeve": sleeve} if sleeve is not UNSET and sleeve else fields


def _describe(message: Event | Decision) -> dict[str, Any]:
    match message:
        case Kline():
            return _pick("bar" if message.confirm else "open bar", message, "symbol", "close", "volume")
        case News():
            return {
                "what": "headline",
                "title": message.title,
                "publisher": message.publisher or message.feed,
            }
        case Sentiment(abstained=True):
            return {"what": "sentiment", "news": message.news_id, "abstained": True} | _told(message)
        case Sentiment():
            values = {"score": round(message.score, 3), "confidence": round(message.confidence, 3)}
            fields = {
                "what": "sentiment",
                "news": message.news_id,
                **values,
                "latency_ms": round(message.latency_ms, 1),
            }
            if message.kind:
                fields["news_kind"] = message.kind
            if message.assets:
                fields["assets"] = " ".join(
                    f"{own.asset} {own.bullish - own.bearish:+.2f}" for own in message.assets
                )
            return fields | _told(message)
        case Gap():
            return {
                "what": "gap",
                "symbol": message.symbol,
                "bars": (message.end - message.start) // message.interval,
            }
        case PastBars():
            return _pick("past bars", message, "symbol") | {"bars": len(message.bars)}
        case Funding():
            return _pick("funding rate", message, "symbol", "rate")
        case Command(action="use-strategy"):  # the decision that follows has the rest
            return {
                "what": "command",
                "action": message.action,
                "strategy": message.args.get("strategy"),
                "by": message.by,
            }
        case Command():
            return {"what": "command", "action": message.action, **counted(message), "by": message.by}
        case Signal():
            confidence = {"confidence": round(message.confidence, 3), "actionable": message.actionable}
            kind = {"news_kind": message.kind} if message.kind else {}
            return _pick("signal", message, "symbol", "direction") | confidence | kind
        case Order():
            fields = _pick("order", message, "symbol", "side", "type", "qty", "reason")
            return {"what": "order", "id": message.id} | fields | _protection(message)
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
            balances = {coin: str(value) for coin, value in message.balances.items()}
            holdings = {holding.symbol: str(holding.qty) for holding in message.holdings}
            return {"what": "account", "balances": balances, "holdings": holdings}
        case OrderUpdate():
            return {
                "what": "order update",
                "id": message.order_id,
                "status": message.status.value,
                "reason": message.reason,
            }
        case Fill():
            what = "internal fill" if message.kind is FillKind.INTERNAL else "fill"
            fields = {"order": message.order_id, **_pick(what, message, "symbol", "side", "qty", "price")}
            return fields | {"fee": f"{message.fee:.4f}"}
        case FundingPayment():
            return {"what": "funding", "symbol": message.symbol, "amount": f"{message.amount:.4f}"}
        case Prediction():
            chances = {name: round(getattr(message, name), 3) for name in ("down", "flat", "up")}
            return {"what": "prediction", "symbol": message.symbol} | chances
        case CashAdjustment():
            fields = {
                "amount": f"{message.amount:.4f}",
                "currency": message.currency,
                "reason": message.reason,
            }
            return {"what": "cash adjusted"} | fields
        case Plot():
            return _pick("plot", message, "symbol", "name", "value")
        case Notice():
            return {"what": "notice", "level": message.level, "text": message.text}
        case StrategyChange():
            fields = _pick("strategy changed", message, "strategy", "class_name", "params", "flatten")
            sleeve = {} if message.sleeve is UNSET else {"sleeve": message.sleeve}
            return fields | {"source": message.sha256[:12], "by": message.by} | sleeve
        case RiskEvent():
            return _pick("risk", message, "state", "rule", "detail", "symbol")
        case _:
            assert_never(message)


def _told(sentiment: Sentiment) -> dict[str, str]:
    """Return whether the answer is provisional, why a language model didn't answer, and its reason, each as
    one printable line.
    """
    provisional = {"answer": "provisional"} if sentiment.provisional else {}
    if sentiment.provenance is None:
        return provisional
    fields = provisional | {
        "fallback": one_line(sentiment.provenance.fallback, MAX_REASON),
        "reason": shown_reason(sentiment.provenance),
    }
    return {name: text for name, text in fields.items() if text}


def _protection(order: Order) -> dict[str, Any]:
    """Return the fields of an order that most orders lack."""
    fields: dict[str, Any] = {}
    if order.trail is not UNSET:
        fields["trail"] = str(order.trail)
    if order.take_profits is not UNSET:
        fields["take_profits"] = " ".join(f"{share:%} at {price}" for price, share in order.take_profits)
    if order.expires is not UNSET:
        fields["expires"] = iso(order.expires)
    return fields


def _pick(what: str, message: Event | Decision, *names: str) -> dict[str, Any]:
    """Return `what` and the named fields; Decimals as text, enums as their values."""
    fields: dict[str, Any] = {"what": what}
    for name in names:
        value = getattr(message, name)
        value = value.value if isinstance(value, Enum) else value
        fields[name] = str(value) if isinstance(value, Decimal) else value
    return fields


def one_line_summary(message: Event | Decision) -> str:
    """Return the description as one line of text."""
    fields = describe(message)
    what = fields.pop("what")
    line = f"{what}: " + ", ".join(
        f"{key} {value}" for key, value in fields.items() if value not in ("", None)
    )
    return mask(one_line(line, _LONGEST))
