"""Jobs in processes: the figures of the command line, cancellation, limits, and the server's end."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from agent.config import Config, parse
from agent.core.errors import UsageError
from agent.jobs.job_queue import JobQueue
from agent.jobs.job_records import Job, JobState
from agent.jobs.job_requests import (
    BacktestRequest,
    DownloadRequest,
    ImportRequest,
    JobRequest,
    JobSurroundings,
)
from agent.sandbox import Sandbox
from agent.store.database import open_database
from agent.store.queries import find_run
from agent.store.runs import RunStatus
from agent.system.limited_threads import ServerBusy
from tests.cli.conftest import Outcome
from tests.conftest import ROOT
from tests.support.live import SAMPLES, until

KLINES = ("sample/BTCUSDT-1m.csv",)
SLOW = 900.0
"""Seconds for a job: its process has the lowest priority, and the machine may be busy."""

SERVER = f"""
import asyncio

from agent.config import Config
from agent.jobs.job_queue import JobQueue
from agent.jobs.job_requests import BacktestRequest


async def main() -> None:
    queue = JobQueue(Config())
    for _ in range(2):
        await queue.start(BacktestRequest(strategy="hanging.py", klines={KLINES}), "test")
    await asyncio.Event().wait()


asyncio.run(main())
"""
"""A server whose first job hangs and whose second one waits."""

AVERAGES: dict[str, Any] = {"strategy": "sma_cross", "params": {"slow": 40}}
NEWS: dict[str, Any] = {"strategy": "sentiment", "news": "sample/headlines.csv"}

HANGING = """
import subprocess
import sys
import time
from pathlib import Path

import tapewire as tw


class Hanging(tw.Strategy[tw.StrategyParams]):
    \"\"\"Starts a process, and never returns from its first bar.\"\"\"

    def on_kline(self, kline: tw.Kline, market: tw.Market) -> None:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
        Path("pids").write_text(f"{child.pid} {__import__('os').getpid()}")
        print("it hangs", file=sys.stderr, flush=True)
        while True:
            WORK
"""


def configured(**jobs: Any) -> Config:
    """The configuration of a project in the working folder."""
    return parse({"jobs": jobs, "log": {"level": "error"}}, where="test")


@pytest.fixture
async def queue(tapewire: Callable[..., Outcome]) -> AsyncIterator[JobQueue]:
    """The queue of a server in an empty folder."""
    opened = JobQueue(configured())
    yield opened
    await opened.close()


async def ended(queue: JobQueue, job: Job) -> Job:
    async with asyncio.timeout(SLOW):
        return await queue.wait(job.id)


async def finished(queue: JobQueue, request: JobRequest) -> tuple[Job, Any]:
    """Run a job to its end; return it and its result."""
    job = await ended(queue, await queue.start(request, "test"))
    assert job.state is JobState.DONE, (job.error, job.tail)
    result = await queue.result(job.id)
    assert result is not None
    return job, msgspec.json.decode(result)


def whole(result: Any) -> Any:
    return result


def write_hanging(work: str) -> str:
    Path("hanging.py").write_text(HANGING.replace("WORK", work))
    return "hanging.py"


async def started_processes() -> list[psutil.Process]:
    """Wait until the hanging strategy runs; return its process and the one that it started."""
    await until(lambda: Path("pids").is_file() and len(Path("pids").read_text().split()) == 2)
    return [psutil.Process(int(pid)) for pid in Path("pids").read_text().split()]


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.slow
async def test_a_backtest_is_that_of_the_command_line_and_a_run_like_any_other(
    queue: JobQueue, tapewire: Callable[..., Outcome]
) -> None:
    wanted = BacktestRequest(strategy="sma_cross", klines=KLINES, start="2025-03-03", params={"fast": 10})
    job = await queue.start(wanted, "api notebook")
    lines = set()
    while not job.state.is_end:
        lines.add(job.line)
        await asyncio.sleep(0.02)
    await ended(queue, job)
    result = msgspec.json.decode(await queue.result(job.id) or b"")
    path = SAMPLES / "BTCUSDT-1m.csv"
    options = ("--strategy", "sma_cross", "--klines", path, "--start", "2025-03-03", "--set", "fast=10")
    direct = json.loads((await asyncio.to_thread(tapewire, "backtest", *options, "--json")).out)
    for name in ("trades", "final_equity", "metrics", "costs", "notes"):
        assert result[name] == direct[name], name
    assert (job.state, job.share, job.by) == (JobState.DONE, 1.0, "api notebook")
    assert {"starting", "checking the input files", "replaying"} <= lines
    assert job.runs == (result["run"],)
    assert job.summary is not None
    assert job.summary.total_return == direct["metrics"]["performance"]["total_return"]
    assert job.summary.trades == direct["trades"] > 0
    with closing(open_database("sqlite:///var/tapewire.db")) as database:
        run = find_run(database, result["run"])
        again = find_run(database, direct["run"])
    assert run.status is RunStatus.COMPLETE
    assert (run.final_equity, run.decisions, run.params) == (
        again.final_equity,
        again.decisions,
        again.params,
    )
    records = list(Path("var/jobs").iterdir())
    assert {stat.S_IMODE(file.stat().st_mode) for file in records} == {0o600}
    assert stat.S_IMODE(Path("var/jobs").stat().st_mode) == 0o700


@pytest.mark.slow
async def test_cancelling_ends_the_process_and_those_that_it_started(queue: JobQueue) -> None:
    job = await queue.start(BacktestRequest(strategy=write_hanging("time.sleep(1)"), klines=KLINES), "test")
    waiting = await queue.start(BacktestRequest(strategy="sma_cross", klines=KLINES), "test")
    processes = await started_processes()
    assert len(alive(processes)) == 2
    assert processes[1].nice() >= 10
    await until(lambda: "it hangs" in queue.find(job.id).tail)
    assert (await queue.cancel(waiting.id)).state is JobState.CANCELLED
    found = await queue.cancel(job.id)
    assert (found.state, found.error) == (JobState.CANCELLED, "cancelled")
    await until(lambda: alive(processes) == [])
    with closing(open_database("sqlite:///var/tapewire.db")) as database:
        assert find_run(database, "latest").status is not RunStatus.RUNNING  # it could record its end
    assert (await queue.cancel(job.id)).state is JobState.CANCELLED  # nothing happens


@pytest.mark.slow
async def test_a_killed_server_leaves_no_process_and_its_jobs_are_interrupted(
    tapewire: Callable[..., Outcome],
) -> None:
    write_hanging("time.sleep(1)")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", SERVER], env=environment) as server:
        try:
            processes = await started_processes()
            assert len(alive(processes)) == 2
            beside = JobQueue(configured())
            assert beside.list() == []  # the jobs of a server that lives are its own
            await beside.close()
        finally:
            server.kill()
    await until(lambda: alive(processes) == [])
    with closing(open_database("sqlite:///var/tapewire.db")) as database:
        assert find_run(database, "latest").status is not RunStatus.RUNNING  # it could record its end
    later = JobQueue(configured())
    assert [(job.state, job.error, job.hint) for job in later.list()] == [
        (JobState.INTERRUPTED, "the server that ran it ended", "start it again")
    ] * 2
    await later.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("work", "limits", "error"),
    [
        ("time.sleep(1)", {"timeout": "45s"}, "longer than jobs.timeout, 45s"),
        ("pass", {"cpu": "20s"}, "more CPU time than jobs.cpu, 20s"),
        (
            "self.kept = getattr(self, 'kept', []) + [bytearray(1 << 24)]",
            {"memory": 1_024},
            "than jobs.memory",
        ),
    ],
)
async def test_a_job_beyond_a_limit_fails_and_says_which(
    tapewire: Callable[..., Outcome], work: str, limits: dict[str, Any], error: str
) -> None:
    queue = JobQueue(configured(**limits))
    try:
        wanted = BacktestRequest(strategy=write_hanging(work), klines=KLINES)
        job = await ended(queue, await queue.start(wanted, "test"))
        assert job.state is JobState.FAILED
        assert error in job.error
        assert job.hint
        left = Path("pids").read_text().split() if Path("pids").is_file() else []
        processes = [psutil.Process(int(pid)) for pid in left if psutil.pid_exists(int(pid))]
        await until(lambda: alive(processes) == [])
    finally:
        await queue.close()


@pytest.mark.slow
async def test_an_error_of_the_command_is_that_of_the_job(queue: JobQueue) -> None:
    wanted = BacktestRequest(strategy="sma_cross", klines=KLINES, params={"fast": -1})
    job = await ended(queue, await queue.start(wanted, "test"))
    assert job.state is JobState.FAILED
    assert "strategy 'sma_cross': fast" in job.error
    assert await queue.result(job.id) is None
    with pytest.raises(UsageError, match="no such job"):
        queue.find("0123")


class OtherCommand(msgspec.Struct, frozen=True, tag="backtest", tag_field="kind"):
    """A backtest by name, whose command prints something else."""

    def arguments(self, at: JobSurroundings) -> tuple[str, ...]:
        return ("strategy", "show", "--json", "--", "sma_cross")


@pytest.mark.slow
async def test_a_job_fails_if_its_result_is_that_of_another_command(queue: JobQueue) -> None:
    job = await ended(queue, await queue.start(OtherCommand(), "test"))
    assert job.state is JobState.FAILED
    assert "not what this version expects" in job.error


@pytest.mark.slow
async def test_the_waiting_list_is_bounded(tapewire: Callable[..., Outcome]) -> None:
    queue = JobQueue(configured(waiting=1))
    try:
        for _ in range(2):
            await queue.start(BacktestRequest(strategy="sma_cross"), "test")
        with pytest.raises(ServerBusy, match="2 jobs run or wait"):
            await queue.start(BacktestRequest(strategy="sma_cross"), "test")
    finally:
        await queue.close()
    again = JobQueue(configured(kept=1))
    assert [job.state for job in again.list()] == [JobState.INTERRUPTED]  # of two, the newest
    assert len(list(Path("var/jobs").glob("*.json"))) == 1
    await again.close()


async def test_two_jobs_do_not_write_the_same_file(queue: JobQueue) -> None:
    first = await queue.start(ImportRequest(file="sample/headlines.csv", name="wire"), "test")
    with pytest.raises(UsageError, match=rf"wire.parquet is being written by job {first.id}"):
        await queue.start(ImportRequest(file="sample/headlines.csv", name="wire"), "test")
    await queue.cancel(first.id)
    await queue.start(ImportRequest(file="sample/headlines.csv", name="wire"), "test")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "fields", "command", "figures"),
    [
        (
            "sweep",
            {"ranges": ["fast=5:15:5"]},
            ("sweep", "--range", "fast=5:15:5"),
            lambda result: [(row["params"], row["final_equity"], row["metrics"]) for row in result],
        ),
        (
            "walkforward",
            {"train": "8h", "test": "1d", "embargo": "1h", "warmup": "1h"},
            ("walkforward", "--train", "8h", "--test", "1d", "--embargo", "1h", "--warmup", "1h"),
            lambda result: (result["evidence"], result["verdict"], result["returns"]),
        ),
        (
            "tune",
            {"ranges": ["fast=5:15:5"], "trials": 3, "batch": 3, "folds": 2, "placebo": 0}
            | {"holdout": "1d", "embargo": "1h", "warmup": "1h"},
            (
                *("tune", "--range", "fast=5:15:5", "--trials", "3", "--batch", "3", "--folds", "2"),
                *("--placebo", "0", "--holdout", "1d", "--embargo", "1h", "--warmup", "1h"),
            ),
            lambda result: (
                *(
                    result[name]
                    for name in ("trials", "pruned", "params", "value", "in_sample", "overfitting")
                ),
                *(result["held_out"][name] for name in ("evidence", "verdict", "returns")),
            ),
        ),
        ("check-lookahead", {"cuts": 2}, ("check", "lookahead", "--cuts", "2"), whole),
        ("check-startup", {}, ("check", "startup"), whole),
        ("check-costs", {}, ("check", "costs"), whole),
        ("check-placebo", NEWS | {"draws": 19}, ("check", "placebo", "--draws", "19"), whole),
        ("check-masked", NEWS, ("check", "masked"), whole),
    ],
)
async def test_each_kind_has_the_figures_of_the_command_line(
    queue: JobQueue,
    tapewire: Callable[..., Outcome],
    kind: str,
    fields: dict[str, Any],
    command: tuple[str, ...],
    figures: Callable[[Any], Any],
) -> None:
    body = {"kind": kind, "klines": KLINES} | (fields if "news" in fields else AVERAGES | fields)
    wanted: Any = msgspec.convert(body, JobRequest)
    job, result = await finished(queue, wanted)
    options: tuple[str | Path, ...] = ("--strategy", "sma_cross", "--set", "slow=40")
    if "news" in fields:
        options = ("--strategy", "sentiment", "--news", SAMPLES / "headlines.csv")
    klines = SAMPLES / "BTCUSDT-1m.csv"
    direct = json.loads(
        (await asyncio.to_thread(tapewire, *command, *options, "--klines", klines, "--json")).out
    )
    assert figures(result) == figures(direct)
    assert job.summary is not None
    assert job.summary.passed == (result["passed"] if kind.startswith("check-") else None)
    study = result["held_out"] if kind == "tune" else result
    folds = study["folds"] if kind in ("walkforward", "tune") else []
    assert job.runs == tuple(fold["run"] for fold in folds)


@pytest.mark.slow
async def test_klines_are_downloaded_and_headlines_imported_into_the_first_folder(
    tapewire: Callable[..., Outcome], sandbox: Sandbox
) -> None:
    config = parse({"bybit": {"endpoint": sandbox.rest_url}, "log": {"level": "error"}}, where="test")
    queue = JobQueue(config)
    try:
        now = datetime.now(UTC)  # the sandbox replays its files as the present
        start, end = (f"{now - timedelta(hours=hours):%Y-%m-%dT%H:%MZ}" for hours in (5, 4))
        job, result = await finished(queue, DownloadRequest(symbol="BTCUSDT", start=start, end=end))
        assert (result["rows"], result["gaps"]) == (60, 0)
        assert "60 bars of BTCUSDT" in (job.summary.verdict if job.summary else "")
        assert queue.data.find("klines/BTCUSDT-1m.parquet").is_file()
        _, imported = await finished(queue, ImportRequest(file="sample/headlines.csv", name="wire"))
        assert imported["news"] == 63
        assert queue.data.find("klines/wire.parquet").is_file()
    finally:
        await queue.close()
