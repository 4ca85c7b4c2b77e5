"""Jobs, data files and strategies through the API and the client."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

import tapewire as tw
from agent.api.job_messages import JobDetail
from agent.config import parse
from agent.jobs.job_queue import JobQueue
from agent.store.database import Database, open_database
from tests.api.api_harness import Served, api_served
from tests.cli.conftest import Outcome
from tests.support.live import SAMPLES

STRATEGY = '''
import tapewire as tw
from pydantic import Field


class MineParams(tw.StrategyParams):
    fast: int = Field(7, ge=2, le=60)  # bars of the average


class Mine(tw.Strategy[MineParams]):
    """Buys once."""

    def on_kline(self, kline: tw.Kline, market: tw.Market) -> None:
        self.target(kline.symbol, weight=0.5)
'''


@asynccontextmanager
async def project(**jobs: Any) -> AsyncIterator[Served]:
    """Serve the working folder as a project with a strategy and three data files."""
    Path("data").mkdir()
    Path("strategies").mkdir()
    Path("strategies/mine.py").write_text(STRATEGY)
    lines = (SAMPLES / "BTCUSDT-1m.csv").read_text().splitlines(keepends=True)
    Path("data/BTCUSDT-1m.csv").write_text("".join([*lines[:500], *lines[510:901]]))
    Path("data/damaged.csv").write_text("a,b\n1,2\n")
    Path("data/link.csv").symlink_to(SAMPLES / "BTCUSDT-1m.csv")
    queue = JobQueue(parse({"jobs": jobs, "log": {"level": "error"}}, where="test"))
    with closing(open_database("sqlite:///var/tapewire.db")) as database:
        async with api_served(database, jobs=queue, requests_per_minute=1_000_000) as served:
            yield served


async def refusal(served: Served, work: Callable[[tw.Client], Any]) -> tuple[int, str, str]:
    with pytest.raises(tw.ApiError) as refused:
        await served.call(work, ("read", "research"))
    problem = refused.value.problem
    assert problem is not None
    return refused.value.status, problem.type.rpartition(":")[2], problem.detail


@pytest.mark.slow
async def test_a_job_is_started_watched_and_read_through_the_client(
    tapewire: Callable[..., Outcome], quiet_log: None
) -> None:
    def work(client: tw.Client) -> tuple[JobDetail, Any, Any]:
        job = client.start_job("backtest", strategy="strategies/mine.py", klines=["data/BTCUSDT-1m.csv"])
        assert (job.state.value, job.kind) == ("waiting", "backtest")
        done = client.wait_for_job(job.id)
        return done, client.run(done.runs[0]).run, client.strategy("strategies/mine.py")

    async with project() as served:
        done, run, described = await served.call(work, ("read", "research"))
    assert done.state.value == "done", (done.error, done.tail)
    assert done.by.startswith("api t")
    assert done.result["run"] == run.id
    assert done.summary is not None
    assert done.summary.total_return == run.metrics["performance"]["total_return"]
    assert run.strategy == "strategies/mine.py"
    assert (described.name, described.doc, described.file) == ("strategies/mine.py", "Buys once.", "")
    (fast,) = described.parameters
    assert (fast.low, fast.high, fast.default, fast.description) == (2, 60, 7, "bars of the average")


@pytest.mark.slow
async def test_data_files_are_listed_with_their_gaps_and_read_once(
    tapewire: Callable[..., Outcome], quiet_log: None
) -> None:
    async with project() as served:

        async def read() -> Any:
            return await served.call(lambda client: client.data())

        first = await read()
        assert first.reading
        assert {one.name for one in first.items} >= {"data/BTCUSDT-1m.csv", "sample/headlines.csv"}
        assert "data/link.csv" not in {one.name for one in first.items}
        async with asyncio.timeout(600):
            while (found := await read()).reading:
                await asyncio.sleep(0.2)
        facts = {one.name: one.facts for one in found.items}
        own = facts["data/BTCUSDT-1m.csv"]
        assert (own.kind, own.symbol, own.interval, own.rows) == ("klines", "BTCUSDT", 60_000, 890)
        assert (own.gaps, own.missing) == (1, 10)
        assert own.end - own.first == 900 * 60_000
        assert facts["sample/headlines.csv"].kind == "news"
        assert facts["data/damaged.csv"].kind == "unknown"
        assert "damaged.csv" in facts["data/damaged.csv"].note
        assert str(Path.cwd()) not in facts["data/damaged.csv"].note
        os.utime("data/damaged.csv", (1, 1))
        assert (await read()).reading  # that file alone


@pytest.mark.parametrize(
    ("kind", "fields", "status", "problem"),
    [
        ("backtest", {"strategy": "os:system"}, 422, "invalid-job"),
        ("backtest", {"klines": ["data/../../etc/x.csv"]}, 422, "invalid-job"),
        ("backtest", {"klines": ["data/link.csv"]}, 422, "invalid-job"),
        ("import", {"file": "data/none.csv", "name": "x"}, 422, "invalid-job"),
    ],
)
async def test_a_job_that_may_not_be_started_is_a_problem(
    tapewire: Callable[..., Outcome], kind: str, fields: dict[str, Any], status: int, problem: str
) -> None:
    async with project() as served:
        found = await refusal(served, lambda client: client.start_job(kind, **fields))
        assert found[:2] == (status, problem)
        with pytest.raises(tw.UsageError, match=r"unknown field `modle`"):
            await served.call(lambda client: client.start_job("backtest", modle="x"))
        async with served.session("research") as http:
            async with http.post("/api/v1/jobs", json={"kind": "backtest", "model": "x"}) as response:
                assert response.status == 400
                assert "model" in (await response.json())["detail"]
            async with http.get("/api/v1/jobs") as response:
                assert response.status == 403  # research doesn't include read
        async with served.session("read", "command") as http, http.post("/api/v1/jobs", json={}) as response:
            assert (await response.json())["type"] == "urn:tapewire:problem:insufficient-scope"
        assert (await served.call(lambda client: client.jobs())) == ()
        assert (await refusal(served, lambda client: client.job("nope")))[:2] == (404, "no-job")


async def test_a_server_without_jobs_says_why(database: Database) -> None:
    async with api_served(database, jobs="jobs are switched off at this server") as served:
        for work in (lambda client: client.jobs(), lambda client: client.start_job("backtest")):
            assert await refusal(served, work) == (
                403,
                "jobs-disabled",
                "jobs are switched off at this server",
            )
