"""The scored headlines of a run, for the event study and for the markers on the price charts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from sqlalchemy import select

from agent.analysis.daily import Closes
from agent.analysis.event_study import CLASSES, Headlines, headlines_of
from agent.analysis.report.report_data import HeadlineMarker, SourceHeadline
from agent.analysis.report.revisions import first_answers
from agent.core.events import AssetSentiment, Sentiment
from agent.core.symbols import base_of
from agent.core.votes import leading
from agent.store.database import Database
from agent.store.queries import read_rows
from agent.store.tables import news as news_table

MARKED_HEADLINES: Final = 200
"""Headlines marked on each price chart: those with the highest confidence. More would hide the price."""


class RecordedHeadline(NamedTuple):
    """A headline of the store, the symbols it is about and the story it belongs to."""

    headline: SourceHeadline
    symbols: tuple[str, ...]
    story: str


def read_news(database: Database, run_id: str) -> dict[str, RecordedHeadline]:
    """Read all headlines of a run by id."""
    columns = [news_table.c[name] for name in ("id", "title", "publisher", "ts", "symbols", "story")]
    query = select(*columns).where(news_table.c.run_id == run_id).order_by(news_table.c.seq)
    with database.read() as connection:
        rows = connection.execute(query.execution_options(yield_per=1_000))
        return {
            id_: RecordedHeadline(SourceHeadline(title, publisher, ts), symbols, story)
            for id_, title, publisher, ts, symbols, story in rows
        }


class ScoredHeadline(NamedTuple):
    """The score of a headline for one traded symbol that it is about.

    `answer` has the probabilities of the symbol's asset, or without any those of the headline as a whole;
    `predicted` is its likeliest class.
    """

    symbol: str
    sentiment: Sentiment
    answer: AssetSentiment | Sentiment
    predicted: int

    @property
    def is_own(self) -> bool:
        """True if the symbol's asset itself is scored."""
        return self.answer is not self.sentiment

    @property
    def confidence(self) -> float:
        """The largest probability."""
        return max(self.answer.bearish, self.answer.neutral, self.answer.bullish)


def read_scored_headlines(
    database: Database, run_id: str, news: Mapping[str, RecordedHeadline], symbols: Sequence[str]
) -> list[ScoredHeadline]:
    """Read the first scores in order of availability, without abstentions, and one per story and symbol."""
    sentiments = first_answers(read_rows(database, run_id, Sentiment))
    return list(_scored(sentiments, news, frozenset(symbols)))


def _scored(
    sentiments: Iterator[Sentiment], news: Mapping[str, RecordedHeadline], traded: frozenset[str]
) -> Iterator[ScoredHeadline]:
    seen: set[tuple[str, str]] = set()
    for sentiment in sentiments:
        if sentiment.abstained:
            continue
        own = news.get(sentiment.news_id)
        story = own.story if own else sentiment.news_id
        for symbol in sentiment.symbols or (own.symbols if own else ()):
            if symbol in traded and (story, symbol) not in seen:
                seen.add((story, symbol))
                answer = sentiment.of(base_of(symbol))
                predicted = leading(answer.bearish, answer.neutral, answer.bullish)
                yield ScoredHeadline(symbol, sentiment, answer, predicted)


def event_headlines(scored: Sequence[ScoredHeadline]) -> Headlines:
    """Convert to the input of the event study."""
    return headlines_of(
        [
            (s.sentiment.available_at, s.symbol, s.answer.bullish - s.answer.bearish, s.predicted)
            for s in scored
        ]
    )


def headline_markers(
    scored: Sequence[ScoredHeadline], news: Mapping[str, RecordedHeadline], closes: Mapping[str, Closes]
) -> dict[str, list[HeadlineMarker]]:
    """Return by symbol the bearish and bullish headlines with the highest confidence, in order of time."""
    markers: dict[str, list[HeadlineMarker]] = {}
    for symbol, own in closes.items():
        mine = [s for s in scored if s.symbol == symbol and s.predicted != 1 and s.sentiment.news_id in news]
        surest = sorted(mine, key=lambda s: -s.confidence)[:MARKED_HEADLINES]
        for one in sorted(surest, key=lambda s: s.sentiment.available_at):
            row = int(np.searchsorted(own.ts, one.sentiment.available_at, side="right")) - 1
            if row >= 0:
                headline = news[one.sentiment.news_id].headline
                markers.setdefault(symbol, []).append(
                    HeadlineMarker(
                        one.sentiment.available_at,
                        float(own.price[row]),
                        headline.title,
                        headline.publisher,
                        CLASSES[one.predicted],
                        one.confidence,
                        one.sentiment.kind,
                    )
                )
    return markers
