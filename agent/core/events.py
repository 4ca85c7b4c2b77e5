"""Events and decisions: everything that flows through Tapewire.

Events are journalled and arrive at `Engine.handle`; decisions leave the engine and are hashed into the run's
chain. All are frozen structs. Times are UTC milliseconds. Prices and sizes are floats on the feature path
(klines, sentiment, predictions) and `Decimal` where money moves (orders, fills, funding payments).

Total order of events: (available_at, `PRIORITY` of the kind, source number, sequence within the source).
"""

from __future__ import annotations

from decimal import Decimal
from enum import Enum
from math import nan
from typing import Final

import msgspec
from msgspec import UNSET, UnsetType


class Side(str, Enum):
    """Side of an order or a fill."""

    BUY = "BUY"
    SELL = "SELL"

    @property
    def sign(self) -> int:
        """+1 for a buy, -1 for a sell."""
        return 1 if self is Side.BUY else -1


class Direction(str, Enum):
    """Direction of a signal."""

    BUY = "BUY"
    HOLD = "HOLD"
    SELL = "SELL"


BUY: Final = Direction.BUY
HOLD: Final = Direction.HOLD
SELL: Final = Direction.SELL


class OrderType(str, Enum):
    """Type of an order. Stop and take-profit orders are market orders that wait for their trigger.

    The trigger of a trailing stop follows the best price at the distance `Order.trail`. A stop with a limit
    price becomes a limit order once it is triggered.
    """

    MARKET = "MARKET"
    LIMIT = "LIMIT"
    STOP = "STOP"
    TAKE_PROFIT = "TAKE_PROFIT"
    TRAILING_STOP = "TRAILING_STOP"


class TimeInForce(str, Enum):
    """How long an order lives."""

    GTC = "GTC"
    IOC = "IOC"
    FOK = "FOK"
    POST_ONLY = "POST_ONLY"


class OrderStatus(str, Enum):
    """State of an order. NEW and PARTIALLY_FILLED are working, UNTRIGGERED waits, the rest are final."""

    NEW = "NEW"
    UNTRIGGERED = "UNTRIGGERED"
    PARTIALLY_FILLED = "PARTIALLY_FILLED"
    FILLED = "FILLED"
    CANCELLED = "CANCELLED"
    REJECTED = "REJECTED"

    @property
    def final(self) -> bool:
        """True if no more fills can come."""
        return self in (OrderStatus.FILLED, OrderStatus.CANCELLED, OrderStatus.REJECTED)


class FillKind(str, Enum):
    """Why a fill happened."""

    TRADE = "TRADE"
    LIQUIDATION = "LIQUIDATION"
    FEE = "FEE"  # base coin that a venue kept; the trade's `fee` states its value
    TRANSFER = "TRANSFER"  # a position of the account that the run has adopted
    INTERNAL = "INTERNAL"  # against another sleeve's order, at the mark and without a fee


class RiskState(str, Enum):
    """Which orders risk allows.

    ACTIVE: all. REDUCING: orders that shrink a position. HALTED: the same until an operator resumes; stops
    are not moved, and after a kill the strategy's targets are ignored.
    """

    ACTIVE = "ACTIVE"
    REDUCING = "REDUCING"
    HALTED = "HALTED"


class Message(msgspec.Struct, frozen=True, tag=True, tag_field="event"):
    """Base of events and decisions: immutable, encoded with the name of its kind."""


def kind_of(message: Message | type[Message]) -> str:
    """Return the kind's name on the wire, in the store and in counters; a renamed class keeps it."""
    return str(message.__struct_config__.tag)


# -- inputs ---------------------------------------------------------------------------------------------


class Kline(Message, frozen=True, gc=False):
    """One bar. `start` is its open time, `ts` the time of this state: start + interval if `confirm`."""

    symbol: str
    interval: int  # ms
    start: int
    ts: int
    available_at: int
    open: float
    high: float
    low: float
    close: float
    volume: float  # base coin or shares
    turnover: float = nan  # quote currency; NaN if the source has none
    confirm: bool = True


class News(Message, frozen=True):
    """A headline. `ts` is when it was published, `available_at` when the agent could first read it."""

    id: str
    ts: int
    available_at: int
    title: str
    summary: str = ""
    publisher: str = ""
    url: str = ""
    currencies: tuple[str, ...] = ()  # tickers that the source names
    feed: str = ""
    published_raw: str = ""
    trusted_time: bool = True  # False: `ts` was missing, in the future or ancient
    actionable: bool = True  # False: recorded, but too old to trade on (a new feed's backlog, a stale entry)


class AssetSentiment(msgspec.Struct, frozen=True, array_like=True):
    """A model's calibrated probabilities for one coin or share that a headline names; they sum to 1."""

    asset: str  # ticker of the coin or share, as `agent.core.symbols.base_of` returns it
    bearish: float
    neutral: float
    bullish: float
    embedding: bytes = b""  # hidden state of the model at the asset's names, encoded as that of `Sentiment`


class Provenance(msgspec.Struct, frozen=True, array_like=True):
    """How a language model at a server came to its answer, so that it need never be queried again."""

    model: str  # id at its server
    prompt: str  # SHA-256 of the prompt's text, which the store has
    seed: int
    answers: tuple[str, ...]  # verbatim, one for each sample; empty if there was none
    fallback: str = ""  # why another model answered, or none did; empty if this one did
    reason: str = ""  # one line that the model gave, for people to read; never parsed, never traded on


class Sentiment(Message, frozen=True):
    """A model's calibrated probabilities for one headline, which sum to 1.

    They are for the headline as a whole: for its main asset, or for the market. `assets` has those of each
    asset that the headline names. If the model `abstained`, all of them have no meaning; abstaining is not
    neutral.
    """

    news_id: str
    ts: int
    available_at: int
    bearish: float
    neutral: float
    bullish: float
    model: str = ""  # fingerprint of the model
    abstained: bool = False
    latency_ms: float = 0.0
    symbols: tuple[str, ...] = ()  # if the source states them; otherwise the headline is mapped to symbols
    embedding: bytes = b""  # pooled hidden state of the model, float16 little-endian, for a fusion model
    assets: tuple[AssetSentiment, ...] = ()  # in the order of first mention; empty if the model has none
    kind: str = ""  # likeliest kind of news, one of `NEWS_KINDS`; empty if the model has none
    kind_confidence: float = 0.0  # calibrated probability of `kind`
    # another score for the headline may follow, which replaces the votes of this one
    provisional: bool = False
    provenance: Provenance | None = None  # of a language model at a server

    def of(self, asset: str) -> AssetSentiment | Sentiment:
        """Return the model's score for `asset`; the headline's own if it has none for it."""
        for answer in self.assets:
            if answer.asset == asset:
                return answer
        return self

    @property
    def score(self) -> float:
        """Bullish minus bearish, in [-1, 1]."""
        return self.bullish - self.bearish

    @property
    def confidence(self) -> float:
        """The largest probability; 0 if the model abstained."""
        return 0.0 if self.abstained else max(self.bearish, self.neutral, self.bullish)


class Funding(Message, frozen=True, gc=False):
    """The funding rate of a perpetual: positions held at `ts` pay (longs, if positive) or receive it."""

    symbol: str
    ts: int
    available_at: int
    rate: float


class Gap(Message, frozen=True, gc=False):
    """Bars that no source has: start (inclusive) to end (exclusive)."""

    symbol: str
    interval: int
    start: int
    end: int
    available_at: int
    ts: int = 0


class PastBars(Message, frozen=True):
    """Closed bars of the past, read from the venue for a strategy that is about to be used.

    Each of `bars` is start, open, high, low, close and volume; they are in order.
    """

    symbol: str
    interval: int
    ts: int
    available_at: int
    bars: tuple[tuple[int, float, float, float, float, float], ...]


class FundingSettlement(Message, frozen=True, tag="Settlement"):
    """Funding that a venue has settled: `amount` is added to cash. Each of the venue's `id` counts once."""

    id: str
    symbol: str
    ts: int
    available_at: int
    rate: Decimal
    qty: Decimal  # signed position at the stamp
    mark: Decimal
    amount: Decimal


class PositionSnapshot(msgspec.Struct, frozen=True):
    """A position at a venue: signed quantity in base coin, and average entry price (0 on spot)."""

    symbol: str
    qty: Decimal
    entry: Decimal = Decimal(0)


class AccountSnapshot(Message, frozen=True, tag="Account"):
    """A venue's account, read while no request was under way: all earlier fills have arrived before it.

    `balances` are by coin, without unrealised profit; `holdings` are the open positions of the traded
    symbols. `foreign`: others have traded in the account since the last snapshot, and the configuration
    ignores that. `settled`: nothing was executed around the snapshot for as long as the venue's views may
    lag.
    """

    ts: int
    available_at: int
    balances: dict[str, Decimal]
    holdings: tuple[PositionSnapshot, ...] = ()
    foreign: bool = False
    settled: bool = True


class Command(Message, frozen=True):
    """A command of an operator (`by`) or of the daemon itself.

    The core handles these actions:

    - pause, resume, halt, kill, and flatten, which with a `symbol` closes only its position;
    - life: begins each life of a live run; its random `incarnation` goes into order ids, and with `cash` =
      `stated` the life records every change of cash;
    - heartbeat: brings the time while no data arrive;
    - warm-up, warm-up-done: enclose history that is read at the start or after an outage; the latter's
      arguments are the bars that the strategy needs, by interval;
    - reconciling: the venue's account is not known yet;
    - older-record: the venue's history has orders or executions of the run that its journal lacks;
    - record-behind: the store lacks events that the run had committed;
    - taken-id: another order has this order's id at the venue;
    - strategy-error: the strategy raised an error (`detail`), which halts;
    - strategy-history: begins to keep the run's bars for a strategy whose `PastBars` are being read;
    - use-strategy: another strategy, or other parameters, decide from now on (`agent.core.strategy_version`);
    - alarm: records a risk event (`rule`, `detail`, `symbol`) and changes nothing;
    - add-sleeve, remove-sleeve: change the strategies that share the account.

    With `sleeve` in its arguments a command concerns that sleeve alone.

    The others are for readers of the journal: use-model, model-in-use, model-refused, strategy-refused,
    revision-given-up (headlines that keep their first score), stop, and emergency-kill (what the kill switch
    did at the venue).
    """

    action: str
    ts: int
    available_at: int
    args: dict[str, str] = {}
    by: str = ""

    @property
    def states_cash(self) -> bool:
        """True if this begins a life that records each change of cash as a `CashAdjustment`."""
        return self.action == "life" and self.args.get("cash") == "stated"

    @property
    def discounts_transfers(self) -> bool:
        """True if this begins a life in which a deposit or a withdrawal is neither profit nor loss to the
        limits of daily loss and drawdown. It was one to earlier lives.
        """
        return self.action == "life" and self.args.get("transfers") == "discounted"


# -- decisions ------------------------------------------------------------------------------------------
#
# `sleeve` is the name of the sleeve that made a decision, if several strategies share the account; decisions
# of the account itself, and those that all sleeves make alike, have none. UNSET is not encoded, so that the
# decisions of runs without sleeves keep their digests.


class Signal(Message, frozen=True, omit_defaults=True):
    """The vote of recent headlines on one symbol.

    An empty `kind` is not encoded, so that signals of runs without kinds keep their digests. The engine's
    signals always have `sources`.
    """

    symbol: str
    ts: int
    direction: Direction
    confidence: float  # calibrated, in [0, 1]
    bearish: float
    neutral: float
    bullish: float
    actionable: bool
    sources: tuple[str, ...] = ()  # ids of the headlines that voted
    kind: str = ""  # kind of news of the latest source, one of `NEWS_KINDS`; empty if the model has none
    sleeve: str | UnsetType = UNSET

    @property
    def score(self) -> float:
        """Bullish minus bearish, in [-1, 1]."""
        return self.bullish - self.bearish


class Prediction(Message, frozen=True):
    """The fusion model's calibrated probabilities that the price goes down, stays flat, or goes up."""

    symbol: str
    ts: int
    down: float
    flat: float
    up: float
    model: str = ""  # fingerprint of the model
    move: float = nan  # mean move when the price leaves the band, as a fraction of the price
    sleeve: str | UnsetType = UNSET


class Order(Message, frozen=True):
    """An order that passed risk. `id` is the client order id, at most 36 characters.

    Fields that are UNSET are not encoded, so that orders without them keep their digests.
    """

    id: str
    symbol: str
    ts: int  # of the decision
    side: Side
    type: OrderType
    qty: Decimal  # base coin or shares
    price: Decimal | None = None  # limit price
    trigger: Decimal | None = None  # of stops and take-profits
    tif: TimeInForce = TimeInForce.GTC
    reduce_only: bool = False
    stop: Decimal | None = None  # protective stop to attach once filled: trigger price
    take_profit: Decimal | None = None  # the same for the profit side
    oco: str = ""  # the first fill of an order cancels the others with the same group
    reason: str = ""
    # distance of a trailing stop: of this one, or of the one to attach once an entry is filled
    trail: Decimal | UnsetType = UNSET
    # of an entry: take-profits to attach, each a trigger price and a share of the position; nearest first
    take_profits: tuple[tuple[Decimal, Decimal], ...] | UnsetType = UNSET
    expires: int | UnsetType = UNSET  # of an entry: UTC ms from which it is cancelled
    sleeve: str | UnsetType = UNSET


class Cancel(Message, frozen=True):
    """A request to cancel an order at a venue; the order works until the venue confirms."""

    order_id: str
    symbol: str
    ts: int
    reason: str = ""
    sleeve: str | UnsetType = UNSET


class Amend(Message, frozen=True):
    """A request to change the total quantity (including the filled part) or limit price of an order."""

    order_id: str
    symbol: str
    ts: int
    qty: Decimal | None = None
    price: Decimal | None = None
    reason: str = ""
    sleeve: str | UnsetType = UNSET


class OrderUpdate(Message, frozen=True):
    """A change of an order's state: a decision, and before that an event if it comes from a venue."""

    order_id: str
    symbol: str
    ts: int
    available_at: int
    status: OrderStatus
    filled: Decimal = Decimal(0)
    reason: str = ""
    sleeve: str | UnsetType = UNSET


class Fill(Message, frozen=True):
    """One execution. `slippage` is the cost against the reference price and includes the spread."""

    id: str
    order_id: str
    symbol: str
    ts: int
    available_at: int
    side: Side
    qty: Decimal
    price: Decimal
    fee: Decimal  # quote currency; negative is a rebate
    maker: bool = False
    slippage: Decimal = Decimal(0)  # quote currency
    kind: FillKind = FillKind.TRADE
    reason: str = ""
    sleeve: str | UnsetType = UNSET


class FundingPayment(Message, frozen=True):
    """Funding booked on a position: `amount` is added to cash."""

    symbol: str
    ts: int
    rate: Decimal
    qty: Decimal  # signed position
    mark: Decimal
    amount: Decimal
    sleeve: str | UnsetType = UNSET


class CashAdjustment(Message, frozen=True):
    """Cash deposited or withdrawn (negative): it changes the capital, not the profit."""

    ts: int
    currency: str
    amount: Decimal  # added to cash
    reason: str
    sleeve: str | UnsetType = UNSET


class Plot(Message, frozen=True):
    """A value of a line that the strategy draws in the chart of `symbol`; empty if it is of no symbol."""

    symbol: str
    ts: int
    name: str
    value: float
    sleeve: str | UnsetType = UNSET


class RiskEvent(Message, frozen=True):
    """A change of the risk state, or an order that risk refused."""

    ts: int
    state: RiskState
    rule: str
    detail: str = ""
    symbol: str = ""
    sleeve: str | UnsetType = UNSET


class Notice(Message, frozen=True):
    """A message of the strategy to its operator."""

    ts: int
    level: str  # info, warning or error
    text: str  # one line of at most 500 characters
    sleeve: str | UnsetType = UNSET


class StrategyChange(Message, frozen=True):
    """The strategy that decides from now on, after an operator's command."""

    ts: int
    strategy: str  # built-in name, mine.py or package.module:Class
    class_name: str
    sha256: str  # of its source; empty for a built-in strategy
    params: str  # JSON object, including defaults
    flatten: bool  # whether positions are closed; otherwise they are kept
    by: str
    sleeve: str | UnsetType = UNSET


Event = (
    Kline
    | News
    | Sentiment
    | Funding
    | Gap
    | Command
    | OrderUpdate
    | Fill
    | FundingSettlement
    | AccountSnapshot
    | PastBars
)
Decision = (
    Signal
    | Prediction
    | Order
    | Cancel
    | Amend
    | OrderUpdate
    | Fill
    | FundingPayment
    | CashAdjustment
    | RiskEvent
    | Plot
    | Notice
    | StrategyChange
)

PRIORITY: Final[dict[type, int]] = {
    Command: 0,
    OrderUpdate: 1,
    Fill: 2,
    FundingSettlement: 3,
    AccountSnapshot: 4,  # after the fills that led to it
    Gap: 5,
    Kline: 6,
    Funding: 7,  # after the bar that closes at the stamp: it is paid on the freshest mark
    News: 8,
    Sentiment: 9,
    PastBars: 10,
}
"""Order of kinds at equal `available_at`."""

MINUTE_MS: Final = 60_000
HOUR_MS: Final = 3_600_000
DAY_MS: Final = 86_400_000
