"""First answers compared with those of the model that revised them."""

from __future__ import annotations

from agent.analysis.report.revisions import first_answers, summarise
from agent.core.events import Sentiment

BULL, BEAR, CALM = (0.1, 0.1, 0.8), (0.8, 0.1, 0.1), (0.1, 0.8, 0.1)


def answer(id: str, at: int, p: tuple[float, float, float] | None, *, provisional: bool = False) -> Sentiment:
    model = "fast" if provisional else "slow"
    three = p or (1 / 3, 1 / 3, 1 / 3)
    return Sentiment(id, at, at, *three, model, abstained=p is None, provisional=provisional)


HEADLINES = [
    answer("a", 0, BULL, provisional=True),
    answer("b", 0, BULL, provisional=True),
    answer("a", 4_000, BEAR),
    answer("c", 5_000, CALM, provisional=True),
    answer("d", 5_000, None, provisional=True),
    answer("c", 6_000, CALM),
    answer("b", 7_000, None),
    answer("d", 9_000, BULL),
    answer("e", 9_000, BULL, provisional=True),  # no revision comes
    answer("f", 9_000, BEAR),  # not to be revised
]


def test_the_summary_counts_changes_of_class_and_abstentions() -> None:
    found = summarise(HEADLINES)
    assert found is not None
    assert (found.model, found.provisional, found.revisions) == ("slow", 5, 4)
    assert (found.changed, found.abstained, found.agreement) == (1, 1, 0.5)
    assert found.latency_ms == (4_000 + 1_000 + 7_000 + 4_000) / 4
    counts = {(first, last): n for first, row in found.matrix.items() for last, n in row.items() if n}
    assert counts == {
        ("bullish", "bearish"): 1,
        ("bullish", "abstained"): 1,
        ("neutral", "neutral"): 1,
        ("abstained", "bullish"): 1,
    }


def test_scores_are_judged_by_the_first_answers() -> None:
    assert [one.news_id for one in first_answers(HEADLINES)] == ["a", "b", "c", "d", "e", "f"]


def test_without_revisions_there_is_nothing_to_compare() -> None:
    assert summarise([answer("a", 0, BULL)]) is None
    alone = summarise([answer("a", 0, BULL, provisional=True)])
    assert alone is not None
    assert (alone.revisions, alone.agreement, alone.latency_ms) == (0, None, None)
