"""MQTT messages and their topics.

`version` grows if readers have to change; fields may be added without. Times are UTC ms; prices, sizes and
money of decisions are decimal strings; NaN is null.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final, Generic, Literal, TypeVar

import msgspec

from agent.core.events import (
    CashAdjustment,
    Decision,
    Fill,
    FundingPayment,
    Notice,
    Order,
    OrderUpdate,
    Prediction,
    RiskEvent,
    RiskState,
    Signal,
    StrategyChange,
)
from agent.data.provenance import ProvenanceObject

VERSION: Final = 1
OF_HISTORY: Final = "history-"
"""Prefix of the ids of headlines that a command has scored, of which no agent waits for a result."""

D = TypeVar("D")


class Decided(msgspec.Struct, Generic[D], frozen=True):
    """A decision of run `run` on its event `seq`. Run, event and decision identify a message, which may
    arrive twice.
    """

    run: str
    seq: int
    decision: D
    version: int = VERSION


class Presence(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the agent is connected. The broker publishes `offline` when it loses the agent (last will)."""

    state: Literal["online", "offline"]
    run: str
    version: int = VERSION


class Equity(msgspec.Struct, frozen=True, kw_only=True):
    """The account. `positions` are signed quantities of the base coin by symbol, without flat ones."""

    run: str
    at: int
    equity: float
    cash: float
    exposure: float
    drawdown: float
    risk: RiskState
    risk_rule: str
    positions: dict[str, Decimal]
    version: int = VERSION


class SourceHealth(msgspec.Struct, frozen=True):
    """A source or companion of the agent; counts are since its start."""

    name: str
    state: str
    last_message_at: int
    errors: int
    restarts: int


class AgentHealth(msgspec.Struct, frozen=True, kw_only=True):
    """State of the agent's sources, queue and model."""

    run: str
    at: int
    warming_up: bool
    model: str
    events: int
    decisions: int
    queue_depth: int
    sources: list[SourceHealth]
    version: int = VERSION


class SignedMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A signed message. `body` is JSON as a string.

    `mac` is the hexadecimal HMAC-SHA256, under the shared secret, of `purpose`, a line feed and the body in
    UTF-8. The purpose is `command` or `answer`, so that a message signed as one is invalid as the other.
    """

    body: str
    mac: str


class CommandBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of a command. `to` is the agent's prefix, `nonce` a string never used before, `at` the current
    time.
    """

    to: str
    action: str
    at: int
    nonce: str
    args: dict[str, str] = {}
    by: str = ""


class AnswerBody(msgspec.Struct, frozen=True):
    """Body of the reply to the command with that nonce: `result` if `ok`, else the error with its exit
    code.
    """

    nonce: str
    ok: bool
    result: Any = None
    error: str = ""
    hint: str = ""
    exit_code: int = 0


class ModelInUse(msgspec.Struct, frozen=True):
    """Fingerprint of the model whose scores the agent accepts."""

    model: str
    version: int = VERSION


class Headline(msgspec.Struct, frozen=True):
    """A headline to score. A repeated headline must be answered again."""

    id: str
    title: str
    version: int = VERSION


class AssetScore(msgspec.Struct, frozen=True):
    """Calibrated probabilities for one asset that a headline names; `asset` is its ticker, such as BTC."""

    asset: str
    bearish: float
    neutral: float
    bullish: float


class HeadlineScore(msgspec.Struct, frozen=True):
    """Calibrated probabilities of headline `id`, as a whole and for single assets, and its kind of news.

    `assets` and `kind` are empty if the model has none. `provenance` says how a language model came to its
    answer; null for a local model. `reason` says why the model abstained, and `unknown` is the share of the
    tokens that its vocabulary lacks; null if it wasn't measured.
    """

    id: str
    bearish: float
    neutral: float
    bullish: float
    abstained: bool = False
    assets: tuple[AssetScore, ...] = ()
    kind: str = ""
    kind_confidence: float = 0.0
    provenance: ProvenanceObject | None = None
    reason: str = ""
    unknown: float | None = None


class Scores(msgspec.Struct, frozen=True, kw_only=True):
    """Scores of a worker, with the full fingerprint of its model.

    `names` is the hash of the names by which the worker finds assets; empty if its model reads no single
    assets.
    """

    worker: str
    model: str
    scores: tuple[HeadlineScore, ...]
    names: str = ""
    version: int = VERSION


class WorkerPresence(msgspec.Struct, frozen=True, kw_only=True):
    """A worker and its model. The broker publishes `offline` when it loses the worker (last will)."""

    worker: str
    state: Literal["online", "offline"]
    model: str
    version: int = VERSION


class HistoryPresence(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a command has a history scored by the workers, and with which model."""

    state: Literal["online", "offline"]
    model: str
    version: int = VERSION


class Topics:
    """Topics under a prefix. A symbol is always one level."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.agent = f"{prefix}/agent"
        self.equity = f"{prefix}/equity"
        self.health = f"{prefix}/health"
        self.commands = f"{prefix}/commands"
        self.answers = f"{prefix}/answers"
        self.model = f"{prefix}/work/model"
        self.scores = f"{prefix}/work/scores"
        self.workers = f"{prefix}/workers/+"
        self.history = f"{prefix}/work/history"

    def decision(self, decision: Decision) -> str | None:
        """Return the topic of a decision; None for a kind that isn't published."""
        branch = BRANCHES.get(type(decision))
        if branch is None:
            return None
        symbol = getattr(decision, "symbol", "")
        if branch in OF_THE_ACCOUNT or not symbol:
            return f"{self.prefix}/{branch}"
        return f"{self.prefix}/{branch}/{symbol.translate(_ONE_LEVEL)}"

    def worker(self, name: str) -> str:
        """Return the topic of a worker's presence."""
        return f"{self.prefix}/workers/{name.translate(_ONE_LEVEL)}"

    def headlines(self, model: str) -> str:
        """Return the topic of headlines for workers with that model."""
        return f"{self.prefix}/work/{model[:16].translate(_ONE_LEVEL)}/headlines"


BRANCHES: Final[dict[type, str]] = {
    Signal: "signals",
    Prediction: "predictions",
    Order: "orders",
    OrderUpdate: "order-updates",
    Fill: "fills",
    FundingPayment: "funding",
    CashAdjustment: "cash",
    RiskEvent: "risk",
    Notice: "notices",
    StrategyChange: "strategy",
}
"""Topic level below the prefix, by kind of decision."""

OF_THE_ACCOUNT: Final = frozenset({"risk", "cash", "notices", "strategy"})
"""Branches without a level for the symbol."""

RETAINED: Final = frozenset({Signal, Prediction})
"""Kinds of decisions whose last message of each symbol the broker retains."""

_ONE_LEVEL: Final = str.maketrans({"/": "-", "+": "-", "#": "-", "\0": "-"})

encode: Final = msgspec.json.Encoder().encode
"""Encode a message as JSON."""
