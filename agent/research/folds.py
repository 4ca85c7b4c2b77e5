"""Folds of a history: each has a window to learn from and a later one to test on."""

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
    """`train` ends `purge` + `embargo` before `test` begins. It is empty if nothing is learned."""

    number: int  # from 1
    train: Window
    test: Window


def make_folds(
    start: int, end: int, *, train: int, test: int, embargo: int = 0, purge: int = 0, anchored: bool = False
) -> list[Fold]:
    """Tile [start + train + purge + embargo, end) with test windows of `test` ms, each after its `train` ms.

    All times in ms.

    A gap separates the two: `purge` is the horizon of labels that look ahead, `embargo` lets serial
    correlation die away (López de Prado, Advances in Financial Machine Learning, 2018, ch. 7). `anchored`
    trains on everything from `start` on (an expanding window). A rest of at least half a `test` becomes a
    fold, a shorter one prolongs the last fold. Raises UsageError if not even one fold fits.
    """
    gap = purge + embargo if train else 0
    first = start + train + gap
    if test <= 0 or first + test > end:
        raise UsageError(
            f"{iso(start)} to {iso(end)} has no room for training on {format_duration(train)}, a gap of "
            f"{format_duration(gap)} and testing on {format_duration(test)}",
            hint="shorten --train or --test, or name a longer window",
        )
    count, rest = divmod(end - first, test)
    count += 2 * rest >= test
    folds = []
    for number in range(1, count + 1):
        test_start = first + (number - 1) * test
        train_end = test_start - gap
        folds.append(
            Fold(
                number,
                Window(start if anchored and train else train_end - train, train_end),
                Window(test_start, test_start + test if number < count else end),
            )
        )
    return folds
