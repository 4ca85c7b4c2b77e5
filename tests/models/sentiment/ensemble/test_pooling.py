"""The logarithmic pool: computed by hand, and properties for any probabilities."""

from __future__ import annotations

from math import isclose

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.classification_metrics import Floats
from models.sentiment.ensemble.pooling import FLOOR, members_differ, pool

NONE = (np.nan,) * 3
P, Q = (16 / 18, 1 / 18, 1 / 18), (1 / 18, 16 / 18, 1 / 18)


def members(*rows: tuple[float, ...]) -> Floats:
    """Return the answers of several members for one text."""
    return np.array(rows, np.float64)[:, None, :]


@pytest.mark.parametrize(
    ("rows", "weights", "temperature", "expected"),
    [
        # roots of .64 * .04, .32 * .32 and .04 * .64: .16, .32, .16
        (((0.64, 0.32, 0.04), (0.04, 0.32, 0.64)), (0.5, 0.5), 1.0, (0.25, 0.5, 0.25)),
        # 16^.75 = 8 for the first class, 16^.25 = 2 for the second
        ((P, Q), (0.75, 0.25), 1.0, (8 / 11, 2 / 11, 1 / 11)),
        # squared by T = 1/2, square roots by T = 2
        ((P, Q), (0.75, 0.25), 0.5, (64 / 69, 4 / 69, 1 / 69)),
        ((P, P), (0.5, 0.5), 2.0, (4 / 6, 1 / 6, 1 / 6)),
        # a member without an answer or without a weight changes nothing
        ((P, NONE), (0.75, 0.25), 1.0, P),
        ((P, NONE, Q), (0.375, 0.5, 0.125), 1.0, (8 / 11, 2 / 11, 1 / 11)),
        ((P, Q), (1.0, 0.0), 1.0, P),
        # nothing is left
        ((NONE, NONE), (0.5, 0.5), 1.0, NONE),
        ((NONE, Q), (1.0, 0.0), 1.0, NONE),
        # a sure member is bounded: (1, FLOOR, FLOOR) and its mirror image cancel out
        (((1.0, 0.0, 0.0), (0.0, 0.0, 1.0)), (0.5, 0.5), 1.0, (1 / 2.01, 0.01 / 2.01, 1 / 2.01)),
    ],
)
def test_pools_by_hand(
    rows: tuple[tuple[float, ...], ...],
    weights: tuple[float, ...],
    temperature: float,
    expected: tuple[float, ...],
) -> None:
    found = pool(members(*rows), np.array(weights), temperature)[0]
    assert found == pytest.approx(expected, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize(
    ("rows", "weights", "differ"),
    [
        ((P, P), (0.5, 0.5), False),
        ((P, Q), (0.5, 0.5), True),
        ((P, Q), (1.0, 0.0), False),
        ((P, NONE), (0.5, 0.5), False),
        ((NONE, NONE), (0.5, 0.5), False),
        ((P, P, Q), (0.6, 0.3, 0.1), True),
    ],
)
def test_members_differ_if_those_with_a_weight_and_an_answer_do(
    rows: tuple[tuple[float, ...], ...], weights: tuple[float, ...], differ: bool
) -> None:
    assert members_differ(members(*rows), np.array(weights)).tolist() == [differ]


@st.composite
def pools(draw: st.DrawFn) -> tuple[Floats, Floats]:
    """Draw answers (members, texts, 3), some missing, and weights that sum to 1."""
    count, texts = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    share = st.floats(FLOOR * 5, 1.0)
    raw = draw(st.lists(share, min_size=count * texts * 3, max_size=count * texts * 3))
    answers = np.array(raw).reshape(count, texts, 3)
    answers /= answers.sum(axis=2, keepdims=True)
    missing = draw(st.lists(st.booleans(), min_size=count * texts, max_size=count * texts))
    answers[np.array(missing).reshape(count, texts)] = np.nan
    weights = np.array(draw(st.lists(st.floats(0.05, 1.0), min_size=count, max_size=count)))
    return answers, weights / weights.sum()


@given(pools(), st.floats(0.2, 5.0), st.randoms())
def test_the_order_of_the_members_does_not_matter(
    drawn: tuple[Floats, Floats], temperature: float, random: object
) -> None:
    answers, weights = drawn
    order = list(range(len(weights)))
    random.shuffle(order)  # type: ignore[attr-defined]
    assert pool(answers[order], weights[order], temperature) == pytest.approx(
        pool(answers, weights, temperature), abs=1e-9, nan_ok=True
    )
    assert (members_differ(answers[order], weights[order]) == members_differ(answers, weights)).all()


@given(pools())
def test_one_member_is_itself(drawn: tuple[Floats, Floats]) -> None:
    answers, _ = drawn
    assert pool(answers[:1], np.ones(1), 1.0) == pytest.approx(answers[0], abs=1e-9, nan_ok=True)


@given(pools(), st.floats(0.2, 5.0))
def test_pools_are_probabilities_unless_nothing_is_left(
    drawn: tuple[Floats, Floats], temperature: float
) -> None:
    answers, weights = drawn
    found = pool(answers, weights, temperature)
    for row, missing in zip(found, np.isnan(answers).all(axis=(0, 2)), strict=True):
        assert np.isnan(row).all() if missing else isclose(row.sum(), 1.0) and (row >= 0).all()


@given(pools())
def test_members_that_agree_exactly_are_their_pool(drawn: tuple[Floats, Floats]) -> None:
    answers, weights = drawn
    same = np.repeat(answers[:1], len(weights), axis=0)
    assert pool(same, weights, 1.0) == pytest.approx(answers[0], abs=1e-9, nan_ok=True)
