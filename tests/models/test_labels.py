"""Labels are mapped by name, never by position."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import DataError, ModelError
from models.labels import LABELS, SCORE_CUT, canonical, from_score, head_order


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("positive", "bullish"),
        (" Negative ", "bearish"),
        ("NEUTRAL", "neutral"),
        ("bullish", "bullish"),
        ("sell", "bearish"),
    ],
)
def test_common_label_names_map_to_the_canonical_labels(theirs: str, ours: str) -> None:
    assert canonical(theirs) == ours


def test_an_unknown_label_raises_an_error_that_suggests_the_closest() -> None:
    with pytest.raises(DataError, match=r"news\.csv:7: unknown label 'positve' \(did you mean positive"):
        canonical("positve", where="news.csv:7")


def test_a_bare_digit_is_refused_as_a_label() -> None:
    with pytest.raises(DataError, match="unknown label '2'"):
        canonical("2")


@given(st.floats(-1, 1))
def test_a_score_maps_to_the_class_of_its_sign_beyond_the_cut_and_to_neutral_within_it(score: float) -> None:
    expected = "bearish" if score < -SCORE_CUT else "bullish" if score > SCORE_CUT else "neutral"
    assert from_score(score) == expected


@given(st.permutations(["negative", "neutral", "positive"]))
def test_a_head_in_any_class_order_is_reordered_to_the_canonical_labels(names: list[str]) -> None:
    order = head_order(dict(enumerate(names)))
    assert [canonical(names[row]) for row in order] == list(LABELS)
    assert [LABELS.index(label) for label in LABELS] == [0, 1, 2]


@pytest.mark.parametrize(
    "id2label",
    [
        {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"},
        {0: "positive", 1: "negative"},
        {0: "positive", 1: "bullish", 2: "neutral"},
    ],
)
def test_a_head_without_the_three_class_names_is_refused(id2label: dict[int, str]) -> None:
    with pytest.raises(ModelError, match="base model's head"):
        head_order(id2label)
