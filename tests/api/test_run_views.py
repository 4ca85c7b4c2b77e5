"""Performance, configuration, activity and log: what the page's views read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import structlog

from agent.api.activity_reader import Activities, RunActivities, activity_page
from agent.api.configuration_reader import read_configuration
from agent.api.log_reader import log_page
from agent.api.route_table import BASE, ActivityQuery, LogQuery
from agent.api.run_messages import ActivityEntry
from agent.config.live import LogConfig
from agent.core.events import Command, Fill
from agent.live import log
from agent.live.log_lines import RecentLines
from agent.sandbox import Sandbox
from agent.store.database import Database, open_database
from agent.store.journal import Journal, read_journal
from agent.store.queries import find_run, read_decisions, read_rows
from agent.store.recorder import Recorder
from agent.store.runs import Run, RunKind
from tests.api.api_harness import api_served
from tests.cli.conftest import Outcome
from tests.dashboard.dashboard_harness import agent_with_page, client
from tests.dashboard.replays import record_venue_run
from tests.support.live import handled, until
from tests.support.recorded_venue import BEGIN

URL = "sqlite:///var/tapewire.db"


async def get(database: Database, path: str, **query: Any) -> Any:
    async with (
        api_served(database) as served,
        served.session("read") as http,
        http.get(f"{BASE}{path}", params=query) as response,
    ):
        assert response.status == 200, await response.text()
        return await response.json()


# -- performance -----------------------------------------------------------------------------------------


async def test_groups_add_up_to_the_figures_of_the_report(backtested: Callable[..., Outcome]) -> None:
    told = json.loads(backtested("report", "--json").out)
    with closing(open_database(URL)) as database:
        found = await get(database, "/runs/latest/performance")
        fills = list(read_rows(database, find_run(database).id, Fill))
    figures = found["metrics"]
    assert figures == told["metrics"]
    assert figures["open_trades"] == 0
    # by hand: what was sold minus what was bought, minus fees and funding
    sold = sum((fill.qty * fill.price * -fill.side.sign - fill.fee for fill in fills), Decimal(0))
    for name, groups in found["trades"]["groups"].items():
        assert sum(group["trades"] for group in groups) == figures["trades"]["trades"], name
        assert sum(group["wins"] for group in groups) == pytest.approx(
            figures["trades"]["win_rate"] * figures["trades"]["trades"]
        )
        funding = sum(Decimal(group["funding"]) for group in groups)
        assert sum(Decimal(group["pnl"]) for group in groups) == sold + funding, name
        assert sum(Decimal(group["fees"]) for group in groups) == sum(fill.fee for fill in fills)
    for bins in (found["trades"]["returns"], found["trades"]["durations"]):
        assert sum(one["trades"] for one in bins) == figures["trades"]["trades"]
        assert sum(Decimal(one["pnl"]) for one in bins) == sold + funding
    depths = [one["depth"] for one in found["drawdowns"]]
    assert depths == sorted(depths)
    assert 1 <= len(depths) <= 5
    assert figures["performance"]["max_drawdown"] - 1e-9 <= depths[0] < 0
    assert found["sleeves"] == []


# -- configuration ---------------------------------------------------------------------------------------


def run_with(**config: Any) -> Run:
    return Run("20260101-000000-aaaaaaaa", RunKind.LIVE, 1, "sma_cross", params={"fast": 5}, config=config)


def test_what_differs_from_the_defaults_comes_first() -> None:
    found = read_configuration(
        run_with(
            risk={"max_drawdown": 0.1, "max_leverage": 1.0},
            instruments={"BTCUSDT": {"tick_size": "0.10", "min_qty": None}},
            sleeves=[{"name": "slow", "weight": 0.5}],
            window={"start": 1, "end": None},
        )
    )
    shown = [(one.key, one.value, one.default, one.state) for one in found.settings]
    assert shown == [
        ("risk.max_drawdown", 0.1, 0.25, "changed"),
        ("instruments.BTCUSDT.tick_size", "0.10", None, "changed"),
        ("sleeves.slow.weight", 0.5, None, "given"),
        ("window.start", 1, None, "given"),
        ("strategy.params.fast", 5, None, "given"),
        ("risk.max_leverage", 1.0, 1.0, "default"),
        ("instruments.BTCUSDT.min_qty", None, None, "default"),
    ]
    (note,) = found.notes
    assert all(name in note for name in ("not stored with a run", "jobs", "mcp", "telegram", "agents"))


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"bybit": {"token": "s3cr3t-value"}}, "bybit.token"),
        ({"model": {"path": "openai:https://user:s3cr3t-value@host.example#m"}}, "model.path"),
        ({"llm": {"headers": ["Authorization: Bearer s3cr3t-value"]}}, "llm.headers"),
    ],
)
def test_secrets_are_masked(config: dict[str, Any], key: str) -> None:
    (found,) = [one for one in read_configuration(run_with(**config)).settings if one.key == key]
    assert "***" in str(found.value)
    assert "s3cr3t-value" not in str(found)


async def test_the_card_of_the_model_that_scored_is_shown(backtested: Callable[..., Outcome]) -> None:
    with closing(open_database(URL)) as database:
        found = await get(database, "/runs/latest/configuration")
    (model,) = found["models"]
    assert (model["setting"], model["folder"]) == ("model.path", "starter")
    assert model["card"]["fingerprint"] in found["versions"].values()
    assert {one["role"] for one in found["inputs"]} == {"klines", "news"}
    assert all(len(one["sha256"]) == 64 for one in found["inputs"])


# -- activity --------------------------------------------------------------------------------------------


def test_the_activity_of_a_run_at_a_venue_has_its_rejections(database: Database) -> None:
    run = record_venue_run(database)
    found = RunActivities(database).of(run)
    rejected = [one for one in found.entries if one.what == "order update"]
    assert rejected
    assert {one.level for one in rejected} == {"warning"}
    assert all(one.symbol == "BTCUSDT" and "REJECTED" in one.text for one in rejected)
    events = [one.event for one in found.entries]
    assert events == sorted(events, reverse=True)
    page = activity_page(found, ActivityQuery(search="rejected", limit=1))
    assert (page.matching, len(page.items), page.total) == (len(rejected), 1, len(found.entries))


def test_activity_goes_on_where_it_ended(database: Database) -> None:
    source = record_venue_run(database)
    events = [event for _, event in read_journal(database, source.id)]
    decisions = [(one.event_seq, one.decision) for one in read_decisions(database, source.id)]
    recorder = Recorder(
        database, Run("20260101-000000-aaaaaaaa", RunKind.LIVE, 1, source.strategy), batch=None
    )
    journal = Journal(database, recorder.run.id)
    growing, sizes = RunActivities(database), set[int]()
    for begin in range(1, len(events) + 1, 200):
        journal.append(events[begin - 1 : begin + 199])
        for event, decision in decisions:
            if begin <= event < begin + 200:
                recorder.event_seq = event
                recorder.decision(decision)
        recorder.flush()
        sizes.add(len(growing.of(recorder.run).entries))
    pause = Command("pause", BEGIN, BEGIN, {}, "test")
    journal.append([pause])
    found = growing.of(recorder.run)
    assert len(sizes) > 2
    assert (found.entries[0].event, found.entries[0].what) == (len(events) + 1, "command")
    assert found.entries[1:] == RunActivities(database).of(source).entries
    assert growing.of(recorder.run) is found  # nothing was recorded since


LEVELS = ("info", "error", "debug", "warning")
ENTRIES = [ActivityEntry(at, at, at, level, "risk", "", f"number {at}") for at, level in enumerate(LEVELS, 1)]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, [1, 2, 3, 4]),
        ({"level": "debug"}, [1, 2, 3, 4]),
        ({"level": "info"}, [1, 2, 4]),
        ({"level": "warning"}, [2, 4]),
        ({"level": "error"}, [2]),
        ({"search": "NUMBER 3"}, [3]),
        ({"offset": 1, "limit": 2}, [2, 3]),
    ],
)
def test_levels_and_words_select(query: dict[str, Any], expected: list[int]) -> None:
    page = activity_page(Activities(ENTRIES, 0), ActivityQuery(**query))
    assert [one.ts for one in page.items] == expected


# -- the log ---------------------------------------------------------------------------------------------


def test_the_log_keeps_its_latest_lines_without_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure(LogConfig(format="json", level="info"))
    logger = structlog.get_logger("test")
    before = log_page(log.recent.lines(), LogQuery()).last
    logger.debug("too quiet")
    logger.info("connected", url="wss://user:hunter22@venue.example", api_key="hunter22", feed="a\x1b[31m")
    try:
        raise ValueError("token=hunter22")
    except ValueError:
        logger.exception("it failed")
    page = log_page(log.recent.lines(), LogQuery(after=before))
    assert [(line.level, line.event) for line in page.items] == [
        ("info", "connected"),
        ("error", "it failed"),
    ]
    assert "hunter22" not in str(page)
    assert page.items[0].fields["api_key"] == "***"
    assert "\x1b" not in page.items[0].fields["feed"]
    assert "ValueError" in page.items[1].fields["exception"]
    assert capsys.readouterr().err.count("\n") == 2  # the log itself has the same lines


def test_the_ring_drops_the_oldest_lines_and_filters_the_others() -> None:
    ring = RecentLines(kept=3)
    for number in range(1, 6):
        ring(
            None,
            "info",
            {"event": f"line {number}", "level": "warning" if number % 2 else "info", "n": number},
        )
    page = log_page(ring.lines(), LogQuery())
    assert (page.first, page.last, [line.number for line in page.items]) == (3, 5, [3, 4, 5])
    assert [line.number for line in log_page(ring.lines(), LogQuery(level="warning")).items] == [3, 5]
    assert [line.number for line in log_page(ring.lines(), LogQuery(search="LINE n 4")).items] == [4]
    assert [line.number for line in log_page(ring.lines(), LogQuery(limit=1)).items] == [5]
    assert [line.number for line in log_page(ring.lines(), LogQuery(after=4)).items] == [5]
    assert log_page([], LogQuery(after=7)).last == 7


async def test_the_views_of_a_running_agent_grow_with_its_run(database: Database, tmp_path: Path) -> None:
    from tests.support.live import options

    async with (
        Sandbox(options(speed=400.0)) as sandbox,
        agent_with_page(sandbox, database, tmp_path) as (daemon, page),
        client(page.login_url()) as http,
    ):
        await until(lambda: handled(daemon) > 0)

        async def view(name: str) -> Any:
            async with http.get(f"{BASE}/runs/{daemon.run_id}/{name}") as response:
                return response.status, await response.json()

        async def trips() -> int:
            status, table = await view("trade-table")
            assert status == 200
            return int(table["total"])

        first = await trips()
        async with asyncio.timeout(60):
            while await trips() < first + 2:
                await asyncio.sleep(0.2)
        status, found = await view("activity")
        assert status == 200
        assert any("warm-up" in one["text"] for one in found["items"])
        status, found = await view("configuration")
        assert (status, found["strategy"]) == (200, "sma_cross")
        async with http.get(f"{BASE}/log") as response:
            assert response.status == 200
