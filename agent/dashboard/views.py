"""What the page shows, as plain rows: times are UTC ms, texts are foreign, clipped to one line, and escaped by the page."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import msgspec

from agent.config import Config
from agent.core.events import (
    Command,
    Decision,
    Event,
    Fill,
    News,
    Order,
    OrderUpdate,
    RiskEvent,
    RiskState,
    Sentiment,
    Signal,
)
from agent.data.text import one_line
from agent.live.formatting import describe
from agent.store.runs import Run

TITLE: Final = 300
"""Characters of a headline that are shown."""

_WORD: Final = 80
_REASON: Final = 300
_URL: Final = 2_000


class Head(msgspec.Struct, frozen=True):
    """Which run this is; it does not change while it is looked at."""

    run: str
    kind: str
    strategy: str
    symbols: tuple[str, ...]
    interval: int  # ms
    currency: str
    mode: str  # of execution: paper or testnet
    started_at: int
    endpoint: str
    stamps: tuple[str, ...]


class Bar(NamedTuple):
    """A candle; `start` is its key."""

    start: int
    open: float
    high: float
    low: float
    close: float
    volume: float


class Opinion(msgspec.Struct, frozen=True):
    """What the model said of a headline."""

    bearish: float
    neutral: float
    bullish: float
    abstained: bool
    model: str
    latency_ms: float


class Headline(msgspec.Struct, frozen=True):
    """A headline, and what the model said of it, once it has."""

    id: str
    at: int  # when the agent could have read it
    ts: int  # when it was published, as its source states
    title: str
    url: str  # http or https, or empty
    source: str
    symbols: tuple[str, ...]
    actionable: bool
    opinion: Opinion | None = None


class Trade(msgspec.Struct, frozen=True):
    """One execution. `profit` is what it realised before its fee; None where it opened or added to a position."""

    id: str
    seq: int  # of the event on which it came
    at: int
    symbol: str
    side: str
    qty: Decimal
    price: Decimal
    fee: Decimal
    profit: Decimal | None
    reason: str


class Working(msgspec.Struct, frozen=True):
    """An order that may still be filled."""

    id: str
    at: int
    symbol: str
    side: str
    type: str
    qty: Decimal
    price: Decimal | None
    trigger: Decimal | None
    reduce_only: bool
    reason: str
    status: str = "NEW"
    filled: Decimal = Decimal(0)


class Act(msgspec.Struct, frozen=True):
    """A line of what happened: a signal, an order, a change of risk, a person's command."""

    key: str
    at: int
    what: str
    symbol: str
    text: str


class SignalView(msgspec.Struct, frozen=True):
    """The last word of the headlines on a symbol."""

    at: int
    direction: str
    confidence: float
    bearish: float
    neutral: float
    bullish: float
    actionable: bool


class PredictionView(msgspec.Struct, frozen=True):
    """What the fusion model expects of a symbol."""

    at: int
    down: float
    flat: float
    up: float


class Symbol(msgspec.Struct, frozen=True):
    """One symbol: its price and its change since 00:00 UTC, what is held of it, what is thought of it."""

    symbol: str
    mark: float | None
    change: float | None
    last_bar: int | None
    qty: Decimal
    entry: Decimal
    value: float
    profit: Decimal  # not realised
    signal: SignalView | None
    prediction: PredictionView | None


class AccountView(msgspec.Struct, frozen=True):
    """The account and the state of risk; money in the account's currency."""

    now: int  # the market's time
    event: int  # number of the last event
    warming: bool
    initial: Decimal  # and what has been paid in since
    equity: float
    cash: float
    exposure: float  # gross notional
    day: float  # equity at 00:00 UTC, or at the first look
    peak: float
    fees: Decimal
    funding: Decimal
    realised: Decimal
    fills: int
    risk: RiskState
    rule: str
    detail: str
    since: int


def head_of(run: Run, config: Config) -> Head:
    """What is fixed for a run."""
    return Head(
        run.id, run.kind.value, run.strategy, tuple(config.market.symbols), config.market.interval, config.account.currency,
        config.execution.mode, run.started_at, config.bybit.endpoint if run.kind.value == "live" else "", run.stamps,
    )  # fmt: skip


def headline_of(news: News, symbols: tuple[str, ...]) -> Headline:
    """Made harmless: one clipped line, and no link but to the web."""
    source = one_line(news.publisher or news.feed, _WORD)
    title = one_line(news.title, TITLE)
    return Headline(
        news.id, news.available_at, news.ts, title, _web(news.url), source, symbols, news.actionable
    )


def opinion_of(sentiment: Sentiment) -> Opinion:
    """The probabilities as they came."""
    return Opinion(
        sentiment.bearish,
        sentiment.neutral,
        sentiment.bullish,
        sentiment.abstained,
        sentiment.model[:12],
        sentiment.latency_ms,
    )


def trade_of(fill: Fill, seq: int, profit: Decimal | None) -> Trade:
    """An execution as it is listed and marked."""
    return Trade(
        fill.id, seq, fill.ts, fill.symbol, fill.side.value, fill.qty, fill.price, fill.fee, profit, one_line(fill.reason, _REASON)
    )  # fmt: skip


def working_of(order: Order) -> Working:
    """An order as it goes out."""
    return Working(
        order.id, order.ts, order.symbol, order.side.value, order.type.value, order.qty, order.price, order.trigger,
        order.reduce_only, one_line(order.reason, _REASON),
    )  # fmt: skip


def act_of(key: str, at: int, message: Event | Decision) -> Act:
    """A line for people: the words of the log, shorter where the line has little to say."""
    words: dict[str, Any] = describe(message)
    what, symbol = words.pop("what"), words.pop("symbol", "")
    match message:
        case Signal():
            told = f"{message.direction.value} {message.confidence:.2f}{'' if message.actionable else ', not to be traded on'}"
        case Order():
            reduces = " to reduce" if message.reduce_only else ""
            told = f"{message.type.value.replace('_', ' ').lower()} {message.side.value.lower()} {message.qty}{reduces}: {message.reason}"
        case OrderUpdate():
            symbol, told = (
                message.symbol,
                f"{message.status.value.replace('_', ' ').lower()}: {message.reason}",
            )
        case Command():
            said = ", ".join(f"{name} {value}" for name, value in message.args.items())
            told = f"{message.action}{f' ({said})' if said else ''} by {message.by or 'nobody'}"
        case RiskEvent():
            told = f"{message.state.value}, {message.rule}: {message.detail}"
        case _:
            words.pop("id", None)
            told = ", ".join(f"{name} {value}" for name, value in words.items() if value not in ("", None))
    return Act(key, at, what, symbol, one_line(told, _REASON))


def _web(url: str) -> str:
    """The address if it is one of the web, else nothing: `javascript:` and the like are no links."""
    try:
        parts = urlsplit(url)
    except ValueError:  # a broken IPv6 host
        return ""
    return url if parts.scheme in ("http", "https") and parts.hostname and len(url) <= _URL else ""
