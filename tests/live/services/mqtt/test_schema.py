"""The JSON schema matches the messages on the wire, and docs/mqtt.md matches the schema."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator

from agent.core.events import Fill, Prediction
from agent.live.app import make_agent
from agent.live.services.mqtt import json_schema
from agent.live.services.mqtt.broker import SECRET as SECRET_VARIABLE
from agent.live.services.mqtt.commands import send_command
from agent.live.services.mqtt.history_workers import WorkerScoring
from agent.live.services.mqtt.mqtt_messages import CommandBody, Decided
from agent.live.services.mqtt.signing import ForgedError, verify
from agent.sandbox import Sandbox
from agent.store.database import Database
from agent.system.secret import Secret
from tests.conftest import ROOT
from tests.live.services.mqtt.test_publisher import Ear
from tests.live.services.mqtt.test_workers import MODEL, working
from tests.support.live import SENTIMENT, Words, living, settings, until
from tests.support.mosquitto import SECRET, Mosquitto, needs_mosquitto

PAGE = (ROOT / "docs/mqtt.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)


def validator(name: str) -> Draft202012Validator:
    document = json_schema.schema()
    return Draft202012Validator({"$defs": document["$defs"], "$ref": f"#/$defs/{name}"})


def test_the_schema_file_matches_the_code() -> None:
    written = Path(ROOT / "docs/mqtt.schema.json").read_text(encoding="utf-8")
    assert written == json_schema.text(), (
        "python -m agent.live.services.mqtt.json_schema > docs/mqtt.schema.json"
    )
    Draft202012Validator.check_schema(json_schema.schema())


def test_the_page_lists_every_topic_and_no_other() -> None:
    rows = re.findall(r"^\| `(PREFIX/[^`]+)` \| (.*?) \| (yes|never)? ?\|$", PAGE, re.MULTILINE)
    assert [topic for topic, _, _ in rows] == [channel.topic for channel in json_schema.CHANNELS]
    for (_, words, retained), channel in zip(rows, json_schema.CHANNELS, strict=True):
        names = {getattr(channel.message, "__name__", ""), getattr(channel.body, "__name__", "")} - {""}
        assert all(f"`{name}`" in words for name in names), channel.topic
        assert (retained == "yes") is channel.retained, channel.topic


def test_the_examples_of_the_page_are_valid_messages() -> None:
    fill, command = EXAMPLES
    validator("Decided_Fill_").validate(json.loads(fill))
    assert msgspec.json.decode(fill, type=Decided[Fill]).decision.symbol == "BTCUSDT"
    body = verify(Secret(SECRET), "command", command.encode())
    validator("CommandBody").validate(json.loads(body))
    assert msgspec.json.decode(body, type=CommandBody).action == "pause"
    with pytest.raises(ForgedError):
        verify(Secret(SECRET[::-1]), "command", command.encode())


def test_an_unknown_number_is_null() -> None:
    sent: dict[str, Any] = json.loads(
        msgspec.json.encode(Decided("run", 1, Prediction("BTCUSDT", 1, 0.2, 0.5, 0.3)))
    )
    assert sent["decision"]["move"] is None
    validator("Decided_Prediction_").validate(sent)


def test_the_schema_rejects_invalid_messages() -> None:
    good = json.loads(EXAMPLES[0])
    for broken in (
        good | {"seq": "1874"},
        {**good, "decision": good["decision"] | {"event": "Order"}},
        {"run": "r"},
    ):
        assert list(validator("Decided_Fill_").iter_errors(broken)), broken


@needs_mosquitto
async def test_every_message_on_the_wire_matches_the_schema(
    sandbox: Sandbox, database: Database, broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SECRET_VARIABLE, SECRET)
    ear = Ear()
    listening = asyncio.create_task(ear.listen(broker.port))
    config = settings(
        sandbox.rest_url,
        tmp_path,
        strategy=SENTIMENT,
        mqtt=broker.settings(commands=True),
        workers={"enabled": True, "answer_within": "20s"},
    )
    daemon = make_agent(config, database, load_model=lambda _: Words(MODEL), clock=sandbox.clock)
    async with working(broker, Words(MODEL), "one"), living(daemon):
        await until(lambda: ear.of("fills/") and ear.of("work/scores"))
        changes = {"params": '{"hold": "2h"}'}
        await send_command(config.mqtt, "set-strategy", changes, by="ann", timeout=20.0)
        await send_command(config.mqtt, "pause", {}, by="ann", timeout=20.0)
        await until(lambda: ear.of("answers") and ear.of("risk") and ear.of("strategy"))
        pool = daemon.services.scorer
        assert pool is not None
        late = pool.health.late
        history = WorkerScoring(config.mqtt, Words(MODEL).fingerprint, "", inflight=8)
        ((_, scores),) = await asyncio.to_thread(list, history([["A headline of the past"]]))
        assert len(scores) == 1
        assert (pool.health.late, pool.health.refused) == (late, 0)
    listening.cancel()
    document = json_schema.schema()
    seen = set()
    for topic, payload, _ in ear.heard:
        pattern, channel = channel_of(topic, document["channels"])
        seen.add(pattern)
        Draft202012Validator({**channel["message"], "$defs": document["$defs"]}).validate(payload)
        if "body" in channel:
            Draft202012Validator({**channel["body"], "$defs": document["$defs"]}).validate(
                json.loads(payload["body"])
            )
    # The others need a fusion model, eight hours for funding, a venue's account, or such a strategy
    unseen = {"PREFIX/predictions/SYMBOL", "PREFIX/funding/SYMBOL", "PREFIX/cash", "PREFIX/notices"}
    assert {channel.topic for channel in json_schema.CHANNELS} - seen <= unseen


def channel_of(topic: str, channels: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the only channel that matches the topic, with its pattern."""
    (found,) = (
        (pattern, channel)
        for pattern, channel in channels.items()
        if re.fullmatch(re.sub("SYMBOL|MODEL|WORKER", "[^/]+", pattern.replace("PREFIX", "tapewire")), topic)
    )
    return found
