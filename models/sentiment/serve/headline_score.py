"""Scores of headlines: calibrated probabilities, for the whole and for each named asset."""

from __future__ import annotations

import msgspec

from agent.core.events import Provenance
from models.labels import LABELS


class AssetScore(msgspec.Struct, frozen=True):
    """Calibrated probabilities for one asset that a text names, which sum to 1."""

    asset: str
    bearish: float
    neutral: float
    bullish: float


class HeadlineScore(msgspec.Struct, frozen=True):
    """Calibrated probabilities of one text, which sum to 1. They are equal and meaningless if the model
    abstained.
    """

    bearish: float
    neutral: float
    bullish: float
    abstained: bool = False
    reason: str = ""
    assets: tuple[AssetScore, ...] = ()
    """Answers for the assets that the text names, in the order of first mention."""
    kind: str = ""
    """Likeliest of `NEWS_KINDS`; empty if the model doesn't tell."""
    kind_confidence: float = 0.0
    """Calibrated probability of `kind`."""
    unknown: float | None = None
    """Share of the text's tokens that the model's vocabulary lacks; None if it wasn't measured."""
    provenance: Provenance | None = None
    """How a language model at a server came to the answer; None for a local model."""

    @property
    def probabilities(self) -> tuple[float, float, float]:
        """In the order of `LABELS`."""
        return self.bearish, self.neutral, self.bullish

    @property
    def confidence(self) -> float:
        """The largest probability; 0 if the model abstained."""
        return 0.0 if self.abstained else max(self.probabilities)

    @property
    def label(self) -> str:
        """Name of the likeliest class; empty if the model abstained."""
        return "" if self.abstained else LABELS[self.probabilities.index(max(self.probabilities))]


def abstention(reason: str) -> HeadlineScore:
    """Return the score of a text that the model does not judge."""
    return HeadlineScore(1 / 3, 1 / 3, 1 / 3, abstained=True, reason=reason)
