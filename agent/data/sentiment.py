"""Sentiment for replay: a scorer run over historical news, or scores that the user brings in a file."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import Final, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from agent.core.errors import DataError, ModelError
from agent.core.events import Event, News, Sentiment
from agent.data.columns import Aliases, place
from agent.data.merge import merge
from agent.data.news import COLUMNS as NEWS_COLUMNS
from agent.data.news import NewsStats, has_trusted_time, identified, in_window, tickers, to_news
from agent.data.rows import Rows
from agent.data.text import news_id, plain

_BLOCK: Final = 256
_CLASSES: Final = ("bearish", "neutral", "bullish")
COLUMNS: Final[Aliases] = {
    **NEWS_COLUMNS,
    "symbols": ("symbols", "symbol"),
    **{name: (name,) for name in _CLASSES},
    "model": ("model",),
}


class Score(Protocol):
    """Calibrated probabilities that sum to 1, or an abstention."""

    @property
    def bearish(self) -> float: ...
    @property
    def neutral(self) -> float: ...
    @property
    def bullish(self) -> float: ...
    @property
    def abstained(self) -> bool: ...


class Scorer(Protocol):
    """A sentiment model."""

    def score(self, texts: Sequence[str], /) -> Sequence[Score]:
        """One score a text, in their order."""
        ...


class NamedScorer(Scorer, Protocol):
    """What turns headlines into sentiment, and says which model it is; `models.sentiment` has one."""

    @property
    def fingerprint(self) -> str:
        """Hash of all that decides a score."""
        ...


class EmbeddingScorer(Scorer, Protocol):
    """A sentiment model that also shows the hidden states which its scores were read from."""

    def score_and_embed(self, texts: Sequence[str], /) -> tuple[Sequence[Score], NDArray[np.float32]]:
        """Scores, and pooled hidden states [texts, dimensions]."""
        ...


def judge(scorer: Scorer, texts: Sequence[str], *, embedded: bool) -> list[tuple[Score, bytes]]:
    """Score and embedding of each text, the latter as `Sentiment.embedding` has it and empty unless `embedded`.

    Raises ModelError where the scorer has no embeddings to show.
    """
    if not embedded:
        return [(score, b"") for score in scorer.score(texts)]
    if not hasattr(scorer, "score_and_embed"):
        raise ModelError(
            "this sentiment model shows no embeddings, which the fusion model reads", hint="see fusion.path"
        )
    scores, embeddings = cast(EmbeddingScorer, scorer).score_and_embed(texts)
    return [(score, row.astype("<f2").tobytes()) for score, row in zip(scores, embeddings, strict=True)]


def scored(
    news: Iterable[News],
    scorer: Scorer,
    inference_latency: int,
    *,
    model: str = "",
    embedded: bool = False,
    block: int = _BLOCK,
    text: Callable[[News], str] = attrgetter("title"),
) -> Iterator[News | Sentiment]:
    """The news, sorted by availability, with a `Sentiment` for each `inference_latency` ms after it, in total order.

    `block` headlines are read ahead and scored together. `model` is the fingerprint recorded with each sentiment; `embedded`
    puts its embedding into each that is no abstention.
    """
    waiting: deque[Sentiment] = deque()
    source = iter(news)
    while headlines := list(islice(source, block)):
        judged = judge(scorer, [text(item) for item in headlines], embedded=embedded)
        for item, (score, embedding) in zip(headlines, judged, strict=True):
            # at the same moment news come first
            while waiting and waiting[0].available_at < item.available_at:
                yield waiting.popleft()
            yield item
            known = item.available_at + inference_latency
            waiting.append(
                Sentiment(
                    news_id=item.id,
                    ts=known,
                    available_at=known,
                    bearish=score.bearish,
                    neutral=score.neutral,
                    bullish=score.bullish,
                    model=model,
                    abstained=score.abstained,
                    latency_ms=float(inference_latency),
                    embedding=b"" if score.abstained else embedding,
                )
            )
    yield from waiting


class SentimentFile:
    """Scores that were made elsewhere, from a parquet, CSV or JSON-lines file; iterate it for its events in total order.

    Each row has a publication time, probabilities bearish, neutral and bullish (all empty: abstained), and a title, from which
    the agent finds the symbols and which comes out as `News` too, or symbols, which are then taken as they are, or both. The
    score is available at the row's `available_at`, else at publication + `feed_delay` + `inference_latency` (ms). The window
    [`start`, `end`) is of the score's availability. Rows without a trusted time and rows that repeat a headline's score are left out
    and counted in `stats`. `timezone` names the zone of naive times.

    Raises DataError while iterating: as `NewsFile`, and where probabilities don't sum to 1 (± 0.01).
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
        """How many scores name each symbol themselves."""
        self._timezone = timezone

    def __iter__(self) -> Iterator[Event]:
        self.stats = stats = NewsStats()
        self.symbols = Counter()
        rows = Rows(
            self.path,
            COLUMNS,
            required=("published_at", *_CLASSES),
            times=("published_at", "available_at"),
            numbers=_CLASSES,
            timezone=self._timezone,
            publications=True,
        )
        if not {"title", "symbols"} & rows.names.keys():
            raise DataError(
                f"{self.name}: no column title and none of symbols", hint="say what each score is about"
            )
        published = rows.publications()
        seen = rows.times.get("available_at", np.zeros_like(published))
        available = np.where(
            seen > 0, np.maximum(seen, published), published + self.feed_delay + self.inference_latency
        )
        stats.rows, stats.untrusted, stats.dates = len(published), int((published == 0).sum()), rows.dates
        stats.doubtful, stats.early = rows.doubtful, int(((seen > 0) & (seen < published)).sum())
        order = in_window(published, available, self.start, self.end)
        stats.outside = stats.rows - stats.untrusted - len(order)
        chances, abstained = self._probabilities(rows)
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
                own = identified(item, titles)
                stats.shared_ids += own is not item
                item = own
                titles.setdefault(item.id, item.title)
                news.setdefault(item.id, item)
            elif not symbols:
                stats.untitled += 1
                continue
            identity = item.id if item.title else news_id("", "", ",".join(symbols), ts)
            bearish, neutral, bullish = chances[index].tolist()
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
            )
            if scores.setdefault((identity, symbols), score) is not score:
                stats.duplicates += 1
            else:
                stats.count(ts)
                self.symbols.update(symbols)
                stats.abstained += score.abstained
        return merge([sorted(news.values(), key=attrgetter("available_at")), scores.values()])

    def _probabilities(self, rows: Rows) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Bearish, neutral and bullish of every row (a third each where it abstained), and where it did."""
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
            where = place(self.path, index + 1, "/".join(_CLASSES))
            raise DataError(f"{where}: {found} are no probabilities", hint="they must be 0 to 1 and sum to 1")
        return stated / total[:, None], abstained
