"""The members of the ensemble that scored a recorded run."""

from __future__ import annotations

from collections.abc import Mapping

from agent.analysis.daily import Closes
from agent.analysis.member_study import AnsweredHeadline, MemberStudy, member_study
from agent.analysis.report.scored_headlines import RecordedHeadline
from agent.config import Config
from agent.core.events import Sentiment
from agent.store.database import Database
from agent.store.queries import read_rows
from models.sentiment.ensemble.member_answers import ENSEMBLE, answers_of


def members_of(
    database: Database,
    run_id: str,
    config: Config,
    news: Mapping[str, RecordedHeadline],
    closes: Mapping[str, Closes],
) -> MemberStudy | None:
    """Study the members of a run's ensemble, with one row for each story and traded symbol.

    Returns None if no ensemble scored a headline about a traded symbol.
    """
    traded = frozenset(config.market.symbols)
    found: list[AnsweredHeadline] = []
    seen: set[tuple[str, str]] = set()
    unreadable = 0
    for sentiment in read_rows(database, run_id, Sentiment):
        if sentiment.provenance is None or sentiment.provenance.model != ENSEMBLE:
            continue
        answers = answers_of(sentiment.provenance)
        if answers is None:
            unreadable += 1
            continue
        own = news.get(sentiment.news_id)
        story = own.story if own else sentiment.news_id
        for symbol in sentiment.symbols or (own.symbols if own else ()):
            if symbol in traded and (story, symbol) not in seen:
                seen.add((story, symbol))
                found.append(AnsweredHeadline(symbol, sentiment, answers))
    return member_study(found, closes, config.market.interval, config.monitoring.move_horizon, unreadable)
