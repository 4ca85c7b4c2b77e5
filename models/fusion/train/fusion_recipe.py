"""Hyper-parameters of a fusion training, validated, with the defaults that the sweeps found."""

from __future__ import annotations

from typing import Final, Literal, get_args

import msgspec

from agent.core.durations import format_duration
from agent.core.errors import UsageError
from agent.core.events import DAY_MS, HOUR_MS

Ablation = Literal["full", "price", "text", "probabilities"]
"""Inputs. full: features and embedding. price: features alone. text: embedding alone.

probabilities: features, and the three sentiment probabilities instead of the embedding.
"""

Balance = Literal["none", "weights", "focal"]
"""Treatment of rare classes: none, weights inverse to the class shares, or the focal loss (gamma 2)."""

HALF_LIVES: Final = (HOUR_MS // 2, 2 * HOUR_MS, 8 * HOUR_MS, DAY_MS)


class FusionRecipe(msgspec.Struct, frozen=True, kw_only=True):
    """Hyper-parameters of one training, durations in ms. Raises UsageError for impossible values."""

    ablation: Ablation = "full"
    interval: int = HOUR_MS
    """Interval of the bars that the model reads."""
    horizon: int = 4 * HOUR_MS
    """Period after a row over which its return is labelled."""
    band: float = 0.5
    """Returns within ± band · volatility · sqrt(horizon / interval) are flat."""
    half_lives: tuple[int, ...] = HALF_LIVES
    """Candidate half-lives of a headline's weight; training keeps the one with the least validation loss."""
    hidden: int = 32
    dropout: float = 0.2
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    batch_size: int = 512
    epochs: int = 30
    patience: int = 4
    """Epochs without a better validation loss after which training stops."""
    balance: Balance = "none"
    seed: int = 42
    validation: float = 0.12
    """Share of the time for early stopping and the choice of the half-life."""
    calibration: float = 0.08
    """Share of the time that fits the temperature."""
    test: float = 0.15
    """Share of the time that the reported metrics come from."""
    embargo: int = DAY_MS
    """Time left out after each cut, in addition to the horizon of the labels before it."""

    def __post_init__(self) -> None:
        for name, kind in (("ablation", Ablation), ("balance", Balance)):
            if getattr(self, name) not in get_args(kind):
                raise UsageError(
                    f"--{name} {getattr(self, name)!r}", hint=f"one of {', '.join(get_args(kind))}"
                )
        if self.interval <= 0 or self.horizon < self.interval:
            horizon, interval = format_duration(self.horizon), format_duration(self.interval)
            what = f"--horizon {horizon} is shorter than a bar of {interval}"
            raise UsageError(what, hint="a horizon of at least one --interval")
        held_out = self.validation, self.calibration, self.test
        if min(held_out[:2]) <= 0 or self.test < 0 or sum(held_out) > 0.8:
            raise UsageError(
                f"held-out shares {self.validation}, {self.calibration}, {self.test}",
                hint="validation and calibration > 0, test ≥ 0, together at most 0.8",
            )
        if not self.half_lives or min(self.half_lives) <= 0:
            raise UsageError("no half-life to try", hint="--half-life 2h, as often as you like")

    @property
    def reads_price(self) -> bool:
        """True if the features are an input."""
        return self.ablation != "text"

    @property
    def reads_text(self) -> bool:
        """True if headlines are an input."""
        return self.ablation != "price"
