"""`tapewire runs`: list, filter, sort, tag, annotate and delete runs of a real store."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from agent.core.errors import StoreError
from agent.core.events import Kline
from agent.store import run_deletion
from agent.store.commit_mark import CommitMark, CommitMarkFile, mark_beside, read_mark
from agent.store.database import open_database
from agent.store.journal import Journal
from agent.store.lock import store_lock
from agent.store.recorder import Recorder
from agent.store.runs import Run, RunKind, RunStatus
from tests.cli.conftest import Outcome
from tests.store.store_samples import ONE_OF_EACH, T0

Tapewire = Callable[..., Outcome]
STORE = Path("var/tapewire.db")
URL = f"sqlite:///{STORE}"
DAY = 86_400_000


def record(name: str, *, status: RunStatus = RunStatus.COMPLETE, journal: int = 0, **fields: Any) -> None:
    """Record a run with one decision of each kind, and `journal` events."""
    kind = fields.pop("kind", RunKind.BACKTEST)
    symbols = fields.pop("symbols", ("BTCUSDT",))
    total, sharpe = fields.pop("total_return", None), fields.pop("sharpe", None)
    config = {"market": {"symbols": symbols}, "window": {"part_of": fields.pop("part_of", "")}}
    figures = {"performance": {"total_return": total, "sharpe": sharpe}} if total is not None else {}
    run = Run(name, kind, fields.pop("started_at", T0), fields.pop("strategy", "sma_cross"), config=config)
    with closing(open_database(URL)) as database:
        recorder = Recorder(database, replace(run, **fields))
        recorder.event_seq = 1
        for decision in ONE_OF_EACH:
            recorder.decision(decision)
        recorder.equity([T0, T0 + 1], [1.0, 2.0], [1.0, 2.0], [0.0, 0.0])
        if journal:
            bars = [Kline("BTCUSDT", 1, n, n + 1, n + 1, 1.0, 1.0, 1.0, 1.0, 1.0) for n in range(journal)]
            Journal(database, name).append(bars)
        recorder.flush()
        if status is not RunStatus.RUNNING:
            ends = {"first_event_at": T0, "last_event_at": T0 + DAY, "final_equity": 1, "metrics": figures}
            recorder.finish(status=status, **ends)  # type: ignore[arg-type]


@pytest.fixture
def four(tapewire: Tapewire) -> Tapewire:
    """A store with three backtests and a live run."""
    record("run-1", total_return=0.02, sharpe=1.0, started_at=T0)
    record("run-2", total_return=-0.03, sharpe=2.0, started_at=T0 + DAY, strategy="mine.py:Mine")
    record("run-3", total_return=0.05, started_at=T0 + 2 * DAY, symbols=("ETHUSDT",))
    live = RunStatus.INTERRUPTED
    record("run-4", status=live, kind=RunKind.LIVE, started_at=T0 + 3 * DAY, journal=5)
    return tapewire


def ids(tapewire: Tapewire, *args: str) -> list[str]:
    done = tapewire("runs", *args, "--json")
    assert done.code == 0, done.err
    return [row["id"] for row in json.loads(done.out)["runs"]]


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ((), ["run-4", "run-3", "run-2", "run-1"]),
        (("--sort", "started"), ["run-1", "run-2", "run-3", "run-4"]),
        (("--sort", "-return"), ["run-3", "run-1", "run-2", "run-4"]),  # without a value: last
        (("--sort", "return"), ["run-2", "run-1", "run-3", "run-4"]),
        (("--sort", "-sharpe"), ["run-2", "run-1", "run-4", "run-3"]),
        (("--kind", "backtest"), ["run-3", "run-2", "run-1"]),
        (("--kind", "live"), ["run-4"]),
        (("--strategy", "mine"), ["run-2"]),
        (("--strategy", "mine.py:Mine"), ["run-2"]),
        (("--symbol", "ethusdt"), ["run-3"]),
        (("--since", "2025-01-03"), ["run-4", "run-3"]),
        (("--since", "1d"), []),
        (("--status", "interrupted"), ["run-4"]),
        (("--limit", "2"), ["run-4", "run-3"]),
        (("--kind", "backtest", "--symbol", "BTCUSDT", "--sort", "id"), ["run-1", "run-2"]),
    ],
)
def test_list_filters_and_sorts(four: Tapewire, args: tuple[str, ...], expected: list[str]) -> None:
    assert ids(four, *args) == expected


def test_the_table_has_a_line_a_run(four: Tapewire) -> None:
    shown = four("runs", "--limit", "2")
    assert shown.code == 0
    assert "the first 2 of 4" in shown.out
    assert "interrupted" in shown.out
    assert "+5.00%" in shown.out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--sort", "shrpe"), "did you mean sharpe?"),
        (("--kind", "paper"), "--kind paper"),
        (("--status", "done"), "--status done"),
        (("--since", "yesterday"), "--since"),
        (("tag", "nothing", "x"), "no run 'nothing'"),
        (("tag", "run", "x"), "several runs begin with 'run'"),
        (("tag", "run-1", "two words"), "'two words' is no tag"),
        (("tag", "wf-1", "x"), "no walk-forward 'wf-1'"),
        (("delete", "run-1", "--json"), "--json can't ask"),
    ],
)
def test_wrong_usage_is_one_line(four: Tapewire, args: tuple[str, ...], message: str) -> None:
    done = four("runs", *args)
    assert done.code == 2
    assert message in done.err
    assert len(ids(four)) == 4


def test_tags_and_notes(four: Tapewire) -> None:
    assert "run-1: base, tried" in four("runs", "tag", "run-1", "tried", "base", "base").out
    four("runs", "tag", "run-3", "tried")
    assert ids(four, "--tag", "tried") == ["run-3", "run-1"]
    assert ids(four, "--tag", "tried", "--tag", "base") == ["run-1"]
    four("runs", "tag", "run-1", "best", "--remove", "tried")
    assert json.loads(four("runs", "tag", "run-1", "--json").out)["tags"] == ["base", "best"]
    four("runs", "note", "run-2", "with [bold]the[/] old\n\x1b[2Jmodel")
    assert "with [bold]the[/] old" in four("runs").out
    assert json.loads(four("runs", "note", "run-2", "--json").out)["note"] == "with [bold]the[/] old [2Jmodel"
    four("runs", "note", "run-2", "")
    assert "run-2: no note" in four("runs", "note", "run-2").out


def test_folds_are_one_line_under_their_walk_forward(tapewire: Tapewire) -> None:
    record("run-1", total_return=0.1, part_of="wf-a fold 1", started_at=T0)
    record("run-2", total_return=0.2, part_of="wf-a fold 2", started_at=T0 + 1)
    record("run-3", total_return=0.0, started_at=T0 + 2)
    lines = json.loads(tapewire("runs", "--json").out)["runs"]
    assert [line["id"] for line in lines] == ["run-3", "wf-a"]
    study = lines[1]
    assert (study["kind"], study["folds"], study["status"]) == ("walkforward", 2, "complete")
    assert study["total_return"] == pytest.approx(1.1 * 1.2 - 1)  # without its result file: compounded
    assert ids(tapewire, "--kind", "walkforward") == ["wf-a"]
    assert "run-2" not in tapewire("runs").out
    assert "  run-2" in tapewire("runs", "--folds").out
    tapewire("runs", "tag", "wf-a", "judged")
    assert ids(tapewire, "--tag", "judged") == ["wf-a"]
    tapewire("runs", "tag", "run-2", "odd")  # a fold's own tag finds its walk-forward
    assert ids(tapewire, "--tag", "odd") == ["wf-a"]


def rows_of(run: str) -> int:
    """Rows of a run in all tables of the store."""
    with closing(sqlite3.connect(STORE)) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        counted = 0
        for table in tables:
            columns = {row[1] for row in database.execute(f"PRAGMA table_info({table})")}
            column = "run_id" if "run_id" in columns else "id" if table == "runs" else ""
            if column:
                query = f"SELECT count(*) FROM {table} WHERE {column} = ?"
                counted += database.execute(query, (run,)).fetchone()[0]
        return counted


def test_delete_leaves_no_row_of_the_run_and_all_of_the_others(four: Tapewire) -> None:
    four("runs", "tag", "run-1", "base")
    four("runs", "note", "run-1", "text")
    before, others = rows_of("run-1"), rows_of("run-2")
    assert before > len(ONE_OF_EACH)
    done = four("runs", "delete", "run-1", "--yes", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["deleted"] == [{"run": "run-1", "rows": before, "kept_files": []}]
    assert (rows_of("run-1"), rows_of("run-2")) == (0, others)
    assert four("doctor", "--full").code in (0, 1)
    assert ids(four, "--tag", "base") == []


@pytest.mark.parametrize(("answer", "left"), [("y\n", 3), ("n\n", 4), ("", 4)])
def test_delete_asks(four: Tapewire, monkeypatch: pytest.MonkeyPatch, answer: str, left: int) -> None:
    monkeypatch.setattr("sys.stdin", StringIO(answer))
    done = four("runs", "delete", "run-1")
    assert "run-1: backtest, complete, sma_cross" in done.out
    assert "Delete 1 run?" in done.err
    assert len(ids(four)) == left
    assert done.code == (0 if left == 3 else 1)


@pytest.mark.parametrize(
    ("kind", "status", "refused"),
    [
        (RunKind.BACKTEST, RunStatus.RUNNING, True),
        (RunKind.LIVE, RunStatus.RUNNING, True),
        (RunKind.LIVE, RunStatus.INTERRUPTED, True),
        (RunKind.BACKTEST, RunStatus.INTERRUPTED, False),
        (RunKind.BACKTEST, RunStatus.FAILED, False),
        (RunKind.LIVE, RunStatus.COMPLETE, False),
    ],
)
def test_a_run_that_may_be_being_written_is_refused(
    tapewire: Tapewire, kind: RunKind, status: RunStatus, refused: bool
) -> None:
    record("run-1", kind=kind, status=status)
    done = tapewire("runs", "delete", "run-1", "--yes")
    assert done.code == (3 if refused else 0), done.err
    assert bool(ids(tapewire)) == refused
    if refused:
        assert "--unfinished" in done.err
        assert tapewire("runs", "delete", "run-1", "--yes", "--unfinished").code == 0
        assert ids(tapewire) == []


def test_one_refused_run_keeps_all(four: Tapewire) -> None:
    assert four("runs", "delete", "run-1", "run-4", "--yes").code == 3
    assert len(ids(four)) == 4


def test_nothing_is_deleted_while_an_agent_holds_the_store(four: Tapewire) -> None:
    with closing(open_database(URL)) as database, store_lock(database, Path("elsewhere")):
        done = four("runs", "delete", "run-4", "--yes", "--unfinished")
    assert done.code == 3
    assert "in use by another agent" in done.err
    assert rows_of("run-4") > 0


@pytest.mark.parametrize(("marked", "left"), [("run-4", False), ("run-1", True)])
def test_the_commit_mark_of_a_deleted_run_is_removed(four: Tapewire, marked: str, left: bool) -> None:
    """Otherwise the next start would miss the run."""
    mark = mark_beside(STORE)
    file = CommitMarkFile(mark)
    file.write(CommitMark(marked, 5))
    file.close()
    assert four("runs", "delete", "run-4", "--yes", "--unfinished").code == 0
    assert (read_mark(mark) is not None) == left


def test_an_interrupted_deletion_can_be_repeated(four: Tapewire, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise StoreError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(run_deletion, "_remove_mark", broken)
        assert four("runs", "delete", "run-1", "--yes").code == 1
    (row,) = json.loads(four("runs", "--json", "--status", "failed").out)["runs"]
    assert (row["id"], row["error"]) == ("run-1", "its deletion was interrupted")
    assert four("runs", "delete", "run-1", "--yes").code == 0
    assert rows_of("run-1") == 0


def test_an_empty_store_says_how_to_begin(tapewire: Tapewire) -> None:
    open_database(URL).close()
    assert "no run is recorded yet" in tapewire("runs").out
