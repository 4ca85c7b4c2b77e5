"""Every topic below the prefix with the message that passes there; documentation and tests read it, so that they can't drift."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec

from agent.events import Fill, FundingPayment, Order, OrderUpdate, Prediction, RiskEvent, Signal
from agent.mqtt.messages import (
    BRANCHES,
    RETAINED,
    AgentHealth,
    AnswerBody,
    CommandBody,
    Decided,
    Equity,
    Headline,
    ModelInUse,
    Presence,
    Scores,
    Sealed,
    WorkerPresence,
)


class Entry(NamedTuple):
    """`topic` is below the prefix; `+` stands for a symbol, a model or a worker. `inside` is the JSON in a `Sealed.body`."""

    topic: str
    message: Any
    retained: bool
    sender: str
    inside: type[msgspec.Struct] | None = None


def _decision(kind: type) -> Entry:
    branch = BRANCHES[kind]
    topic = branch if branch == "risk" else f"{branch}/+"
    return Entry(topic, Decided[kind], kind in RETAINED, "agent")  # type: ignore[valid-type]


CATALOG: Final = (
    Entry("agent", Presence, True, "agent"),
    Entry("equity", Equity, True, "agent"),
    Entry("health", AgentHealth, True, "agent"),
    *(_decision(kind) for kind in (Signal, Prediction, Order, OrderUpdate, Fill, FundingPayment, RiskEvent)),
    Entry("commands", Sealed, False, "you", CommandBody),
    Entry("answers", Sealed, False, "agent", AnswerBody),
    Entry("work/model", ModelInUse, True, "agent"),
    Entry("work/+/headlines", Headline, False, "agent"),
    Entry("work/scores", Scores, False, "worker"),
    Entry("workers/+", WorkerPresence, True, "worker"),
)


def schema_of(message: Any) -> dict[str, Any]:
    """JSON Schema (2020-12) of a message."""
    return msgspec.json.schema(message)
