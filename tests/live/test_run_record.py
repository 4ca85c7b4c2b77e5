"""A truncated or restored record is detected at the next start; a store accepts one agent at a time."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from agent.config import Config
from agent.core.errors import SafetyError, StoreError
from agent.core.events import Command, Order, RiskState
from agent.live.app import make_agent
from agent.replay.verify import verify
from agent.sandbox import Sandbox
from agent.store.backup import back_up, restore_backup
from agent.store.commit_mark import mark_beside, read_mark
from agent.store.database import Database, open_database
from agent.store.lock import store_lock
from agent.store.queries import find_run, list_runs, read_decisions
from tests.conftest import ROOT
from tests.live.gateway.churning_strategy import churn, venue_settings
from tests.store.conftest import database_url, postgres_cluster
from tests.store.store_damage import as_killed, halve_wal, wal_of
from tests.support.live import handled, journal, living, load_words, of, options, settings, until

__all__ = ["database_url", "postgres_cluster"]


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAPEWIRE_API_KEY", "sandbox-key")
    monkeypatch.setenv("TAPEWIRE_API_SECRET", "sandbox-secret")


async def lived(config: Config, sandbox: Sandbox, bars: int = 20) -> Path:
    """Run the agent on paper and leave the store as a kill -9 in the middle of the run would."""
    store = config.live.folder / "store.db"
    killed = config.live.folder / "killed"
    with closing(open_database(config.store.url)) as database:
        daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
        async with living(daemon):
            await until(lambda: handled(daemon) >= bars)
            as_killed(store, killed)
    for file in store.parent.glob("store.db*"):
        if file.name != "store.db.lock":
            file.unlink()
    for file in killed.iterdir():
        shutil.move(file, store.parent / file.name)
    return store


async def test_after_a_lost_tail_the_status_reports_it_and_a_paper_run_continues(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    config = settings(sandbox.rest_url, tmp_path)
    store = await lived(config, sandbox)
    halve_wal(store)
    mark = read_mark(mark_beside(store))
    assert mark is not None
    with closing(open_database(config.store.url)) as database:
        with pytest.raises(StoreError, match="the store lacks the last"):
            verify(database, find_run(database))
        daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
        async with living(daemon):
            await until(lambda: handled(daemon) >= 5)
            status = daemon.status()
        assert status.record.startswith("the store lacks the last")
        assert status.risk is RiskState.ACTIVE
        (run,) = list_runs(database)
        assert run.id == mark.run
        assert run.stamps[-1] == f"THE RECORD HAS A HOLE: {status.record}"
        (behind,) = (event for event in of(Command, journal(database)) if event.action == "record-behind")
        assert behind.args["expected"] == str(mark.seq)
        assert verify(database, run).identical
        daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
        async with living(daemon):
            assert daemon.status().record == ""  # the gap was reported; the record continues from there


async def test_a_store_without_its_log_is_not_reinitialised_silently(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    config = settings(sandbox.rest_url, tmp_path)
    store = await lived(config, sandbox)
    wal_of(store).unlink()
    with (  # the file was checkpointed before the run
        closing(open_database(config.store.url)) as database,
        pytest.raises(StoreError, match="the store does not hold run"),
    ):
        await make_agent(config, database, load_model=load_words, clock=sandbox.clock).run(asyncio.Event())
    store.write_bytes(b"")
    with pytest.raises(StoreError, match="it is empty, though"):
        open_database(config.store.url)
    store.unlink()
    mark_beside(store).rename(tmp_path / "mark")
    open_database(config.store.url).close()
    (tmp_path / "mark").rename(mark_beside(store))
    with closing(open_database(config.store.url)) as database:  # another store in its place
        with pytest.raises(StoreError, match="the store does not hold run"):
            await make_agent(config, database, load_model=load_words, clock=sandbox.clock).run(
                asyncio.Event()
            )
        daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock, new=True)
        async with living(daemon):
            await until(lambda: handled(daemon) >= 2)
            assert daemon.status().record == ""


async def test_a_mark_that_cannot_be_written_is_reported_and_the_agent_runs_on(
    sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    (tmp_path / "store.db.mark").mkdir()
    daemon = make_agent(
        settings(sandbox.rest_url, tmp_path), database, load_model=load_words, clock=sandbox.clock
    )
    async with living(daemon):
        await until(lambda: handled(daemon) >= 5)
        said = daemon.status().record
        assert "store.db.mark can't be read" in said
        assert "store.db.mark can't be written" in said
        (tmp_path / "store.db.mark").rmdir()
        before = handled(daemon)
        await until(lambda: handled(daemon) >= before + 2)
        assert "can't be written" not in daemon.status().record


# -- at a venue ----------------------------------------------------------------------------------------------


def entries(database: Database, after: int) -> list[Order]:
    """Return the orders decided after event `after` that open a position."""
    decided = (item for item in read_decisions(database, find_run(database).id) if item.event_seq > after)
    return [
        item.decision
        for item in decided
        if isinstance(item.decision, Order) and not item.decision.reduce_only
    ]


@pytest.mark.slow
@pytest.mark.parametrize("restored", [True, False])
async def test_after_a_gap_the_agent_opens_nothing_at_a_venue_until_resumed(
    tmp_path: Path, restored: bool
) -> None:
    async with Sandbox(options(speed=240)) as sandbox:
        config = settings(sandbox.rest_url, tmp_path, **venue_settings(sandbox.rest_url, strategy=churn()))
        store = tmp_path / "store.db"
        with closing(open_database(config.store.url)) as database:
            daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
            async with living(daemon):
                await until(lambda: daemon.gateway is not None and daemon.gateway.health.fills >= 4)
                assert database.synced
                back_up(store, tmp_path / "copy.db")
                await until(lambda: daemon.gateway is not None and daemon.gateway.health.fills >= 6)
                await daemon.command("flatten", by="test")
                await daemon.command("halt", by="test")
                await until(lambda: not any(position.qty for position in daemon.status().positions))
        if restored:
            restore_backup(tmp_path / "copy.db", store)
        else:
            for file in tmp_path.glob("store.db-*"):
                file.unlink()
            shutil.copy(tmp_path / "copy.db", store)
        with closing(open_database(config.store.url)) as database:
            daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
            async with living(daemon):
                await until(lambda: handled(daemon) >= 20)
                status = daemon.status()
                risk = daemon.pipeline.engine.risk
                begun = next(
                    seq
                    for seq, event in enumerate(journal(database), 1)
                    if isinstance(event, Command) and event.action == "record-behind"
                )
                assert (risk.state, risk.rule) == (RiskState.REDUCING, "older record")
                assert ("the store was restored from a backup of" in status.record) is restored
                assert entries(database, begun) == []
            assert verify(database, find_run(database)).identical


# -- one agent per store -------------------------------------------------------------------------------------


@pytest.mark.parametrize("link", [False, True])
async def test_a_second_agent_on_the_same_sqlite_store_is_refused(
    sandbox: Sandbox, database: Database, tmp_path: Path, link: bool
) -> None:
    first = make_agent(
        settings(sandbox.rest_url, tmp_path), database, load_model=load_words, clock=sandbox.clock
    )
    (tmp_path / "link.db").symlink_to(tmp_path / "store.db")
    url = f"sqlite:///{tmp_path / ('link.db' if link else 'store.db')}"
    other = settings(sandbox.rest_url, tmp_path / "other", store={"url": url})
    async with living(first):
        with closing(open_database(url)) as again, pytest.raises(SafetyError) as refused:
            await make_agent(other, again, load_model=load_words, clock=sandbox.clock).run(asyncio.Event())
        assert (
            f"in use by another agent, process {os.getpid()}, live.folder {tmp_path}" in refused.value.message
        )
        assert refused.value.exit_code == 3
        await until(lambda: handled(first) >= 2)
    assert len(list_runs(database)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_a_second_agent_on_the_same_server_is_refused(
    sandbox: Sandbox, database_url: str, tmp_path: Path
) -> None:
    with closing(open_database(database_url)) as one, closing(open_database(database_url)) as two:
        config = settings(sandbox.rest_url, tmp_path, store={"url": database_url})
        other = settings(sandbox.rest_url, tmp_path / "other", store={"url": database_url})
        first = make_agent(config, one, load_model=load_words, clock=sandbox.clock)
        async with living(first):
            with pytest.raises(SafetyError, match=rf"process {os.getpid()}, live\.folder "):
                await make_agent(other, two, load_model=load_words, clock=sandbox.clock).run(asyncio.Event())
            with one.engine.connect() as connection:  # the server closes the connection that holds the lock
                connection.exec_driver_sql(
                    "SELECT pg_terminate_backend(pid) FROM pg_locks "
                    "WHERE locktype = 'advisory' AND objid = 31391"
                )
            await first.record.renew_lock()
            with pytest.raises(SafetyError):
                await make_agent(other, two, load_model=load_words, clock=sandbox.clock).run(asyncio.Event())
        daemon = make_agent(other, two, load_model=load_words, clock=sandbox.clock)
        async with living(daemon):  # the lock was released with the first
            await until(lambda: handled(daemon) >= 2)


HOLDS = """
import sys, time
from pathlib import Path
from agent.store.database import open_database
from agent.store.lock import store_lock
with store_lock(open_database(sys.argv[1]), Path("holder")):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_the_next_agent_may_start_at_once_on_the_same_server(database_url: str, tmp_path: Path) -> None:
    """The server notices some time later that a connection was closed, or its process killed."""
    with closing(open_database(database_url)) as one, closing(open_database(database_url)) as two:
        for database in (one, two) * 50:
            with store_lock(database, tmp_path):
                pass
        for database in (one, two):
            command = [sys.executable, "-c", HOLDS, database_url]
            with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as holder:
                assert holder.stdout is not None
                assert holder.stdout.readline() == "held\n"
                holder.kill()
                with store_lock(database, tmp_path):
                    pass


@pytest.mark.slow
async def test_maintenance_commands_run_beside_an_agent_unless_they_replace_the_store(
    sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    daemon = make_agent(
        settings(sandbox.rest_url, tmp_path / "live", store={"url": f"sqlite:///{tmp_path / 'store.db'}"}),
        database,
        load_model=load_words,
        clock=sandbox.clock,
    )
    config = tmp_path / "config.toml"
    config.write_text(
        f'[live]\nfolder = "{tmp_path / "tool"}"\n[store]\nurl = "sqlite:///{tmp_path / "store.db"}"\n'
    )

    async def tapewire(*arguments: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "agent.cli.main", *arguments, "--config", str(config)]
        done = await asyncio.to_thread(
            subprocess.run, command, cwd=ROOT, capture_output=True, text=True, timeout=120
        )
        return done.returncode, done.stdout + done.stderr

    async with living(daemon):
        await until(lambda: handled(daemon) >= 5)
        for arguments in (("verify",), ("db", "backup", str(tmp_path / "copy.db"))):
            code, said = await tapewire(*arguments)
            assert code == 0, said
        for arguments in (
            ("db", "restore", str(tmp_path / "copy.db")),
            ("db", "upgrade"),
            ("run", "--seconds", "1"),
        ):
            code, said = await tapewire(*arguments)
            assert code == 3, said
            assert f"process {os.getpid()}" in " ".join(said.split())
