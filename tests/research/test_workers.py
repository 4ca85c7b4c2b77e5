"""Work over processes: in order, counted, and ended by the first error."""

from __future__ import annotations

import pytest

from agent.core.errors import DataError
from agent.research.workers import spread


def double(value: int) -> int:
    if value < 0:
        raise DataError(f"{value} is negative", hint="mend it")
    return 2 * value


@pytest.mark.parametrize("jobs", [1, 2])
def test_answers_come_in_the_order_of_the_tasks(jobs: int) -> None:
    done: list[None] = []
    assert spread(double, [3, 1, 2], jobs=jobs, advance=lambda: done.append(None)) == [6, 2, 4]
    assert len(done) == 3


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_error_arrives_as_it_was_raised(jobs: int) -> None:
    with pytest.raises(DataError, match=r"-1 is negative \(mend it\)"):
        spread(double, [1, -1, 2], jobs=jobs)
