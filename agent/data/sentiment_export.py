"""Recorded sentiments as a file of scores, which `SentimentFile` reads back as the same sentiments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from agent.core.events import News, Sentiment
from agent.data.provenance import to_object
from agent.system.atomic import write_bytes


class ExportedScores(NamedTuple):
    """Number of scores in the file, and of those left out."""

    scores: int
    replaced: int  # a later score of the same headline is in the file instead
    unknown: int  # of no recorded headline, and without symbols


def export_sentiments(
    news: Mapping[str, News], sentiments: Iterable[Sentiment], output: Path
) -> ExportedScores:
    """Write JSON lines with the last sentiment of each headline; `news` has the headlines by id.

    Embeddings are left out. Raises StoreError if the file can't be written.
    """
    last: dict[tuple[str, tuple[str, ...]], Sentiment] = {}
    replaced = 0
    for sentiment in sentiments:
        key = sentiment.news_id, sentiment.symbols
        replaced += key in last
        last[key] = sentiment
    rows = [_row(news.get(one.news_id), one) for one in last.values() if one.news_id in news or one.symbols]
    write_bytes(output, msgspec.json.Encoder().encode_lines(rows))
    return ExportedScores(len(rows), replaced, len(last) - len(rows))


def _row(headline: News | None, sentiment: Sentiment) -> dict[str, Any]:
    row: dict[str, Any] = {"published_at": sentiment.ts, "available_at": sentiment.available_at}
    if headline is not None:
        row |= {"published_at": headline.ts, "id": headline.id, "title": headline.title}
        row |= {"url": headline.url, "publisher": headline.publisher}
    if sentiment.symbols:
        row["symbols"] = sentiment.symbols
    known = not sentiment.abstained
    row |= {name: getattr(sentiment, name) if known else None for name in ("bearish", "neutral", "bullish")}
    row["model"] = sentiment.model
    if sentiment.kind:
        row |= {"kind": sentiment.kind, "kind_confidence": sentiment.kind_confidence}
    if sentiment.assets:
        row["assets"] = {
            own.asset: {"bearish": own.bearish, "neutral": own.neutral, "bullish": own.bullish}
            for own in sentiment.assets
        }
    if sentiment.provenance is not None:
        row["provenance"] = to_object(sentiment.provenance)
    return row
