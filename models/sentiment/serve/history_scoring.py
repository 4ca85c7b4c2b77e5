"""Scoring of a history: many texts into the cache, by this process or by whatever `ScoreBlocks` stands for.

The texts are scored in blocks that depend on nothing but the texts, so the scores are those of a replay that
scores its headlines as it goes, to the last bit. Each block is committed when it is scored: what an
interrupted call has scored is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from agent.data.sentiment import NamedScorer
from models.sentiment.serve.score_cache import CachedScore, CachedScorer, score_anew

BLOCK: Final = 256
"""Texts of a block before those are left out that occur earlier or are cached; as in a replay."""

Progress = Callable[[int, int], None]
"""Called with (texts done, all distinct texts), first with those that the cache had."""

ScoreBlocks = Callable[[Sequence[Sequence[str]]], Iterator[tuple[Sequence[str], list[CachedScore]]]]
"""Scores blocks of texts, and yields each with its scores when it is done, in any order."""


def score_history(
    scorer: CachedScorer,
    texts: Iterable[str],
    *,
    embedded: bool = True,
    score_blocks: ScoreBlocks | None = None,
    progress: Progress | None = None,
) -> int:
    """Cache the score of each text, with its embedding if `embedded`; return how many had to be scored.

    The scorer's own model scores them, or `score_blocks`. Raises StoreError and ModelError.
    """
    blocks, distinct = _blocks(texts)
    missing = set(scorer.missing(distinct, embedded=embedded))
    done = len(distinct) - len(missing)
    if progress:
        progress(done, len(distinct))
    left = [[text for text in block if text in missing] for block in blocks]
    for block, scores in (score_blocks or _here(scorer.scorer, embedded))([one for one in left if one]):
        scorer.keep(block, scores)
        done += len(block)
        if progress:
            progress(done, len(distinct))
    return len(missing)


def _blocks(texts: Iterable[str]) -> tuple[list[list[str]], list[str]]:
    """Return the blocks, each with the texts that occur in no earlier one, and all distinct texts."""
    every = list(texts)
    distinct: dict[str, None] = {}
    blocks: list[list[str]] = []
    for begin in range(0, len(every), BLOCK):
        new = [text for text in dict.fromkeys(every[begin : begin + BLOCK]) if text not in distinct]
        distinct |= dict.fromkeys(new)
        blocks.append(new)
    return blocks, list(distinct)


def _here(scorer: NamedScorer, embedded: bool) -> ScoreBlocks:
    def score_blocks(blocks: Sequence[Sequence[str]]) -> Iterator[tuple[Sequence[str], list[CachedScore]]]:
        for block in blocks:
            yield block, score_anew(scorer, block, embedded=embedded)

    return score_blocks
