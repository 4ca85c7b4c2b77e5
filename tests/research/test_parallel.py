"""Work over processes: results in order, progress counted, ended by the first error but no lost process."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from agent.core.errors import DataError, TapewireError
from agent.research.parallel import run_parallel


def double(value: int) -> int:
    if value < 0:
        raise DataError(f"{value} is negative", hint="use another one")
    return 2 * value


def double_once_killed(task: tuple[Path, int]) -> int:
    """Double a number; the first process that comes to 3 is killed."""
    folder, value = task
    kill_once(folder / "killed", value == 3)
    return double(value)


def kill_once(mark: Path, wanted: bool) -> None:
    if wanted and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def leave(value: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return value


def note(task: tuple[Path, int]) -> None:
    folder, value = task
    (folder / str(value)).touch()
    double(value)


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_results_are_in_the_order_of_the_tasks(jobs: int) -> None:
    done: list[None] = []
    assert run_parallel(double, [3, 1, 2], jobs=jobs, advance=lambda: done.append(None)) == [6, 2, 4]
    assert len(done) == 3


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_an_error_is_raised_unchanged_and_drops_what_has_not_begun(jobs: int, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"-1 is negative \(use another one\)"):
        run_parallel(note, [(tmp_path, value) for value in (-1, *range(40))], jobs=jobs)
    assert len(list(tmp_path.iterdir())) < 40


@pytest.mark.slow
def test_a_killed_process_loses_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done: list[None] = []
    tasks = [(tmp_path, value) for value in range(6)]
    found = run_parallel(double_once_killed, tasks, jobs=2, advance=lambda: done.append(None))
    assert found == [0, 2, 4, 6, 8, 10]
    assert (tmp_path / "killed").exists()
    assert len(done) == 6  # each counts once
    assert "a worker process was lost" in capsys.readouterr().out


@pytest.mark.slow
def test_work_that_ends_every_process_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.research.parallel.MAX_LOSSES", 0)
    with pytest.raises(TapewireError, match="lost 1 times"):
        run_parallel(leave, [1, 2], jobs=2)
