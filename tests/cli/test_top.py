"""`tapewire top` on a real agent at a sandbox, in a pseudo-terminal and piped."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from agent.api.api_messages import Scope
from agent.api.api_tokens import TokenRegistry
from agent.live.app import make_agent
from agent.live.interfaces.status import Status
from agent.sandbox import Sandbox
from agent.store.database import Database
from tests.cli.conftest import Outcome
from tests.conftest import ROOT
from tests.dashboard.dashboard_harness import agent_with_page
from tests.live.conftest import database, quiet_log, sandbox
from tests.support.live import SENTIMENT, handled, living, load_words, settings, until
from tests.support.pseudo_terminal import PseudoTerminal

__all__ = ["database", "quiet_log", "sandbox"]

RESULT = tuple[int, str, str]


def config_file(folder: Path) -> None:
    """Write what `top` needs to know of the agent in `folder`."""
    text = f'[live]\nfolder = "{folder}"\n[store]\nurl = "sqlite:///{folder / "store.db"}"\n'
    (folder / "config.toml").write_text(text)


def piped(folder: Path, *arguments: str | Path, **environment: str) -> RESULT:
    """Run `tapewire top ARGUMENTS…` without a terminal."""
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    done = subprocess.run(
        [sys.executable, "-m", "agent.cli.main", "top", *map(str, arguments)],
        cwd=folder,
        env=kept | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
async def test_a_terminal_follows_the_agent_until_q_and_through_its_restart(
    sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    config_file(tmp_path)
    config = settings(sandbox.rest_url, tmp_path, strategy=SENTIMENT)

    def agent(*, new: bool = True):
        return make_agent(config, database, load_model=load_words, clock=sandbox.clock, new=new)

    daemon = agent()
    async with living(daemon):
        await until(lambda: handled(daemon) > 5)
        for columns, rows in ((80, 24), (120, 40)):
            terminal = PseudoTerminal("top", cwd=tmp_path, columns=columns, rows=rows)
            shown = await asyncio.to_thread(terminal.wait_for, "q quits")
            assert max(map(len, shown)) == columns
            assert len(shown) == rows
            text = "\n".join(shown)
            for part in ("equity ", "drawdown", "BTCUSDT", "ETHUSDT", "headlines", daemon.run_id[:15]):
                assert part in text
            terminal.type("xq")
            assert await asyncio.to_thread(terminal.wait) == 0
            assert terminal.output.endswith("\x1b[?25h\x1b[?1049l"), "the terminal is as it was"
        terminal = PseudoTerminal("top", cwd=tmp_path, columns=80, rows=24)
        await asyncio.to_thread(terminal.wait_for, "q quits")
    gone = "\n".join(await asyncio.to_thread(terminal.wait_for, "the agent has ended"))
    assert "no agent is running" in gone
    assert "equity" in gone, "the last state stays"
    daemon = agent(new=False)
    async with living(daemon):
        await until(lambda: "the agent has ended" not in "\n".join(terminal.screen))
        assert "equity" in "\n".join(terminal.screen)
        os.kill(terminal.pid, signal.SIGINT)
        assert await asyncio.to_thread(terminal.wait) == 0
        assert "Traceback" not in terminal.output


@pytest.mark.slow
async def test_without_a_terminal_the_state_is_printed_once(
    sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    config_file(tmp_path)
    async with agent_with_page(sandbox, database, tmp_path, strategy=SENTIMENT) as (daemon, page):
        await until(lambda: len(daemon.status().recent) > 10 and daemon.status().decisions > 5)
        code, out, err = await asyncio.to_thread(piped, tmp_path)
        assert (code, err) == (0, "")
        assert "\x1b" not in out
        assert max(map(len, out.splitlines())) == 80
        assert "none yet" not in out.partition("headlines")[2].partition("orders, fills")[0]

        code, out, err = await asyncio.to_thread(piped, Path("/"), tmp_path, "--json")
        assert code == 0, err
        found = json.loads(out)
        status = msgspec.convert(found["status"], Status)
        assert status.run == daemon.run_id
        assert found["headlines"][0]["title"]
        assert found["missing"] == ""
        assert {one["symbol"] for one in found["status"]["positions"]} == {"BTCUSDT", "ETHUSDT"}

        token = TokenRegistry(daemon.config.api_token_file()).add("desk", [Scope.READ], 0)
        code, out, err = await asyncio.to_thread(
            lambda: piped(Path("/"), "--url", page.url, "--json", TAPEWIRE_API_TOKEN=token)
        )
        assert code == 0, err
        remote = json.loads(out)
        assert remote["status"]["run"] == daemon.run_id
        assert remote.keys() == found.keys()
        newest = found["headlines"][-1]
        assert {**newest, "score": None, "scores": []} in [
            {**one, "score": None, "scores": []} for one in remote["headlines"]
        ]
        secret = tmp_path / "token"
        secret.write_text(token)
        secret.chmod(0o644)
        code, out, err = await asyncio.to_thread(piped, Path("/"), "--url", page.url, "--token-file", secret)
        assert (code, out) == (3, "")
        assert "other users may access the token file" in err
        code, out, err = await asyncio.to_thread(piped, Path("/"), "--url", page.url)
        assert code == 2
        assert "TAPEWIRE_API_TOKEN" in err
        assert token not in err


def test_without_an_agent_it_says_so(tapewire: Callable[..., Outcome], tmp_path: Path) -> None:
    found = tapewire("top")
    assert (found.code, found.out) == (1, "")
    assert "no agent is running" in found.err
    found = tapewire("top", tmp_path / "nothing")
    assert found.code == 2
    assert "there is no folder" in found.err
    found = tapewire("top", tmp_path, "--url", "http://127.0.0.1:1")
    assert found.code == 2
    assert "name one agent" in found.err
