"""The choices of a training, validated, with the defaults that the sweeps found."""

from __future__ import annotations

from typing import Final, Literal, get_args

import msgspec

from agent.core.durations import format_duration
from agent.core.errors import UsageError
from agent.core.events import DAY_MS, HOUR_MS

Ablation = Literal["full", "price", "text", "probabilities"]
"""full: features and embedding. price: features alone. text: embedding alone. probabilities: features and the three sentiment
probabilities in the place of the embedding."""

Balance = Literal["none", "weights", "focal"]
"""What is done about rare classes: nothing, weights inverse to their shares, or the focal loss (gamma 2)."""

HALF_LIVES: Final = (HOUR_MS // 2, 2 * HOUR_MS, 8 * HOUR_MS, DAY_MS)


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """One training. Durations in ms. Raises UsageError where a choice makes no sense."""

    ablation: Ablation = "full"
    interval: int = HOUR_MS
    """Of the bars that the model reads."""
    horizon: int = 4 * HOUR_MS
    """How far ahead the return is labelled."""
    band: float = 0.5
    """Returns within ± band · volatility · sqrt(horizon / interval) are flat."""
    half_lives: tuple[int, ...] = HALF_LIVES
    """Of the text state; the one of least loss on the validation slice is taken."""
    hidden: int = 32
    dropout: float = 0.2
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    batch_size: int = 512
    epochs: int = 30
    patience: int = 4
    """Epochs without a better validation loss until it stops."""
    balance: Balance = "none"
    seed: int = 42
    validation: float = 0.12
    """Share of the time for early stopping and the half-life; `calibration` for the temperature, `test` for the final word."""
    calibration: float = 0.08
    test: float = 0.15
    embargo: int = DAY_MS
    """Left out after each cut, besides what the horizon of earlier labels reaches into."""

    def __post_init__(self) -> None:
        for name, kind in (("ablation", Ablation), ("balance", Balance)):
            if getattr(self, name) not in get_args(kind):
                raise UsageError(
                    f"--{name} {getattr(self, name)!r}", hint=f"one of {', '.join(get_args(kind))}"
                )
        if self.interval <= 0 or self.horizon < self.interval:
            raise UsageError(
                f"--horizon {format_duration(self.horizon)} is shorter than a bar of {format_duration(self.interval)}",
                hint="a horizon of at least one --interval",
            )
        if (
            min(self.validation, self.calibration) <= 0
            or self.test < 0
            or self.validation + self.calibration + self.test > 0.8
        ):
            raise UsageError(
                f"held-out shares {self.validation}, {self.calibration}, {self.test}",
                hint="validation and calibration > 0, test ≥ 0, together at most 0.8",
            )
        if not self.half_lives or min(self.half_lives) <= 0:
            raise UsageError("no half-life to try", hint="--half-life 2h, as often as you like")

    @property
    def reads_price(self) -> bool:
        """The features are an input."""
        return self.ablation != "text"

    @property
    def reads_text(self) -> bool:
        """Headlines are an input."""
        return self.ablation != "price"
