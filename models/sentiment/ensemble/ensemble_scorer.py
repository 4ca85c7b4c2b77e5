"""Scorer that pools several sentiment models.

The members score side by side in threads, so the slowest one sets the time. A member that abstains, falls
back to another model, or raises an error has no weight for that text; if none is left, the ensemble abstains.
If the members' likeliest classes differ for the headline as a whole, it also abstains below the confidence
`agree_above`. Scores for single assets follow the headline: an abstention has none, and they are pooled
without a bound of their own.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import date
from math import isfinite
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from agent.core.errors import ModelError
from agent.core.events import Provenance
from agent.core.news_kinds import NEWS_KINDS
from agent.data.sentiment import NamedScorer, Probabilities, Score, names_of
from agent.data.text import one_line
from agent.system.latency_histogram import LatencyHistogram
from models.cards import ReferenceShares
from models.classification_metrics import Floats
from models.labels import LABELS
from models.sentiment.ensemble.ensemble_file import (
    Ensemble,
    Member,
    end_of_day,
    member_path,
    read_ensemble,
)
from models.sentiment.ensemble.member_answers import (
    ENSEMBLE,
    SHORT,
    MemberAnswer,
    State,
    Triple,
    encode_answers,
    rounded,
)
from models.sentiment.ensemble.pooling import members_differ, pool
from models.sentiment.serve.headline_score import AssetScore, HeadlineScore, abstention

NO_ANSWER: Final = "no member answers"
DISAGREEMENT: Final = "the members disagree"
"""Reasons of an ensemble's own abstentions."""
INVALID: Final = "it returned no probabilities"
_MAX_WHY: Final = 200  # characters of a reason in the record
_MAX_REASON: Final = 64  # characters of an abstention's reason, which the cache of scores can hold
_TOLERANCE: Final = 1e-3  # of the sum of a member's probabilities
_NAN: Final[Triple] = (np.nan, np.nan, np.nan)

OpenMember = Callable[[str], NamedScorer]
"""Opens the model that `Member.path` names. Raises ModelError and the errors of servers' models."""


class MemberCounts(NamedTuple):
    """Texts by what became of a member's score. `last_error` is of the last failure or fallback."""

    answered: int = 0
    abstained: int = 0
    fell_back: int = 0
    failed: int = 0
    last_error: str = ""


class LoadedMember(NamedTuple):
    """A member with a weight, and its scorer."""

    member: Member
    scorer: NamedScorer

    @property
    def trained_until(self) -> int | None:
        """UTC ms after which the model knows nothing; None for a server's model without a known cutoff."""
        if not self.member.is_remote:
            return self.member.trained_until
        cutoff = getattr(self.scorer, "knowledge_cutoff", None)
        if cutoff is None and not self.member.knowledge_cutoff:
            return None
        known = cutoff or date.fromisoformat(self.member.knowledge_cutoff)
        return max(end_of_day(known), self.member.trained_until, getattr(self.scorer, "calibrated_until", 0))


class _Judged(NamedTuple):
    """A member's score of one text; `score` is None if it has no weight."""

    score: Score | None
    state: State = ""
    why: str = ""
    provenance: Provenance | None = None


class EnsembleScorer:
    """A `NamedScorer` of several. Thread-safe.

    `scorers` are those of `ensemble.members` with a weight, by name.
    """

    def __init__(self, ensemble: Ensemble, scorers: Mapping[str, NamedScorer]) -> None:
        self.ensemble = ensemble
        self.members = tuple(
            LoadedMember(member, scorers[member.name]) for member in ensemble.members if member.weight > 0
        )
        self.fingerprint = ensemble.fingerprint
        self.latency = {one.member.name: LatencyHistogram() for one in self.members}
        """Time of each text by member, ms: that of its batch, divided by the texts."""
        self._weights = np.array([one.member.weight for one in self.members])
        self._pool = ThreadPoolExecutor(len(self.members), "ensemble")
        self._lock = threading.Lock()
        self._counts = {one.member.name: MemberCounts() for one in self.members}

    @property
    def names(self) -> str:
        """Hash of the names by which the members find assets; empty if none of them reads single assets."""
        found = sorted({names for one in self.members if (names := names_of(one.scorer))})
        if len(found) <= 1:
            return "".join(found)
        return hashlib.sha256(" ".join(found).encode()).hexdigest()

    @property
    def reference(self) -> ReferenceShares | None:
        """The reference for drift: the scores of the texts that the weights were fitted on."""
        return self.ensemble.reference

    @property
    def trained_until(self) -> int | None:
        """UTC ms before which a member or the weights may know any event; None if that is unknown."""
        known = [one.trained_until for one in self.members]
        return None if None in known else max(self.ensemble.trained_until, *(one or 0 for one in known))

    @property
    def counts(self) -> dict[str, MemberCounts]:
        """Counts of each member's scores since the start."""
        with self._lock:
            return dict(self._counts)

    def notes(self) -> list[str]:
        """Return a sentence for each member that failed or fell back."""
        return [
            f"Ensemble: {name} gave no answer of its own for {counts.failed + counts.fell_back:,} texts "
            f"(last: {counts.last_error})."
            for name, counts in self.counts.items()
            if counts.failed or counts.fell_back
        ]

    def score(self, texts: Sequence[str]) -> list[HeadlineScore]:
        """Return one score for each text, in the same order, with the members' scores as provenance."""
        if not texts:
            return []
        judged = self._ask(list(texts))
        rows = [[_row(one.score) for one in own] for own in judged]
        probabilities = np.array(rows, np.float64).reshape(len(judged), len(texts), len(LABELS))
        pooled = pool(probabilities, self._weights, self.ensemble.temperature)
        differ = members_differ(probabilities, self._weights)
        below = pooled.max(axis=1) < self.ensemble.agree_above
        return [
            self._score([own[at] for own in judged], pooled[at], bool(differ[at] and below[at]))
            for at in range(len(texts))
        ]

    def close(self) -> None:
        """Close the members."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for one in self.members:
            close = getattr(one.scorer, "close", None)
            if close is not None:
                close()

    def _ask(self, texts: list[str]) -> list[list[_Judged]]:
        """Return the scores of each member with a weight, for each text."""
        futures = [self._pool.submit(self._timed, one, texts) for one in self.members]
        wait(futures)
        found = [_judged(future, len(texts)) for future in futures]
        with self._lock:
            for one, own in zip(self.members, found, strict=True):
                self._counts[one.member.name] = _counted(self._counts[one.member.name], own)
        return found

    def _timed(self, one: LoadedMember, texts: list[str]) -> Sequence[Score]:
        began = time.perf_counter()
        scores = one.scorer.score(texts)
        each = (time.perf_counter() - began) * 1e3 / len(texts)
        with self._lock:
            for _ in texts:
                self.latency[one.member.name].add(each)
        return scores

    def _score(self, judged: Sequence[_Judged], pooled: Floats, disagree: bool) -> HeadlineScore:
        """Return the ensemble's score from the members' scores of one text and their pool (3,)."""
        provenance = self._provenance(judged, int(np.nan_to_num(pooled).argmax()))
        if np.isnan(pooled).any():
            reasons = {one.why for one in judged if one.state == "abstained"}
            shared = reasons.pop() if len(reasons) == 1 and not provenance.fallback else NO_ANSWER
            silent = abstention(shared[:_MAX_REASON] or NO_ANSWER)
            return _with(silent, provenance)
        if disagree:
            return _with(abstention(DISAGREEMENT), provenance)
        bearish, neutral, bullish = pooled.tolist()
        kind, sure = self._kind(judged)
        return HeadlineScore(
            bearish,
            neutral,
            bullish,
            assets=self._assets(judged),
            kind=kind,
            kind_confidence=sure,
            unknown=self._unknown(judged),
            provenance=provenance,
        )

    def _assets(self, judged: Sequence[_Judged]) -> tuple[AssetScore, ...]:
        """Pool the scores of each asset, in the order in which the members first state them."""
        own = [{one.asset: one for one in getattr(answer.score, "assets", ())} for answer in judged]
        assets = list(dict.fromkeys(asset for found in own for asset in found))
        if not assets:
            return ()
        rows = [[_row(found.get(asset)) for asset in assets] for found in own]
        pooled = pool(np.array(rows, np.float64), self._weights, self.ensemble.temperature)
        pairs = zip(assets, pooled.tolist(), strict=True)
        return tuple(AssetScore(asset, *row) for asset, row in pairs if isfinite(sum(row)))

    def _kind(self, judged: Sequence[_Judged]) -> tuple[str, float]:
        """Return the kind of news with the largest weighted mean of the confidences, and that mean.

        Members state their likeliest kind only, so another kind counts as zero: if they differ, the mean is a
        lower bound of the linear pool. A tie goes to the first of `NEWS_KINDS`.
        """
        masses: dict[str, float] = {}
        total = 0.0
        for weight, one in zip(self._weights.tolist(), judged, strict=True):
            kind = getattr(one.score, "kind", "")
            if kind:
                sure = float(getattr(one.score, "kind_confidence", 0.0))
                masses[kind] = masses.get(kind, 0.0) + weight * sure
                total += weight
        if not masses:
            return "", 0.0
        order = {kind: number for number, kind in enumerate(NEWS_KINDS)}
        best = min(masses, key=lambda kind: (-masses[kind], order.get(kind, len(order)), kind))
        return best, masses[best] / total

    def _unknown(self, judged: Sequence[_Judged]) -> float | None:
        """Return the share of unknown tokens that the heaviest member measured."""
        shares = [getattr(one.score, "unknown", None) for one in judged]
        pairs = zip(self._weights.tolist(), shares, strict=True)
        measured = [(weight, share) for weight, share in pairs if share is not None]
        return max(measured)[1] if measured else None

    def _provenance(self, judged: Sequence[_Judged], predicted: int) -> Provenance:
        """Record the members' scores.

        `fallback` names the members that failed or fell back: the rest is then another model than the fitted
        one, whose score isn't cached. `reason` is that of the heaviest member that gives one and whose
        likeliest class is `predicted`.
        """
        answers, missing, reasons = [], [], []
        for (member, _), one in zip(self.members, judged, strict=True):
            answers.append(_recorded(member, one))
            if one.state in ("failed", "fell back"):
                missing.append(f"{member.name} {one.state}: {one.why}")
            given = one.provenance.reason if one.provenance is not None and one.score is not None else ""
            if given and int(np.argmax(_row(one.score))) == predicted:
                reasons.append((member.weight, given))
        return Provenance(
            model=ENSEMBLE,
            prompt="",
            seed=0,
            answers=encode_answers(answers),
            fallback=one_line("; ".join(missing), _MAX_WHY),
            reason=max(reasons)[1] if reasons else "",
        )


def load_ensemble(folder: Path, open_member: OpenMember) -> EnsembleScorer:
    """Open the members of an ensemble that have a weight.

    Raises ModelError if `ensemble.json` can't be used or a member isn't the model of the fitting, and the
    errors of `open_member`.
    """
    ensemble = read_ensemble(folder)
    members: dict[str, NamedScorer] = {}
    for member in ensemble.members:
        if member.weight > 0:
            path = member_path(folder, member.path)
            scorer = open_member(path)
            if scorer.fingerprint != member.fingerprint:
                was, now = member.fingerprint[:12], scorer.fingerprint[:12]
                raise ModelError(
                    f"{folder}: {member.name} ({path}) is not the model that the weights were fitted for "
                    f"(fingerprint {was} then, {now} now)",
                    hint="restore that model and its settings, or fit again: tapewire train ensemble",
                )
            members[member.name] = scorer
    return EnsembleScorer(ensemble, members)


def _judged(future: Future[Sequence[Score]], count: int) -> list[_Judged]:
    """Return a member's scores; an error is one for each of the `count` texts."""
    error = future.exception()
    if error is not None:
        if not isinstance(error, Exception):
            raise error
        why = one_line(str(error) or type(error).__name__, _MAX_WHY)
        return [_Judged(None, "failed", why)] * count
    scores = future.result()
    if len(scores) != count:
        return [_Judged(None, "failed", f"{len(scores)} answers for {count} texts")] * count
    return [_usable(score) for score in scores]


def _usable(score: Score) -> _Judged:
    provenance: Provenance | None = getattr(score, "provenance", None)
    if provenance is not None and provenance.fallback:
        return _Judged(None, "fell back", one_line(provenance.fallback, _MAX_WHY), provenance)
    if score.abstained:
        return _Judged(None, "abstained", str(getattr(score, "reason", "")), provenance)
    answers: Iterable[Probabilities] = (score, *getattr(score, "assets", ()))
    if not all(map(_are_probabilities, answers)):
        return _Judged(None, "failed", INVALID, provenance)
    return _Judged(score, provenance=provenance)


def _are_probabilities(answer: Probabilities) -> bool:
    row = answer.bearish, answer.neutral, answer.bullish
    return all(isfinite(value) and value >= 0 for value in row) and abs(sum(row) - 1) <= _TOLERANCE


def _row(answer: Probabilities | None) -> Triple:
    return _NAN if answer is None else (answer.bearish, answer.neutral, answer.bullish)


def _counted(counts: MemberCounts, judged: Iterable[_Judged]) -> MemberCounts:
    for one in judged:
        name = one.state.replace(" ", "_") or "answered"
        counts = counts._replace(**{name: getattr(counts, name) + 1})
        if one.state in ("failed", "fell back"):
            counts = counts._replace(last_error=one.why)
    return counts


def _recorded(member: Member, one: _Judged) -> MemberAnswer:
    assets = getattr(one.score, "assets", ())
    return MemberAnswer(
        name=member.name,
        model=member.fingerprint[:SHORT],
        state=one.state,
        p=None if one.score is None else rounded(_row(one.score)),
        assets={answer.asset: rounded(_row(answer)) for answer in assets},
        kind=getattr(one.score, "kind", ""),
        why=one.why,
        provenance=one.provenance,
    )


def _with(score: HeadlineScore, provenance: Provenance) -> HeadlineScore:
    return HeadlineScore(*score.probabilities, abstained=True, reason=score.reason, provenance=provenance)
