"""What a run's model said of which headlines: for the event study, and to mark the surest beside the prices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from sqlalchemy import select

from agent.analysis.daily import Closes
from agent.analysis.event_study import CLASSES, Headlines, headlines_of
from agent.analysis.report.data import Headline, Mark
from agent.core.events import Sentiment
from agent.core.votes import leading
from agent.store.database import Database
from agent.store.queries import read_rows
from agent.store.tables import news as news_table

MARKED_HEADLINES: Final = 200
"""Marked beside the price of each symbol: the surest, bearish or bullish. More would hide it."""


class Told(NamedTuple):
    """A headline as the store has it."""

    headline: Headline
    symbols: tuple[str, ...]
    story: str


def read_news(database: Database, run_id: str) -> dict[str, Told]:
    """All headlines of a run by their id."""
    columns = [news_table.c[name] for name in ("id", "title", "publisher", "ts", "symbols", "story")]
    query = select(*columns).where(news_table.c.run_id == run_id).order_by(news_table.c.seq)
    with database.read() as connection:
        rows = connection.execute(query.execution_options(yield_per=1_000))
        return {
            id_: Told(Headline(title, publisher, ts), symbols, story)
            for id_, title, publisher, ts, symbols, story in rows
        }


class Scored(NamedTuple):
    """A headline's score, once for each traded symbol that it is about; the first of a story alone."""

    symbol: str
    sentiment: Sentiment
    predicted: int


def read_scored(
    database: Database, run_id: str, news: Mapping[str, Told], symbols: Sequence[str]
) -> list[Scored]:
    """What the model said, without abstentions and retold stories, in order of availability."""
    return list(_scored(read_rows(database, run_id, Sentiment), news, frozenset(symbols)))


def _scored(
    sentiments: Iterator[Sentiment], news: Mapping[str, Told], traded: frozenset[str]
) -> Iterator[Scored]:
    told: set[tuple[str, str]] = set()
    for sentiment in sentiments:
        if sentiment.abstained:
            continue
        own = news.get(sentiment.news_id)
        story = own.story if own else sentiment.news_id
        predicted = leading(sentiment.bearish, sentiment.neutral, sentiment.bullish)
        for symbol in sentiment.symbols or (own.symbols if own else ()):
            if symbol in traded and (story, symbol) not in told:
                told.add((story, symbol))
                yield Scored(symbol, sentiment, predicted)


def as_headlines(scored: Sequence[Scored]) -> Headlines:
    """For the event study."""
    return headlines_of(
        [(s.sentiment.available_at, s.symbol, s.sentiment.score, s.predicted) for s in scored]
    )


def marks_of(
    scored: Sequence[Scored], news: Mapping[str, Told], closes: Mapping[str, Closes]
) -> dict[str, list[Mark]]:
    """The surest bearish and bullish headlines of each symbol, in order of time, at the close known then."""
    marks: dict[str, list[Mark]] = {}
    for symbol, own in closes.items():
        mine = [s for s in scored if s.symbol == symbol and s.predicted != 1 and s.sentiment.news_id in news]
        surest = sorted(mine, key=lambda s: -s.sentiment.confidence)[:MARKED_HEADLINES]
        for sentiment in sorted((s.sentiment for s in surest), key=lambda s: s.available_at):
            row = int(np.searchsorted(own.ts, sentiment.available_at, side="right")) - 1
            if row >= 0:
                headline = news[sentiment.news_id].headline
                predicted = CLASSES[leading(sentiment.bearish, sentiment.neutral, sentiment.bullish)]
                marks.setdefault(symbol, []).append(
                    Mark(
                        sentiment.available_at,
                        float(own.price[row]),
                        headline.title,
                        headline.publisher,
                        predicted,
                        sentiment.confidence,
                    )
                )
    return marks
