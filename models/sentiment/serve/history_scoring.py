"""Scoring of a history: many texts into the cache, in this process, in others, or wherever `Judge` has them.

The texts are scored in blocks that depend on nothing but the texts, so the scores are the same to the last
bit however many processes there are, and those of a replay that scores its headlines as it goes. Each block
is committed when it is scored: what an interrupted call has scored is kept.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for
from typing import Final

from agent.core.errors import ModelError
from agent.data.sentiment import NamedScorer
from models.sentiment.serve.score_cache import CachedScore, CachedScorer, judge

BLOCK: Final = 256
"""Texts of a block before those are left out that occur earlier or are cached; as in a replay."""

WORTH_PROCESSES: Final = 1_000
"""From so many texts on, other processes are faster by more than it takes to start them."""

_AHEAD: Final = 2  # blocks for each process, so that none waits for the next
_LOSSES: Final = 3  # times that processes may die

Progress = Callable[[int, int], None]
"""Called with (texts done, all distinct texts), first with those that the cache had."""

Judge = Callable[[Sequence[Sequence[str]]], Iterator[tuple[Sequence[str], list[CachedScore]]]]
"""Scores blocks of texts, and yields each with its scores when it is done, in any order."""


def score_history(
    scorer: CachedScorer,
    texts: Iterable[str],
    *,
    embedded: bool = True,
    jobs: int = 1,
    judges: Judge | None = None,
    progress: Progress | None = None,
) -> int:
    """Cache the score of each text, with its embedding if `embedded`; return how many had to be scored.

    With several `jobs`, a local model runs in as many processes, one thread each, if there are enough texts.
    `judges` scores the texts in their place. Raises StoreError and ModelError.
    """
    blocks, distinct = _blocks(texts)
    missing = set(scorer.missing(distinct, embedded=embedded))
    done = len(distinct) - len(missing)
    if progress:
        progress(done, len(distinct))
    left = [[text for text in block if text in missing] for block in blocks]
    left = [block for block in left if block]
    if judges is None:
        reopen = getattr(scorer.scorer, "reopen", None)
        if jobs > 1 and reopen is not None and len(missing) >= WORTH_PROCESSES:
            judges = ProcessJudges(reopen, scorer.fingerprint, jobs, embedded=embedded)
        else:
            judges = _here(scorer.scorer, embedded)
    for block, scores in judges(left):
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


def _here(scorer: NamedScorer, embedded: bool) -> Judge:
    def judges(blocks: Sequence[Sequence[str]]) -> Iterator[tuple[Sequence[str], list[CachedScore]]]:
        for block in blocks:
            yield block, judge(scorer, block, embedded=embedded)

    return judges


class ProcessJudges:
    """Scores blocks in `jobs` processes, each with its own copy of the model.

    A block whose process dies is scored by another one; `lost` counts how often that happened. `reopen` opens
    the model with this `fingerprint` in a process and must be picklable.
    """

    def __init__(
        self, reopen: Callable[[], NamedScorer], fingerprint: str, jobs: int, *, embedded: bool
    ) -> None:
        self.lost = 0
        self._opens = reopen, fingerprint, embedded
        self._jobs = jobs

    def __call__(self, blocks: Sequence[Sequence[str]]) -> Iterator[tuple[Sequence[str], list[CachedScore]]]:
        waiting = dict(enumerate(blocks))
        while waiting:
            try:
                for number, scores in self._run(waiting):
                    yield waiting.pop(number), scores
            except BrokenProcessPool:
                self.lost += 1
                if self.lost > _LOSSES:
                    hint = "fewer of them need less memory: set model.threads; scores so far are kept"
                    raise ModelError("processes that score headlines keep dying", hint=hint) from None

    def _run(self, blocks: dict[int, Sequence[str]]) -> Iterator[tuple[int, list[CachedScore]]]:
        jobs = min(self._jobs, len(blocks))
        context = multiprocessing.get_context("spawn")  # other threads may hold locks
        with ProcessPoolExecutor(jobs, context, _begin, self._opens) as pool:
            rest, running = iter(list(blocks.items())), dict[Future[list[CachedScore]], int]()
            try:
                while True:
                    while len(running) < _AHEAD * jobs and (task := next(rest, None)) is not None:
                        running[pool.submit(_judge, task[1])] = task[0]
                    if not running:
                        return
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        yield running.pop(future), future.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)


_opens: tuple[Callable[[], NamedScorer], str, bool] | None = None
_scorer: NamedScorer | None = None  # of a process of `ProcessJudges`


def _begin(reopen: Callable[[], NamedScorer], fingerprint: str, embedded: bool) -> None:
    """Prepare a process, which ends with its parent and leaves Ctrl-C to it."""
    global _opens
    _opens = reopen, fingerprint, embedded
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)


def _judge(texts: Sequence[str]) -> list[CachedScore]:
    global _scorer
    if _opens is None:
        raise ModelError("this process was not prepared to score")
    reopen, fingerprint, embedded = _opens
    if _scorer is None:
        _scorer = reopen()
        if _scorer.fingerprint != fingerprint:
            raise ModelError("the model's files have changed meanwhile", hint="start again")
    return judge(_scorer, texts, embedded=embedded)
