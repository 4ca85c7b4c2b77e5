"""Scores of labelled texts by each member, from the score cache if they are known, with time and cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import numpy as np

from agent.core.errors import UsageError
from agent.data.sentiment import NamedScorer
from models.cards import Card, DatasetRecord
from models.classification_metrics import Floats
from models.labels import LABELS
from models.sentiment import ENSEMBLE, SERVER, STARTER
from models.sentiment.ensemble.ensemble_file import end_of_day
from models.sentiment.serve.headline_score import HeadlineScore

_BLOCK: Final = 64  # texts of a call, after which progress is shown
_TIMED: Final = 32  # texts that a local model scores again if all scores were in the cache


class CachedMember(Protocol):
    """A scorer behind the cache, as `CachedScorer`."""

    misses: int
    """Texts that the model had to score."""

    @property
    def scorer(self) -> NamedScorer:
        """The model itself."""

    def score(self, texts: Sequence[str], /) -> list[HeadlineScore]:
        """Return one score for each text."""


Progress = Callable[[str, int, int], None]
"""Called with (member's name, texts done, all texts)."""


class OpenedMember(NamedTuple):
    """A model that may become a member. `path` is as the user named it."""

    name: str
    path: str
    cached: CachedMember

    @property
    def scorer(self) -> NamedScorer:
        """The model itself."""
        return self.cached.scorer

    @property
    def card(self) -> Card | None:
        """The card of a local model."""
        return getattr(self.scorer, "card", None)

    @property
    def is_remote(self) -> bool:
        """True for a model at a server."""
        return self.path.startswith(SERVER)

    @property
    def knowledge_cutoff(self) -> date | None:
        """Last day that a model at a server can know; None for a local model or if it is unknown."""
        return getattr(self.scorer, "knowledge_cutoff", None)

    @property
    def trained_until(self) -> int:
        """UTC ms. The model may know any event before; 0 if a server's model has no known cutoff."""
        if self.card is not None:
            return self.card.trained_until
        cutoff = self.knowledge_cutoff
        known = 0 if cutoff is None else end_of_day(cutoff)
        return max(known, getattr(self.scorer, "calibrated_until", 0))

    def close(self) -> None:
        """End the requests of a server's model."""
        close = getattr(self.scorer, "close", None)
        if close is not None:
            close()

    def has_seen(self, records: Sequence[DatasetRecord]) -> list[str]:
        """Return the names of the data sets that the model was trained or calibrated on."""
        own = {record.sha256 for record in self.card.datasets} if self.card is not None else set()
        return [record.name for record in records if record.sha256 in own]


class MemberScores(NamedTuple):
    """Scores (texts, 3), with NaN for abstentions, and what they took."""

    probabilities: Floats
    abstained: int
    fell_back: int
    """Texts for which a server's model gave no score of its own. They are abstentions, too."""
    ms: float | None
    """Milliseconds a text that the model scored; None if the cache had all of them."""
    cost: float
    """Cost of a text that the model scored."""


def member_names(paths: Sequence[str]) -> list[str]:
    """Return a short unique name for each path: the folder's name, or the model's id at its server.

    Raises UsageError for an ensemble, or a path that occurs twice.
    """
    names: list[str] = []
    for path in paths:
        if path.startswith(ENSEMBLE):
            raise UsageError(f"--member {path} is an ensemble", hint="name its members instead")
        if paths.count(path) > 1:
            raise UsageError(f"--member {path} is given twice", hint="name each model once")
        last = path.rpartition("#")[2] if path.startswith(SERVER) else Path(path).name or path
        base, number = (STARTER if path == STARTER else last), 2
        name = base
        while name in names:
            name, number = f"{base} {number}", number + 1
        names.append(name)
    return names


def score_member(
    member: OpenedMember, texts: Sequence[str], progress: Progress | None = None
) -> MemberScores:
    """Score texts, a block at a time. Raises the errors of the model."""
    scorer, asked_before = member.cached, member.cached.misses
    began_cost, seconds = _cost(member.scorer), 0.0
    scores: list[HeadlineScore] = []
    for start in range(0, len(texts), _BLOCK):
        block, before = texts[start : start + _BLOCK], scorer.misses
        began = time.perf_counter()
        scores += scorer.score(block)
        if scorer.misses > before:
            seconds += time.perf_counter() - began
        if progress is not None:
            progress(member.name, len(scores), len(texts))
    fell_back = [score.provenance is not None and bool(score.provenance.fallback) for score in scores]
    missing = [score.abstained or fell for score, fell in zip(scores, fell_back, strict=True)]
    rows = [
        (np.nan,) * len(LABELS) if silent else score.probabilities
        for score, silent in zip(scores, missing, strict=True)
    ]
    spent, misses = _cost(member.scorer) - began_cost, scorer.misses - asked_before
    return MemberScores(
        np.array(rows, np.float64),
        sum(missing),
        sum(fell_back),
        _milliseconds(member, texts, misses, seconds),
        spent / misses if misses else 0.0,
    )


def _milliseconds(member: OpenedMember, texts: Sequence[str], misses: int, seconds: float) -> float | None:
    """Return the time of a text. If the cache had all, a local model scores some of them once more."""
    if misses:
        return seconds * 1e3 / misses
    if member.is_remote:
        return None
    sample = list(dict.fromkeys(texts))[:_TIMED]
    began = time.perf_counter()
    member.scorer.score(sample)
    return (time.perf_counter() - began) * 1e3 / len(sample)


def _cost(scorer: NamedScorer) -> float:
    """Return what the scorer has spent since it was opened; 0 for a local model."""
    return float(getattr(getattr(scorer, "health", None), "cost", 0.0))
