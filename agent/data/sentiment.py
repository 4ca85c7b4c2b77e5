"""Sentiment for replay: a scorer run over historical news, or a file of scores."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import Final, NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from agent.core.errors import DataError, ModelError
from agent.core.events import AssetSentiment, Event, News, Provenance, Sentiment
from agent.data.columns import Aliases, location
from agent.data.merge import merge
from agent.data.news import COLUMNS as NEWS_COLUMNS
from agent.data.news import NewsStats, has_trusted_time, in_window, tickers, to_news, with_own_id
from agent.data.rows import Rows
from agent.data.sentiment_columns import COLUMNS as ANSWER_COLUMNS
from agent.data.sentiment_columns import AnswerColumns
from agent.data.text import news_id, plain

_BLOCK: Final = 256
_CLASSES: Final = ("bearish", "neutral", "bullish")
NO_EMBEDDINGS: Final = "this sentiment model has no embeddings, which the fusion model needs"
COLUMNS: Final[Aliases] = {
    **NEWS_COLUMNS,
    "symbols": ("symbols", "symbol"),
    **{name: (name,) for name in _CLASSES},
    "model": ("model",),
    **ANSWER_COLUMNS,
}


class Probabilities(Protocol):
    """Calibrated probabilities of the three classes, with sum 1."""

    @property
    def bearish(self) -> float: ...
    @property
    def neutral(self) -> float: ...
    @property
    def bullish(self) -> float: ...


class Score(Probabilities, Protocol):
    """Probabilities of one text, or an abstention, which makes them meaningless.

    A scorer that reads single assets also returns `assets` (a sequence of `AssetScore`), and one that tells
    kinds of news apart `kind` (one of `NEWS_KINDS`) and `kind_confidence`. That of a language model has
    `provenance` (see `provenance_of`).
    """

    @property
    def abstained(self) -> bool: ...


class AssetScore(Probabilities, Protocol):
    """Probabilities for one asset that a text names."""

    @property
    def asset(self) -> str: ...


class TextScorer(Protocol):
    """A sentiment model."""

    def score(self, texts: Sequence[str], /) -> Sequence[Score]:
        """Return one score per text, in order."""
        ...


class NamedScorer(TextScorer, Protocol):
    """A sentiment model with an identity. One that reads single assets also has `names` (see `names_of`)."""

    @property
    def fingerprint(self) -> str:
        """Hash of everything that affects a score."""
        ...


class EmbeddingScorer(TextScorer, Protocol):
    """A sentiment model that also returns the hidden states behind its scores."""

    def score_and_embed(
        self, texts: Sequence[str], /
    ) -> tuple[Sequence[Score], Sequence[NDArray[np.float32]] | NDArray[np.float32]]:
        """Return the scores, and the pooled hidden states of each text [1 + assets, dimensions].

        The first row is that of the text, the others are those of the score's assets. A scorer without assets
        may return one array [texts, dimensions].
        """
        ...


class ScoredText(NamedTuple):
    """What a model returns for one text, as `Sentiment` has it; an abstention has a `score` only."""

    score: Score
    embedding: bytes = b""
    assets: tuple[AssetSentiment, ...] = ()
    kind: str = ""
    kind_confidence: float = 0.0


def provenance_of(score: object) -> Provenance | None:
    """Return how a language model came to a score; None for a local model."""
    return getattr(score, "provenance", None)


def names_of(scorer: object) -> str:
    """Return the hash of the names by which a scorer finds assets; empty if it doesn't read single assets."""
    return str(getattr(scorer, "names", ""))


def score_texts(scorer: TextScorer, texts: Sequence[str], *, embedded: bool) -> list[ScoredText]:
    """Return what the scorer returns for each text, with embeddings if `embedded`.

    Raises ModelError if `embedded` and the scorer isn't an `EmbeddingScorer`, or if the number of its hidden
    states isn't that of its assets.
    """
    if not embedded:
        return [_scored(score, None) for score in scorer.score(texts)]
    if not hasattr(scorer, "score_and_embed"):
        raise ModelError(NO_EMBEDDINGS, hint="see fusion.path")
    scores, states = cast(EmbeddingScorer, scorer).score_and_embed(texts)
    return [_scored(score, np.atleast_2d(rows)) for score, rows in zip(scores, states, strict=True)]


def _scored(score: Score, states: NDArray[np.float32] | None) -> ScoredText:
    if score.abstained:
        return ScoredText(score)
    assets: Sequence[AssetScore] = getattr(score, "assets", ())
    if states is not None and len(states) != 1 + len(assets):
        counts = f"{len(states)} hidden states for a text with {len(assets)} assets"
        raise ModelError(f"the sentiment model returns {counts}", hint="one for the text, one for each asset")
    embeddings = (
        [b""] * (1 + len(assets)) if states is None else [row.astype("<f2").tobytes() for row in states]
    )
    return ScoredText(
        score,
        embeddings[0],
        tuple(
            AssetSentiment(one.asset, one.bearish, one.neutral, one.bullish, embedding)
            for one, embedding in zip(assets, embeddings[1:], strict=True)
        ),
        getattr(score, "kind", ""),
        getattr(score, "kind_confidence", 0.0),
    )


def score_news(
    news: Iterable[News],
    scorer: TextScorer,
    inference_latency: int,
    *,
    model: str = "",
    embedded: bool = False,
    block: int = _BLOCK,
    text: Callable[[News], str] = attrgetter("title"),
    revised: Callable[[News], bool] | None = None,
) -> Iterator[News | Sentiment]:
    """Yield the news, which must be sorted by availability, and a `Sentiment` for each, in total order.

    A sentiment is available `inference_latency` ms after its headline. `block` headlines are read ahead and
    scored together; `text` returns the text to score. `model` is the fingerprint recorded with each
    sentiment. If `embedded`, each sentiment other than an abstention contains its embedding and those of its
    assets. Headlines for which `revised` returns True get a provisional sentiment.
    """
    waiting: deque[Sentiment] = deque()
    source = iter(news)
    while headlines := list(islice(source, block)):
        judged = score_texts(scorer, [text(item) for item in headlines], embedded=embedded)
        for item, scored in zip(headlines, judged, strict=True):
            # at equal times news come before sentiment
            while waiting and waiting[0].available_at < item.available_at:
                yield waiting.popleft()
            yield item
            provisional = revised is not None and revised(item)
            waiting.append(sentiment_of(item, scored, inference_latency, model, provisional=provisional))
    yield from waiting


def sentiment_of(
    news: News, scored: ScoredText, latency: int, model: str, *, provisional: bool = False
) -> Sentiment:
    """Return the sentiment of a headline, available `latency` ms after it."""
    known, score = news.available_at + latency, scored.score
    return Sentiment(
        news_id=news.id,
        ts=known,
        available_at=known,
        bearish=score.bearish,
        neutral=score.neutral,
        bullish=score.bullish,
        model=model,
        abstained=score.abstained,
        latency_ms=float(latency),
        embedding=scored.embedding,
        assets=scored.assets,
        kind=scored.kind,
        kind_confidence=scored.kind_confidence,
        provisional=provisional,
        provenance=provenance_of(score),
    )


class SentimentFile:
    """Iterable of the scores in a parquet, CSV or JSON-lines file, as events in total order.

    It can be iterated repeatedly. Each row has a publication time, the probabilities bearish, neutral and
    bullish (all empty: abstained), and a title or symbols or both. A title also becomes a `News` event, and
    the agent finds the symbols in it unless the row states them. Optional columns are `kind`,
    `kind_confidence`, `assets`, an object with the probabilities of each asset by ticker, and `provenance`,
    an object with what a language model answered. The score is available at the row's `available_at`, else at
    publication + `feed_delay` + `inference_latency` (ms). The window [`start`, `end`) is of the score's
    availability. Rows without a trusted time and repeated scores of
    a headline are left out and counted in `stats`. `timezone` is that of naive times.

    Raises DataError while iterating: as `NewsFile`, if probabilities don't sum to 1 (± 0.01), and as
    `AnswerColumns.read`.
    """

    def __init__(
        self,
        path: str | Path,
        feed_delay: int = 60_000,
        inference_latency: int = 250,
        *,
        start: int | None = None,
        end: int | None = None,
        timezone: str | None = None,
    ) -> None:
        self.path = Path(path)
        self.name = str(path)
        self.feed_delay, self.inference_latency = feed_delay, inference_latency
        self.start, self.end = start, end
        self.stats = NewsStats()
        self.symbols: Counter[str] = Counter()
        """Symbol -> number of scores that state it."""
        self.assets: Counter[str] = Counter()
        """Asset -> number of scores with probabilities of their own for it."""
        self._timezone = timezone
        self._answers: AnswerColumns | None = None

    def notes(self) -> list[str]:
        """Return the counts of the latest pass, and columns that were not read, as sentences."""
        return [*self.stats.notes(), *(self._answers.notes() if self._answers else ())]

    def __iter__(self) -> Iterator[Event]:
        self.stats = stats = NewsStats()
        self.symbols, self.assets = Counter(), Counter()
        rows = Rows(
            self.path,
            COLUMNS,
            required=("published_at", *_CLASSES),
            times=("published_at", "available_at"),
            numbers=(*_CLASSES, "kind_confidence"),
            timezone=self._timezone,
            publications=True,
        )
        if not {"title", "symbols"} & rows.names.keys():
            hint = "add the headline or the symbols of each score"
            raise DataError(f"{self.name}: neither a column title nor a column symbols", hint=hint)
        published = rows.publications()
        seen = rows.times.get("available_at", np.zeros_like(published))
        delay = self.feed_delay + self.inference_latency
        available = np.where(seen > 0, np.maximum(seen, published), published + delay)
        stats.rows, stats.untrusted, stats.dates = len(published), int((published == 0).sum()), rows.dates
        stats.doubtful, stats.early = rows.doubtful, int(((seen > 0) & (seen < published)).sum())
        order = in_window(published, available, self.start, self.end)
        stats.outside = stats.rows - stats.untrusted - len(order)
        chances, abstained = self._probabilities(rows)
        self._answers = answers = AnswerColumns(rows)
        news: dict[str, News] = {}
        titles: dict[str, str] = {}
        scores: dict[tuple[str, tuple[str, ...]], Sentiment] = {}
        for index, row in zip(order.tolist(), rows.texts(order), strict=True):
            if not has_trusted_time(row):
                stats.untrusted += 1
                continue
            ts, known = int(published[index]), int(available[index])
            item = to_news(ts, min(ts + self.feed_delay, known), row)
            symbols = tickers(row.get("symbols"))
            if item.title:
                own = with_own_id(item, titles)
                stats.shared_ids += own is not item
                item = own
                titles.setdefault(item.id, item.title)
                news.setdefault(item.id, item)
            elif not symbols:
                stats.untitled += 1
                continue
            identity = item.id if item.title else news_id("", "", ",".join(symbols), ts)
            bearish, neutral, bullish = chances[index].tolist()
            stated = answers.read(index, row, abstained=bool(abstained[index]))
            score = Sentiment(
                identity,
                ts=known,
                available_at=known,
                bearish=bearish,
                neutral=neutral,
                bullish=bullish,
                model=plain(row.get("model")),
                abstained=bool(abstained[index]),
                symbols=symbols,
                assets=stated.assets,
                kind=stated.kind,
                kind_confidence=stated.kind_confidence,
                provenance=stated.provenance,
            )
            if scores.setdefault((identity, symbols), score) is not score:
                stats.duplicates += 1
            else:
                stats.count(ts, seen=bool(seen[index] > 0))
                self.symbols.update(symbols)
                self.assets.update(answer.asset for answer in score.assets)
                stats.abstained += score.abstained
        return merge([sorted(news.values(), key=attrgetter("available_at")), scores.values()])

    def _probabilities(self, rows: Rows) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return the probabilities of every row (1/3 each if it abstained), and which rows abstained."""
        stated = np.stack([rows.numbers[name] for name in _CLASSES], axis=1)
        abstained: NDArray[np.bool_] = np.logical_and.reduce(np.isnan(stated), axis=1)
        stated[abstained] = 1 / 3
        total = stated.sum(axis=1)
        wrong = ~((stated >= 0).all(axis=1) & (np.abs(total - 1) <= 0.01))  # NaN is wrong too
        if wrong.any():
            index = int(wrong.argmax())
            found = ", ".join(
                f"{name} {value:g}" for name, value in zip(_CLASSES, stated[index], strict=True)
            )
            where = location(self.path, index + 1, "/".join(_CLASSES))
            hint = "they must be 0 to 1 and sum to 1"
            raise DataError(f"{where}: {found} are not probabilities", hint=hint)
        return stated / total[:, None], abstained
