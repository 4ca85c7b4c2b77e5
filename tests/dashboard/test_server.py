"""The server: the stream to browsers, commands, and recorded runs."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from agent.core.events import RiskState
from agent.core.risk import RESUME_FROM_KILL
from agent.dashboard import websocket
from agent.sandbox import Sandbox
from agent.store.database import Database
from agent.store.queries import read_frame
from tests.dashboard.dashboard_harness import (
    FakeAgent,
    agent_with_page,
    bar,
    client,
    cookie_header,
    headline,
    origin,
    served,
)
from tests.live.test_commands import start
from tests.support.command_line import run_command
from tests.support.live import PATIENCE, SENTIMENT, Command, handled, journal, of, until


async def test_the_next_free_port_is_used_and_announced(database: Database) -> None:
    with closing(socket.socket()) as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        async with served(database, FakeAgent(), port=taken) as page:
            assert taken < page.port < taken + 20
            assert page.announcement.startswith(
                f"dashboard: http://127.0.0.1:{page.port}/ (port {taken} was taken; log in with "
            )


async def test_the_messages_to_a_page_add_up_to_the_whole_state(database: Database) -> None:
    agent = FakeAgent()
    async with (
        served(database, agent) as page,
        client(page.login_url()) as http,
        http.ws_connect("/api/live", headers=origin(page)) as socket,
    ):
        message = await socket.receive_json()
        assert message["head"]["symbols"] == ["BTCUSDT", "ETHUSDT"]
        assert message["bars"] == {"symbol": "BTCUSDT", "all": True, "rows": []}
        bars: dict[str, dict[int, Any]] = {"BTCUSDT": {}, "ETHUSDT": {}}
        for number in range(30):
            agent.feed(bar(number, 100 + number), bar(number, 50, "ETHUSDT"))
            if number == 15:
                await socket.send_json({"symbol": "ETHUSDT"})
            if number % 5 == 0:
                message = await socket.receive_json()
                for row in message.get("bars", {}).get("rows", ()):
                    bars[message["bars"]["symbol"]][row[0]] = row
        async with asyncio.timeout(PATIENCE):
            while len(bars["ETHUSDT"]) < 30:
                message = await socket.receive_json()
                for row in message.get("bars", {}).get("rows", ()):
                    bars[message["bars"]["symbol"]][row[0]] = row
        expected = json.loads(websocket.encode(agent.state.changes(websocket.NO_VERSION, "ETHUSDT")))["bars"][
            "rows"
        ]
        assert list(bars["ETHUSDT"].values()) == expected


@pytest.mark.parametrize("message", ["no JSON", '{"symbol": 1}', '{"other": ""}', "x" * 2_000])
async def test_a_malformed_message_closes_the_connection(database: Database, message: str) -> None:
    async with (
        served(database, FakeAgent()) as page,
        client(page.login_url()) as http,
        http.ws_connect("/api/live", headers=origin(page)) as socket,
    ):
        await socket.send_str(message)
        async with asyncio.timeout(PATIENCE):
            async for _ in socket:
                pass
        assert socket.closed


@pytest.mark.slow
async def test_a_browser_that_stops_reading_is_disconnected_without_effect_on_others(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "SEND_TIMEOUT", 0.3)
    monkeypatch.setattr(websocket, "INTERVAL", 0.001)
    agent = FakeAgent()
    async with served(database, agent) as page, client(page.login_url()) as http:
        stalled = socket.socket()
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        stalled.connect(("127.0.0.1", page.port))
        stalled.sendall(
            f"GET /api/live HTTP/1.1\r\nHost: 127.0.0.1:{page.port}\r\n"
            f"Origin: http://127.0.0.1:{page.port}\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n{cookie_header(http)}\r\n".encode()
        )
        await until(lambda: len(page.sessions) == 1)
        async with http.ws_connect("/api/live", headers=origin(page)) as reader:
            await until(lambda: len(page.sessions) == 2)
            seen = number = 0
            async with asyncio.timeout(PATIENCE):
                while len(page.sessions) == 2:
                    number += 1
                    agent.feed(*(headline(number * 80 + row, "bitcoin " * 40) for row in range(80)))
                    seen = max(seen, (await reader.receive_json()).get("version", 0))
            assert seen > 80
            assert not reader.closed
        stalled.close()


DETAILS = ("sha256", "params", "needs")


async def test_a_command_is_journalled_with_the_dashboard_as_its_source(
    sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    async with (
        agent_with_page(sandbox, database, tmp_path, strategy=SENTIMENT) as (daemon, page),
        client(page.login_url()) as http,
    ):
        await until(lambda: handled(daemon) > 5)

        async def send(action: str, **more: Any) -> tuple[int, Any]:
            body = {"action": action, "run": daemon.pipeline.run.id} | more
            async with http.post("/api/command", json=body, headers=origin(page)) as response:
                return response.status, await response.json()

        risk = daemon.pipeline.engine.risk
        assert (await send("pause"))[1]["risk"] == "REDUCING"
        assert (await send("resume"))[1]["risk"] == "ACTIVE"
        assert (await send("flatten"))[0] == 200
        assert (await send("kill", flatten=True))[1]["risk"] == "HALTED"
        status, body = await send("resume")
        assert (status, "has to be confirmed" in body["error"]) == (403, True)
        assert risk.state is RiskState.HALTED
        assert (await send("resume", confirm=RESUME_FROM_KILL))[1]["risk"] == "ACTIVE"
        changed = (await send("set-strategy", params={"position_size": "0.2"}))[1]
        assert (changed["strategy"], changed["params"]["position_size"]) == ("sentiment", 0.2)
        assert (await send("use-strategy", strategy="sma_cross", flatten=True))[1]["strategy"] == "sma_cross"
        status, body = await send("use-strategy", strategy="sma_kross")
        assert (status, "unknown strategy 'sma_kross'; the old strategy stays" in body["error"]) == (
            404,
            True,
        )
        status, body = await send("set-strategy", sleeve="trend", params={"fast": "3"})
        assert (status, body["error"].startswith("this agent has no sleeve 'trend'")) == (404, True)
        assert (
            (await send("use-model"))[0]
            == (await send("pause", run="another"))[0]
            == (await send("pause", x=1))[0]
            == 404
        )
        async with http.get("/api/runs") as response:
            assert (await response.json())["run"] == daemon.pipeline.run.id
    journalled = [
        (one.action, {key: one.args[key] for key in one.args if key not in DETAILS}, one.by)
        for one in of(Command, journal(database))
        if one.by.startswith("dashboard")
    ]
    assert journalled == [
        ("pause", {}, "dashboard 127.0.0.1"),
        ("resume", {}, "dashboard 127.0.0.1"),
        ("flatten", {}, "dashboard 127.0.0.1"),
        ("kill", {"flatten": "true"}, "dashboard 127.0.0.1"),
        ("resume", {}, "dashboard 127.0.0.1"),
        ("resume", {"confirm": RESUME_FROM_KILL}, "dashboard 127.0.0.1"),
        ("use-strategy", {"strategy": "sentiment", "class": "SentimentStrategy"}, "dashboard 127.0.0.1"),
        (
            "use-strategy",
            {"strategy": "sma_cross", "class": "SmaCross", "flatten": "true"},
            "dashboard 127.0.0.1",
        ),
        (
            "strategy-refused",
            {"strategy": "sma_kross", "reason": "unknown strategy 'sma_kross'"},
            "dashboard 127.0.0.1",
        ),
        (
            "strategy-refused",
            {"strategy": "the same", "reason": "this agent has no sleeve 'trend', but one strategy"},
            "dashboard 127.0.0.1",
        ),
    ]


@pytest.mark.slow
async def test_recorded_runs_can_be_viewed_without_an_agent(
    sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    async with agent_with_page(sandbox, database, tmp_path) as (daemon, _):
        await until(lambda: handled(daemon) > 60)
    run = daemon.pipeline.run
    process = await start("dashboard", "--store", f"sqlite:///{tmp_path / 'store.db'}", "--port", 0, "--json")
    assert process.stdout is not None
    try:
        printed = json.loads(await asyncio.wait_for(process.stdout.readline(), PATIENCE))
        async with client(printed["login"]) as http:

            async def get(path: str) -> tuple[int, Any]:
                async with http.get(path) as response:
                    return response.status, await (
                        response.json() if "json" in response.content_type else response.text()
                    )

            _, listed = await get("/api/runs")
            assert [(row["id"], row["status"], row["events"]) for row in listed["runs"]] == [
                (run.id, "complete", run.events)
            ]
            assert listed["runs"][0]["total_return"] == pytest.approx(
                float(run.final_equity or 0) / 10_000 - 1
            )
            curve = read_frame(database, run.id, "equity").equity
            assert listed["runs"][0]["max_drawdown"] == pytest.approx((curve / curve.cummax() - 1).min())
            assert (await get(f"/api/runs/{run.id}/at?ts=1"))[0] == 503  # not open yet
            async with asyncio.timeout(PATIENCE):
                while not (opened := (await get(f"/api/runs/{run.id}"))[1])["ready"]:
                    await asyncio.sleep(0.01)
            assert opened["begins"] < opened["ends"]
            _, at_end = await get(f"/api/runs/{run.id}/at?ts={opened['ends']}&symbol=ETHUSDT")
            assert at_end["account"]["equity"] == pytest.approx(float(run.final_equity or 0))
            _, at_start = await get(f"/api/runs/{run.id}/at?ts={opened['begins']}")
            assert (at_start["account"]["fills"], at_start["account"]["equity"]) == (0, 10_000)
            assert (await get(f"/api/runs/{run.id}/at?ts=-1"))[0] == (await get("/api/runs/none"))[0] == 404
            assert (await get("/api/live"))[0] == 404
            status, report = await get(f"/runs/{run.id}/report")
            assert status == 200
            assert run.id in report
            async with http.post(
                "/api/command",
                json={"action": "kill", "run": run.id},
                headers={"Origin": printed["url"].rstrip("/")},
            ) as denied:
                assert denied.status == 404
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), PATIENCE)
    assert process.returncode == 0


def test_a_missing_store_is_not_created(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'none.db'}"
    result = run_command(["dashboard", "--store", url])
    assert result.exit_code == 1
    assert not (tmp_path / "none.db").exists()
