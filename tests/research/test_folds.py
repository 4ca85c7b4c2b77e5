"""In each fold the training window ends before the test window, with the configured gap."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from agent.core.errors import UsageError
from agent.core.events import DAY_MS
from agent.research.folds import Window, make_folds

SPANS = st.integers(0, 60)


@given(
    length=st.integers(1, 800),
    train=SPANS,
    test=st.integers(1, 60),
    embargo=st.integers(0, 5),
    purge=st.integers(0, 5),
    anchored=st.booleans(),
)
def test_test_windows_tile_the_time_after_the_training_windows(
    length: int, train: int, test: int, embargo: int, purge: int, anchored: bool
) -> None:
    gap = (embargo + purge) if train else 0
    assume(train + gap + test <= length)
    folds = make_folds(0, length, train=train, test=test, embargo=embargo, purge=purge, anchored=anchored)
    assert folds[0].test.start == train + gap
    assert folds[-1].test.end == length
    for before, after in pairwise(folds):
        assert before.test.end == after.test.start
        assert before.test.end - before.test.start == test
    assert 2 * (folds[-1].test.end - folds[-1].test.start) < 3 * test + 1
    for fold in folds:
        assert fold.train.end == fold.test.start - gap
        learned = fold.train.end - fold.train.start
        assert learned == (fold.train.end if anchored and train else train)
        assert fold.train.start >= 0


def test_an_anchored_window_grows() -> None:
    folds = make_folds(0, 100, train=30, test=20, embargo=10, anchored=True)
    assert [fold.train for fold in folds] == [Window(0, 30), Window(0, 50), Window(0, 70)]
    assert [fold.test for fold in folds] == [Window(40, 60), Window(60, 80), Window(80, 100)]


def test_a_window_without_room_is_refused_with_a_hint() -> None:
    with pytest.raises(UsageError, match="no room for training on 180d, a gap of 1d and testing on 30d"):
        make_folds(0, 100 * DAY_MS, train=180 * DAY_MS, test=30 * DAY_MS, embargo=DAY_MS)
