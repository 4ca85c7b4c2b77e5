"""Sentiment for replay: from a scorer, or from a file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import DataError, ModelError
from agent.core.events import PRIORITY, AssetSentiment, News, Provenance, Sentiment
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


@dataclass
class AssetScore:
    asset: str
    bearish: float
    neutral: float
    bullish: float


@dataclass
class ReaderScore(Score):
    assets: tuple[AssetScore, ...] = ()
    kind: str = ""
    kind_confidence: float = 0.0


class Reader:
    """Scorer that reads bitcoin and ether in each text, and abstains on an empty one.

    The hidden states of the text are (1, 2), those of the assets (3, 4) and (5, 6).
    """

    rows = 3

    def score(self, texts: Sequence[str], /) -> list[ReaderScore]:
        two = (AssetScore("BTC", 0.1, 0.2, 0.7), AssetScore("ETH", 0.6, 0.3, 0.1))
        return [
            ReaderScore(0.3, 0.4, 0.3, abstained=not text, assets=two, kind="access", kind_confidence=0.9)
            for text in texts
        ]

    def score_and_embed(self, texts: Sequence[str], /) -> tuple[list[ReaderScore], list[Any]]:
        states = np.arange(1, 1 + 2 * self.rows, dtype=np.float32).reshape(-1, 2)
        return self.score(texts), [states for _ in texts]


def halves(*values: float) -> bytes:
    return np.array(values, "<f2").tobytes()


@pytest.mark.parametrize("embedded", [False, True])
def test_a_sentiment_has_the_assets_and_the_kind_of_its_score(embedded: bool) -> None:
    news = [News("1", 0, 0, "Bitcoin gains on ether"), News("2", 0, 0, "")]
    found = [
        event for event in score_news(news, Reader(), 5, embedded=embedded) if isinstance(event, Sentiment)
    ]
    own = [halves(1, 2), halves(3, 4), halves(5, 6)] if embedded else [b""] * 3
    assert found[0].embedding == own[0]
    assert found[0].assets == (
        AssetSentiment("BTC", 0.1, 0.2, 0.7, own[1]),
        AssetSentiment("ETH", 0.6, 0.3, 0.1, own[2]),
    )
    assert (found[0].kind, found[0].kind_confidence) == ("access", 0.9)
    assert found[1].abstained
    assert (found[1].embedding, found[1].assets, found[1].kind, found[1].kind_confidence) == (
        b"",
        (),
        "",
        0.0,
    )


def test_a_scorer_without_assets_may_return_one_row_of_hidden_states_for_each_text() -> None:
    class Plain(ByLength):
        def score_and_embed(self, texts: Sequence[str], /) -> tuple[list[Score], Any]:
            return self.score(texts), np.array([[1, 2]] * len(texts), np.float32)

    *_, found = score_news([News("1", 0, 0, "title")], Plain(), 5, embedded=True)
    assert isinstance(found, Sentiment)
    assert (found.embedding, found.assets, found.kind) == (halves(1, 2), (), "")


def test_hidden_states_that_do_not_match_the_assets_are_refused() -> None:
    reader = Reader()
    reader.rows = 2
    with pytest.raises(ModelError, match="2 hidden states for a text with 2 assets"):
        list(score_news([News("1", 0, 0, "title")], reader, 5, embedded=True))


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


PROBABILITIES = {"bearish": 0.5, "neutral": 0.25, "bullish": 0.25}  # sums of binary fractions are exact
BTC = {"bearish": 0.125, "neutral": 0.25, "bullish": 0.625}
NAMING = {"published_at": T0, "title": "Money rotates from ether into bitcoin", **chances(0.3, 0.4, 0.3)}
EXPECTED = (AssetSentiment("ETH", 0.5, 0.25, 0.25), AssetSentiment("BTC", 0.125, 0.25, 0.625))


def only_sentiment(source: SentimentFile) -> Sentiment:
    (found,) = (event for event in source if isinstance(event, Sentiment))
    return found


@pytest.mark.parametrize(
    "assets",
    [
        {"ETH": PROBABILITIES, "BTC": BTC},
        json.dumps({"eth": PROBABILITIES, "$BTC": BTC}),
        [{"asset": "ETH", **PROBABILITIES}, {"asset": "BTC", **BTC}],
        {"ETH": PROBABILITIES, "SOL": None, "BTC": BTC},
    ],
    ids=["object", "its JSON as a text", "list", "null for an asset"],
)
def test_scores_may_state_assets_and_the_kind_of_news(tmp_path: Path, assets: Any) -> None:
    row = {**NAMING, "kind": "Price", "kind_confidence": 0.8, "assets": assets}
    source = SentimentFile(written(tmp_path, [row]))
    found = only_sentiment(source)
    assert found.assets == EXPECTED
    assert (found.kind, found.kind_confidence) == ("price", 0.8)
    assert source.assets == {"ETH": 1, "BTC": 1}
    assert not source.notes()


THREE = pa.struct([(name, pa.float32()) for name in PROBABILITIES])
ASSET = pa.struct([("asset", pa.string()), *((name, pa.float64()) for name in PROBABILITIES)])


@pytest.mark.parametrize(
    "column",
    [
        pa.array([json.dumps({"ETH": PROBABILITIES, "BTC": BTC})]),
        pa.array([[("ETH", PROBABILITIES), ("BTC", BTC)]], pa.map_(pa.string(), THREE)),
        pa.array([{"ETH": PROBABILITIES, "BTC": BTC}], pa.struct([("ETH", THREE), ("BTC", THREE)])),
        pa.array([[{"asset": "ETH", **PROBABILITIES}, {"asset": "BTC", **BTC}]], pa.list_(ASSET)),
    ],
    ids=["JSON", "map", "struct", "list of structs"],
)
def test_assets_in_parquet_may_be_nested(tmp_path: Path, column: pa.Array) -> None:
    path = tmp_path / "scores.parquet"
    columns: dict[str, Any] = {name: [value] for name, value in NAMING.items()}
    pq.write_table(pa.table(columns | {"assets": column}), path)
    assert only_sentiment(SentimentFile(path)).assets == EXPECTED


TOLD = {
    "model": "qwen3:8b",
    "prompt": "a" * 64,
    "seed": 42,
    "answers": ["bullish", "neutral"],
    "reason": "why",
}


def test_scores_may_state_how_a_language_model_came_to_them(tmp_path: Path) -> None:
    """An abstention has its provenance too; a row without any is of a local model."""
    rows = [
        {**NAMING, "provenance": TOLD},
        {**NAMING, "title": "Spent", "provenance": {"model": "m", "fallback": "budget"}}
        | chances(None, None, None),
        {**NAMING, "title": "Local", "provenance": None},
    ]
    found = [one for one in SentimentFile(written(tmp_path, rows)) if isinstance(one, Sentiment)]
    assert [one.provenance for one in found] == [
        Provenance("qwen3:8b", "a" * 64, 42, ("bullish", "neutral"), "", "why"),
        Provenance("m", "", 0, (), "budget"),
        None,
    ]
    assert found[1].abstained


def test_a_damaged_provenance_is_an_error_with_its_row(tmp_path: Path) -> None:
    rows = [{**NAMING, "provenance": TOLD}, {**NAMING, "title": "x", "provenance": {"seed": "no"}}]
    with pytest.raises(DataError, match="row 2, column provenance"):
        list(SentimentFile(written(tmp_path, rows)))


def test_rows_without_assets_or_kind_have_none(tmp_path: Path) -> None:
    rows = [
        {**NAMING, "kind": "macro", "assets": {"BTC": BTC}},
        {**NAMING, "title": "No kind", "kind": None, "kind_confidence": None, "assets": None},
        {**NAMING, "title": "Abstained", "kind": "", "assets": {}, **chances(None, None, None)},
    ]
    source = SentimentFile(written(tmp_path, rows))
    found = [event for event in source if isinstance(event, Sentiment)]
    assert [(one.kind, one.kind_confidence, len(one.assets)) for one in found] == [
        ("macro", 1.0, 1),
        ("", 0.0, 0),
        ("", 0.0, 0),
    ]
    assert "1 headlines with a kind of news but no kind_confidence: taken as certain" in source.notes()


def test_columns_of_a_news_export_with_the_same_names_are_not_read_and_noted(tmp_path: Path) -> None:
    rows = [
        {**NAMING, "kind": "media", "assets": "BTC, ETH", "kind_confidence": 0.5},
        {**NAMING, "title": "Another", "kind": "news", "assets": "SOL"},
    ]
    source = SentimentFile(written(tmp_path, rows))
    assert [(one.kind, one.assets) for one in source if isinstance(one, Sentiment)] == [("", ()), ("", ())]
    assert source.notes() == [
        "column kind holds no kind of news (media, news): it is not read",
        "column assets holds no probabilities of assets (BTC, ETH, SOL): it is not read",
        "column kind_confidence is not read, since there are no kinds of news",
    ]


@pytest.mark.parametrize(
    ("row", "fragment"),
    [
        ({"kind": "hack"}, "row 2, column kind: 'hack' is no kind of news"),
        ({"kind": "price", "kind_confidence": 1.2}, "column kind_confidence: 1.2 is not a probability"),
        ({"kind": "", "kind_confidence": 0.4}, "column kind_confidence: 0.4 is the confidence of no kind"),
        (
            {"assets": {"BTC": {"bearish": 0.5, "bullish": 0.5}}},
            "row 2, column assets: Object missing",
        ),
        ({"assets": "{"}, "row 2, column assets: Input data was truncated"),
        ({"assets": {"BTC": chances(0.5, 0.5, 0.5)}}, "BTC has 0.5, 0.5, 0.5, which are not probabilities"),
        ({"assets": {"BTC": chances(-0.1, 0.1, 1.0)}}, "which are not probabilities"),
        ({"assets": {" ": BTC}}, "' ' is no asset"),
        ({"assets": {"X" * 33: BTC}}, "is no asset"),
        ({"assets": {"BTC": BTC, "btc": BTC}}, "BTC occurs twice"),
        ({"assets": {"BTC": BTC}, **chances(None, None, None)}, "of assets in a row without probabilities"),
    ],
)
def test_the_error_for_bad_assets_or_a_bad_kind_names_the_place(
    tmp_path: Path, row: dict[str, Any], fragment: str
) -> None:
    good = {**NAMING, "kind": "price", "kind_confidence": 0.9, "assets": {"BTC": BTC}}
    bad = {**NAMING, "title": "The second", "kind": "price"}
    with pytest.raises(DataError) as error:
        list(SentimentFile(written(tmp_path, [good, bad | row])))
    assert fragment in str(error.value)


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
