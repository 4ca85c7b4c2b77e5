"""JSON Schema of all MQTT messages, generated from the structs.

`python -m agent.live.services.mqtt.json_schema > docs/mqtt.schema.json`
"""

from __future__ import annotations

import json
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
    HistoryPresence,
    ModelInUse,
    Presence,
    Scores,
    SignedMessage,
    Topics,
    WorkerPresence,
)
from agent.system.json_schemas import allow_null


class MqttChannel(NamedTuple):
    """One kind of topic, with its variable levels in capitals, and its messages."""

    topic: str
    message: Any  # a type
    retained: bool
    sender: str
    body: Any = None  # a type: the body of a signed message


_NAMES: Final = Topics("PREFIX")

CHANNELS: Final = (
    MqttChannel(_NAMES.agent, Presence, True, "agent"),
    MqttChannel(_NAMES.equity, Equity, True, "agent"),
    MqttChannel(_NAMES.health, AgentHealth, True, "agent"),
    *(
        MqttChannel(
            f"PREFIX/{branch}" if branch in OF_THE_ACCOUNT else f"PREFIX/{branch}/SYMBOL",
            Decided[kind],  # type: ignore[valid-type]
            kind in RETAINED,
            "agent",
        )
        for kind, branch in BRANCHES.items()
    ),
    MqttChannel(_NAMES.commands, SignedMessage, False, "anybody with the secret", CommandBody),
    MqttChannel(_NAMES.answers, SignedMessage, False, "agent", AnswerBody),
    MqttChannel(_NAMES.model, ModelInUse, True, "agent"),
    MqttChannel(_NAMES.headlines("MODEL"), Headline, False, "agent"),
    MqttChannel(_NAMES.scores, Scores, False, "worker"),
    MqttChannel(_NAMES.worker("WORKER"), WorkerPresence, True, "worker"),
    MqttChannel(_NAMES.history, HistoryPresence, True, "replay"),
)
"""All channels."""


def schema() -> dict[str, Any]:
    """Generate the document: `$defs` has the messages, `channels` the topics."""
    types = [channel.message for channel in CHANNELS] + [channel.body for channel in CHANNELS if channel.body]
    references, definitions = msgspec.json.schema_components(types, ref_template="#/$defs/{name}")
    of_type = dict(zip(map(repr, types), references, strict=True))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Tapewire on MQTT",
        "version": VERSION,
        "channels": {
            channel.topic: {
                "message": of_type[repr(channel.message)],
                **({"body": of_type[repr(channel.body)]} if channel.body else {}),
                "retained": channel.retained,
                "sender": channel.sender,
            }
            for channel in CHANNELS
        },
        "$defs": {name: allow_null(definition) for name, definition in sorted(definitions.items())},
    }


def text() -> str:
    """Return the document as checked in."""
    return json.dumps(schema(), indent=2, default=str, allow_nan=False) + "\n"


if __name__ == "__main__":
    print(text(), end="")
