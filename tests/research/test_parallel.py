"""Work over processes: results in order, progress counted, ended by the first error."""

from __future__ import annotations

import pytest

from agent.core.errors import DataError
from agent.research.parallel import run_parallel


def double(value: int) -> int:
    if value < 0:
        raise DataError(f"{value} is negative", hint="use another one")
    return 2 * value


@pytest.mark.parametrize("jobs", [1, 2])
def test_results_are_in_the_order_of_the_tasks(jobs: int) -> None:
    done: list[None] = []
    assert run_parallel(double, [3, 1, 2], jobs=jobs, advance=lambda: done.append(None)) == [6, 2, 4]
    assert len(done) == 3


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_error_is_raised_unchanged(jobs: int) -> None:
    with pytest.raises(DataError, match=r"-1 is negative \(use another one\)"):
        run_parallel(double, [1, -1, 2], jobs=jobs)
