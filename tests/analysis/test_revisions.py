"""First answers compared with those of the model that revised them."""

from __future__ import annotations

import pytest

from agent.analysis.report.report_data import SourceHeadline
from agent.analysis.report.revisions import first_answers, summarise
from agent.core.events import Command, Sentiment
from agent.data.given_up import causes_of, counted, given_up

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


def test_headlines_of_another_class_and_causes_of_the_others_are_listed() -> None:
    """Five headlines are provisional: a, b and d changed their class, c did not, e was not revised."""
    news = {"a": SourceHeadline("Fund approved", "Wire", 0)}
    found = summarise(HEADLINES, news, {"e": "late", "a": "late", "x": "dropped"})
    assert found is not None
    assert [(one.at, one.title, one.first, one.revised) for one in found.headlines] == [
        (4_000, "Fund approved", "bullish", "bearish"),
        (7_000, "b", "bullish", "abstained"),
        (9_000, "d", "abstained", "bullish"),
    ]
    assert (found.headlines[0].first_confidence, found.headlines[0].revised_confidence) == (0.8, 0.8)
    assert (found.given_up, found.waiting) == ({"late": 1}, 0), "a was revised after all, x is unknown"
    unexplained = summarise(HEADLINES)
    assert unexplained is not None
    assert (unexplained.given_up, unexplained.waiting) == ({}, 1)


@pytest.mark.parametrize("count", [0, 1, 500, 1_201])
def test_every_headline_given_up_is_in_one_command(count: int) -> None:
    causes = {f"n{number}": ("late", "dropped", "failed")[number % 3] for number in range(count)}
    made = list(given_up(causes, 7))
    assert [id_ for _, ids in made for id_ in ids] == [id_ for one, _ in made for id_ in causes_of(one)]
    assert {id_: cause for one, _ in made for id_, cause in causes_of(one).items()} == causes
    assert all(len(ids) <= 500 and one.available_at == 7 for one, ids in made)
    assert sum(int(text.replace(",", "")) for one, _ in made for text in counted(one).values()) == count


def test_other_commands_give_nothing_up() -> None:
    command = Command("use-model", 0, 0, {"folder": "late"}, "me")
    assert causes_of(command) == {}
    assert counted(command) == {"folder": "late"}
