"""Headlines of a recorded run by words, for the list from which a what-if removes or flips one."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from sqlalchemy import and_, func, or_, select

from agent.core.votes import leading
from agent.data.text import one_line
from agent.store import tables
from agent.store.database import Database

MAX_HEADLINES: Final = 40
"""Rows that a search returns: the first ones."""

_MAX_WORDS: Final = 8
_TITLE: Final = 200  # characters
_CLASSES: Final = ("bearish", "neutral", "bullish")


class FoundHeadline(msgspec.Struct, frozen=True):
    """A headline that matches. Texts are untrusted; `answer` is the likeliest class of its first score."""

    id: str
    at: int  # `available_at`, UTC ms
    title: str
    source: str
    symbols: tuple[str, ...]
    answer: str  # empty if it was not scored, or the model abstained


class FoundHeadlines(msgspec.Struct, frozen=True):
    """The first matches, and how many there are."""

    rows: list[FoundHeadline]
    matching: int


def search_headlines(database: Database, run_id: str, words: str, after: int = 0) -> FoundHeadlines:
    """Return the headlines, from `after` (UTC ms) on, with all words in title or publisher, or that id."""
    news, scores = tables.news.c, tables.sentiments.c
    wanted = [news.run_id == run_id, news.available_at >= after]
    wanted += [
        or_(
            news.title.icontains(word, autoescape=True),
            news.publisher.icontains(word, autoescape=True),
            news.id.startswith(word, autoescape=True),
        )
        for word in words.split()[:_MAX_WORDS]
    ]
    shown = news.id, news.available_at, news.title, news.publisher, news.symbols
    query = select(*shown).where(and_(*wanted)).order_by(news.event_seq).limit(MAX_HEADLINES)
    with database.read() as connection:
        matching = connection.scalar(select(func.count()).select_from(tables.news).where(and_(*wanted)))
        rows = connection.execute(query).all()
        answers: dict[str, Any] = {}
        scored = select(scores.news_id, scores.bearish, scores.neutral, scores.bullish, scores.abstained)
        ids = [row.id for row in rows]
        for row in connection.execute(scored.where(scores.run_id == run_id, scores.news_id.in_(ids))):
            answers.setdefault(row.news_id, row)
    found = [
        FoundHeadline(
            row.id,
            row.available_at,
            one_line(row.title, _TITLE),
            one_line(row.publisher or "", _TITLE),
            tuple(row.symbols),
            _answer(answers.get(row.id)),
        )
        for row in rows
    ]
    return FoundHeadlines(found, matching or 0)


def _answer(score: Any) -> str:
    if score is None or score.abstained:
        return ""
    return _CLASSES[leading(score.bearish, score.neutral, score.bullish)]
