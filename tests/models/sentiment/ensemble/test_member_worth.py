"""MemberFigures of a member and its worth, on answers counted by hand."""

from __future__ import annotations

from math import log

import numpy as np
import pytest

from models.sentiment.train.ensembles.member_worth import figures_of, mean_difference, precision_at, worth_of
from models.sentiment.train.ensembles.weight_fit import decide, fit_pool

NONE = (np.nan,) * 3


def test_figures_of_four_texts() -> None:
    """Right at .8, wrong at .7, right at .6, silent: 2 of 4 right, 3 of 4 answered."""
    answers = np.array([(0.8, 0.1, 0.1), (0.7, 0.2, 0.1), (0.2, 0.2, 0.6), NONE])
    truth = np.array([0, 1, 2, 1])
    found = figures_of(answers, truth, ms=2.5, cost=0.01)
    assert (found.accuracy, found.coverage, found.ms, found.cost) == (0.5, 0.75, 2.5, 0.01)
    assert found.nll == pytest.approx(-(log(0.8) + log(0.2) + log(0.6) + log(1 / 3)) / 4)
    assert found.precision_at == {"0.25": 1.0, "0.5": 0.5, "0.75": pytest.approx(2 / 3), "1": None}


def test_precision_is_of_the_surest_texts() -> None:
    answers = np.array([(0.5, 0.3, 0.2), (0.9, 0.05, 0.05), (0.6, 0.2, 0.2)])
    truth = np.array([1, 0, 0])
    assert [precision_at(answers, truth, share) for share in (0.2, 0.5, 1.0)] == [
        1.0,
        1.0,
        pytest.approx(2 / 3),
    ]


def test_differences_of_one_block_have_no_spread_and_many_have_one() -> None:
    values = np.array([1.0, 0.0, 0.0, 1.0])
    whole = mean_difference(values, np.zeros(4, np.int64))
    assert (whole.value, whole.low, whole.high) == (0.5, 0.5, 0.5)
    assert not mean_difference(np.array([1.0, -1.0] * 20), np.arange(40)).is_distinguishable
    sure = mean_difference(np.ones(40), np.arange(40))
    assert (sure.value, sure.low, sure.high, sure.is_distinguishable) == (1.0, 1.0, 1.0, True)


def test_a_member_is_worth_what_is_lost_without_it() -> None:
    """The first member is always right, the second always leans to class 0, which is right in a third."""
    truth = np.tile([0, 1, 2], 40)
    right = np.where(np.eye(3)[truth] > 0, 0.9, 0.05)
    constant = np.tile((0.4, 0.3, 0.3), (120, 1))
    both = np.stack((right, constant)), truth
    ensemble = decide(both[0], fit_pool(*both))
    worths = [worth_of(at, both, both, ensemble, None, np.arange(120)) for at in (0, 1)]
    assert worths[0].accuracy.value == pytest.approx(1 - 1 / 3)
    assert worths[0].accuracy.is_distinguishable
    assert worths[0].nll.value < -0.5
    assert worths[1].accuracy.value == 0.0
    assert worths[1].nll.value == pytest.approx(0.0, abs=1e-3)
