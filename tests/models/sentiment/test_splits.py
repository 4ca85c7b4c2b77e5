"""Splits: the parts share no story, and dated parts follow each other with an embargo."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.errors import DataError, UsageError
from agent.core.events import DAY_MS
from models.labels import LABELS
from models.sentiment.train.datasets import Example
from models.sentiment.train.splits import (
    PARTS,
    SIMILAR,
    Fractions,
    deduplicate,
    make_split,
    story_groups,
    story_key,
)

WORDS = [f"word{i}" for i in range(400)]


def unrelated(rows: int, seed: int = 0, days: int | None = None) -> list[Example]:
    """Return dissimilar texts of three classes; if `days` is given, their dates are spread over it."""
    rng = random.Random(seed)
    return [
        Example(
            " ".join(rng.sample(WORDS, 8)), LABELS[i % 3], None if days is None else i * days * DAY_MS // rows
        )
        for i in range(rows)
    ]


def jaccard(a: str, b: str) -> float:
    left, right = set(a.split()), set(b.split())
    return len(left & right) / len(left | right)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.sampled_from(WORDS[:12]), min_size=1, max_size=8), min_size=2, max_size=25))
def test_story_groups_are_the_connected_components_of_similar_texts(bags: list[list[str]]) -> None:
    texts = [" ".join(bag) for bag in bags]
    groups = story_groups(texts)
    neighbours = {
        i: {j for j in range(len(texts)) if jaccard(texts[i], texts[j]) >= SIMILAR - 1e-9}
        for i in range(len(texts))
    }
    for start in range(len(texts)):  # connected components, by brute force
        reached, frontier = {start}, [start]
        while frontier:
            fresh = neighbours[frontier.pop()] - reached
            reached |= fresh
            frontier += fresh
        assert {j for j in range(len(texts)) if groups[j] == groups[start]} == reached


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.booleans())
def test_no_story_is_in_two_parts(seed: int, dated: bool) -> None:
    examples = unrelated(90, seed, days=900 if dated else None)
    retold = [Example(e.text + " again", e.label, e.ts) for e in random.Random(seed).sample(examples, 30)]
    split = make_split(examples + retold, Fractions(0.1, 0.1, 0.2), seed=seed, embargo_ms=0)
    parts = {part: getattr(split, part) for part in PARTS}
    first_words = {part: {" ".join(e.text.split()[:8]) for e in rows} for part, rows in parts.items()}
    for i, part in enumerate(PARTS):
        for other in PARTS[i + 1 :]:
            assert not first_words[part] & first_words[other]
    assert sum(split.sizes().values()) + split.embargoed == 120


def test_dated_parts_follow_each_other_with_an_embargo_between_them() -> None:
    split = make_split(unrelated(400, days=800), Fractions(0.1, 0.1, 0.2), embargo_ms=10 * DAY_MS)
    assert split.by_time
    assert split.embargoed
    for earlier, later in pairwise(PARTS):
        last = max(e.ts for e in getattr(split, earlier))
        first = min(e.ts for e in getattr(split, later))
        assert first - last >= 10 * DAY_MS


def test_undated_parts_keep_the_proportions_of_the_classes() -> None:
    split = make_split(unrelated(300), Fractions(0.1, 0.1, 0.2), seed=1)
    assert not split.by_time
    assert split.sizes() == {"train": 180, "validation": 30, "calibration": 30, "test": 60}
    for part in PARTS:
        rows = getattr(split, part)
        assert all(sum(e.label == label for e in rows) * 3 == len(rows) for label in LABELS)


def test_the_same_seed_gives_the_same_split_and_another_seed_a_different_one() -> None:
    examples = unrelated(120)
    assert make_split(examples, seed=5) == make_split(examples, seed=5)
    assert make_split(examples, seed=5).test != make_split(examples, seed=6).test


def test_duplicates_are_kept_once_and_conflicting_labels_are_reported() -> None:
    rows = [
        Example("Coin rises", "bullish"),
        Example("coin  rises!", "bullish"),
        Example("Coin falls", "bearish"),
        Example("coin falls", "neutral"),
        Example("Fund buys", "bullish"),
        Example("fund buys", "bullish"),
        Example("Fund buys.", "neutral"),
    ]
    kept, duplicates, conflicts = deduplicate(rows)
    assert [(e.text, e.label) for e in kept] == [("Coin rises", "bullish"), ("Fund buys", "bullish")]
    assert duplicates == 1
    assert dict(conflicts) == {"Coin falls": "bearish/neutral", "Fund buys": "bullish/neutral"}
    assert story_key("Coin, RISES!") == story_key("coin rises")


def test_data_of_a_single_class_is_refused_with_the_class_counts() -> None:
    rows = [Example(e.text, "bullish") for e in unrelated(30)]
    with pytest.raises(DataError, match=r"lack bearish and neutral \(there is 30 bullish\)"):
        make_split(rows)


def test_fractions_that_leave_no_training_data_are_refused() -> None:
    with pytest.raises(UsageError, match="held-out shares"):
        Fractions(0.4, 0.3, 0.3)
