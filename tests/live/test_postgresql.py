"""PostgreSQL as the store: the daemon over a restart; a backtest, verified and reported by the CLI."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agent.core.events import Command, Fill, News
from agent.live.app import make_agent
from agent.live.daemon import Daemon
from agent.sandbox import Sandbox
from agent.store.database import Database, open_database
from agent.store.queries import find_run, list_runs, read_decisions
from agent.store.runs import RunStatus
from tests.cli.conftest import Outcome, tapewire
from tests.store.conftest import database_url, postgres_cluster
from tests.support.live import (
    SAMPLES,
    SENTIMENT,
    assert_sound,
    handled,
    living,
    load_words,
    of,
    settings,
    until,
)

__all__ = ["database_url", "postgres_cluster", "tapewire"]

pytestmark = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with closing(open_database(database_url)) as opened:
        yield opened


@pytest.mark.slow
async def test_a_run_continues_after_a_restart(
    sandbox: Sandbox, database: Database, database_url: str, tmp_path: Path
) -> None:
    config = settings(sandbox.rest_url, tmp_path, strategy=SENTIMENT, store={"url": database_url})
    for complete in (False, True):
        await live(
            make_agent(config, database, load_model=load_words, clock=sandbox.clock),
            database,
            complete=complete,
        )
    assert [run.status for run in list_runs(database)] == [RunStatus.COMPLETE]
    events = assert_sound(database, "latest", config)
    assert of(News, events)
    assert [one.action for one in of(Command, events)].count("warm-up") == 2


async def live(daemon: Daemon, database: Database, *, complete: bool) -> None:
    """Run the agent until it has traded on headlines."""
    async with living(daemon, complete=complete):
        await until(lambda: handled(daemon) >= 20 and traded(database))


def traded(database: Database) -> bool:
    return any(isinstance(item.decision, Fill) for item in read_decisions(database, find_run(database).id))


def test_a_backtest_is_recorded_verified_and_reported(
    tapewire: Callable[..., Outcome], database_url: str
) -> None:
    Path("config.toml").write_text(f'[store]\nurl = "{database_url}"\n')
    klines = ("--klines", SAMPLES / "BTCUSDT-1m.csv")
    done = tapewire(
        "backtest", *klines, "--strategy", "sma_cross", "--set", "fast=20", "--set", "slow=100", "--json"
    )
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert result["trades"] > 5
    verified = tapewire("verify", result["run"])
    assert (verified.code, verified.out[:10]) == (0, "identical:"), verified.err
    reported = tapewire("report", result["run"], "--json")
    assert reported.code == 0, reported.err
    assert json.loads(reported.out)["metrics"]["trades"] == result["metrics"]["trades"]
    assert not list(Path().rglob("*.db")), "nothing was written beside the server"
