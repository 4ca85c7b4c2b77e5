"""The agent publishes decisions, state and presence to a real broker."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiomqtt
import pytest

from agent.config.services import MqttConfig
from agent.core.errors import ConfigError, SafetyError
from agent.core.events import Fill, Order, Signal
from agent.live.app import make_agent
from agent.live.daemon import Daemon
from agent.live.services.mqtt.broker import PASSWORD as PASSWORD_VARIABLE
from agent.live.services.mqtt.broker import broker_of
from agent.sandbox import Sandbox
from agent.store.database import Database
from agent.store.queries import read_decisions
from tests.support.live import SENTIMENT, handled, living, load_words, settings, until
from tests.support.mosquitto import PASSWORD, Mosquitto, mosquitto, needs_mosquitto

pytestmark = needs_mosquitto


class Ear:
    """Subscriber that collects every message below `tapewire/`."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, dict[str, Any], bool]] = []

    async def listen(self, port: int, **more: Any) -> None:
        async with aiomqtt.Client("127.0.0.1", port, protocol=aiomqtt.ProtocolVersion.V5, **more) as client:
            await client.subscribe("tapewire/#", qos=1)
            async for message in client.messages:
                payload = bytes(message.payload)
                self.heard.append(
                    (str(message.topic), json.loads(payload) if payload else {}, message.retain)
                )

    def of(self, branch: str) -> list[dict[str, Any]]:
        return [payload for topic, payload, _ in self.heard if topic.startswith(f"tapewire/{branch}")]


async def test_every_decision_is_published_with_its_number(
    sandbox: Sandbox, database: Database, broker: Mosquitto, tmp_path: Path
) -> None:
    ear = Ear()
    listening = asyncio.create_task(ear.listen(broker.port))
    config = settings(sandbox.rest_url, tmp_path, strategy=SENTIMENT, mqtt=broker.settings())
    daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
    async with living(daemon):
        await until(lambda: ear.of("fills"))
        run = daemon.pipeline.run.id
    await until(lambda: any(one["state"] == "offline" for one in ear.of("agent")))
    listening.cancel()
    recorded = list(read_decisions(database, run))
    for kind, branch in ((Fill, "fills"), (Order, "orders"), (Signal, "signals")):
        expected = [item.event_seq for item in recorded if isinstance(item.decision, kind)]
        said = [one for one in ear.of(f"{branch}/") if one["run"] == run]
        # QoS 1: a message may arrive twice
        first = [one for place, one in enumerate(said) if one not in said[:place]]
        assert [one["seq"] for one in first] == expected, branch
    fill = ear.of("fills/")[0]["decision"]
    assert isinstance(fill["price"], str)
    assert ear.of("equity")[-1]["equity"] > 0
    assert {row["name"] for row in ear.of("health")[-1]["sources"]} >= {"bybit", "rss", "sentiment", "mqtt"}


async def test_a_late_subscriber_receives_the_retained_state(
    sandbox: Sandbox, database: Database, broker: Mosquitto, tmp_path: Path
) -> None:
    config = settings(sandbox.rest_url, tmp_path, strategy=SENTIMENT, mqtt=broker.settings())
    daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
    ear = Ear()
    async with living(daemon):
        await until(lambda: daemon.services.companions[0].health.state == "live" and handled(daemon) > 20)
        listening = asyncio.create_task(ear.listen(broker.port))
        await until(lambda: ear.of("agent") and ear.of("equity") and ear.of("health"))
    assert ear.of("agent")[0]["state"] == "online"
    assert next(retained for topic, _, retained in ear.heard if topic == "tapewire/equity")
    listening.cancel()


async def test_the_broker_publishes_offline_if_the_agent_dies(broker: Mosquitto, tmp_path: Path) -> None:
    """The broker publishes the agent's last will."""
    import sys

    script = (
        "import asyncio, random\n"
        "from agent.system.clock import WallClock\n"
        "from agent.config.services import MqttConfig\n"
        "from agent.live.services.mqtt.connection import MqttLink, RetainedPresence\n"
        "from agent.live.services.mqtt.mqtt_messages import Presence\n"
        f"config = MqttConfig(broker='{broker.url}')\n"
        "standing = lambda: RetainedPresence('tapewire/agent', "
        "Presence(state='online', run='r'), Presence(state='offline', run='r'))\n"
        "asyncio.run(MqttLink(config, WallClock(), 'doomed', standing).run(lambda event: None))\n"
    )
    ear = Ear()
    listening = asyncio.create_task(ear.listen(broker.port))
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script)
    await until(lambda: [one["state"] for one in ear.of("agent")] == ["online"])
    process.kill()
    await process.wait()
    await until(lambda: [one["state"] for one in ear.of("agent")] == ["online", "offline"])
    listening.cancel()


async def test_the_agent_reconnects_and_publishes_after_a_broker_restart(
    sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    with mosquitto(tmp_path / "one") as first:
        config = settings(sandbox.rest_url, tmp_path, strategy=SENTIMENT, mqtt=first.settings())
        daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
        run = asyncio.create_task(_run(daemon))
        await until(lambda: daemon.started and daemon.services.companions[0].health.state == "live")
    bars = handled(daemon)
    await until(lambda: handled(daemon) > bars + 20)  # the market continues without the broker
    with mosquitto(tmp_path / "two", port=first.port):
        ear = Ear()
        listening = asyncio.create_task(ear.listen(first.port))
        await until(lambda: daemon.services.companions[0].health.reconnects)
        await until(lambda: ear.of("equity"))
        listening.cancel()
        run.cancel()
        with suppress(asyncio.CancelledError):
            await run


async def _run(daemon: Daemon) -> None:
    async with living(daemon):
        await asyncio.Event().wait()


async def test_the_agent_connects_with_tls_and_a_password(
    sandbox: Sandbox, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PASSWORD_VARIABLE, PASSWORD)
    with mosquitto(tmp_path / "mosquitto", tls=True, user="agent") as broker:
        config = settings(
            sandbox.rest_url, tmp_path, mqtt=broker.settings(username="agent", ca_file=str(broker.ca_file))
        )
        daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
        async with living(daemon):
            await until(lambda: daemon.services.companions[0].health.published > 3)
        assert PASSWORD not in str(daemon.config)


async def test_a_wrong_password_is_counted_as_an_error_and_the_agent_runs_on(
    sandbox: Sandbox, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PASSWORD_VARIABLE, "something else")
    with mosquitto(tmp_path / "mosquitto", user="agent") as broker:
        config = settings(sandbox.rest_url, tmp_path, mqtt=broker.settings(username="agent"))
        daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
        async with living(daemon):
            await until(lambda: daemon.services.companions[0].health.errors > 1 and handled(daemon) > 10)
            assert "something else" not in daemon.services.companions[0].health.last_error


@pytest.mark.parametrize(
    ("settings_", "error", "words"),
    [
        ({"broker": "mqtt://broker.example", "username": "me"}, SafetyError, "unencrypted"),
        ({"broker": "mqtts://broker.example", "ca_file": "nowhere.pem"}, ConfigError, "nowhere.pem"),
        ({}, ConfigError, "no broker is configured"),
    ],
)
def test_unsafe_or_incomplete_broker_settings_are_refused(
    settings_: dict[str, Any], error: type[Exception], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PASSWORD_VARIABLE, PASSWORD)
    with pytest.raises(error, match=words):
        broker_of(MqttConfig(**settings_))
