"""Tags and notes of runs, on each kind of database."""

from __future__ import annotations

import pytest

from agent.core.errors import UsageError
from agent.store.database import Database
from agent.store.queries import find_run, list_runs
from agent.store.recorder import Recorder
from agent.store.run_deletion import delete_run
from agent.store.run_labels import MAX_NOTE, MAX_TAG, RunLabels, read_labels, set_note, set_tags
from tests.store.store_samples import ONE_OF_EACH, T0, a_run


def test_tags_are_a_set_and_a_note_is_replaced(database: Database) -> None:
    set_tags(database, "run-1", ("b", "a", "a"))
    set_tags(database, "run-1", ("c", "b"), remove=("a",))
    set_note(database, "run-1", "first", T0)
    set_note(database, "run-1", "  second\nline ", T0 + 1)
    set_tags(database, "wf-1", ("a",))
    assert read_labels(database) == {
        "run-1": RunLabels(("b", "c"), "second line"),
        "wf-1": RunLabels(("a",)),
    }
    set_note(database, "run-1", "", T0)
    set_tags(database, "run-1", remove=("b", "c", "absent"))
    assert read_labels(database).keys() == {"wf-1"}


def test_a_tag_that_is_added_and_removed_at_once_is_removed(database: Database) -> None:
    set_tags(database, "run-1", ("a", "b"), remove=("a",))
    assert read_labels(database)["run-1"].tags == ("b",)


@pytest.mark.parametrize("tag", ["", "two words", "a,b", "tab\t", "bell\a", "x" * (MAX_TAG + 1)])
def test_what_is_no_tag_is_refused_and_changes_nothing(database: Database, tag: str) -> None:
    with pytest.raises(UsageError, match="is no tag"):
        set_tags(database, "run-1", ("good", tag))
    assert read_labels(database) == {}


def test_a_note_that_is_too_long_is_refused(database: Database) -> None:
    set_note(database, "run-1", "x" * MAX_NOTE, T0)
    with pytest.raises(UsageError, match="more than 2,000 characters"):
        set_note(database, "run-1", "x" * (MAX_NOTE + 1), T0)
    assert read_labels(database)["run-1"].note == "x" * MAX_NOTE


def test_deletion_removes_rows_of_all_kinds(database: Database) -> None:
    with Recorder(database, a_run()) as recorder:
        recorder.event_seq = 1
        for decision in ONE_OF_EACH:
            recorder.decision(decision)
        recorder.equity([T0], [1.0], [1.0], [0.0])
    set_tags(database, "run-1", ("a",))
    counted: list[int] = []
    done = delete_run(database, find_run(database), progress=counted.append)
    # one row for each decision, an equity sample, a tag, and the run
    assert done.rows == len(ONE_OF_EACH) + 3
    assert sum(counted) == done.rows - 1
    assert list_runs(database) == []
    assert read_labels(database) == {}
