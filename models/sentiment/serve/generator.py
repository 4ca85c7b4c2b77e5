"""Trading signals from text: one text, many, or the vote of many.

>>> generator = SentimentSignalGenerator.from_pretrained("starter")
>>> generator.generate_signal("Regulator approves the fund").prediction
<Direction.BUY: 'BUY'>
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from agent.core.errors import UsageError
from agent.core.events import BUY, HOLD, SELL, Direction
from models.sentiment import STARTER, model_dir
from models.sentiment.serve.scorer import Score, Scorer, abstention

_DIRECTIONS: Final = (SELL, HOLD, BUY)  # in the order of bearish, neutral, bullish


class SentimentSignal(msgspec.Struct, frozen=True):
    """What a text, or a vote of several, says to do. The three probabilities are calibrated and sum to 1."""

    bearish: float
    neutral: float
    bullish: float
    prediction: Direction
    confidence: float
    """Probability of the prediction; 0 where the model abstained."""
    actionable: bool
    """The confidence reaches the threshold."""
    abstained: bool = False
    reason: str = ""


class SentimentSignalGenerator:
    """Scores texts and turns probabilities into SELL, HOLD or BUY."""

    def __init__(self, scorer: Scorer, threshold: float | None = None, name: str = "") -> None:
        """`threshold` in [0, 1] on the calibrated confidence; by default the card's, which is 0.7 where nobody chose it.

        `name` is how errors call the model; by default its fingerprint.
        """
        self.scorer = scorer
        self.name = name or scorer.fingerprint[:12]
        self.threshold = scorer.card.threshold if threshold is None else threshold
        if not 0 <= self.threshold <= 1:
            raise UsageError(f"threshold {self.threshold} is no probability", hint="a number from 0 to 1")

    @classmethod
    def from_pretrained(
        cls, folder: str | Path = STARTER, *, threshold: float | None = None, **options: Any
    ) -> SentimentSignalGenerator:
        """From an exported folder, or `starter` for the model that ships. `options` go to `Scorer.load`."""
        return cls(Scorer.load(model_dir(folder), **options), threshold, str(folder))

    def generate_signal(self, text: str) -> SentimentSignal:
        """The signal of one text."""
        return self.batch_signals([text])[0]

    def batch_signals(self, texts: Sequence[str]) -> list[SentimentSignal]:
        """One signal a text, in their order."""
        return [self._signal(score) for score in self.scorer.score(texts)]

    def aggregate_signals(self, signals: Sequence[SentimentSignal]) -> SentimentSignal:
        """The vote of `signals`: the mean of their probabilities, each weighted by its confidence.

        Signals that abstained don't vote. With no voter the vote abstains too.
        """
        weight = sum(signal.confidence for signal in signals)
        if not weight:
            return self._signal(abstention("no signal to vote"))
        bearish, neutral, bullish = (
            sum(signal.confidence * getattr(signal, name) for signal in signals) / weight
            for name in ("bearish", "neutral", "bullish")
        )
        return self._signal(Score(bearish, neutral, bullish))

    def _signal(self, score: Score) -> SentimentSignal:
        three = score.probabilities
        return SentimentSignal(
            *three,
            prediction=HOLD if score.abstained else _DIRECTIONS[three.index(max(three))],
            confidence=score.confidence,
            actionable=not score.abstained and score.confidence >= self.threshold,
            abstained=score.abstained,
            reason=score.reason,
        )
