"""Sources of strategies are stored once, found by their hash, and trusted by a copy outside of the store."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from sqlalchemy import func, select, update

from agent.core.errors import StoreError
from agent.core.events import StrategyChange
from agent.store.database import Database
from agent.store.recorder import Recorder
from agent.store.strategy_history import recorded_versions
from agent.store.strategy_sources import (
    find_source,
    is_trusted,
    read_source,
    save_source,
    trust_source,
)
from agent.store.tables import strategy_sources
from strategies import SOURCE_SHA256
from tests.store.store_samples import T0, a_run

# CRLF, an encoding of its own, and no line feed at the end: a source is bytes
SOURCE = b"# -*- coding: latin-1 -*-\r\nname = '\xe4'"
SHA256 = hashlib.sha256(SOURCE).hexdigest()


def test_a_source_is_stored_once_and_byte_by_byte(database: Database) -> None:
    assert read_source(database, SHA256) is None
    assert save_source(database, SOURCE) == save_source(database, SOURCE) == SHA256
    assert read_source(database, SHA256) == SOURCE
    with database.read() as connection:
        assert connection.scalar(select(func.count()).select_from(strategy_sources)) == 1


def test_a_source_is_found_by_the_beginning_of_its_hash(database: Database) -> None:
    # By counting: these two sources have hashes that begin with the same digit
    first = next(n for n in range(99) if hashlib.sha256(b"%d" % n).hexdigest().startswith("0"))
    second = next(n for n in range(first + 1, 99) if hashlib.sha256(b"%d" % n).hexdigest().startswith("0"))
    one, other = (save_source(database, b"%d" % n) for n in (first, second))
    assert find_source(database, one[:12]) == (one, b"%d" % first)
    assert find_source(database, other) == (other, b"%d" % second)
    assert find_source(database, "0") is None
    assert find_source(database, "%") is None


def test_a_damaged_source_is_not_returned(database: Database) -> None:
    save_source(database, SOURCE)
    with database.write() as connection:
        connection.execute(update(strategy_sources).values(source=SOURCE + b" "))
    with pytest.raises(StoreError, match=f"the source {SHA256[:12]} of a strategy is damaged"):
        read_source(database, SHA256)


def test_a_source_is_trusted_by_an_unchanged_copy(tmp_path: Path) -> None:
    assert not is_trusted(None, SHA256)
    assert not is_trusted(tmp_path, SHA256)
    path = trust_source(tmp_path, SOURCE)
    assert path == trust_source(tmp_path, SOURCE) == tmp_path / "strategies" / f"{SHA256}.py"
    assert is_trusted(tmp_path, SHA256)
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    path.write_bytes(SOURCE + b" ")
    assert not is_trusted(tmp_path, SHA256)


def test_the_strategies_of_a_run_are_listed_with_the_first_one_first(database: Database) -> None:
    own = save_source(database, SOURCE)
    run = a_run(strategy="mine.py", params={"fast": 3}, versions={SOURCE_SHA256: "5e" * 32})
    with Recorder(database, run) as recorder:
        recorder.event_seq = 7
        recorder.decision(
            StrategyChange(T0 + 5, "/home/me/mine.py", "Mine", own, '{"fast": 5}', True, "ann", "slow")
        )
        recorder.event_seq = 9
        recorder.decision(StrategyChange(T0 + 6, "sma_cross", "SmaCross", "", "{}", False, "ann"))
        recorder.flush()
    first, second, third = recorded_versions(database, run)
    assert (first.strategy, first.source, first.params, first.since) == (
        "mine.py",
        "5e" * 32,
        {"fast": 3},
        T0,
    )
    assert (first.event, first.stored) == (0, False)
    assert (second.strategy, second.source, second.values) == ("mine.py:Mine", own, "fast = 5")
    assert (second.event, second.by, second.flatten, second.sleeve) == (7, "ann", True, "slow")
    assert (second.stored, third.stored) == (True, False)
    assert (third.strategy, third.source, third.params, third.event) == ("sma_cross", "", {}, 9)
