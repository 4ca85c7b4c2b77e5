"""Drift of a sentiment model: recent headlines compared with the texts that it was trained on.

The measure is the population stability index (Siddiqi, *Credit Risk Scorecards*, 2006) of live shares p
against reference shares q over the same bins:

    PSI = sum((p - q) * ln(p / q))

A share of zero counts as half a text of its sample, since the logarithm of zero is undefined; a bin that is
empty in both samples is left out. By convention a PSI of `WATCH` is worth a look and one of `DRIFTED` is a
changed population. Chance alone gives about

    PSI ~ (1 / n + 1 / m) * chi-squared(bins - 1)

for samples of n and m texts from one population (Yurdakul, *Statistical Properties of the Population
Stability Index*, 2018), so a PSI below the 99 % quantile of that is ok whatever its value.

Drift means that the headlines differ from the training texts, not that their scores are wrong.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from math import fsum, isfinite, log, sqrt
from typing import Final, Literal

import msgspec

from agent.core.votes import leading
from agent.data.sentiment import Score
from models.cards import CONFIDENCE_BINS, ReferenceShares
from models.labels import LABELS

WATCH: Final = 0.1
DRIFTED: Final = 0.25
LEAST_HEADLINES: Final = 100
"""With fewer headlines nothing is judged."""

State = Literal["ok", "watch", "drifted", "unknown"]

CLASS: Final = "class"
CONFIDENCE: Final = "confidence"
ABSTAINED: Final = "abstained"
UNKNOWN_TOKENS: Final = "unknown tokens"

NO_REFERENCE: Final = "the model's card has no reference shares"
_SEVERITY: Final[dict[State, int]] = {"unknown": 0, "ok": 1, "watch": 2, "drifted": 3}
_NORMAL_99: Final = 2.3263478740408408  # 99 % quantile of the standard normal distribution
_LOWEST: Final = 1 / len(LABELS)  # a confidence can't be below it
_EDGES: Final = [_LOWEST + (1 - _LOWEST) * number / CONFIDENCE_BINS for number in range(CONFIDENCE_BINS + 1)]
_BINS: Final = {
    CLASS: LABELS,
    CONFIDENCE: tuple(f"{low:.2f} to {_EDGES[at + 1]:.2f}" for at, low in enumerate(_EDGES[:-1])),
    ABSTAINED: ("abstained", "judged"),
    UNKNOWN_TOKENS: ("unknown", "known"),
}


class Comparison(msgspec.Struct, frozen=True):
    """One property of the headlines against its reference. Shares are in the order of `bins`.

    `live` is empty if nothing is known of the headlines, `reference` if the model's card lacks it. `psi` and
    `chance`, the PSI that 1 % of all windows exceed without any drift, are None while the state is unknown.
    """

    of: str
    bins: tuple[str, ...]
    state: State
    headlines: int
    live: tuple[float, ...] = ()
    reference: tuple[float, ...] = ()
    psi: float | None = None
    chance: float | None = None

    def describe(self) -> str:
        """Return the PSI and the bin that contributes most to it."""
        if self.psi is None:
            return f"{self.of}: unknown"
        gaps = [abs(p - q) for p, q in zip(self.live, self.reference, strict=True)]
        at = gaps.index(max(gaps)) if len(gaps) > 2 else 0
        return (
            f"{self.of} (PSI {self.psi:.2f}): {self.bins[at]} {self.live[at]:.1%} instead of "
            f"{self.reference[at]:.1%}"
        )


class Drift(msgspec.Struct, frozen=True):
    """The last headlines that one model scored, compared with its reference.

    The state is that of the worst comparison. Shares are fractions, None if no headline shows them.
    """

    state: State
    reason: str
    """Why the state is unknown, or which comparisons are not ok. Empty if all are."""
    model: str
    """Fingerprint of the model that scored the headlines."""
    headlines: int
    left_out: int
    """Headlines that earlier models of the run had scored."""
    abstained: float | None
    confidence: float | None
    """Mean confidence of the headlines without abstentions."""
    reference_confidence: float | None
    unknown_tokens: float | None
    comparisons: tuple[Comparison, ...]

    def of(self, name: str) -> Comparison:
        """Return the comparison with this name."""
        return next(one for one in self.comparisons if one.of == name)


def population_stability_index(
    live: Sequence[float], reference: Sequence[float], live_texts: int, reference_texts: int
) -> float:
    """Return the PSI of two distributions over the same bins. The numbers of texts are those behind them."""
    terms = []
    for p, q in zip(live, reference, strict=True):
        if p > 0 or q > 0:
            p, q = p or 0.5 / live_texts, q or 0.5 / reference_texts
            terms.append((p - q) * log(p / q))
    return fsum(terms)


def psi_by_chance(bins: int, live_texts: int, reference_texts: int) -> float:
    """Return the 99 % quantile of the PSI of two samples from one population (Wilson and Hilferty's
    approximation of chi-squared).
    """
    freedom = max(bins - 1, 1)
    step = 2 / (9 * freedom)
    quantile = freedom * (1 - step + _NORMAL_99 * sqrt(step)) ** 3
    return quantile * (1 / live_texts + 1 / reference_texts)


def confidence_bin(confidence: float) -> int:
    """Return the number of the bin of a confidence in [1/3, 1]; the last bin includes 1."""
    place = (confidence - _LOWEST) / (1 - _LOWEST) * CONFIDENCE_BINS
    return min(max(int(place), 0), CONFIDENCE_BINS - 1)


def reference_shares(
    scores: Iterable[Score], unknown: Iterable[float | None] | None = None
) -> ReferenceShares:
    """Measure `Card.reference` on texts like those that the model was trained on.

    `scores` are the exported model's, one for each text; `unknown` is for each text the share of its tokens
    that the vocabulary lacks, None if it is not known. Those of abstentions are not used. Raises ValueError
    without any score, if the model abstained on all of them, or if the lengths differ.
    """
    judged = list(scores)
    window = SentimentWindow(None)
    tokens = [None] * len(judged) if unknown is None else list(unknown)
    for score, share in zip(judged, tokens, strict=True):
        window.add(score, unknown=share)
    drift = window.compare(None)
    if drift.confidence is None or drift.abstained is None:
        raise ValueError("no text that the model judged")
    return ReferenceShares(
        texts=drift.headlines,
        classes=drift.of(CLASS).live,
        confidence=drift.of(CONFIDENCE).live,
        mean_confidence=drift.confidence,
        abstained=drift.abstained,
        unknown_tokens=drift.unknown_tokens,
    )


class SentimentWindow:
    """The last `size` scores of one model; None keeps all. A score of another model starts it anew.

    All shares are ratios of integers and all means are rounded once, so the same scores give the same result
    to the last bit, however they arrived.
    """

    def __init__(self, size: int | None) -> None:
        self.model = ""
        self.left_out = 0
        """Scores of earlier models."""
        self._size = size
        self._scores: deque[tuple[int, int, float, float | None]] = deque()
        self._classes: Counter[int] = Counter()
        self._bins: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self._scores)

    def add(self, score: Score, *, model: str = "", unknown: float | None = None) -> bool:
        """Add a score; return True if it is the first of another model.

        `unknown` is the share of tokens that the vocabulary lacks. A score without usable probabilities
        counts as an abstention.
        """
        changed = bool(self._scores) and model != self.model
        if changed:
            self.left_out += len(self._scores)
            self._scores.clear()
            self._classes.clear()
            self._bins.clear()
        self.model = model
        three = (score.bearish, score.neutral, score.bullish)
        total = fsum(three)
        if score.abstained or not (isfinite(total) and 0.99 < total < 1.01):
            self._scores.append((-1, 0, 0.0, None))
        else:
            confidence = max(three)
            predicted, place = leading(*three), confidence_bin(confidence)
            self._scores.append((predicted, place, confidence, unknown))
            self._classes[predicted] += 1
            self._bins[place] += 1
        while self._size is not None and len(self._scores) > self._size:
            predicted, place, *_ = self._scores.popleft()
            if predicted >= 0:
                self._classes[predicted] -= 1
                self._bins[place] -= 1
        return changed

    def compare(self, reference: ReferenceShares | None, why_none: str = NO_REFERENCE) -> Drift:
        """Compare the scores with a reference; `why_none` states why it is missing."""
        count, judged = len(self._scores), self._classes.total()
        tokens = [share for *_, share in self._scores if share is not None]
        abstained = (count - judged) / count if count else None
        unknown = fsum(tokens) / len(tokens) if tokens else None
        confidence = fsum(one for at, _, one, _ in self._scores if at >= 0) / judged if judged else None
        classes = tuple(self._classes[at] / judged for at in range(len(LABELS))) if judged else ()
        bins = tuple(self._bins[at] / judged for at in range(CONFIDENCE_BINS)) if judged else ()
        live = {
            CLASS: (classes, judged),
            CONFIDENCE: (bins, judged),
            ABSTAINED: (_pair(abstained), count),
            UNKNOWN_TOKENS: (_pair(unknown), len(tokens)),
        }
        expected = dict.fromkeys(live, _NO_SHARES) if reference is None else _shares_of(reference)
        comparisons = tuple(
            _compare(of, *live[of], *expected[of], enough=(len(tokens) if of == UNKNOWN_TOKENS else count))
            for of in live
        )
        state = max((one.state for one in comparisons), key=_SEVERITY.__getitem__)
        if reference is None:
            reason = why_none
        elif state == "unknown":
            reason = f"{count:,} headlines are too few: {LEAST_HEADLINES} are needed"
        else:
            reason = "; ".join(one.describe() for one in comparisons if one.state in ("watch", "drifted"))
        return Drift(
            state=state,
            reason=reason,
            model=self.model,
            headlines=count,
            left_out=self.left_out,
            abstained=abstained,
            confidence=confidence,
            reference_confidence=None if reference is None else reference.mean_confidence,
            unknown_tokens=unknown,
            comparisons=comparisons,
        )


_NO_SHARES: Final[tuple[tuple[float, ...], int]] = ((), 0)


def _shares_of(reference: ReferenceShares) -> dict[str, tuple[tuple[float, ...], int]]:
    """Return the shares of each comparison with the number of texts behind them."""
    judged = max(round(reference.texts * (1 - reference.abstained)), 1)
    return {
        CLASS: (reference.classes, judged),
        CONFIDENCE: (reference.confidence, judged),
        ABSTAINED: (_pair(reference.abstained), reference.texts),
        UNKNOWN_TOKENS: (_pair(reference.unknown_tokens), judged),
    }


def _pair(share: float | None) -> tuple[float, ...]:
    return () if share is None else (share, 1 - share)


def _compare(
    of: str,
    live: tuple[float, ...],
    texts: int,
    reference: tuple[float, ...],
    reference_texts: int,
    *,
    enough: int,
) -> Comparison:
    """Compare two distributions; nothing is judged unless `enough` reaches `LEAST_HEADLINES`."""
    if not live or not reference or enough < LEAST_HEADLINES:
        return Comparison(of, _BINS[of], "unknown", texts, live, reference)
    psi = population_stability_index(live, reference, texts, reference_texts)
    occupied = sum(p > 0 or q > 0 for p, q in zip(live, reference, strict=True))
    chance = psi_by_chance(occupied, texts, reference_texts)
    state: State = "ok"
    if psi > chance and psi >= WATCH:
        state = "drifted" if psi >= DRIFTED else "watch"
    return Comparison(of, _BINS[of], state, texts, live, reference, psi, chance)
