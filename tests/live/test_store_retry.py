"""A store that can't be written: trading halts at once, no event is lost, the agent recovers by itself."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import pytest

from agent.core.errors import StoreUnavailable, TapewireError
from agent.core.events import Command, News, RiskState
from agent.live.app import make_agent
from agent.live.control_socket import ControlRequest, send_request
from agent.sandbox import Sandbox
from agent.store.database import open_database
from agent.store.journal import Journal
from agent.store.queries import list_runs
from agent.store.recorder import Recorder
from tests.store.store_samples import a_run
from tests.support.live import (
    SENTIMENT,
    assert_sound,
    handled,
    journal,
    living,
    load_words,
    of,
    options,
    settings,
    until,
)
from tests.support.market import flat_bars

QUICK = {"patience": "1m", "retry": {"first": "5ms", "ceiling": "20ms"}}
Trouble = Callable[[Path], AbstractContextManager[object]]


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """The store's file system is full."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            pass
    try:
        yield
    finally:
        filler.unlink()


@contextmanager
def limited_file(folder: Path) -> Iterator[None]:
    """No file of this process may grow beyond the current size of the write-ahead log."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((folder / "store.db-wal").stat().st_size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Another process holds a write transaction."""
    with closing(open_database(f"sqlite:///{folder / 'store.db'}")) as other, other.write():
        yield


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """The store's file is read-only."""
    (folder / "store.db").chmod(0o444)
    try:
        yield
    finally:
        (folder / "store.db").chmod(0o644)


@contextmanager
def gone(folder: Path) -> Iterator[None]:
    """The store's folder was moved away."""
    folder.rename(folder.with_name("elsewhere"))
    try:
        yield
    finally:
        folder.with_name("elsewhere").rename(folder)


@pytest.fixture
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """The store's folder; for `full_disk`, a file system of two megabytes."""
    place = tmp_path / "store"
    place.mkdir()
    if getattr(request, "param", None) is not full_disk:
        yield place
        return
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tapewire-test", str(place)]
    if (
        os.geteuid() != 0
        or not shutil.which("mount")
        or subprocess.run(mount, capture_output=True, check=False).returncode
    ):
        pytest.skip("a small file system can't be mounted here: the limit on files' sizes is tested instead")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


TROUBLES = {
    full_disk: "the disk",
    limited_file: "the disk",
    locked: "another process is writing",
    read_only: "it is read-only",
    gone: "the file is gone",
}


@pytest.mark.parametrize(
    ("folder", "trouble", "said"),
    [pytest.param(trouble, trouble, said, id=trouble.__name__) for trouble, said in TROUBLES.items()],
    indirect=["folder"],
)
async def test_trading_halts_reports_the_cause_and_resumes_by_itself(
    folder: Path, trouble: Trouble, said: str, tmp_path: Path
) -> None:
    async with Sandbox(options(news=True)) as sandbox:
        store = {"url": f"sqlite:///{folder / 'store.db'}", **QUICK}
        config = settings(sandbox.rest_url, tmp_path, strategy=SENTIMENT, store=store)
        with closing(open_database(config.store.url, lock_timeout=0.05)) as database:
            daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
            async with living(daemon) as life:
                await until(lambda: handled(daemon) >= 10)
                with trouble(folder):
                    await until(lambda: daemon.pipeline.storage.failing.is_set() or life.done())
                    status = daemon.status()
                    assert not status.storage.writable
                    assert said in status.storage.error
                    equity, decisions, bar = status.equity, status.decisions, status.positions[0].last_bar
                    with pytest.raises(TapewireError, match="nothing is traded") as refusal:
                        await asyncio.to_thread(send_request, tmp_path, ControlRequest("kill"))
                    assert refusal.value.hint.startswith("kill is kept")
                    await until(lambda: daemon.status().storage.tries >= 5 and len(daemon.queue) > 10)
                    status = daemon.status()
                    assert (status.equity, status.decisions, status.positions[0].last_bar) == (
                        equity,
                        decisions,
                        bar,
                    )
                before = handled(daemon)
                await until(lambda: handled(daemon) >= before + 20)
                status = daemon.status()
                assert (status.storage.writable, status.storage.outages) == (True, 1)
                assert (status.risk, status.risk_rule) == (RiskState.HALTED, "kill")
            # this includes every bar of the outage, once each
            events = assert_sound(database, "latest", config)
            assert len({news.id for news in of(News, events)}) == len(of(News, events))
            assert "kill" in [event.action for event in of(Command, events)]


async def test_the_agent_exits_after_store_patience_and_the_next_one_resumes(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    config = settings(sandbox.rest_url, tmp_path, store={**QUICK, "patience": "150ms"})
    with closing(open_database(config.store.url, lock_timeout=0.05)) as database:
        daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)

        async def live_until_it_is_locked() -> None:
            async with living(daemon) as life:
                await until(lambda: handled(daemon) >= 10)
                with locked(tmp_path):
                    await until(life.done)

        with pytest.raises(
            StoreUnavailable,
            match=r"another process is writing to it, for more than 150ms \(store\.patience\)",
        ):
            await live_until_it_is_locked()
        again = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
        async with living(again):
            await until(lambda: handled(again) >= 10)
        assert len(list_runs(database)) == 1
        assert_sound(database, "latest", config)


async def test_the_agent_can_be_stopped_during_an_outage(sandbox: Sandbox, tmp_path: Path) -> None:
    config = settings(
        sandbox.rest_url, tmp_path, store=QUICK, live={"folder": str(tmp_path), "drain_timeout": "200ms"}
    )
    with closing(open_database(config.store.url, lock_timeout=0.05)) as database:
        daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
        stop = asyncio.Event()
        life = asyncio.create_task(daemon.run(stop))
        await until(lambda: daemon.started and handled(daemon) >= 10)
        with locked(tmp_path):
            await until(daemon.pipeline.storage.failing.is_set)
            stop.set()
            with pytest.raises(StoreUnavailable, match="another process is writing"):
                await asyncio.wait_for(life, 20)
        again = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
        async with living(again):
            await until(lambda: handled(again) >= 10)
        assert_sound(database, "latest", config)
        assert "stop" in [event.action for event in of(Command, journal(database))]


def test_a_replaced_store_file_is_not_written(tmp_path: Path) -> None:
    file = tmp_path / "store.db"
    with closing(open_database(f"sqlite:///{file}")) as database:
        Recorder(database, a_run())
        shutil.copy(file, tmp_path / "copy.db")
        (tmp_path / "copy.db").rename(file)
        with pytest.raises(StoreUnavailable, match="replaced by another"):
            Recorder(database, a_run("run-2"))
        file.unlink()
        with pytest.raises(StoreUnavailable, match="the file is gone"):
            Recorder(database, a_run("run-2"))


def test_a_write_whose_result_was_lost_is_not_repeated(tmp_path: Path) -> None:
    with closing(open_database(f"sqlite:///{tmp_path / 'store.db'}")) as database:
        recorder = Recorder(database, a_run(), batch=None)
        bars = flat_bars([100.0] * 4)
        lost = Journal(database, "run-1")
        again = Journal(database, "run-1")
        lost.append(bars[:2])
        assert again.append(bars[:2], again=True) == 1
        assert again.append(bars[2:], again=True) == 3
        assert again.last_seq == 4
        recorder.equity([1, 2], [1.0, 2.0], [1.0, 2.0], [0.0, 0.0])
        with database.batch() as insert:
            recorder._insert(insert)
        recorder.flush(again=True)
        recorder.equity([3], [1.0], [1.0], [0.0])
        recorder.flush(again=True)
        with database.read() as connection:
            assert connection.exec_driver_sql("SELECT seq, ts FROM equity ORDER BY seq").fetchall() == [
                (1, 1),
                (2, 2),
                (3, 3),
            ]
