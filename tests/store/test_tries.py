"""The ledger of tries counts each different evaluation once, on each kind of database."""

from __future__ import annotations

from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import UsageError
from agent.store.database import Database, open_database
from agent.store.queries import find_run
from agent.store.recorder import Recorder
from agent.store.run_deletion import delete_run
from agent.store.runs import InputFile
from agent.store.tries import (
    Study,
    Try,
    distinct,
    find_study,
    is_assistant,
    read_tries,
    record_tries,
    study_of,
    study_of_run,
    tries_on,
)
from tests.store.store_samples import a_run

DAY = 86_400_000
FILES = {name: InputFile("klines", f"{name}.csv", f"sha-{name}", name) for name in ("BTC", "ETH", "SOL")}

GROWN = InputFile("klines", "BTC.csv", "sha-BTC-and-a-bar", "BTC")
RENAMED = InputFile("klines", "copy.csv", "sha-BTC", "OTHER")


def study(names: str = "BTC ETH", start: int = 0, end: int = 10) -> Study:
    return study_of([FILES[name] for name in names.split()], start * DAY, end * DAY)


def evaluation(variant: str = "a", *, run: str = "", by: str = "cli", sharpe: float | None = 0.1) -> Try:
    return Try("", variant, by, "backtest", "mine", {"fast": 3}, DAY, 30, sharpe, 0.0, 3.0, 0.05, run)


def test_a_study_is_the_content_of_the_bars_and_the_window() -> None:
    moved = [InputFile("klines", "elsewhere.csv", "sha-BTC", "BTC"), InputFile("news", "n.csv", "sha-n")]
    assert study_of(moved, 0, 10 * DAY) == study("BTC")
    assert study("ETH BTC") == study("BTC ETH")
    assert len({study(names, 0, end).id for names in ("BTC", "ETH", "BTC ETH") for end in (9, 10)}) == 6


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (study("BTC ETH", 0, 10), True),
        (study("BTC ETH", 9, 20), True),  # overlaps
        (study("BTC ETH", 10, 20), False),  # begins at the end
        (study("BTC SOL", 5, 6), True),  # one file is shared
        (study("SOL", 0, 10), False),
        (study_of([GROWN], 0, 11 * DAY), True),  # the same market, with a bar more
        (study_of([GROWN], 10 * DAY, 11 * DAY), False),
        (study_of([RENAMED], 0, 10 * DAY), True),  # the same file
    ],
)
def test_data_are_the_same_if_a_file_and_time_are_shared(
    database: Database, other: Study, same: bool
) -> None:
    record_tries(database, study(), [evaluation("a")])
    record_tries(database, other, [evaluation("b")])
    found = [one.variant for one in tries_on(database, study())]
    assert found == (["a", "b"] if same else ["a"])


def test_an_evaluation_is_read_as_it_was_recorded(database: Database) -> None:
    given_ones = [evaluation("a", run="run-1"), evaluation("b", by="mcp Some \x00client", sharpe=None)]
    record_tries(database, study(), given_ones)
    first, second = read_tries(database)
    assert (first.study, first.params, first.sharpe, first.run) == (study().id, {"fast": 3}, 0.1, "run-1")
    assert second.sharpe is None
    assert second.by == "mcp Some \N{REPLACEMENT CHARACTER}client"
    assert first.recorded_at > 0
    assert first.id < second.id
    assert study_of_run(database, "run-1") == study()
    assert study_of_run(database, "run-2") is None
    assert find_study(database, study().id[:5]) == study()
    with pytest.raises(UsageError, match="no study 'zz'"):
        find_study(database, "zz")


def test_a_result_replaces_the_evaluation_that_was_begun(database: Database) -> None:
    begun = Try("", "a", "cli", "walkforward", "mine", {}, DAY, 0, None, None, None, None, "wf-1", True)
    (first,) = record_tries(database, study(), [begun])
    assert [(one.held_out, one.periods) for one in distinct(tries_on(database, study()))] == [(True, 0)]
    record_tries(database, study(), [evaluation("a")])
    assert [one.periods for one in distinct(tries_on(database, study()))] == [30]
    record_tries(database, study(), [evaluation("a", run="wf-1")], instead_of=first)
    assert [one.run for one in read_tries(database)] == ["", "wf-1"]


def test_a_deleted_run_stays_a_try(database: Database) -> None:
    Recorder(database, a_run())
    record_tries(database, study(), [evaluation("a", run="run-1")])
    delete_run(database, find_run(database))
    assert [one.run for one in read_tries(database)] == ["run-1"]


def test_an_assistant_is_one_that_came_by_mcp() -> None:
    assert [is_assistant(by) for by in ("mcp Claude", "mcp", "cli", "python", "api mcp", "mcpx")] == [
        True,
        True,
        *[False] * 4,
    ]


@pytest.mark.slow
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(1, 3)), max_size=12))
def test_each_variant_counts_once_in_each_window(batches: list[tuple[int, int, int]]) -> None:
    """Whatever is evaluated in whatever order: the count is that of a set of (window, variant)."""
    windows = [study("BTC", start, start + 5) for start in (0, 2, 4, 9)]
    with closing(open_database("sqlite://")) as database:
        for window, variant, times in batches:
            record_tries(database, windows[window], [evaluation(f"v{variant}")] * times)
        everything = read_tries(database)
        assert len(everything) == sum(times for *_, times in batches)
        assert [one.id for one in everything] == sorted({one.id for one in everything})
        for window in windows:
            expected = {
                (windows[at].id, f"v{variant}")
                for at, variant, _ in batches
                if windows[at].start < window.end and window.start < windows[at].end
            }
            found = [(one.study, one.variant) for one in distinct(tries_on(database, window))]
            in_order = dict.fromkeys((one.study, one.variant) for one in everything)
            assert found == [one for one in in_order if one in expected]
