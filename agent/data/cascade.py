"""Two models for replay: one scores each headline, a slower one revises its scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from operator import attrgetter
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agent.core.events import News, Sentiment
from agent.core.settings import CoreConfig
from agent.core.symbols import SymbolMapper
from agent.data.sentiment import (
    NamedScorer,
    Score,
    names_of,
    provenance_of,
    score_texts,
    sentiment_of,
)

_BLOCK: Final = 256


class CascadeScorer:
    """The scorer `scorer`, whose scores `reviser` revises. Its own scores are the first scores."""

    def __init__(self, scorer: NamedScorer, reviser: NamedScorer) -> None:
        self.scorer = scorer
        self.reviser = reviser

    @property
    def fingerprint(self) -> str:
        """That of the first model."""
        return self.scorer.fingerprint

    @property
    def names(self) -> str:
        """Those of the first model; see `names_of`."""
        return names_of(self.scorer)

    def score(self, texts: Sequence[str]) -> Sequence[Score]:
        """Return the first model's scores."""
        return self.scorer.score(texts)

    def score_and_embed(
        self, texts: Sequence[str]
    ) -> tuple[Sequence[Score], Sequence[NDArray[np.float32]] | NDArray[np.float32]]:
        """Return the first model's scores and hidden states."""
        first: Any = self.scorer
        return first.score_and_embed(texts)  # type: ignore[no-any-return]


def models_of(scorer: NamedScorer | None) -> tuple[NamedScorer, ...]:
    """Return the models behind a scorer: two for a cascade, none for None."""
    if isinstance(scorer, CascadeScorer):
        return scorer.scorer, scorer.reviser
    return () if scorer is None else (scorer,)


def may_vote(config: CoreConfig) -> Callable[[News], bool]:
    """Return whether a headline is recent and about a traded symbol. Only such headlines are revised."""
    mapper = SymbolMapper(config.market.symbols, config.instruments, config.signals.macro_keywords)
    return lambda news: news.actionable and bool(mapper.map(news.title, news.currencies))


def revise_news(
    news: Iterable[News],
    reviser: NamedScorer,
    latency: int,
    *,
    text: Callable[[News], str] = attrgetter("title"),
    block: int = _BLOCK,
) -> Iterator[Sentiment]:
    """Yield the revision of each headline, `latency` ms after it was available. `news` must be in order.

    A headline that a language model left to its fallback has no revision. `block` headlines are scored
    together; `text` returns the text to score.
    """
    source = iter(news)
    while headlines := list(islice(source, block)):
        judged = score_texts(reviser, [text(item) for item in headlines], embedded=False)
        for item, scored in zip(headlines, judged, strict=True):
            provenance = provenance_of(scored.score)
            if provenance is None or not provenance.fallback:
                yield sentiment_of(item, scored, latency, reviser.fingerprint)
