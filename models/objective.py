"""The loss that all classifiers of this package are trained with."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn
from torch.nn import functional


class Objective(nn.Module):  # type: ignore[misc]
    """Cross-entropy, optionally class-weighted, label-smoothed, or focal (Lin et al. 2017: (1 − p)^gamma
    · CE).
    """

    def __init__(self, weights: Tensor | None = None, *, smoothing: float = 0.0, gamma: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("weights", weights, persistent=False)
        self.smoothing = smoothing
        self.gamma = gamma

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of logits (batch, 3) against class indices (batch,)."""
        weights = cast("Tensor | None", self.weights)
        logits = logits.float()
        if not self.gamma:
            return functional.cross_entropy(logits, labels, weight=weights, label_smoothing=self.smoothing)
        each = functional.cross_entropy(
            logits, labels, weight=weights, label_smoothing=self.smoothing, reduction="none"
        )
        right = logits.softmax(-1).gather(1, labels[:, None]).squeeze(1)
        return ((1 - right) ** self.gamma * each).mean()
