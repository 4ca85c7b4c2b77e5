"""Sentiment for replay: from a scorer, or from a file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import DataError
from agent.core.events import PRIORITY, News, Sentiment
from agent.data.sentiment import SentimentFile, score_news

T0 = 1_704_067_200_000  # 2024-01-01


@dataclass
class Score:
    bearish: float
    neutral: float
    bullish: float
    abstained: bool = False


class ByLength:
    """Scorer whose result is easy to check: longer texts are more bullish; it abstains on an empty text."""

    def __init__(self) -> None:
        self.blocks: list[int] = []

    def score(self, texts: Sequence[str], /) -> list[Score]:
        self.blocks.append(len(texts))
        return [Score(1 - len(text) / 100, 0.0, len(text) / 100, abstained=not text) for text in texts]


@given(st.lists(st.integers(0, 40), max_size=30).map(sorted), st.integers(0, 12), st.integers(1, 7))
def test_each_headline_is_followed_by_its_score_after_the_latency_in_total_order(
    times: list[int], latency: int, block: int
) -> None:
    news = [News(str(number), time, time, "x" * (number + 1)) for number, time in enumerate(times)]
    events = list(score_news(news, ByLength(), latency, model="by length", block=block))
    assert [event for event in events if isinstance(event, News)] == news
    scores = [event for event in events if isinstance(event, Sentiment)]
    assert [(score.news_id, score.available_at, score.bullish) for score in scores] == [
        (item.id, item.available_at + latency, len(item.title) / 100) for item in news
    ]
    assert all(score.model == "by length" and score.latency_ms == latency for score in scores)
    keys = [(event.available_at, PRIORITY[type(event)]) for event in events]
    assert keys == sorted(keys)


def test_headlines_are_scored_in_blocks_and_only_when_needed() -> None:
    pulled = 0

    def endless() -> Iterator[News]:
        nonlocal pulled
        while True:
            pulled += 1
            yield News(str(pulled), pulled, pulled, "headline")

    scorer = ByLength()
    stream = score_news(endless(), scorer, 1_000, block=8)
    assert pulled == 0
    next(stream)
    assert (pulled, scorer.blocks) == (8, [8])


def test_an_abstention_is_kept() -> None:
    *_, score = score_news([News("1", 0, 0, "")], ByLength(), 5)
    assert isinstance(score, Sentiment)
    assert score.abstained


# -- from a file ---------------------------------------------------------------------------------------------


def written(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "scores.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def chances(bearish: float | None, neutral: float | None, bullish: float | None) -> dict[str, float | None]:
    return {"bearish": bearish, "neutral": neutral, "bullish": bullish}


def test_scores_with_titles_also_yield_news(tmp_path: Path) -> None:
    rows = [
        {"published_at": T0 + 5_000, "title": "Ether falls", **chances(0.7, 0.2, 0.1)},
        {"published_at": T0, "title": "Bitcoin rises", "model": "mine", **chances(0.1, 0.2, 0.701)},
    ]
    bitcoin, bitcoin_score, ether, ether_score = SentimentFile(written(tmp_path, rows), 60_000, 250)
    assert isinstance(bitcoin, News)
    assert isinstance(bitcoin_score, Sentiment)
    assert (bitcoin.title, bitcoin.available_at) == ("Bitcoin rises", T0 + 60_000)
    assert (bitcoin_score.news_id, bitcoin_score.available_at, bitcoin_score.model) == (
        bitcoin.id,
        T0 + 60_250,
        "mine",
    )
    assert bitcoin_score.bearish + bitcoin_score.neutral + bitcoin_score.bullish == pytest.approx(
        1, abs=1e-12
    )
    assert (type(ether), type(ether_score)) == (News, Sentiment)


def test_scores_with_symbols_need_no_news_and_keep_their_time(tmp_path: Path) -> None:
    rows = [
        {"ts": T0, "symbol": "btcusdt", "available_at": T0 + 9_000, **chances(0.2, 0.3, 0.5)},
        {"ts": T0, "symbol": "BTCUSDT,ETHUSDT", "available_at": T0 + 1_000, **chances(None, None, None)},
        {"ts": T0, "symbol": "btcusdt", "available_at": T0 + 9_500, **chances(0.2, 0.3, 0.5)},
        {"ts": None, "symbol": "btcusdt", "available_at": None, **chances(0.2, 0.3, 0.5)},
    ]
    source = SentimentFile(written(tmp_path, rows))
    events = list(source)
    assert [
        (event.available_at - T0, event.symbols, event.abstained)
        for event in events
        if isinstance(event, Sentiment)
    ] == [
        (1_000, ("BTCUSDT", "ETHUSDT"), True),
        (9_000, ("BTCUSDT",), False),
    ]
    assert (len(events), source.stats.news, source.stats.duplicates, source.stats.untrusted) == (2, 2, 1, 1)
    assert source.stats.abstained == 1
    assert source.symbols == {"BTCUSDT": 2, "ETHUSDT": 1}


def test_scores_with_an_untrusted_time_are_left_out_and_counted(tmp_path: Path) -> None:
    """The second of three rows marks its time as untrusted."""
    rows = [
        {"ts": T0 + n, "symbol": "BTCUSDT", "trusted_time": trusted, **chances(0.2, 0.3, 0.5)}
        for n, trusted in enumerate((True, False, None))
    ]
    source = SentimentFile(written(tmp_path, rows), feed_delay=0, inference_latency=0)
    assert [event.available_at - T0 for event in source] == [0, 2]
    assert source.stats.untrusted == 1


@pytest.mark.parametrize(
    ("row", "fragment"),
    [
        (
            {"title": "x", **chances(0.9, 0.9, 0.9)},
            "row 1, column bearish/neutral/bullish: bearish 0.9, neutral 0.9, bullish 0.9",
        ),
        ({"title": "x", **chances(-0.2, 0.6, 0.6)}, "are not probabilities"),
        ({"title": "x", **chances(0.5, None, 0.5)}, "are not probabilities"),
        ({"title": "x", "bearish": 0.5, "neutral": 0.5, "bulish": 0}, "is it 'bulish'?"),
        (chances(0.2, 0.3, 0.5), "neither a column title nor a column symbols"),
    ],
)
def test_the_error_for_a_bad_file_names_fault_and_place(
    tmp_path: Path, row: dict[str, Any], fragment: str
) -> None:
    with pytest.raises(DataError) as error:
        list(SentimentFile(written(tmp_path, [{"published_at": T0, **row}])))
    assert fragment in str(error.value)
