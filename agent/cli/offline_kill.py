"""`tapewire kill` without a working agent: write the file KILL, cancel and close at the venue."""

from __future__ import annotations

import asyncio
import getpass
import random
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

from agent.core.errors import NotRunning, SafetyError, StoreError, TapewireError, VenueError

if TYPE_CHECKING:
    from agent.config import Config
    from agent.live.emergency_close import EmergencyReport, Share

_WITHIN: Final = 60.0  # seconds for cancelling and closing at the venue


def kill_without_agent(config: Config, args: dict[str, str], why: TapewireError) -> dict[str, Any]:
    """Kill in place of the agent, which failed with `why`; return the reply to print.

    Raises `why` on paper, since only the agent has paper orders, and VenueError if something could not be
    done.
    """
    from agent.live.kill_file import KillSwitch

    switch = KillSwitch(config.live.folder)
    paper = config.execution.mode == "paper"
    if paper and isinstance(why, NotRunning):
        raise why
    problem = switch.keep(args, f"{getpass.getuser()}, since {why.message}")
    file = f"{switch.file} keeps the agent killed until it is removed"
    if problem:
        file = f"{switch.file} can't be written: {problem}"
    if paper:
        raise type(why)(why.message, hint=f"{why.hint}; {file}".removeprefix("; "))
    report = asyncio.run(_at_venue(config, flatten="flatten" in args))
    if isinstance(why, NotRunning):
        journalled = append_kill(config, args)
        file += (
            "; the last run is HALTED by its journal"
            if journalled
            else "; the last run's journal lacks the kill"
        )
    if not report.done or problem:
        raise VenueError(f"{why.message}. {report.sentence()}", hint=file)
    return {"action": "kill", "risk": "unknown", "why": why.message, "file": file, "emergency": report}


async def _at_venue(config: Config, *, flatten: bool) -> EmergencyReport:
    from agent.live.emergency_close import EmergencyExit, has_account_to_itself
    from agent.live.order_routing import venue_port
    from agent.system.clock import WallClock

    clock = WallClock()
    port = venue_port(config, clock)
    if port is None:
        raise AssertionError("on paper there is no venue")
    share = None if has_account_to_itself(config) else _stored_share(config)
    way_out = EmergencyExit(config, port, clock, random.Random(), lambda: share)
    try:
        return await way_out.run(flatten=flatten, within=_WITHIN, by=getpass.getuser())
    finally:
        await port.close()


def append_kill(config: Config, args: dict[str, str]) -> bool:
    """Append the kill to the last run's journal, for the next start to handle first; return whether it could.

    No agent may run: it would hold the locks taken here.
    """
    from agent.core.events import Command
    from agent.store.database import open_database
    from agent.store.journal import Journal, find_archive
    from agent.store.lock import LOCK, instance_lock, store_lock
    from agent.store.queries import list_runs
    from agent.store.runs import RunKind, RunStatus
    from agent.system.clock import WallClock, iso

    try:
        with (
            instance_lock(config.live.folder / LOCK),
            closing(open_database(config.store.url)) as database,
            store_lock(database, config.live.folder),  # an agent with another folder may use the same store
        ):
            runs = (run for run in list_runs(database) if run.kind is RunKind.LIVE)
            open_runs = (run for run in runs if run.status is not RunStatus.COMPLETE)
            run = next((run for run in open_runs if find_archive(database, run.id) is None), None)
            if run is None:
                return False
            journal = Journal(database, run.id)
            at = journal.last_at  # the market's time: in a sandbox it may run faster than the machine's
            command = Command("kill", at, at, args | {"at": iso(WallClock().now())}, getpass.getuser())
            journal.append([command])
            return True
    except (StoreError, SafetyError):
        return False


def _stored_share(config: Config) -> Share | None:
    from agent.live.emergency_close import stored_share
    from agent.store.database import open_database

    try:
        with closing(open_database(config.store.url)) as database:
            return stored_share(database, config)
    except StoreError:
        return None  # then nothing is sold, and the report states it
