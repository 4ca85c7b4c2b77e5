"""The messages on the broker, and their topics. `version` grows when a reader would have to change; fields may be added without.

Times are UTC ms; prices, sizes and money of decisions are decimal texts, as they are traded; NaN is null.
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
    Order,
    OrderUpdate,
    Prediction,
    RiskEvent,
    RiskState,
    Signal,
)

VERSION: Final = 1

D = TypeVar("D")


class Decided(msgspec.Struct, Generic[D], frozen=True):
    """A decision of run `run` on its event number `seq`. The three together are unique; a message may arrive twice."""

    run: str
    seq: int
    decision: D
    version: int = VERSION


class Presence(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the agent is there. The broker itself says `offline` when it loses the agent (last will)."""

    state: Literal["online", "offline"]
    run: str
    version: int = VERSION


class Equity(msgspec.Struct, frozen=True, kw_only=True):
    """The account. `positions` are signed quantities of the base coin by symbol, flat ones left out."""

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
    """One source or companion of the agent; counts are since its start."""

    name: str
    state: str
    last_message_at: int
    errors: int
    restarts: int


class AgentHealth(msgspec.Struct, frozen=True, kw_only=True):
    """How the agent is."""

    run: str
    at: int
    warming_up: bool
    model: str
    events: int
    decisions: int
    queue_depth: int
    sources: list[SourceHealth]
    version: int = VERSION


class Sealed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`body` is JSON as text; `mac` the hex HMAC-SHA256, under the shared secret, of `purpose`, a line feed and that text in UTF-8.

    The purpose is `command` or `answer`: what was signed as one is worth nothing as the other.
    """

    body: str
    mac: str


class CommandBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a command. `to` is the agent's prefix, `nonce` any text that was never used before, `at` the present."""

    to: str
    action: str
    at: int
    nonce: str
    args: dict[str, str] = {}
    by: str = ""


class AnswerBody(msgspec.Struct, frozen=True):
    """The body of an answer to the command with that nonce: `result` where it was done, else why not, and a CLI's exit code for it."""

    nonce: str
    ok: bool
    result: Any = None
    error: str = ""
    hint: str = ""
    exit_code: int = 0


class ModelInUse(msgspec.Struct, frozen=True):
    """The fingerprint of the model whose scores the agent takes."""

    model: str
    version: int = VERSION


class Headline(msgspec.Struct, frozen=True):
    """A headline to score; one that comes again is to be answered again."""

    id: str
    title: str
    version: int = VERSION


class Score(msgspec.Struct, frozen=True):
    """Calibrated probabilities of headline `id`."""

    id: str
    bearish: float
    neutral: float
    bullish: float
    abstained: bool = False


class Scores(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker found, with the full fingerprint of its model."""

    worker: str
    model: str
    scores: tuple[Score, ...]
    version: int = VERSION


class WorkerPresence(msgspec.Struct, frozen=True, kw_only=True):
    """A worker, and its model. The broker itself says `offline` when it loses the worker (last will)."""

    worker: str
    state: Literal["online", "offline"]
    model: str
    version: int = VERSION


class Topics:
    """The names under a prefix. Symbols are one level each."""

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

    def decision(self, decision: Decision) -> str | None:
        """Where a decision goes; None for a kind that isn't published."""
        branch = BRANCHES.get(type(decision))
        if branch is None:
            return None
        symbol = getattr(decision, "symbol", "")
        if branch in OF_THE_ACCOUNT or not symbol:
            return f"{self.prefix}/{branch}"
        return f"{self.prefix}/{branch}/{symbol.translate(_ONE_LEVEL)}"

    def worker(self, name: str) -> str:
        """A worker's presence."""
        return f"{self.prefix}/workers/{name.translate(_ONE_LEVEL)}"

    def headlines(self, model: str) -> str:
        """Headlines for workers with that model: those with another never see them."""
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
}
"""The level below the prefix, by kind of decision."""

OF_THE_ACCOUNT: Final = frozenset({"risk", "cash"})
"""Branches without a level for the symbol."""

RETAINED: Final = frozenset({Signal, Prediction})
"""Decisions of which the broker keeps the last one of each symbol for whoever comes later."""

_ONE_LEVEL: Final = str.maketrans({"/": "-", "+": "-", "#": "-", "\0": "-"})

encode: Final = msgspec.json.Encoder().encode
"""A message as JSON."""
