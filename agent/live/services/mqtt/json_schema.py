"""The JSON Schema of everything on the broker, made from the structs: `python -m agent.live.services.mqtt.json_schema > docs/mqtt.schema.json`."""

from __future__ import annotations

import json
import math
from typing import Any, Final, NamedTuple

import msgspec

from agent.live.services.mqtt.mqtt_messages import (
    BRANCHES,
    OF_THE_ACCOUNT,
    RETAINED,
    VERSION,
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
    Topics,
    WorkerPresence,
)


class Channel(NamedTuple):
    """One kind of topic, its levels that vary in capitals, and what is said there."""

    topic: str
    message: Any  # a type
    retained: bool
    sender: str
    sealed: Any = None  # a type: what the body of a sealed message holds


_NAMES: Final = Topics("PREFIX")

CHANNELS: Final = (
    Channel(_NAMES.agent, Presence, True, "agent"),
    Channel(_NAMES.equity, Equity, True, "agent"),
    Channel(_NAMES.health, AgentHealth, True, "agent"),
    *(
        Channel(
            f"PREFIX/{branch}" if branch in OF_THE_ACCOUNT else f"PREFIX/{branch}/SYMBOL",
            Decided[kind],  # type: ignore[valid-type]
            kind in RETAINED,
            "agent",
        )
        for kind, branch in BRANCHES.items()
    ),
    Channel(_NAMES.commands, Sealed, False, "anybody with the secret", CommandBody),
    Channel(_NAMES.answers, Sealed, False, "agent", AnswerBody),
    Channel(_NAMES.model, ModelInUse, True, "agent"),
    Channel(_NAMES.headlines("MODEL"), Headline, False, "agent"),
    Channel(_NAMES.scores, Scores, False, "worker"),
    Channel(_NAMES.worker("WORKER"), WorkerPresence, True, "worker"),
)
"""All there are."""


def schema() -> dict[str, Any]:
    """One document: `$defs` has the messages, `channels` says which is where."""
    types = [channel.message for channel in CHANNELS] + [
        channel.sealed for channel in CHANNELS if channel.sealed
    ]
    references, definitions = msgspec.json.schema_components(types, ref_template="#/$defs/{name}")
    of_type = dict(zip(map(repr, types), references, strict=True))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Tapewire on MQTT",
        "version": VERSION,
        "channels": {
            channel.topic: {
                "message": of_type[repr(channel.message)],
                **({"body": of_type[repr(channel.sealed)]} if channel.sealed else {}),
                "retained": channel.retained,
                "sender": channel.sender,
            }
            for channel in CHANNELS
        },
        "$defs": {name: _with_null(definition) for name, definition in sorted(definitions.items())},
    }


def _with_null(node: Any) -> Any:
    """JSON has no NaN: a number that may be one may be null."""
    if isinstance(node, list):
        return [_with_null(item) for item in node]
    if not isinstance(node, dict):
        return node
    default = node.get("default")
    if isinstance(default, float) and math.isnan(default):
        return {**node, "type": [node["type"], "null"], "default": None}
    return {key: _with_null(value) for key, value in node.items()}


def text() -> str:
    """The document as it is checked in."""
    return json.dumps(schema(), indent=2, default=str, allow_nan=False) + "\n"


if __name__ == "__main__":
    print(text(), end="")
