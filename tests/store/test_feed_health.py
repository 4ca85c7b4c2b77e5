"""The last known health of each feed is stored per run."""

from __future__ import annotations

from agent.live.feed_health import read_feed_health, write_feed_health
from agent.live.interfaces.producer import Health
from agent.store.database import Database
from agent.store.recorder import Recorder
from tests.store.store_samples import a_run


def test_writing_feed_health_replaces_the_earlier_rows(database: Database) -> None:
    with Recorder(database, a_run()):
        feeds = [
            Health("bybit", "live", messages=3),
            Health("wire", "waiting", errors=2, last_error="went\0away"),
        ]
        write_feed_health(database, "run-1", feeds, 1_000)
        feeds[0].messages = 9
        write_feed_health(database, "run-1", feeds, 2_000)
        write_feed_health(database, "run-1", feeds, 2_000, again=True)
        found = read_feed_health(database, "run-1")
    assert [(one.name, one.state, one.messages, one.errors, one.written_at) for one in found] == [
        ("bybit", "live", 9, 0, 2_000),
        ("wire", "waiting", 0, 2, 2_000),
    ]
    assert found[1].last_error == "went\ufffdaway"


def test_each_run_has_its_own_feed_health(database: Database) -> None:
    with Recorder(database, a_run()), Recorder(database, a_run("run-2")):
        write_feed_health(database, "run-1", [Health("bybit")], 1)
        write_feed_health(database, "run-2", [], 1)
        assert len(read_feed_health(database, "run-1")) == 1
        assert read_feed_health(database, "run-2") == []
