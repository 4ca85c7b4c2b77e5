"""The kill switch through the CLI and a running daemon: command, file, signal, and TCP port with a token."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.core.errors import ConfigError, SafetyError, StoreError, TapewireError, UsageError
from agent.core.events import Command, Event, RiskState
from agent.core.risk import KILL, RESUME_FROM_KILL
from agent.live.access_token import make_token, read_token
from agent.live.app import make_agent
from agent.live.control_socket import ControlRequest, send_request
from agent.live.daemon import Daemon
from agent.live.event_queue import EventQueue
from agent.live.kill_file import FILE
from agent.sandbox import Sandbox
from agent.store.database import Database
from tests.live.test_commands import start, status_of, write_config
from tests.support.command_line import run_command
from tests.support.live import (
    PATIENCE,
    assert_sound,
    journal,
    living,
    load_words,
    of,
    options,
    settings,
    until,
)

HOLD = {"name": "buy_and_hold", "params": {}}
Invoke = Callable[..., Awaitable[Any]]


@asynccontextmanager
async def agent(
    sandbox: Sandbox, database: Database, folder: Path, **sections: Any
) -> AsyncIterator[tuple[Daemon, Invoke]]:
    """A daemon that holds both symbols, and a function that returns the output or exception of a CLI
    command.
    """
    config = settings(sandbox.rest_url, folder, strategy=HOLD, **sections)
    path = folder / "config.toml"
    path.write_text(f'[live]\nfolder = "{folder}"\n')

    async def run(*verb: str) -> Any:
        result = await asyncio.to_thread(run_command, [*verb, "--config", str(path), "--json"])
        return result.exception or json.loads(result.output)

    daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
    async with living(daemon):
        await until(lambda: len(daemon.pipeline.engine.portfolio.open) == 2 or killed(daemon))
        yield daemon, run


def killed(daemon: Daemon) -> bool:
    risk = daemon.pipeline.engine.risk
    return (risk.state, risk.rule) == (RiskState.HALTED, KILL)


async def test_a_kill_with_flatten_persists_over_a_restart_until_confirmed(
    sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    async with agent(sandbox, database, tmp_path) as (daemon, invoke):
        answer = await invoke("kill", "--flatten", "--reason", "a drill")
        assert (answer["risk"], answer["flat"], answer["open"]) == ("HALTED", True, {})
        assert not daemon.pipeline.engine.portfolio.open
    async with agent(sandbox, database, tmp_path) as (daemon, invoke):
        status = await invoke("status")
        assert (status["risk"], status["risk_rule"]) == ("HALTED", "kill")
        assert status["risk_detail"] == f"uid {os.geteuid()}: a drill"
        refused = await invoke("resume")
        assert isinstance(refused, SafetyError)
        assert RESUME_FROM_KILL in refused.hint
        assert "a drill" in refused.message
        await invoke("pause")
        assert killed(daemon)
        assert (await invoke("resume", "--confirm", RESUME_FROM_KILL))["risk"] == "ACTIVE"
    config = settings(sandbox.rest_url, tmp_path, strategy=HOLD)
    events = assert_sound(database, "latest", config)
    words = [event.action for event in of(Command, events) if event.by.startswith("uid")]
    assert words == ["kill", "resume", "pause", "resume"]


async def test_positions_still_open_at_the_deadline_are_printed_with_exit_code_1(
    sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    thin = {"max_participation": 0.00001, "liquidity": "participation"}
    async with agent(sandbox, database, tmp_path, paper=thin) as (daemon, invoke):
        states = daemon.pipeline.engine.states.values()
        # some lots a bar
        await until(lambda: all(tape.position.qty >= 40 * tape.instrument.qty_step for tape in states))
        error = await invoke("kill", "--flatten", "--wait", "1ms")
        assert isinstance(error, TapewireError)
        assert error.exit_code == 1
        assert error.message.startswith("not flat after 0.001 s: ")
        for symbol in daemon.pipeline.engine.flattener.open:
            assert symbol in error.message
        assert (await invoke("kill", "--flatten", "--wait", "0"))["risk"] == "HALTED"
        assert isinstance(await invoke("kill", "--flatten", "--wait", "soon"), UsageError)


async def test_an_operator_can_flatten_while_halted(
    sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    async with agent(sandbox, database, tmp_path) as (daemon, invoke):
        await invoke("kill")
        assert len(daemon.pipeline.engine.portfolio.open) == 2
        await invoke("flatten")
        await until(lambda: not daemon.pipeline.engine.portfolio.open)
        assert killed(daemon)


@pytest.mark.parametrize(
    ("text", "flat"), [("", False), ("flatten: the desk is closed", False), ("flatten now", True)]
)
async def test_a_kill_file_kills_and_blocks_resume_and_start_until_removed(
    sandbox: Sandbox, database: Database, tmp_path: Path, text: str, flat: bool
) -> None:
    async with agent(sandbox, database, tmp_path) as (daemon, invoke):
        (tmp_path / FILE).write_text(text)
        await until(lambda: killed(daemon))
        assert daemon.pipeline.engine.risk.detail == (f"file KILL: {text}" if text else "file KILL")
        await until(lambda: not flat or not daemon.pipeline.engine.portfolio.open)
        refused = await invoke("resume", "--confirm", RESUME_FROM_KILL)
        assert isinstance(refused, SafetyError)
        assert refused.hint == "remove the file first"
        # life, warm-up, warm-up-done, kill: once, not at every poll
        assert len(of(Command, journal(database))) == 4
    again = make_agent(daemon.config, database, load_model=load_words, clock=sandbox.clock)
    with pytest.raises(SafetyError, match=r"no start while .*KILL exists"):
        await again.run(asyncio.Event())
    (tmp_path / FILE).unlink()
    async with agent(sandbox, database, tmp_path) as (daemon, invoke):
        assert killed(daemon)
        assert (await invoke("resume", "--confirm", RESUME_FROM_KILL))["risk"] == "ACTIVE"


@pytest.mark.slow
async def test_sigusr1_kills_the_agent_and_a_kill_file_prevents_the_start_with_exit_code_3(
    tmp_path: Path,
) -> None:
    async with Sandbox(options(speed=1)) as sandbox:
        config = write_config(sandbox, tmp_path)
        process = await start("run", "--config", config)
        await status_of(tmp_path, process)
        process.send_signal(signal.SIGUSR1)
        async with asyncio.timeout(PATIENCE):
            while (status := await asyncio.to_thread(send_request, tmp_path, ControlRequest("status")))[
                "risk"
            ] != "HALTED":
                await asyncio.sleep(0.01)
        assert (status["risk_rule"], status["risk_detail"]) == ("kill", "SIGUSR1")
        process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.communicate(), PATIENCE)
        assert process.returncode == 0
        (tmp_path / FILE).touch()
        process = await start("run", "--config", config)
        _, said = await asyncio.wait_for(process.communicate(), PATIENCE)
        assert process.returncode == 3
        assert "remove the file first" in said.decode()


async def test_the_port_requires_the_token(sandbox: Sandbox, database: Database, tmp_path: Path) -> None:
    control = {"address": "127.0.0.1:0"}
    async with agent(sandbox, database, tmp_path, control=control) as (daemon, invoke):
        address = f"127.0.0.1:{daemon.control_port}"
        token = tmp_path / "control.token"
        assert stat.S_IMODE(token.stat().st_mode) == 0o600
        for wrong in ("", "x" * 43, token.read_text().strip()[:-1]):
            with pytest.raises(SafetyError, match="requires the token"):
                await asyncio.to_thread(
                    send_request, ("127.0.0.1", daemon.control_port), ControlRequest("kill", {}, wrong)
                )
        other = tmp_path / "other.token"
        make_token(other)
        assert isinstance(await invoke("kill", "--at", address, "--token-file", str(other)), SafetyError)
        assert not killed(daemon)
        assert (await invoke("kill", "--at", address))["risk"] == "HALTED"
        assert daemon.pipeline.engine.risk.detail == "token"


def test_a_token_that_is_readable_by_others_or_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "token"
    token = make_token(path)
    assert read_token(path) == make_token(path) == token
    path.chmod(0o640)
    with pytest.raises(SafetyError, match="other users may access") as error:
        read_token(path)
    assert error.value.hint == f"chmod 600 {path}"
    path.chmod(0o600)
    path.write_text("secret\n")
    with pytest.raises(SafetyError, match="shorter than"):
        make_token(path)
    with pytest.raises(StoreError, match="can't be read"):
        read_token(tmp_path / "none")


@pytest.mark.parametrize(
    "address", ["8700", "0.0.0.0:8700", "example.org:8700", "127.0.0.1:99999", "127.0.0.1:"]
)
def test_the_port_is_restricted_to_loopback(address: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"control\.address"):
        settings("http://127.0.0.1:9", tmp_path, control={"address": address})


async def test_a_kill_precedes_all_waiting_events_even_in_a_full_queue() -> None:
    queue = EventQueue(capacity=2)
    words: list[Event] = [Command(name, 0, 0) for name in ("a", "b", "kill")]
    await queue.put(words[0])
    await queue.put(words[1])
    queue.put_first(words[2])
    assert [event for event, _ in await queue.take(10)] == [words[2], words[0], words[1]]
    assert queue.stats().kinds["Command"].waiting == 0
