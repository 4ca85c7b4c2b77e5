"""The documented topics and schemas are those of the messages on the wire."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import jsonschema
import pytest

from agent.live.daemon import Daemon
from agent.mqtt.broker import SECRET as SECRET_VARIABLE
from agent.mqtt.catalog import CATALOG, schema_of
from agent.mqtt.commands import tell
from agent.sandbox import Sandbox
from agent.store.database import Database
from tests.live.world import SENTIMENT, Words, living, settings, until
from tests.mqtt.broker import SECRET, Mosquitto, needs_mosquitto
from tests.mqtt.test_publisher import Ear
from tests.mqtt.test_workers import MODEL, working

pytestmark = needs_mosquitto


def matches(pattern: str, topic: str) -> bool:
    asked, found = pattern.split("/"), topic.split("/")
    return len(asked) == len(found) and all(one in ("+", other) for one, other in zip(asked, found, strict=True))


async def test_all_that_passes_is_in_the_catalog_and_fits_its_schema(
    sandbox: Sandbox, database: Database, broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SECRET_VARIABLE, SECRET)
    ear = Ear()
    listening = asyncio.create_task(ear.listen(broker.port))
    config = settings(
        sandbox.rest_url, tmp_path, strategy=SENTIMENT, mqtt=broker.settings(commands=True),
        workers={"enabled": True, "answer_within": "20s"},
    )  # fmt: skip
    daemon = Daemon(config, database, load_model=lambda _: Words(MODEL), clock=sandbox.clock)
    async with working(broker, Words(MODEL), "one"), living(daemon):
        await until(lambda: ear.of("fills/") and ear.of("work/scores"))
        await tell(config.mqtt, "pause", {}, by="ann", timeout=20.0)
        await until(lambda: ear.of("answers"))
    listening.cancel()
    seen = set()
    for topic, payload, _ in ear.heard:
        (entry,) = [one for one in CATALOG if matches(f"tapewire/{one.topic}", topic)]
        seen.add(entry.topic)
        jsonschema.validate(payload, schema_of(entry.message))
        if entry.inside is not None:
            jsonschema.validate(json.loads(payload["body"]), schema_of(entry.inside))
    assert seen >= {
        "agent",
        "equity",
        "health",
        "signals/+",
        "orders/+",
        "fills/+",
        "commands",
        "answers",
        "workers/+",
        "work/model",
    }


def test_schemas_are_sound() -> None:
    for entry in CATALOG:
        jsonschema.Draft202012Validator.check_schema(schema_of(entry.message))
