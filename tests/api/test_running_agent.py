"""The running agent through the API: state, commands, changes as server-sent events."""

from __future__ import annotations

import asyncio
import json
import socket
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

import tapewire as tw
from agent.api import change_feed
from agent.api.api_messages import AgentChange, CommandRequest, Scope
from agent.api.api_tokens import TokenRegistry
from agent.api.command_arguments import _FIELDS, arguments
from agent.api.route_table import BASE
from agent.core.events import Command, Fill, News, Side
from agent.core.risk import RESUME_FROM_KILL
from agent.sandbox import Sandbox
from agent.store.database import Database
from tests.api.api_harness import RUN, StubAgent, api_served
from tests.dashboard.dashboard_harness import agent_with_page
from tests.support.live import PATIENCE, SENTIMENT, handled, journal, of, until

T0 = 1_741_011_900_000


def headline(number: int) -> News:
    return News(f"n{number}", T0 + number, T0 + number, f"headline {number}")


def fill(number: int, side: Side, qty: str) -> Fill:
    at = T0 + number
    return Fill(f"f{number}", f"o{number}", "BTCUSDT", at, at, side, Decimal(qty), Decimal(100), Decimal(0))


async def messages(response: Any, count: int) -> list[tuple[str, str, Any]]:
    """Read messages of a stream: id, event, data."""
    found: list[tuple[str, str, Any]] = []
    fields: dict[str, str] = {}
    async with asyncio.timeout(PATIENCE):
        while len(found) < count:
            line = (await response.content.readline()).decode().rstrip("\n")
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif "data" in fields:
                found.append((fields.get("id", ""), fields["event"], json.loads(fields["data"])))
                fields = {}
    return found


async def test_a_program_watches_and_commands_the_agent(
    sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    sections = {"strategy": SENTIMENT, "api": {"commands": True}}
    async with agent_with_page(sandbox, database, tmp_path, **sections) as (daemon, page):
        await until(lambda: handled(daemon) > 5)
        registry = TokenRegistry(daemon.config.api_token_file())
        token = registry.add("desk", [Scope.READ, Scope.COMMAND], 0)
        client = tw.Client(page.url, token)
        state = await asyncio.to_thread(client.state)
        assert (state.run, state.strategy) == (daemon.run_id, "sentiment")
        assert {one.symbol for one in state.positions} == {"BTCUSDT", "ETHUSDT"}
        headers = {"Authorization": f"Bearer {token}"}
        async with ClientSession(page.url, headers=headers) as http, http.get(f"{BASE}/events") as stream:
            paused = await asyncio.to_thread(client.pause)
            assert (paused.risk, paused.action) == ("REDUCING", "pause")
            while (message := (await messages(stream, 1))[0])[1] != "state":
                pass
            assert message[2]["detail"] == "pause by api desk"
            assert message[2]["event"] <= paused.event
            registry.revoke("desk")
            async with asyncio.timeout(PATIENCE):
                while await stream.content.readline():
                    pass  # the stream of a revoked token ends
        token = registry.add("desk", [Scope.READ, Scope.COMMAND], 0)
        client = tw.Client(page.url, token)
        assert (await asyncio.to_thread(client.resume)).risk == "ACTIVE"
        killed = await asyncio.to_thread(lambda: client.kill(flatten=True, reason="test"))
        assert killed.risk == "HALTED"
        with pytest.raises(tw.ApiError, match="has to be confirmed") as refused:
            await asyncio.to_thread(client.resume)
        assert refused.value.status == 403
        assert (await asyncio.to_thread(lambda: client.resume(RESUME_FROM_KILL))).risk == "ACTIVE"
        for fields in ({"action": "pause", "run": "another"}, {"action": "pause", "strategy": "x"}):
            with pytest.raises(tw.ApiError) as raised:
                await asyncio.to_thread(lambda body=fields: client.command(**body))
            assert raised.value.status == 422
        client.close()
    sent = [(one.action, one.args, one.by) for one in of(Command, journal(database)) if "api" in one.by]
    assert sent == [
        ("pause", {}, "api desk"),
        ("resume", {}, "api desk"),
        ("kill", {"flatten": "true", "reason": "test"}, "api desk"),
        ("resume", {}, "api desk"),
        ("resume", {"confirm": RESUME_FROM_KILL}, "api desk"),
    ]


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"{", "invalid-body", 400),
        (b'{"action": "use-model"}', "invalid-body", 400),
        (b'{"action": "kill", "flaten": true}', "invalid-body", 400),
        (b'{"action": "kill", "flatten": "yes"}', "invalid-body", 400),
        (b'{"action": "pause", "flatten": true}', "invalid-command", 422),
        (b"[" * 5_000, "invalid-body", 400),
        (b" " * 20_000, "too-large", 413),
    ],
)
async def test_a_malformed_command_is_refused_whole(
    database: Database, body: bytes, kind: str, status: int
) -> None:
    agent = StubAgent()
    async with api_served(database, agent, commands=True) as served, served.session("command") as http:
        headers = {"Content-Type": "application/json"}
        async with http.post(f"{BASE}/commands", data=body, headers=headers) as response:
            problem = json.loads(await response.read())
        assert (problem["type"], response.status) == (f"urn:tapewire:problem:{kind}", status)
        async with http.post(f"{BASE}/commands", data=b'{"action": "pause"}') as response:
            assert response.status == 415
        assert agent.commands == []


def test_only_fields_that_count_for_an_action_reach_the_journal() -> None:
    fields = set(CommandRequest.__struct_fields__) - {"action", "run"}
    assert set(_FIELDS) == fields
    every = {"flatten": True, "confirm": "c", "reason": "r", "sleeve": "s", "strategy": "x", "params": {}}
    assert arguments(CommandRequest("pause", **every)) == {"sleeve": "s"}
    assert arguments(CommandRequest("kill", **every)) == {"reason": "r", "flatten": "true"}


async def test_a_stream_continues_after_the_last_message_or_says_what_was_lost(database: Database) -> None:
    agent = StubAgent(backlog=10)
    async with api_served(database, agent) as served, served.session("read") as http:
        async with http.get(f"{BASE}/events") as stream:
            assert stream.content_type == "text/event-stream"
            await stream.content.readline()  # retry
            for number in range(1, 4):
                agent.changes.event(number, headline(number))
            first = await messages(stream, 3)
        assert [(kind, data["id"], data["key"]) for _, kind, data in first] == [
            ("news", f"n{number}", f"{RUN}:{number}.1") for number in range(1, 4)
        ]
        for number in range(4, 8):
            agent.changes.event(number, headline(number))
        async with http.get(f"{BASE}/events", headers={"Last-Event-ID": first[-1][0]}) as stream:
            assert [data["id"] for _, _, data in await messages(stream, 4)] == ["n4", "n5", "n6", "n7"]
        for number in range(8, 30):
            agent.changes.event(number, headline(number))
        for lost in (first[-1][0], "another:1.1"):
            async with http.get(f"{BASE}/events", headers={"Last-Event-ID": lost}) as stream:
                assert (await messages(stream, 1))[0][1] == "reset"
                agent.changes.event(agent.changes.total + 1, headline(99))
                assert (await messages(stream, 1))[0][2]["id"] == "n99"


def test_a_closed_trade_is_a_change_whatever_the_position_was_before() -> None:
    feed = change_feed.ChangeFeed(lambda: (RUN, {"BTCUSDT": Decimal(2)}), 100)
    feed.event(1, headline(1))
    fills = [("SELL", "1"), ("SELL", "1"), ("BUY", "3"), ("SELL", "4"), ("BUY", "1")]
    for number, (side, qty) in enumerate(fills, 2):
        feed.decision(number, fill(number, Side(side), qty))
    found = [change for change in feed.after(0, 100) or () if change.kind == "trade"]
    assert [change.id for change in found] == ["o3", "o5", "o6"]  # flat, turned around, flat


async def test_a_client_that_stops_reading_is_dropped_and_counted(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(change_feed, "SEND_TIMEOUT", 0.3)
    monkeypatch.setattr(change_feed, "INTERVAL", 0.001)
    agent = StubAgent(backlog=1_000)
    async with api_served(database, agent) as served:
        token = served.token("read")
        with socket.socket() as stalled:
            stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            stalled.connect(("127.0.0.1", served.page.port))
            stalled.sendall(
                f"GET {BASE}/events HTTP/1.1\r\nHost: 127.0.0.1:{served.page.port}\r\n"
                f"Authorization: Bearer {token}\r\n\r\n".encode()
            )
            number = 0
            async with asyncio.timeout(PATIENCE):
                while not served.page.listener.status.slow:
                    for _ in range(100):
                        number += 1
                        agent.changes.event(number, headline(number))
                    await asyncio.sleep(0.005)
        assert served.page.listener.status.slow == 1
        async with served.session("read") as http, http.get(f"{BASE}/events") as stream:
            await stream.content.readline()
            agent.changes.event(number + 1, headline(0))
            assert (await messages(stream, 1))[0][2]["id"] == "n0"


async def test_streams_are_limited(database: Database) -> None:
    async with (
        api_served(database, StubAgent(), streams=1) as served,
        served.session("read") as http,
        http.get(f"{BASE}/events") as stream,
    ):
        await stream.content.readline()
        async with http.get(f"{BASE}/events") as second:
            assert (second.status, second.headers["Retry-After"]) == (503, "1")


async def test_the_client_iterates_over_changes_across_connections(database: Database) -> None:
    agent = StubAgent()
    async with api_served(database, agent) as served:
        agent.changes.event(1, headline(1))

        def read(client: tw.Client) -> list[str]:
            found = []
            for change in client.changes(f"{RUN}:1.1"):
                assert isinstance(change, AgentChange)
                found.append(change.id)
                if len(found) == 2:
                    return found
            raise AssertionError

        agent.changes.event(2, headline(2))
        agent.changes.event(3, headline(3))
        assert await served.call(read) == ["n2", "n3"]
