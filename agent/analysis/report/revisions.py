"""Revisions of a recorded run: how often the slower model saw a headline differently."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from agent.analysis.event_study import CLASSES
from agent.analysis.report.report_data import RevisedHeadline, RevisionSummary, SourceHeadline
from agent.core.events import Command, Sentiment, kind_of
from agent.core.votes import leading
from agent.data.given_up import causes_of
from agent.data.provenance import shown_reason
from agent.store.database import Database
from agent.store.journal import decode, read_journal_rows

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


def read_given_up(database: Database, run_id: str) -> dict[str, str]:
    """Return by headline why a live run gave up its revision. Raises StoreError if the journal can't be
    read.
    """
    command = kind_of(Command)
    found: dict[str, str] = {}
    for row in read_journal_rows(database, run_id):
        if row.kind == command and isinstance(event := decode(row.payload), Command):
            found.update(causes_of(event))
    return found


def summarise(
    sentiments: Iterable[Sentiment],
    news: Mapping[str, SourceHeadline] | None = None,
    given_up: Mapping[str, str] | None = None,
) -> RevisionSummary | None:
    """Compare first and revising scores; None if no score was provisional.

    `news` are the headlines, and `given_up` the causes why some were not revised, by id.
    """
    kinds = (*CLASSES, ABSTAINED)
    matrix = {first: dict.fromkeys(kinds, 0) for first in kinds}
    provisional, revisions, waited, model = 0, 0, 0.0, ""
    unrevised: set[str] = set()
    headlines = []
    for sentiment, before in answers(sentiments):
        if sentiment.provisional:
            provisional += 1
            unrevised.add(sentiment.news_id)
        if before is None:
            continue
        unrevised.discard(sentiment.news_id)
        revisions += 1
        waited += sentiment.available_at - before.available_at
        model = sentiment.model
        matrix[_class(before)][_class(sentiment)] += 1
        if _class(before) != _class(sentiment):
            headline = (news or {}).get(sentiment.news_id, SourceHeadline(sentiment.news_id, "", 0))
            headlines.append(_revised(headline, before, sentiment))
    if not provisional:
        return None
    causes = Counter(cause for id_, cause in (given_up or {}).items() if id_ in unrevised)
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
        given_up=dict(sorted(causes.items())),
        waiting=len(unrevised) - causes.total(),
        headlines=headlines,
    )


def _revised(headline: SourceHeadline, before: Sentiment, after: Sentiment) -> RevisedHeadline:
    return RevisedHeadline(
        after.available_at,
        headline.title,
        headline.publisher,
        _class(before),
        before.confidence,
        _class(after),
        after.confidence,
        shown_reason(after.provenance),
    )


def _class(sentiment: Sentiment) -> str:
    if sentiment.abstained:
        return ABSTAINED
    return CLASSES[leading(sentiment.bearish, sentiment.neutral, sentiment.bullish)]
