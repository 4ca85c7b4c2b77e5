"""A backtest is verified with each bar as an event, or in blocks, as it was made: both find the same."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

import msgspec
import pytest

from agent.config import parse
from agent.core.errors import UsageError
from agent.replay.backtest import backtest
from agent.replay.history import History, Plan
from agent.replay.verify import Verification, inputs, verify
from agent.store.database import Database, open_database
from agent.store.queries import find_run
from tests.support.live import SAMPLES, Words

KLINES = ((SAMPLES / "BTCUSDT-1m.csv", None), (SAMPLES / "ETHUSDT-1m.csv", None))
STRATEGIES = {"sentiment": {"position_size": 0.5, "allow_short": True}, "sma_cross": {"fast": 20, "slow": 80}}


@pytest.fixture(scope="module", params=STRATEGIES)
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a backtest of bars, headlines and funding, which closes its positions at the end."""
    file = tmp_path_factory.mktemp("verify") / "store.db"
    strategy = {"name": request.param, "params": STRATEGIES[request.param]}
    config = parse({"strategy": strategy}, where="test")
    with closing(open_database(f"sqlite:///{file}")) as database:
        plan = Plan(KLINES, SAMPLES / "headlines.csv", close_out=True)
        backtest(History(plan, config), database, scorer=Words())
    return file


@pytest.fixture
def copy(store: Path, tmp_path: Path) -> Iterator[tuple[sqlite3.Connection, Database]]:
    """A copy of the store, to be altered."""
    file = tmp_path / "store.db"
    with closing(sqlite3.connect(store)) as connection:
        connection.execute(f"VACUUM INTO '{file}'")
    with (
        closing(sqlite3.connect(file)) as connection,
        closing(open_database(f"sqlite:///{file}")) as database,
    ):
        yield connection, database


def both(database: Database) -> Verification:
    """Verify the run in both ways; return what they agree on."""
    one, other = (verify(database, find_run(database), in_blocks=in_blocks) for in_blocks in (False, True))
    assert msgspec.json.encode(one) == msgspec.json.encode(other)
    return one


def test_a_backtest_is_identical_in_both_ways(copy: tuple[sqlite3.Connection, Database]) -> None:
    run = find_run(copy[1])
    found = both(copy[1])
    assert (found.identical, found.events, found.decisions) == (True, run.events, run.decisions)
    assert found.decisions > 100


def test_a_run_of_several_strategies_has_no_blocks(tmp_path: Path) -> None:
    sleeves = [{"name": name, "strategy": "sma_cross", "share": "0.5"} for name in ("one", "other")]
    with closing(open_database(f"sqlite:///{tmp_path / 'store.db'}")) as database:
        run = backtest(History(Plan(KLINES[:1]), parse({"sleeves": sleeves}, where="test")), database).run
        assert verify(database, run).identical
        with pytest.raises(UsageError, match="handled each bar as an event, as a run of several strategies"):
            verify(database, run, in_blocks=True)


@pytest.mark.parametrize("at", ["min", "max"])
@pytest.mark.parametrize("table", ["signals", "orders", "fills"])
@pytest.mark.parametrize("change", ["UPDATE {table} SET ts = 1", "DELETE FROM {table}"])
def test_both_ways_find_the_same_difference_on_the_same_event(
    change: str, table: str, at: str, copy: tuple[sqlite3.Connection, Database]
) -> None:
    connection, database = copy
    seq, event_seq = connection.execute(f"SELECT {at}(seq), event_seq FROM {table}").fetchone()
    with connection:
        connection.execute(f"{change.format(table=table)} WHERE seq = {seq}")
    found = both(database)
    assert found.divergence is not None
    assert (found.divergence.seq, found.divergence.event_seq) == (seq, event_seq)
    assert (found.events, found.divergence.again is None) == (event_seq, False)
    event = next(islice(inputs(database, find_run(database))[1], event_seq - 1, None))
    assert msgspec.json.encode(found.event) == msgspec.json.encode(event)
