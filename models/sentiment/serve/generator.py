"""Trading signals from headlines: for one text, for each of a batch, or by a weighted vote of several.

>>> generator = SentimentSignalGenerator.from_pretrained("starter")
>>> generator.generate_signal("Regulator approves the fund").prediction
<Direction.BUY: 'BUY'>

A model that reads single assets also gives each asset that a text names its own signal, in `assets`:
`signal.assets.get("BTC", signal)` is the score for bitcoin, or the text's if it doesn't name bitcoin.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from agent.core.errors import UsageError
from agent.core.events import BUY, HOLD, SELL, Direction, Provenance
from models.cards import THRESHOLD
from models.sentiment.serve.headline_score import AssetScore, HeadlineScore, abstention
from models.sentiment.serve.model_paths import STARTER, model_dir
from models.sentiment.serve.scorer import Scorer

_DIRECTIONS: Final = (SELL, HOLD, BUY)  # in the order of bearish, neutral, bullish


class AssetSignal(msgspec.Struct, frozen=True):
    """Trading signal for one asset that a text names. The three probabilities are calibrated and sum to 1."""

    bearish: float
    neutral: float
    bullish: float
    prediction: Direction
    confidence: float
    """Probability of the prediction."""
    actionable: bool
    """True if the confidence reaches the threshold."""


class SentimentSignal(AssetSignal, frozen=True):
    """Trading signal of a text or of a vote; the confidence is 0 if the model abstained."""

    abstained: bool = False
    reason: str = ""
    assets: dict[str, AssetSignal] = {}
    """Signal of each asset that the text names, by ticker, in the order of first mention; empty if the model
    answers only for the whole text.
    """
    kind: str = ""
    """Likeliest kind of news, one of `agent.core.news_kinds.NEWS_KINDS`; empty if the model doesn't tell."""
    kind_confidence: float = 0.0
    """Calibrated probability of the kind."""
    provenance: Provenance | None = None
    """How a language model at a server came to the answer; None for a local model."""


class SignalScorer(Protocol):
    """A local model, a language model or an ensemble."""

    @property
    def fingerprint(self) -> str: ...

    def score(self, texts: Sequence[str], /) -> Sequence[HeadlineScore]: ...


class SentimentSignalGenerator:
    """Scores texts and turns probabilities into SELL, HOLD or BUY."""

    def __init__(self, scorer: SignalScorer, threshold: float | None = None, name: str = "") -> None:
        """Wrap a scorer.

        `threshold` in [0, 1] is the least calibrated confidence of an actionable signal; default: the card's,
        which is 0.7 unless set in training; for a language model 0.7. `name` identifies the model in errors;
        default: its fingerprint.
        """
        self.scorer = scorer
        self.name = name or scorer.fingerprint[:12]
        card = scorer.card if isinstance(scorer, Scorer) else None
        own = card.threshold if card is not None else THRESHOLD
        self.threshold = own if threshold is None else threshold
        if not 0 <= self.threshold <= 1:
            raise UsageError(f"threshold {self.threshold} is no probability", hint="a number from 0 to 1")

    @classmethod
    def from_pretrained(
        cls, folder: str | Path = STARTER, *, threshold: float | None = None, **options: Any
    ) -> SentimentSignalGenerator:
        """Load an exported folder, or "starter" for the shipped model. `options` are passed to
        `Scorer.load`.
        """
        return cls(Scorer.load(model_dir(folder), **options), threshold, str(folder))

    def generate_signal(self, text: str) -> SentimentSignal:
        """Return the signal of one text."""
        return self.batch_signals([text])[0]

    def batch_signals(self, texts: Sequence[str]) -> list[SentimentSignal]:
        """Return one signal for each text, in the same order."""
        return [self._signal(score) for score in self.scorer.score(texts)]

    def aggregate_signals(self, signals: Sequence[SentimentSignal]) -> SentimentSignal:
        """Combine signals: the mean of their probabilities, weighted by confidence.

        Abstentions have no weight. If all signals abstained, so does the result. Each asset that a signal
        names gets the same mean over the asset signals alone, weighted by their own confidence; signals that
        don't name the asset have no part in it. The result has a kind of news only if all signals that have a
        weight agree on it; its confidence is the weighted mean.
        """
        weight = sum(signal.confidence for signal in signals)
        if not weight:
            return self._signal(abstention("no signal to vote"))
        named: dict[str, list[AssetSignal]] = {}
        for signal in signals:
            for asset, own in signal.assets.items():
                named.setdefault(asset, []).append(own)
        voting = [signal for signal in signals if signal.confidence]
        agreed = len({signal.kind for signal in voting}) == 1
        return self._signal(
            HeadlineScore(
                *_means(signals),
                assets=tuple(AssetScore(asset, *_means(votes)) for asset, votes in named.items()),
                kind=voting[0].kind if agreed else "",
                kind_confidence=_mean(voting, "kind_confidence") if agreed else 0.0,
            )
        )

    def _signal(self, score: HeadlineScore) -> SentimentSignal:
        three = score.probabilities
        return SentimentSignal(
            *three,
            prediction=HOLD if score.abstained else _DIRECTIONS[three.index(max(three))],
            confidence=score.confidence,
            actionable=not score.abstained and score.confidence >= self.threshold,
            abstained=score.abstained,
            reason=score.reason,
            assets={own.asset: self._asset_signal(own) for own in score.assets},
            kind=score.kind,
            kind_confidence=score.kind_confidence,
            provenance=score.provenance,
        )

    def _asset_signal(self, score: AssetScore) -> AssetSignal:
        three = score.bearish, score.neutral, score.bullish
        confidence = max(three)
        return AssetSignal(
            *three,
            prediction=_DIRECTIONS[three.index(confidence)],
            confidence=confidence,
            actionable=confidence >= self.threshold,
        )


def _means(signals: Sequence[SentimentSignal | AssetSignal]) -> tuple[float, float, float]:
    """Return the mean probabilities (bearish, neutral, bullish), weighted by confidence."""
    bearish, neutral, bullish = (_mean(signals, name) for name in ("bearish", "neutral", "bullish"))
    return bearish, neutral, bullish


def _mean(signals: Sequence[SentimentSignal | AssetSignal], name: str) -> float:
    """Return the mean of the field `name`, weighted by confidence."""
    weight = sum(signal.confidence for signal in signals)
    total: float = sum(signal.confidence * getattr(signal, name) for signal in signals)
    return total / weight
