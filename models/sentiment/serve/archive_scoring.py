"""Scoring a whole archive once: what is in the cache afterwards, no backtest, data set or fold has to score again."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from models.sentiment.serve.score_cache import CachedScorer

_BLOCK = 512

Progress = Callable[[int, int], None]
"""(texts done, all)."""


def fill_cache(
    scorer: CachedScorer, texts: Iterable[str], *, embedded: bool = True, progress: Progress | None = None
) -> int:
    """Score each text once, and keep score and (if `embedded`) embedding; returns how many the model had to read.

    Each block is committed, so that an interrupted run goes on where it was. Raises StoreError.
    """
    distinct = list(dict.fromkeys(texts))
    before = scorer.misses
    read: Callable[[list[str]], object] = scorer.score_and_embed if embedded else scorer.score
    for begin in range(0, len(distinct), _BLOCK):
        read(distinct[begin : begin + _BLOCK])
        if progress:
            progress(min(begin + _BLOCK, len(distinct)), len(distinct))
    return scorer.misses - before
