"""The fusion network in torch, for training: the computation of `models.fusion.serve.predictor`, plus
dropout.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.fusion import CLASSES
from models.fusion.serve.predictor import EPSILON
from models.fusion.train.fusion_recipe import FusionRecipe


class DenseBlock(nn.Module):  # type: ignore[misc]
    """Linear layer, LayerNorm, GELU: (n, inputs) -> (n, hidden)."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, hidden)
        self.norm = nn.LayerNorm(hidden, eps=EPSILON)
        self.gelu = nn.GELU(approximate="tanh")

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the code (n, hidden) of inputs (n, inputs)."""
        return self.gelu(self.norm(self.linear(inputs)))

    def weights(self, name: str) -> dict[str, NDArray[np.float32]]:
        """Return the weights under the predictor's names, with the matrix transposed to (inputs, hidden)."""
        found = {
            "weight": self.linear.weight.T,
            "bias": self.linear.bias,
            "gain": self.norm.weight,
            "shift": self.norm.bias,
        }
        return {f"{name}.{key}": value.detach().numpy().copy() for key, value in found.items()}


class FusionNetwork(nn.Module):  # type: ignore[misc]
    """Standardised features (n, 10), standardised text means (n, dimensions) and gates (n, 1) -> logits
    (n, 3).
    """

    def __init__(self, recipe: FusionRecipe, features: int, dimensions: int) -> None:
        super().__init__()
        hidden = recipe.hidden
        self.price = DenseBlock(features, hidden) if recipe.reads_price else None
        self.text = DenseBlock(dimensions, hidden) if recipe.reads_text else None
        self.nothing = nn.Parameter(torch.zeros(hidden)) if recipe.reads_text else None
        width = hidden * recipe.reads_price + (hidden + 1) * recipe.reads_text
        self.join = DenseBlock(width, hidden)
        self.out = nn.Linear(hidden, len(CLASSES))
        self.dropout = nn.Dropout(recipe.dropout)

    def forward(self, features: Tensor, means: Tensor, gate: Tensor) -> Tensor:
        """Return logits (n, 3). Rows without a headline have a gate of 0, which makes their mean
        irrelevant.
        """
        parts = []
        if self.price is not None:
            parts.append(self.dropout(self.price(features)))
        if self.text is not None and self.nothing is not None:
            code = self.text(self.dropout(means))
            parts += [self.dropout(self.nothing + gate * (code - self.nothing)), gate]
        return self.out(self.dropout(self.join(torch.cat(parts, dim=1))))

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """Return all weights under the predictor's names, without mean and scale of the inputs."""
        found = {
            "out.weight": self.out.weight.detach().numpy().T.copy(),
            "out.bias": self.out.bias.detach().numpy().copy(),
        }
        found |= self.join.weights("join")
        if self.price is not None:
            found |= self.price.weights("price")
        if self.text is not None and self.nothing is not None:
            found |= self.text.weights("text") | {"nothing": self.nothing.detach().numpy().copy()}
        return found
