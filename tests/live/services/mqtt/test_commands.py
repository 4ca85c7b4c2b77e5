"""Signed commands over a real broker: executed once, within the time window, only with the shared secret."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiomqtt
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from agent.core.errors import SafetyError, UsageError, VenueError
from agent.core.events import Command
from agent.core.risk import RESUME_FROM_KILL
from agent.live.app import make_agent
from agent.live.services.mqtt.broker import SECRET as SECRET_VARIABLE
from agent.live.services.mqtt.commands import send_command
from agent.live.services.mqtt.mqtt_messages import AnswerBody, CommandBody, encode
from agent.live.services.mqtt.signing import ForgedError, ReplayGuard, sign, verify
from agent.sandbox import Sandbox
from agent.store.database import Database
from agent.system.clock import WallClock
from agent.system.secret import Secret
from tests.support.live import handled, journal, living, load_words, of, settings, until
from tests.support.mosquitto import SECRET, Mosquitto, needs_mosquitto

NOW = 1_700_000_000_000
KEY = Secret(SECRET)


def command(nonce: str = "n1", **more: Any) -> CommandBody:
    return CommandBody(**{"to": "tapewire", "action": "pause", "at": NOW, "nonce": nonce} | more)


def guard(**more: Any) -> ReplayGuard:
    return ReplayGuard(**{"secret": KEY, "prefix": "tapewire", "window": 30_000, "began": NOW - 1_000} | more)


@needs_mosquitto
async def test_signed_commands_are_journalled_and_their_results_published(
    sandbox: Sandbox, database: Database, broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SECRET_VARIABLE, SECRET)
    config = settings(sandbox.rest_url, tmp_path, mqtt=broker.settings(commands=True))
    daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)

    async def say(action: str, **args: str) -> Any:
        return await send_command(config.mqtt, action, args, by="ann", timeout=20.0)

    async with living(daemon):
        await until(lambda: handled(daemon) > 5 and daemon.services.companions[0].health.state == "live")
        assert (await say("pause"))["risk"] == "REDUCING"
        assert (await say("kill", reason="enough"))["risk"] == "HALTED"
        with pytest.raises(SafetyError, match="has to be confirmed"):
            await say("resume")
        assert (await say("resume", confirm=RESUME_FROM_KILL))["risk"] == "ACTIVE"
        assert (await say("status"))["run"] == daemon.pipeline.run.id
        changed = await say("set-strategy", params='{"slow": "7"}')
        assert (changed["strategy"], changed["params"]["slow"]) == ("sma_cross", 7)
        assert (await say("use-strategy", strategy="buy_and_hold"))["strategy"] == "buy_and_hold"
        with pytest.raises(UsageError, match="unknown command"):
            await say("dance")
        forged = CommandBody("tapewire", "flatten", WallClock().now(), "abc", {}, "eve")
        async with aiomqtt.Client("127.0.0.1", broker.port, protocol=aiomqtt.ProtocolVersion.V5) as client:
            await client.publish("tapewire/commands", encode(sign(Secret("x" * 32), "command", forged)), 1)
            sealed = encode(
                sign(KEY, "command", CommandBody("tapewire", "pause", WallClock().now(), "twice", {}, "ann"))
            )
            for retain in (False, False, True):
                await client.publish("tapewire/commands", sealed, 1, retain=retain)
        await until(lambda: daemon.pipeline.engine.risk.state.value == "REDUCING")
        await say("status")
    said = [(one.action, one.by) for one in of(Command, journal(database)) if one.by.startswith("mqtt")]
    assert said == [
        ("pause", "mqtt ann"),
        ("kill", "mqtt ann"),
        ("resume", "mqtt ann"),
        ("resume", "mqtt ann"),
        ("use-strategy", "mqtt ann"),
        ("use-strategy", "mqtt ann"),
        ("pause", "mqtt ann"),
    ]


@pytest.mark.slow
@needs_mosquitto
async def test_forged_and_old_commands_are_counted_and_rate_limited(
    sandbox: Sandbox, database: Database, broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SECRET_VARIABLE, SECRET)
    config = settings(sandbox.rest_url, tmp_path, mqtt=broker.settings(commands=True))
    daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
    async with living(daemon):
        link = daemon.services.companions[0]
        await until(lambda: link.health.state == "live")
        old = encode(sign(KEY, "command", CommandBody("tapewire", "pause", 1, "old", {}, "ann")))
        answers = 0
        structlog.reset_defaults()  # warnings too
        with capture_logs() as logged:
            async with aiomqtt.Client(
                "127.0.0.1", broker.port, protocol=aiomqtt.ProtocolVersion.V5
            ) as client:
                await client.subscribe("tapewire/answers")
                for number in range(500):
                    await client.publish("tapewire/commands", b"{}" if number % 2 else old, 1)
                await client.publish("tapewire/commands", b"x" * (1 << 18 | 1), 1)
                await until(
                    lambda: (link.health.forged, link.health.refused, link.health.oversized) == (250, 250, 1)
                )
                with suppress(TimeoutError):
                    async with asyncio.timeout(1.0):
                        async for _ in client.messages:
                            answers += 1
        assert sorted(line["event"] for line in logged if line["event"].startswith("command ")) == [
            "command ignored",
            "command refused",
        ]
        assert 0 < answers <= 60


@needs_mosquitto
async def test_a_command_without_an_agent_times_out(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SECRET_VARIABLE, SECRET)
    from agent.config.services import MqttConfig

    config = MqttConfig(broker=broker.url)
    with pytest.raises(VenueError, match="no answer on"):
        await send_command(config, "status", {}, by="ann", timeout=0.3)


def test_a_command_is_accepted_once() -> None:
    watch = guard()
    payload = encode(sign(KEY, "command", command()))
    body, refusal = watch.admit(payload, NOW)
    assert (body.action, refusal) == ("pause", None)
    with pytest.raises(ForgedError, match="used before"):
        watch.admit(payload, NOW + 1)


@pytest.mark.parametrize(
    ("body", "now", "words"),
    [
        (command(at=NOW - 31_000), NOW, "more than 30s"),
        (command(at=NOW + 31_000), NOW, "more than 30s"),
        (command(at=NOW - 2_000), NOW, "before this agent started"),
        (command(to="another"), NOW, "this is 'tapewire'"),
        (command(nonce=""), NOW, "a nonce has"),
        (command(nonce="x" * 65), NOW, "a nonce has"),
        (command(by="x" * 65), NOW, "a name at most"),
    ],
)
def test_a_signed_command_with_invalid_fields_is_refused(body: CommandBody, now: int, words: str) -> None:
    _, refusal = guard().admit(encode(sign(KEY, "command", body)), now)
    assert refusal is not None
    assert words in refusal.message


def test_a_signed_result_is_not_accepted_as_a_command() -> None:
    answer = sign(KEY, "answer", AnswerBody("n", True))
    with pytest.raises(ForgedError, match="signature"):
        verify(KEY, "command", encode(answer))


@given(
    st.binary(max_size=300) | st.dictionaries(st.text(), st.text()).map(lambda raw: json.dumps(raw).encode())
)
def test_unsigned_payloads_are_rejected(payload: bytes) -> None:
    with pytest.raises(ForgedError):
        guard().admit(payload, NOW)


@given(st.integers(0, 10_000), st.integers(0, 7))
def test_changing_any_bit_invalidates_the_signature(position: int, bit: int) -> None:
    payload = bytearray(encode(sign(KEY, "command", command())))
    payload[position % len(payload)] ^= 1 << bit
    if json_equal(bytes(payload)):
        return  # whitespace in the envelope has no effect
    with pytest.raises(ForgedError):
        guard().admit(bytes(payload), NOW)


def json_equal(payload: bytes) -> bool:
    try:
        return bool(json.loads(payload) == json.loads(encode(sign(KEY, "command", command()))))
    except ValueError:
        return False


async def test_nonces_are_removed_after_the_time_window() -> None:
    watch = guard()
    for second in range(200):
        watch.admit(
            encode(sign(KEY, "command", command(nonce=f"n{second}", at=NOW + second * 1000))),
            NOW + second * 1000,
        )
    assert len(watch._seen) <= 62
    await asyncio.sleep(0)
