"""An assistant's command to the running agent: refused by default; if allowed, journalled with its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.core.events import Command
from agent.live.app import make_agent
from agent.sandbox import Sandbox
from agent.store.database import Database
from tests.mcp.assistant import NAME, answer, assistant, refusal
from tests.support.live import handled, journal, living, load_words, of, settings, until


@pytest.mark.slow
async def test_commands_are_refused_by_default_and_journalled_if_allowed(
    sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    config = settings(sandbox.rest_url, tmp_path, strategy={"name": "buy_and_hold", "params": {}})
    daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
    where = f'[live]\nfolder = "{tmp_path}"\n[store]\nurl = "{config.store.url}"\n'
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed" / "config.toml").write_text(where)
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "config.toml").write_text(f"{where}[mcp]\ncommands = true\n")
    async with living(daemon):
        await until(lambda: handled(daemon) > 5)
        async with assistant(tmp_path / "closed") as client:
            for action in ("pause", "resume", "halt", "flatten", "kill"):
                found = refusal(await client.call_tool("command_agent", {"action": action}))
                assert "mcp.commands = true" in found
        async with assistant(tmp_path / "open") as client:
            assert "command_agent" in [tool.name for tool in (await client.list_tools()).tools]
            reply = answer(await client.call_tool("command_agent", {"action": "pause"}))["reply"]
            assert reply["risk"] == "REDUCING"
            found = refusal(await client.call_tool("command_agent", {"action": "use-model"}))
            assert "Invalid enum value" in found
            found = refusal(await client.call_tool("command_agent", {"action": "pause", "flatten": True}))
            assert found == "flatten has no effect on pause"
    commands = [one for one in of(Command, journal(database, daemon.run_id)) if one.by.startswith("mcp")]
    assert [(one.action, one.by.partition(", ")[0]) for one in commands] == [("pause", f"mcp {NAME}")]
