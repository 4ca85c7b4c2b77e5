"""Runs are found by id, and their rows are read exactly."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import insert, text

from agent.core.errors import StoreError, UsageError
from agent.core.events import Fill, Order, Provenance, Sentiment
from agent.store.database import Database
from agent.store.prompts import read_prompts, save_prompts
from agent.store.queries import find_run, list_runs, read_decisions, read_frame, read_rows
from agent.store.recorder import Recorder
from agent.store.tables import runs
from tests.store.store_samples import ONE_OF_EACH, T0, a_run


@pytest.fixture
def three_runs(database: Database) -> Database:
    with database.write() as connection:
        for number, run_id in enumerate(("abc1", "abd2", "a_c3")):
            connection.execute(insert(runs), msgspec.structs.asdict(a_run(run_id, started_at=T0 + number)))
    return database


@pytest.mark.parametrize(
    ("which", "found"), [("latest", "a_c3"), ("abc1", "abc1"), ("abd", "abd2"), ("a_", "a_c3")]
)
def test_a_run_is_found_by_its_id_a_prefix_or_as_latest(three_runs: Database, which: str, found: str) -> None:
    assert find_run(three_runs, which).id == found


def test_an_id_that_is_a_prefix_of_another_id_is_found(three_runs: Database) -> None:
    with three_runs.write() as connection:
        connection.execute(insert(runs), msgspec.structs.asdict(a_run("ab")))
    assert find_run(three_runs, "ab").id == "ab"


@pytest.mark.parametrize(
    ("which", "message"),
    [("ab", "several runs begin with 'ab' .abc1, abd2"), ("x", "no run 'x' .the newest: a_c3, abd2, abc1")],
)
def test_an_unknown_or_ambiguous_id_is_a_usage_error(three_runs: Database, which: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_run(three_runs, which)


def test_an_empty_store_has_no_latest_run(database: Database) -> None:
    with pytest.raises(UsageError, match="tapewire backtest makes one"):
        find_run(database)


def test_the_provenance_of_a_sentiment_is_text_that_a_database_can_hold(database: Database) -> None:
    """NUL and a lone surrogate become U+FFFD; the rest is kept as it was."""
    told = Provenance("qwen3:8b", "a" * 64, 7, ("bull\0ish", "\ud83d half"), "deadline", "señal 📈")
    with Recorder(database, a_run()) as recorder:
        recorder.sentiment(Sentiment("n1", T0, T0, 0.1, 0.2, 0.7, "m", provenance=told))
    (found,) = read_rows(database, "run-1", Sentiment)
    answers = ("bull\ufffdish", "\ufffd half")
    assert found.provenance == Provenance("qwen3:8b", "a" * 64, 7, answers, "deadline", "señal 📈")


def test_a_prompt_is_stored_once_by_its_hash(database: Database) -> None:
    save_prompts(database, {"a": "first", "b": "second"})
    save_prompts(database, {"a": "another", "c": "third"})
    assert read_prompts(database, ["a", "c", "d"]) == {"a": "first", "c": "third"}
    save_prompts(database, {})
    assert read_prompts(database, []) == {}


def test_runs_are_listed_newest_first(three_runs: Database) -> None:
    assert [run.id for run in list_runs(three_runs)] == ["a_c3", "abd2", "abc1"]
    assert [run.id for run in list_runs(three_runs, 1)] == ["a_c3"]


@pytest.fixture
def recorded(database: Database) -> Database:
    for run_id in ("run-1", "run-2"):
        with Recorder(database, a_run(run_id)) as recorder:
            for decision in ONE_OF_EACH:
                recorder.decision(decision)
            recorder.finish(first_event_at=T0, last_event_at=T0, final_equity=Decimal(1), metrics={})
    return database


def test_rows_of_one_kind_belong_to_one_run_and_are_exact(recorded: Database) -> None:
    (fill,) = read_rows(recorded, "run-2", Fill)
    assert fill == next(one for one in ONE_OF_EACH if isinstance(one, Fill))
    assert str(fill.qty) == "0.010"


def test_a_frame_has_decimals_as_floats_and_enums_as_text(recorded: Database) -> None:
    orders = read_frame(recorded, "run-1", "orders")
    assert len(orders) == 1
    row = orders.iloc[0]
    assert (row.seq, row.side, row.type, row.qty, row.price) == (3, "BUY", "LIMIT", 0.01, 43210.1)
    assert row.trigger != row.trigger
    assert read_frame(recorded, "run-1", "predictions").up.tolist() == [0.5]


def test_the_frame_of_a_run_without_rows_has_its_columns(database: Database) -> None:
    fills = read_frame(database, "nothing", "fills")
    assert len(fills) == 0
    assert {"ts", "symbol", "qty", "price", "fee"} <= set(fills.columns)
    assert fills.price.dtype == float


@pytest.mark.parametrize(("column", "value"), [("qty", "many"), ("side", "SIDEWAYS")])
def test_a_damaged_row_is_a_store_error(recorded: Database, column: str, value: str) -> None:
    with recorded.write() as connection:
        connection.execute(text(f"UPDATE orders SET {column} = :value").bindparams(value=value))
    for reading in (read_decisions(recorded, "run-1"), read_rows(recorded, "run-1", Order)):
        with pytest.raises(StoreError, match="a row of orders"):
            list(reading)


@pytest.mark.parametrize(
    "value", ["5", '[["BTC", 0.1]]', '[["BTC", null, 0.5, 0.5]]', '[["BTC", 0, 1, 0, "###"]]']
)
def test_damaged_answers_for_single_assets_are_a_store_error(database: Database, value: str) -> None:
    with Recorder(database, a_run()) as recorder:
        recorder.sentiment(Sentiment("n1", T0, T0, 0.1, 0.2, 0.7))
        recorder.flush()
        with database.write() as connection:
            connection.exec_driver_sql(f"UPDATE sentiments SET assets = '{value}'")
        with pytest.raises(StoreError, match="a row of sentiments"):
            list(read_rows(database, "run-1", Sentiment))


def test_an_open_read_does_not_block_a_writer(recorded: Database, tmp_path: Path) -> None:
    decisions = read_decisions(recorded, "run-1")
    next(decisions)
    Recorder(recorded, a_run("run-3"))
    assert len(list(decisions)) == len(ONE_OF_EACH) - 1
    assert find_run(recorded, "run-3").id == "run-3"
