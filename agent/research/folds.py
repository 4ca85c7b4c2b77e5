"""A history cut into folds: each judges a stretch of time by what could be learned before it."""

from __future__ import annotations

from typing import NamedTuple

from agent.core.durations import format_duration
from agent.core.errors import UsageError
from agent.system.clock import iso


class Window(NamedTuple):
    """[start, end) in UTC ms."""

    start: int
    end: int


class Fold(NamedTuple):
    """`train` ends `purge` + `embargo` before `test` begins; it is empty where nothing is learned."""

    number: int  # from 1
    train: Window
    test: Window


def make_folds(
    start: int, end: int, *, train: int, test: int, embargo: int = 0, purge: int = 0, anchored: bool = False
) -> list[Fold]:
    """Test windows of `test` ms that tile [start + train + purge + embargo, end), each with the `train` ms that come before it.

    The gap between the two keeps apart what overlaps: `purge` is the horizon of the labels, which look ahead of their time,
    `embargo` lets what is correlated over time die away (López de Prado, Advances in Financial Machine Learning, 2018, ch. 7).
    `anchored` trains on all from `start` on (an expanding window). A rest of at least half a `test` is a fold of its own, a
    shorter one prolongs the last. Raises UsageError where there is no room for one fold.
    """
    gap = purge + embargo if train else 0
    first = start + train + gap
    if test <= 0 or first + test > end:
        raise UsageError(
            f"{iso(start)} to {iso(end)} has no room for training on {format_duration(train)}, a gap of {format_duration(gap)} "
            f"and testing on {format_duration(test)}",
            hint="shorten --train or --test, or name a longer window",
        )
    count, rest = divmod(end - first, test)
    count += 2 * rest >= test
    folds = []
    for number in range(1, count + 1):
        begins = first + (number - 1) * test
        learned = begins - gap
        folds.append(
            Fold(
                number,
                Window(start if anchored and train else learned - train, learned),
                Window(begins, begins + test if number < count else end),
            )
        )
    return folds
