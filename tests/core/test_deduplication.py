"""Near-duplicate headlines are one story; contradicting ones are not."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core import deduplication
from agent.core.deduplication import HeadlineDeduplicator, content_words, contradict
from agent.core.events import DAY_MS, HOUR_MS

SAME = [
    ("Regulator approves spot bitcoin fund", "Regulator approves spot Bitcoin fund"),
    (
        "Regulator approves first spot bitcoin fund",
        "BREAKING: regulator approves the first spot bitcoin funds",
    ),
    (
        "Lender Alder Bank buys custody firm Quarry for $40M",
        "Alder Bank buys Quarry, a custody firm, for $40M",
    ),
    ("Ether surges past 4,000 as fund inflows rise", "Ether surged past 4000 as funds' inflows rise"),
    (
        "Bridge exploit drains 12 million from Larch protocol",
        "Larch protocol bridge exploit drains 12 million",
    ),
]
DIFFERENT = [
    ("Bitcoin rises", "Bitcoin falls"),
    (
        "Bitcoin funds see record weekly inflows as rates fall",
        "Bitcoin funds see record weekly outflows as rates fall",
    ),
    (
        "Regulator approves the first spot ether fund after long review",
        "Regulator rejects the first spot ether fund after long review",
    ),
    (
        "Alder Bank will buy custody firm Quarry this year",
        "Alder Bank will not buy custody firm Quarry this year",
    ),
    (
        "Larch founder wins appeal in long running token case",
        "Larch founder loses appeal in long running token case",
    ),
    (
        "Bitcoin price climbs above 90,000 in late Asian trade",
        "Bitcoin price slips below 90,000 in late Asian trade",
    ),
    ("Miners add machines in Texas", "Painters add colours in Lisbon"),
    ("Solana upgrade goes live on main network", "Cardano adds ten wallets"),
]


@pytest.mark.parametrize(("first", "second"), SAME)
def test_near_duplicates_are_one_story(first: str, second: str) -> None:
    index = HeadlineDeduplicator(0.6, DAY_MS)
    assert index.add("a", first, 0) == "a"
    assert index.add("b", second, HOUR_MS) == "a"
    assert len(index) == 1


@pytest.mark.parametrize(("first", "second"), DIFFERENT)
def test_different_headlines_are_two_stories(first: str, second: str) -> None:
    for one, other in ((first, second), (second, first)):
        index = HeadlineDeduplicator(0.6, DAY_MS)
        assert index.add("a", one, 0) == "a"
        assert index.add("b", other, HOUR_MS) == "b"


def test_the_most_similar_and_then_the_oldest_story_is_chosen() -> None:
    index = HeadlineDeduplicator(0.5, DAY_MS)
    index.add("a", "amber birch cedar dahlia", 0)
    index.add("b", "amber birch elder fir", 1)
    assert index.add("c", "amber birch cedar elder", 2) == "a"
    assert index.add("d", "amber birch elder fir gorse", 3) == "b"


def test_a_chain_of_small_changes_is_not_one_story() -> None:
    words = [f"word{letter}" for letter in "abcdefghijkl"]
    index = HeadlineDeduplicator(0.6, DAY_MS)
    stories = [index.add(str(start), " ".join(words[start : start + 6]), start) for start in range(7)]
    assert stories[:2] == ["0", "0"]
    assert len(set(stories)) > 2, "the first and the last share no word"


def test_a_story_is_dropped_after_its_window() -> None:
    index = HeadlineDeduplicator(0.6, HOUR_MS)
    index.add("a", "Bridge exploit drains Larch protocol", 0)
    assert index.add("b", "Larch protocol drained by bridge exploit", HOUR_MS - 1) == "a"
    assert index.add("c", "Larch protocol drained by bridge exploit", HOUR_MS) == "c"
    assert len(index) == 1


@pytest.mark.parametrize("title", ["", "!!!", "the of and"])
def test_headlines_without_words_are_separate_stories(title: str) -> None:
    index = HeadlineDeduplicator(0.6, DAY_MS)
    assert index.add("a", title, 0) == "a"
    assert index.add("b", title, 0) == "b"


def test_the_oldest_stories_are_dropped_beyond_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deduplication, "MAX_STORIES", 100)
    index = HeadlineDeduplicator(0.6, DAY_MS)
    for number in range(1000):
        index.add(str(number), f"alpha{number} beta{number} gamma{number}", 0)
    assert len(index) == 100
    assert index.add("again", "alpha999 beta999 gamma999", 0) == "999"
    assert index.add("gone", "alpha0 beta0 gamma0", 0) == "gone"


def test_forms_of_a_word_have_one_stem_and_numbers_do_not() -> None:
    for forms in (
        "rise rises rising",
        "surge surges surged surging",
        "drop drops dropped dropping",
        "fall falls falling",
    ):
        assert len(content_words(forms)) == 1, forms
    assert content_words("70,000 70000") == content_words("70000")
    assert len(content_words("1.2 12 70,000 7000")) == 4


WORDS = [
    "amber",
    "birch",
    "cedar",
    "dahlia",
    "elder",
    "fir",
    "gorse",
    "rises",
    "falls",
    "not",
    "70000",
    "the",
]
titles = st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join)


@given(
    st.lists(st.tuples(titles, st.integers(0, 3 * HOUR_MS)), max_size=25),
    st.sampled_from([0.3, 0.5, 0.56, 0.6, 0.7, 0.75, 1.0]),
)
def test_the_index_finds_the_same_story_as_a_full_comparison(
    arrivals: list[tuple[str, int]], similarity: float
) -> None:
    index = HeadlineDeduplicator(similarity, HOUR_MS)
    known: list[tuple[str, int, frozenset[str]]] = []
    for number, (title, at) in enumerate(sorted(arrivals, key=lambda arrival: arrival[1])):
        words = content_words(title)
        known = [story for story in known if at - story[1] < HOUR_MS]
        scored = [
            (len(words & other) / len(words | other), name)
            for name, _, other in known
            if words
            and not contradict(words, other)
            and len(words & other) >= similarity * len(words | other) - 1e-6
        ]
        expected = max(scored, key=lambda score: score[0])[1] if scored else str(number)
        assert index.add(str(number), title, at) == expected
        if expected == str(number) and words:
            known.append((expected, at, words))
        assert len(index) == len(known)


@given(titles, titles)
def test_contradiction_is_symmetric_and_irreflexive(one: str, other: str) -> None:
    a, b = content_words(one), content_words(other)
    assert contradict(a, b) == contradict(b, a)
    assert not contradict(a, a)


@pytest.mark.shared
def test_real_headlines_are_deduplicated(shared_data: Path) -> None:
    news = pd.read_parquet(
        shared_data / "data/news/crypto-headlines.parquet", columns=["published_at", "title"]
    )
    news = news.sort_values("published_at", kind="stable").tail(15_000)
    at = (news.published_at - pd.Timestamp(0, tz="UTC")) // pd.Timedelta(milliseconds=1)
    index = HeadlineDeduplicator(0.6, DAY_MS)
    stories = [
        index.add(str(number), title, ms)
        for number, (title, ms) in enumerate(zip(news.title.fillna(""), at, strict=True))
    ]
    repeats = sum(story != str(number) for number, story in enumerate(stories))
    print(f"{repeats} of {len(news)} headlines repeat a story")
    assert 0.01 < repeats / len(news) < 0.10
    assert len(index) < 2_000, "only one day is kept"
    exact = [a == b for (a, b) in pairwise(news.title.fillna(""))]
    assert all(
        stories[number + 1] != str(number + 1)
        for number, same in enumerate(exact)
        if same and content_words(news.title.iloc[number])
    )
