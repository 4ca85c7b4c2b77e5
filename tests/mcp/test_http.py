"""`tapewire mcp --http`: tokens, scopes, names of hosts, and the same figures everywhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from aiohttp import ClientSession

from agent.api.api_messages import Scope
from agent.api.api_tokens import TokenRegistry
from agent.config import load
from agent.store.database import open_database
from tests.api.api_harness import api_served
from tests.cli.conftest import Outcome
from tests.mcp.assistant import NAME, answer, http_assistant, http_server, refusal

Tapewire = Callable[..., Outcome]
PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}


@pytest.mark.slow
async def test_tokens_hosts_and_scopes(tapewire: Tapewire, tmp_path: Path) -> None:
    made = tapewire("backtest", "--strategy", "sma_cross", "--symbol", "BTCUSDT", "--json")
    run = json.loads(made.out)["run"]
    registry = TokenRegistry(load().api_token_file())
    reader, desk = registry.add("reader", [Scope.READ], 0), registry.add("desk", list(Scope), 0)
    async with http_server(tmp_path) as url:
        good = {"Authorization": f"Bearer {desk}", "Accept": "application/json, text/event-stream"}
        refused = [
            (401, {}),
            (401, {"Authorization": "Bearer tapewire_wrong"}),
            (401, {"Authorization": f"Basic {desk}"}),
            (421, good | {"Host": "rebound.example"}),
            (403, good | {"Origin": "https://elsewhere.example"}),
        ]
        async with ClientSession() as http:
            for status, headers in refused:
                async with http.post(url, json=PING, headers=headers) as response:
                    assert response.status == status, headers
            async with http.post(url, data=b"{" * (2 << 20), headers=good) as response:
                assert response.status in (400, 413)
        for mode in ("auto", "legacy"):
            async with http_assistant(url, reader, mode) as client:
                tools = {tool.name for tool in (await client.list_tools()).tools}
                assert "run_figures" in tools
                assert "backtest" not in tools
                found = refusal(await client.call_tool("backtest", {}))
                assert found.startswith("backtest needs a token with the scope research")
                assert answer(await client.call_tool("run_figures", {"run": run}))["run"] == run
        async with http_assistant(url, desk) as client:
            again = answer(
                await client.call_tool("backtest", {"strategy": "sma_cross", "symbols": ["BTCUSDT"]})
            )
            assert again["study"]["tries"] == 1  # the same variant as the command line's
            tries = answer(await client.call_tool("list_tries", {"run": run}))["tries"]
            assert [one["evaluations"] for one in tries] == [2]
            assert "are refused" in refusal(await client.call_tool("command_agent", {"action": "pause"}))
        registry.revoke("desk")
        async with ClientSession() as http, http.post(url, json=PING, headers=good) as response:
            assert response.status == 401
    with closing(open_database(load().store.url)) as database:
        from agent.store.tries import read_tries

        assert [one.by for one in read_tries(database)] == ["cli", f"mcp {NAME} (api desk)"]


def test_an_address_beyond_this_machine_is_refused(tapewire: Tapewire) -> None:
    done = tapewire("mcp", "--http", "0.0.0.0:0")
    assert done.code == 3
    assert "no TLS" in done.err
    assert "--allow-plain" in done.err
    assert tapewire("mcp", "--http", "nonsense").code == 2
    assert tapewire("mcp", "--allow-plain").code == 2


@pytest.mark.slow
async def test_report_api_and_assistant_have_the_same_figures(tapewire: Tapewire, tmp_path: Path) -> None:
    made = json.loads(tapewire("backtest", "--json").out)
    report = json.loads(tapewire("report", made["run"], "--json").out)
    with closing(open_database(load().store.url)) as database:
        async with (
            api_served(database) as served,
            served.session("read") as http,
            http.get(f"/api/v1/runs/{made['run']}/metrics") as response,
        ):
            api = await response.json()
    token = TokenRegistry(load().api_token_file()).add("reader", [Scope.READ], 0)
    async with http_server(tmp_path) as url, http_assistant(url, token) as client:
        figures = answer(await client.call_tool("run_figures", {"run": made["run"]}))
    assert figures["metrics"] == report["metrics"] == api["metrics"] == made["metrics"]
    assert figures["verdict"] == report["verdict"]
    assert figures["notes"] == report["notes"]
