"""Rows that the page shows. Times are UTC ms; texts from outside are clipped to one line, but not escaped."""

from __future__ import annotations

from collections import OrderedDict
from decimal import Decimal
from typing import Any, Final, Generic, NamedTuple, Self, TypeVar

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from agent.config import Config
from agent.core.events import (
    Command,
    Decision,
    Event,
    Fill,
    FillKind,
    News,
    Notice,
    Order,
    OrderType,
    OrderUpdate,
    RiskEvent,
    RiskState,
    Sentiment,
    Signal,
    StrategyChange,
)
from agent.core.strategy_version import label_of
from agent.data.given_up import counted
from agent.data.provenance import MAX_REASON, shown_reason
from agent.data.text import one_line, web_url
from agent.live.formatting import describe
from agent.store.runs import Run
from strategies import SOURCE_SHA256

K = TypeVar("K")
V = TypeVar("V")

TITLE_LENGTH: Final = 300
"""Characters of a headline that are shown."""

_SOURCE_LENGTH: Final = 80
_ASSET_LENGTH: Final = 20
_KIND_LENGTH: Final = 20
_REASON_LENGTH: Final = 300


class VersionedRows(Generic[K, V]):
    """The `limit` rows that changed last, by key, each with the version of its change.

    Versions only grow. Adding a row is O(1), listing the changes since a version is O(number of changes).
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rows: OrderedDict[K, tuple[int, V]] = OrderedDict()

    def __contains__(self, key: K) -> bool:
        return key in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, key: K) -> V | None:
        """Return the row with this key."""
        found = self._rows.get(key)
        return None if found is None else found[1]

    def put(self, key: K, row: V, version: int) -> None:
        """Add or replace a row. Beyond the limit, the row that changed longest ago is dropped."""
        self._rows[key] = version, row
        self._rows.move_to_end(key)
        if len(self._rows) > self._limit:
            self._rows.popitem(last=False)

    def since(self, version: int) -> list[V]:
        """Return the rows that changed after `version`, in the order of their changes."""
        changed = []
        for row_version, row in reversed(self._rows.values()):
            if row_version <= version:
                break
            changed.append(row)
        changed.reverse()
        return changed

    def copy(self) -> Self:
        """Return an independent copy that shares the rows, which must be immutable."""
        twin = type(self)(self._limit)
        twin._rows = self._rows.copy()
        return twin


class RunHeader(msgspec.Struct, frozen=True):
    """Fixed properties of a run."""

    run: str
    kind: str
    strategy: str
    source: str  # of the run's first strategy, as in `StrategyRow`
    params: str
    symbols: tuple[str, ...]
    interval: int  # ms
    currency: str
    mode: str  # of execution: paper or testnet
    started_at: int
    endpoint: str
    stamps: tuple[str, ...]
    margined: bool = False  # perpetuals: what is sold or bought isn't paid in cash


class CandleRow(NamedTuple):
    """A candle; `start` is its key."""

    start: int
    open: float
    high: float
    low: float
    close: float
    volume: float


class PlotRow(NamedTuple):
    """The last value of a plotted line in the bar that starts at `start`."""

    start: int
    name: str
    value: float


class AssetRow(NamedTuple):
    """The model's probabilities for an asset that a headline names."""

    asset: str
    bearish: float
    neutral: float
    bullish: float


class SentimentRow(msgspec.Struct, frozen=True):
    """The model's probabilities for a headline and for the assets that it names, and the kind of news.

    `assets` and `kind` are empty if the model has none, or abstained. `reason` is what a language model
    stated, `fallback` why it didn't answer.
    """

    bearish: float
    neutral: float
    bullish: float
    abstained: bool
    model: str
    latency_ms: float
    assets: tuple[AssetRow, ...] = ()  # in the order of first mention
    kind: str = ""
    kind_confidence: float = 0.0
    provisional: bool = False  # it may be revised
    reason: str = ""
    fallback: str = ""


class HeadlineRow(msgspec.Struct, frozen=True):
    """A headline. `opinion` is the sentiment that counts, None until the headline is scored.

    If a slower model has revised it, `first` is the sentiment that was replaced; if that model abstained,
    `kept` is True and the first one still counts.
    """

    id: str
    at: int  # when it became available to the agent
    ts: int  # when it was published, according to its source
    title: str
    url: str  # http or https, or empty
    source: str
    symbols: tuple[str, ...]
    actionable: bool
    opinion: SentimentRow | None = None
    first: SentimentRow | None = None
    kept: bool = False


class FillRow(msgspec.Struct, frozen=True):
    """An execution. `profit` is realised, before the fee; None if the fill opened or enlarged a position."""

    id: str
    seq: int  # of the event that caused it
    at: int
    symbol: str
    side: str
    qty: Decimal
    price: Decimal
    fee: Decimal
    profit: Decimal | None
    reason: str


class OrderRow(msgspec.Struct, frozen=True):
    """A working order."""

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
    trail: Decimal | None = None  # distance of a trailing stop, whose trigger moves


class ActivityRow(msgspec.Struct, frozen=True):
    """A line of the activity list: a signal, an order, a change of the risk state, a command."""

    key: str
    at: int
    what: str
    symbol: str
    text: str


class StrategyRow(msgspec.Struct, frozen=True):
    """The strategy that decides. `source` begins the SHA-256 of its file; empty if it is built in."""

    name: str
    source: str
    params: str  # JSON
    since: int
    event: int  # number of the event that brought it; 0 for the run's first


class SignalRow(msgspec.Struct, frozen=True):
    """The latest signal of a symbol. `kind` is that of the last headline that voted, if the model has one."""

    at: int
    direction: str
    confidence: float
    bearish: float
    neutral: float
    bullish: float
    actionable: bool
    kind: str


class PredictionRow(msgspec.Struct, frozen=True):
    """The fusion model's latest prediction for a symbol."""

    at: int
    down: float
    flat: float
    up: float


class SymbolRow(msgspec.Struct, frozen=True):
    """A symbol's price, its change since 00:00 UTC as a fraction, its position, signal and prediction."""

    symbol: str
    mark: float | None
    change: float | None
    last_bar: int | None
    qty: Decimal
    entry: Decimal
    value: float
    profit: Decimal  # unrealised
    signal: SignalRow | None
    prediction: PredictionRow | None


class AccountSummary(msgspec.Struct, frozen=True):
    """The account and the risk state. Amounts are in the account's currency."""

    now: int  # market time
    event: int  # number of the last event
    warming: bool
    initial: Decimal  # including later deposits and withdrawals
    equity: float
    cash: float
    exposure: float  # gross notional
    day: float  # equity at 00:00 UTC, or at the first sample
    peak: float
    fees: Decimal
    funding: Decimal
    realised: Decimal
    fills: int
    risk: RiskState
    rule: str
    detail: str
    since: int


def run_header(run: Run, config: Config) -> RunHeader:
    """Return the header of a run."""
    return RunHeader(
        run=run.id,
        kind=run.kind.value,
        strategy=run.strategy,
        source=run.versions.get(SOURCE_SHA256, "")[:12],
        params=msgspec.json.encode(run.params).decode(),
        symbols=tuple(config.market.symbols),
        interval=config.market.interval,
        currency=config.account.currency,
        mode=config.execution.mode,
        started_at=run.started_at,
        endpoint=config.bybit.endpoint if run.kind.value == "live" else "",
        stamps=run.stamps,
        margined=config.market.category == "linear",
    )


def headline_row(news: News, symbols: tuple[str, ...]) -> HeadlineRow:
    """Return a headline's row. Texts are clipped to one line, URLs other than http and https are left out."""
    source = one_line(news.publisher or news.feed, _SOURCE_LENGTH)
    title = one_line(news.title, TITLE_LENGTH)
    url = web_url(news.url)
    return HeadlineRow(news.id, news.available_at, news.ts, title, url, source, symbols, news.actionable)


def sentiment_row(sentiment: Sentiment) -> SentimentRow:
    """Return the row of a headline's score. Texts that a worker sent are clipped to one line."""
    told = not sentiment.abstained
    return SentimentRow(
        bearish=sentiment.bearish,
        neutral=sentiment.neutral,
        bullish=sentiment.bullish,
        abstained=sentiment.abstained,
        model=sentiment.model[:12],
        latency_ms=sentiment.latency_ms,
        assets=tuple(
            AssetRow(one_line(own.asset, _ASSET_LENGTH), own.bearish, own.neutral, own.bullish)
            for own in sentiment.assets
            if told
        ),
        kind=one_line(sentiment.kind, _KIND_LENGTH) if told else "",
        kind_confidence=sentiment.kind_confidence if told else 0.0,
        provisional=sentiment.provisional,
        reason=shown_reason(sentiment.provenance),
        fallback="" if sentiment.provenance is None else one_line(sentiment.provenance.fallback, MAX_REASON),
    )


def scored_row(headline: HeadlineRow, sentiment: Sentiment) -> HeadlineRow:
    """Return a headline's row with its sentiment, which may revise an earlier one."""
    opinion, before = sentiment_row(sentiment), headline.opinion
    if before is None or not before.provisional:
        return replace(headline, opinion=opinion)
    if opinion.abstained:
        return replace(headline, kept=True)
    return replace(headline, opinion=opinion, first=headline.first or before, kept=False)


def signal_row(signal: Signal) -> SignalRow:
    """Return the row of a signal."""
    return SignalRow(
        at=signal.ts,
        direction=signal.direction.value,
        confidence=signal.confidence,
        bearish=signal.bearish,
        neutral=signal.neutral,
        bullish=signal.bullish,
        actionable=signal.actionable,
        kind=one_line(signal.kind, _KIND_LENGTH),
    )


def strategy_row(change: StrategyChange, seq: int) -> StrategyRow:
    """Return the row of the strategy that event `seq` brought."""
    name = one_line(label_of(change.strategy, change.class_name), _SOURCE_LENGTH)
    return StrategyRow(name, change.sha256[:12], one_line(change.params, _REASON_LENGTH), change.ts, seq)


def fill_row(fill: Fill, seq: int, profit: Decimal | None) -> FillRow:
    """Return the row of a fill that event `seq` caused; its reason begins with its sleeve, if it has one."""
    reason = fill.reason
    if fill.sleeve is not UNSET:
        inside = " (internal)" if fill.kind is FillKind.INTERNAL else ""
        reason = f"{fill.sleeve}{inside}: {reason}".removesuffix(": ")
    return FillRow(
        id=fill.id,
        seq=seq,
        at=fill.ts,
        symbol=fill.symbol,
        side=fill.side.value,
        qty=fill.qty,
        price=fill.price,
        fee=fill.fee,
        profit=profit,
        reason=one_line(reason, _REASON_LENGTH),
    )


def order_row(order: Order) -> OrderRow:
    """Return the row of a new order."""
    return OrderRow(
        id=order.id,
        at=order.ts,
        symbol=order.symbol,
        side=order.side.value,
        type=order.type.value,
        qty=order.qty,
        price=order.price,
        trigger=order.trigger,
        reduce_only=order.reduce_only,
        reason=one_line(order.reason, _REASON_LENGTH),
        trail=order.trail if order.type is OrderType.TRAILING_STOP and order.trail is not UNSET else None,
    )


def activity_row(key: str, at: int, message: Event | Decision) -> ActivityRow:
    """Return a line of the activity list, which is shorter than the log's line."""
    fields: dict[str, Any] = describe(message)
    what, symbol, sleeve = fields.pop("what"), fields.pop("symbol", ""), fields.pop("sleeve", "")
    match message:
        case Signal():
            suffix = "" if message.actionable else ", not actionable"
            news = f", {message.kind} news" if message.kind else ""
            text = f"{message.direction.value} {message.confidence:.2f}{suffix}{news}"
        case Order():
            order_type = message.type.value.replace("_", " ").lower()
            reduces = " to reduce" if message.reduce_only else ""
            text = f"{order_type} {message.side.value.lower()} {message.qty}{reduces}: {message.reason}"
        case OrderUpdate():
            symbol = message.symbol
            text = f"{message.status.value.replace('_', ' ').lower()}: {message.reason}"
        case Command(action="use-strategy"):
            text = f"{message.action}: {fields['strategy']} by {message.by}"
        case Command():
            args = ", ".join(f"{name} {value}" for name, value in counted(message).items())
            text = (
                f"{message.action}{f' ({args})' if args else ''}{f' by {message.by}' if message.by else ''}"
            )
        case Notice():
            text = message.text if message.level == "info" else f"{message.level}: {message.text}"
        case RiskEvent():
            text = f"{message.state.value}, {message.rule}: {message.detail}"
        case _:
            fields.pop("id", None)
            text = ", ".join(f"{name} {value}" for name, value in fields.items() if value not in ("", None))
    if sleeve and not isinstance(message, Command):
        text = f"{sleeve}: {text}"
    return ActivityRow(key, at, what, symbol, one_line(text, _REASON_LENGTH))
