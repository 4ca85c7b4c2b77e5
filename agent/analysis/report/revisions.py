"""Revisions of a recorded run: how often the slower model saw a headline differently."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from agent.analysis.event_study import CLASSES
from agent.analysis.report.report_data import RevisionSummary
from agent.core.events import Sentiment
from agent.core.votes import leading

ABSTAINED: Final = "abstained"


class Answer(NamedTuple):
    """A sentiment, and the earlier one that it revises; None if it is a first score."""

    sentiment: Sentiment
    before: Sentiment | None


def answers(sentiments: Iterable[Sentiment]) -> Iterator[Answer]:
    """Pair the sentiments of a run, in order, with those that they revise."""
    provisional: dict[str, Sentiment] = {}
    for sentiment in sentiments:
        yield Answer(sentiment, provisional.pop(sentiment.news_id, None))
        if sentiment.provisional:
            provisional[sentiment.news_id] = sentiment


def first_answers(sentiments: Iterable[Sentiment]) -> Iterator[Sentiment]:
    """Leave out the revisions, which are of another model and came later."""
    return (answer.sentiment for answer in answers(sentiments) if answer.before is None)


def summarise(sentiments: Iterable[Sentiment]) -> RevisionSummary | None:
    """Compare first and revising scores; None if no score was provisional."""
    kinds = (*CLASSES, ABSTAINED)
    matrix = {first: dict.fromkeys(kinds, 0) for first in kinds}
    provisional, revisions, waited, model = 0, 0, 0.0, ""
    for sentiment, before in answers(sentiments):
        provisional += sentiment.provisional
        if before is None:
            continue
        revisions += 1
        waited += sentiment.available_at - before.available_at
        model = sentiment.model
        matrix[_class(before)][_class(sentiment)] += 1
    if not provisional:
        return None
    both = sum(matrix[first][last] for first in CLASSES for last in CLASSES)
    same = sum(matrix[name][name] for name in CLASSES)
    return RevisionSummary(
        model=model,
        provisional=provisional,
        revisions=revisions,
        abstained=sum(row[ABSTAINED] for row in matrix.values()),
        changed=both - same,
        agreement=same / both if both else None,
        latency_ms=waited / revisions if revisions else None,
        matrix=matrix,
    )


def _class(sentiment: Sentiment) -> str:
    if sentiment.abstained:
        return ABSTAINED
    return CLASSES[leading(sentiment.bearish, sentiment.neutral, sentiment.bullish)]
