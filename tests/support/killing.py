"""Break an agent in testnet mode, kill it, and check that its account is cleared in time.

`python -m tests.support.killing SEED …` draws a case from each seed.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import tempfile
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable
from contextlib import AsyncExitStack, closing, suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

from agent.core.errors import StoreError, TapewireError, UsageError
from agent.core.events import Command, Event
from agent.live.control_socket import ControlRequest, send_request
from agent.live.kill_file import FILE
from agent.replay.verify import verify
from agent.sandbox import Sandbox
from agent.store.database import open_database
from agent.store.journal import read_journal
from agent.store.queries import find_run
from tests.conftest import ROOT
from tests.live.test_commands import MAIN
from tests.support.live import PATIENCE, SYMBOLS, options

State = Literal["sound", "store", "log", "spin", "sleep", "stopped", "dead"]
Pull = Literal["verb", "file", "signal"]
LIMIT = 20.0  # seconds from the kill to a clear account, on a busy machine
KEYS = {"TAPEWIRE_API_KEY": "sandbox-key", "TAPEWIRE_API_SECRET": "sandbox-secret"}


class Case(NamedTuple):
    """What is broken, how the agent is killed, and whether positions are closed."""

    state: State
    pull: Pull
    flatten: bool


CASES = [
    Case(state, pull, flatten)  # type: ignore[arg-type]
    for state in ("store", "log", "spin", "sleep")
    for pull in ("verb", "file", "signal")
    for flatten in (False, True)
    if not (pull == "signal" and flatten)  # a signal carries no text
] + [
    Case(state, "verb", flatten)  # type: ignore[arg-type]
    for state in ("stopped", "dead")  # none of its threads runs
    for flatten in (False, True)
]


def draw(seed: int) -> Case:
    return random.Random(seed).choice([*CASES, Case("sound", "verb", True), Case("sound", "file", True)])


class Result(NamedTuple):
    seconds: float  # from the kill to a clear account
    goes_on: bool  # the agent is healthy again, or was throughout
    events: list[Event]
    said: str  # output of the kill command


def settings(url: str, folder: Path, case: Case) -> Path:
    """Write config.toml; the store has its own folder, so breaking it does not affect the KILL file."""
    how = case.state if case.state in ("spin", "sleep") else "spin"
    path = folder / "config.toml"
    path.write_text(f'''
        market.symbols = ["{'", "'.join(SYMBOLS)}"]
        strategy.name = "tests.support.hanging_agent:Hanging"
        strategy.params = {{ trigger = "{folder / "hang"}", how = "{how}", \
seconds = {25 if how == "sleep" else 600} }}
        live.folder = "{folder}"
        store.url = "sqlite:///{folder / "store" / "store.db"}"
        store.retry = {{ first = "20ms", ceiling = "200ms" }}
        dashboard.enabled = false
        log.format = "json"
        log.level = "{"debug" if case.state == "log" else "info"}"
        risk.stale_after = "8h"
        bybit = {{ endpoint = "{url}", warmup_bars = 20, settle = "40s", audit_interval = "200ms" }}
        [execution]
        mode = "testnet"
        [execution.testnet]
        venue = "{url}"
        settle = "300ms"
        ask_every = "50ms"
        reconcile_every = "1s"
        poll_every = "100ms"
        max_skew = "10m"
    ''')
    return path


def clear(sandbox: Sandbox, *, flatten: bool) -> bool:
    account = sandbox.venue.account
    return not account.open and not (flatten and account.books["linear"].open_legs())


async def wait(condition: Callable[[], Any], seconds: float, what: str) -> None:
    """Wait until the condition holds."""
    try:
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"not within {seconds:g} s: {what}") from None


async def wait_status(folder: Path, condition: Callable[[Any], Any], what: str) -> Any:
    """Wait until the condition holds for the agent's status, and return the status."""
    shown = None
    try:
        async with asyncio.timeout(PATIENCE):
            while not condition(shown := await status(folder)):
                await asyncio.sleep(0.05)
        return shown
    except TimeoutError:
        raise AssertionError(f"never {what}: {shown}") from None


async def start(*arguments: object, stderr: int = PIPE) -> Process:
    environment = os.environ | KEYS | {"PYTHONPATH": str(ROOT)}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        MAIN,
        *map(str, arguments),
        cwd=ROOT,
        stdout=PIPE,
        stderr=stderr,
        env=environment,
    )


async def kill_in(case: Case, folder: Path) -> Result:
    """Start sandbox and agent, break it, kill it, and check the account and the record."""
    (folder / "store").mkdir()
    async with AsyncExitStack() as stack:
        sandbox = await stack.enter_async_context(Sandbox(options(speed=240)))
        config = settings(sandbox.rest_url, folder, case)
        unread, pipe = os.pipe()
        stack.callback(os.close, unread)
        process = await start("run", "--config", config, stderr=pipe if case.state == "log" else DEVNULL)
        os.close(pipe)
        try:
            account = sandbox.venue.account
            await wait(
                lambda: (
                    process.returncode is not None
                    or (len(account.open) == 4 and len(account.books["linear"].open_legs()) == 2)
                ),
                2 * PATIENCE,
                "two protected positions",
            )
            assert process.returncode is None
            await break_it(case, folder, process)
            began = time.monotonic()
            pulling = asyncio.create_task(pull(case, folder, config, process))
            await wait(lambda: clear(sandbox, flatten=case.flatten), LIMIT, f"a clear account, {case}")
            seconds = time.monotonic() - began
            said = await pulling
            held = account.books["linear"].open_legs()
            assert len(held) == (0 if case.flatten else 2)
            events = await after(case, folder, config, process)
            assert clear(sandbox, flatten=case.flatten), f"orders after the kill: {case}"
            assert len(account.books["linear"].open_legs()) == len(held)
            return Result(seconds, case.state != "spin", events, said)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def break_it(case: Case, folder: Path, process: Process) -> None:
    if case.state == "store":
        (folder / "store" / "store.db").chmod(0o444)
        await wait_status(folder, lambda shown: not shown["storage"]["writable"], "an outage of the store")
    elif case.state in ("spin", "sleep"):
        (folder / "hang").touch()
        await asyncio.sleep(1)  # the next bar is due four times a second
    elif case.state == "stopped":
        process.send_signal(signal.SIGSTOP)
    elif case.state == "dead":
        process.kill()
        await process.wait()
    elif case.state == "log":
        await wait_status(folder, lambda shown: shown["log"]["error"], "a pipe that nobody reads")


async def pull(case: Case, folder: Path, config: Path, process: Process) -> str:
    if case.pull == "signal":
        process.send_signal(signal.SIGUSR1)
    elif case.pull == "file":
        (folder / FILE).write_text("flatten: a drill".replace(":", "") if case.flatten else "a drill")
    else:
        verb = await start(
            "kill", "--config", config, "--reason", "a drill", *(["--flatten"] if case.flatten else [])
        )
        out, err = await asyncio.wait_for(verb.communicate(), 2 * PATIENCE)
        assert verb.returncode == 0, err.decode()
        return out.decode()
    return ""


async def after(case: Case, folder: Path, config: Path, process: Process) -> list[Event]:
    """Repair the fault; check that the kill is journalled and the run verifies; return the events."""
    if case.state == "store":
        (folder / "store" / "store.db").chmod(0o644)
    (folder / "hang").unlink(missing_ok=True)
    if case.state == "stopped":
        process.send_signal(signal.SIGCONT)
    if case.state == "dead":
        refused = await start("run", "--config", config)
        assert await asyncio.wait_for(refused.wait(), PATIENCE) == 3
        (folder / FILE).unlink()  # confirmed by an operator
        process = await start("run", "--config", config, stderr=DEVNULL)
    if case.state != "spin":
        held = 0 if case.flatten else 2

        def settled(shown: Any) -> bool:
            killed = (shown["risk"], shown["risk_rule"]) == ("HALTED", "kill")
            return (
                killed
                and not shown["unreconciled"]
                and sum(1 for one in shown["positions"] if one["value"]) == held
            )

        shown = await wait_status(folder, settled, "killed, with the account's positions in its ledger")
        gateway = next(one for one in shown["producers"] if one["name"] == "gateway")
        assert not gateway["drift"]
        assert not gateway["foreign_positions"]
        process.send_signal(signal.SIGTERM)
    else:
        assert (folder / FILE).exists()  # the file blocks trading until an operator removes it
        process.kill()
    await asyncio.wait_for(process.wait(), PATIENCE)
    with closing(open_database(f"sqlite:///{folder / 'store' / 'store.db'}")) as database:
        run = find_run(database)
        assert verify(database, run).identical
        events = [event for _, event in read_journal(database, run.id)]
    if case.state != "spin":
        assert "kill" in [event.action for event in events if isinstance(event, Command)]
    return events


async def status(folder: Path) -> Any:
    """Return the agent's status, or an empty one if the agent does not respond."""
    with suppress(TapewireError, StoreError, UsageError):
        return await asyncio.to_thread(send_request, folder, ControlRequest("status"), timeout=0.5)
    return {
        "storage": {"writable": True},
        "log": {"error": ""},
        "risk": "",
        "risk_rule": "",
        "unreconciled": True,
        "positions": [],
    }


async def main(seeds: list[int]) -> None:
    for seed in seeds:
        case = draw(seed)
        with tempfile.TemporaryDirectory() as folder:
            result = await kill_in(case, Path(folder))
        print(
            f"seed {seed}: {case.state}, {case.pull}, flatten {case.flatten}: "
            f"clear after {result.seconds:.1f} s"
        )


if __name__ == "__main__":
    asyncio.run(main([int(seed) for seed in sys.argv[1:]]))
