"""Jobs of the page that fold a recorded run again: the same answers as the command line's, limits, cancel."""

from __future__ import annotations

import stat
from decimal import Decimal
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import event

from agent.analysis.twin_report import attribute_run
from agent.config import DashboardConfig
from agent.dashboard import replay_jobs
from agent.dashboard.server import Dashboard
from agent.replay.recorded_inputs import load_inputs
from agent.replay.twin import fold_twin
from agent.replay.what_if import Change, fold_on
from agent.research.story_results import story_results
from agent.store.database import Database
from tests.dashboard.dashboard_harness import ANY_PORT, client, origin, served
from tests.dashboard.replays import RecordedRuns, finish, fold, record_backtest, start
from tests.support.live import until


def workers() -> list[psutil.Process]:
    """Return the worker processes that this one has started."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            if "agent.dashboard.replay_worker" in child.cmdline():
                found.append(child)
        except psutil.Error:
            continue
    return found


def content_of(database: Database) -> list[tuple[Any, ...]]:
    with database.read() as connection:
        names = [row[0] for row in connection.exec_driver_sql("SELECT name FROM sqlite_master")]
        return [
            (name, connection.exec_driver_sql(f'SELECT count(*) FROM "{name}"').scalar())
            for name in sorted(names)
            if not name.startswith(("sqlite_", "ix_"))
            and connection.exec_driver_sql("SELECT type FROM sqlite_master WHERE name = ?", (name,)).scalar()
            == "table"
        ]


@pytest.mark.slow
async def test_a_what_if_of_the_page_is_that_of_the_engine(runs: RecordedRuns) -> None:
    database, run, _ = runs
    before = content_of(database)
    source = load_inputs(database, run)
    async with served(database) as page, client(page.login_url()) as http:
        async with http.get(f"/api/runs/{run.id}/headlines?search=ETHER whale") as response:
            found = await response.json()
        (chosen, *_) = found["rows"]
        assert found["matching"] == len(found["rows"]) > 0
        assert {"ether", "whale"} <= set(chosen["title"].lower().replace("whales", "whale").split())
        view = await fold(
            http, page, run.id, work="whatif", remove=[chosen["id"]], change={"signals.threshold": "0.9"}
        )
        moment = source.events[2_000].available_at
        later = await fold(http, page, run.id, work="whatif", begins="2001", params={"position_size": "0.1"})
    change = Change({"signals.threshold": "0.9"}, removed=frozenset({chosen["id"]}))
    expected = fold_on(source, change)
    result = view["result"]
    assert Decimal(str(result["difference"])) == pytest.approx(
        expected.changed.final_equity - expected.as_it_was.final_equity
    )
    assert result["difference"] != 0
    assert expected.difference is not None
    assert result["first"]["event"] == expected.difference.event_seq
    assert result["lives"]["changed"][1][-1] == pytest.approx(expected.changed.equity[-1])
    assert result["remarks"] == []
    figures = {row["name"]: row["values"] for row in result["figures"]}
    assert figures["final equity"][0] == f"{expected.as_it_was.final_equity:,.2f}"
    assert figures["round trips"][1] == str(expected.changed.metrics.trades.trades)
    assert (later["result"]["begins"], later["result"]["begins_at"]) == (2_001, moment)
    assert later["result"]["first"]["event"] > 2_000
    assert content_of(database) == before  # nothing is recorded


@pytest.mark.slow
async def test_the_twin_and_the_stories_are_those_of_the_command_line(runs: RecordedRuns) -> None:
    database, run, venue = runs
    async with served(database) as page, client(page.login_url()) as http:
        twin = (await fold(http, page, venue.id, work="twin"))["result"]
        stories = (await fold(http, page, run.id, work="stories"))["result"]
        again = await start(http, page, run.id, work="stories")
        assert again["done"]  # the result is kept
        async with http.get(f"/runs/{run.id}/report") as response:
            report = await response.text()
        assert "Which headlines earned or lost" in report
        assert 'id="twin"' not in report
        async with http.get(f"/runs/{venue.id}/report") as response:
            report = await response.text()
        assert "Live against the twin" in report
        assert twin["headline"].replace("\u00a0", " ") in report.replace("\u00a0", " ")
        none = await fold(http, page, run.id, work="twin")
        assert "traded on paper, so it has no twin" in none["error"]
    expected = attribute_run(fold_twin(database, venue))
    steps = twin["waterfall"]["steps"]
    assert (steps[0]["label"], steps[-1]["label"]) == ("equity of the twin", "equity at the venue")
    parts = [Decimal(str(step["amount"])) for step in steps]
    assert float(sum(parts[:-1])) == pytest.approx(float(expected.venue_equity), abs=1e-6)
    assert len(steps) == 2 + sum(bool(amount) for amount in expected.causes.values()) > 4
    found = story_results(load_inputs(database, run))
    assert [row["story"] for row in stories["rows"][:3]] == [one.story for one in found.stories[:3]]
    assert stories["rows"][0]["contribution"] == pytest.approx(float(found.stories[0].contribution))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"work": "whatif", "change": {"signals.treshold": "0.9"}}, "did you mean signals.threshold"),
        ({"work": "whatif", "change": {"store.url": "sqlite:///x"}}, "can't be changed"),
        ({"work": "whatif", "params": {"nothing": "1"}}, "nothing"),
        ({"work": "whatif", "remove": ["zzzz"]}, "no headline with an id"),
        ({"work": "whatif", "begins": "2099-01-01T00:00:00Z"}, "ends before the time"),
        ({"work": "whatif", "begins": "yesterday"}, "is no date"),
    ],
)
async def test_a_job_that_fails_says_why(runs: RecordedRuns, body: dict[str, Any], error: str) -> None:
    database, run, _ = runs
    async with served(database) as page, client(page.login_url()) as http:
        view = await fold(http, page, run.id, **body)
    assert error in view["error"]
    assert "result" not in view


@pytest.mark.slow
async def test_one_sleeve_of_a_run_with_sleeves_has_other_parameters(database: Database) -> None:
    strategy = {"name": "sentiment", "params": {"position_size": 0.5}}
    sleeves = [{"name": name, "share": 0.5, "strategy": strategy} for name in ("one", "two")]
    run = record_backtest(database, sleeves=sleeves)
    found = fold_on(load_inputs(database, run), Change(params={"position_size": "0.1"}, sleeve="two"))
    async with served(database) as page, client(page.login_url()) as http:
        async with http.get(f"/api/runs/{run.id}/changeable") as response:
            changeable = await response.json()
        view = await fold(http, page, run.id, work="whatif", sleeve="two", params={"position_size": "0.1"})
        wrong = await fold(http, page, run.id, work="whatif", sleeve="three", params={"position_size": "0.1"})
    assert changeable["sleeves"]
    assert changeable["params"]["two.position_size"] == 0.5
    assert changeable["settings"]["sleeves.two.share"] == "0.5"
    figures = {row["name"]: row["values"] for row in view["result"]["figures"]}
    assert figures["profit of one"][2] == "+0.00"
    profits = [life.sleeves["two"].profit for life in (found.as_it_was, found.changed)]
    assert profits[0] != profits[1]
    assert figures["profit of two"][:2] == [f"{profit:,.2f}".replace("-", "−") for profit in profits]
    assert "three" in wrong["error"]


async def test_a_job_can_be_cancelled_and_its_process_ends(runs: RecordedRuns) -> None:
    database, run, _ = runs
    async with served(database) as page, client(page.login_url()) as http:
        first = await start(http, page, run.id, work="whatif")
        second = await start(http, page, run.id, work="stories")
        assert (await start(http, page, run.id, work="stories"))["job"] == second["job"]  # shared
        await until(lambda: len(workers()) == 1)
        async with http.get(f"/api/replays/{second['job']}") as response:
            assert (await response.json())["waiting"] is True  # one at a time
        for job in (first["job"], second["job"]):
            async with http.post(f"/api/replays/{job}/cancel", headers=origin(page)) as response:
                view = await response.json()
            assert (view["done"], view["error"]) == (True, "cancelled")
        assert workers() == []


async def test_too_many_jobs_are_refused(runs: RecordedRuns) -> None:
    database, run, _ = runs
    async with served(database) as page, client(page.login_url()) as http:
        for number in range(4):
            assert (await start(http, page, run.id, work="whatif", begins=str(number + 1)))["status"] == 200
        refused = await start(http, page, run.id, work="whatif")
        assert (refused["status"], refused["error"]) == (503, "other runs are being folded")
        assert (await start(http, page, run.id, work="x"))["status"] == 404
        assert (await start(http, page, "none", work="twin"))["status"] == 404
    assert workers() == []  # they end with the page


@pytest.mark.slow
async def test_a_job_that_needs_too_much_memory_says_so(runs: RecordedRuns) -> None:
    jobs = replay_jobs.ReplayJobs(runs.database, None, timeout=120_000, memory=1)
    job = jobs.start("whatif", runs.backtest)
    job.is_kept = True
    assert job.task is not None
    await job.task
    assert job.error is not None
    assert job.error.message == "the run needs more memory than dashboard.replay_memory"


async def test_limits_of_time_and_of_abandoned_jobs(
    runs: RecordedRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, run, _ = runs
    # Less than the configuration allows: a worker's start alone takes longer
    config = DashboardConfig.model_validate(ANY_PORT).model_copy(update={"replay_timeout": 50})
    served_page = Dashboard(config, database, None, token_file=tmp_path / "token", jobs="no jobs")
    async with served_page as page, client(page.login_url()) as http:
        view = await fold(http, page, run.id, work="stories")
        assert view["error"] == "the run could not be folded in 50ms"
        assert "dashboard.replay_timeout" in view["hint"]
    monkeypatch.setattr(replay_jobs, "ABANDONED", 0.0)
    jobs = replay_jobs.ReplayJobs(database, None, timeout=120_000, memory=4_096)
    job = jobs.start("stories", run)
    assert job.task is not None
    await job.task
    assert job.error is not None
    assert "no page asked" in job.error.message
    assert workers() == []


@pytest.mark.slow
async def test_an_archive_that_is_read_only_is_folded_without_a_write(
    runs: RecordedRuns, tmp_path: Path
) -> None:
    database, run, _ = runs

    def refuse(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        assert not statement.upper().startswith(("INSERT", "UPDATE", "DELETE")), statement

    event.listen(database.engine, "before_cursor_execute", refuse)
    assert database.file is not None
    with database.read() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    database.file.chmod(stat.S_IRUSR)
    try:
        async with served(database) as page, client(page.login_url()) as http:
            view = await fold(http, page, run.id, work="whatif", change={"paper.latency": "2s"})
            assert view["result"]["run"] == run.id
    finally:
        database.file.chmod(stat.S_IRUSR | stat.S_IWUSR)


@pytest.mark.slow
async def test_a_worker_gets_none_of_the_agents_secrets(
    runs: RecordedRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAPEWIRE_API_SECRET", "the-secret")
    database, run, _ = runs
    async with served(database) as page, client(page.login_url()) as http:
        job = (await start(http, page, run.id, work="whatif"))["job"]
        await until(lambda: bool(workers()))
        worker = workers()[0]
        environment = Path(f"/proc/{worker.pid}/environ").read_bytes()
        assert b"the-secret" not in environment
        assert b"PATH" in environment
        assert "sqlite" not in " ".join(worker.cmdline())  # the store's URL may have a password
        await finish(http, job)


async def test_the_settings_that_can_be_changed_are_those_of_the_run(database: Database) -> None:
    run = record_backtest(database, signals={"threshold": 0.55})
    async with served(database) as page, client(page.login_url()) as http:
        async with http.get(f"/api/runs/{run.id}/changeable") as response:
            found = await response.json()
        assert found["settings"]["signals.threshold"] == 0.55
        assert {key.split(".")[0] for key in found["settings"]} == {"signals", "risk", "paper"}
        assert found["params"]["allow_short"] is True
        async with http.get(f"/api/runs/{run.id}/headlines?search=%25_") as response:
            assert (await response.json())["matching"] == 0  # no wildcards
        async with http.get(f"/api/runs/{run.id}/headlines?after=x") as response:
            assert response.status == 404
