"""Hyper-parameters of a sentiment training, and the defaults for those that are not given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import msgspec

from agent.core.errors import UsageError

Optimizer = Literal["adamw", "adamw_8bit", "paged_adamw_8bit"]
Imbalance = Literal["none", "weights", "focal", "oversample"]
Head = Literal["linear", "words"]


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """Hyper-parameters of one training. None stands for a default that depends on method and number of
    samples.
    """

    method: str = "lora"
    head: Head = "linear"
    """linear: a new layer on the pooled states. words: a decoder's logits of label words after a prompt."""
    shots: int = 0
    """Labelled examples that the prompt of `words` shows, drawn from the training part."""
    rank: int | None = None
    alpha: int | None = None
    dropout: float = 0.05
    targets: str = "auto"
    """Layers that get an adapter: "auto" (query and value), "all" (every linear layer), or
    comma-separated names.
    """
    virtual_tokens: int | None = None
    learning_rate: float | None = None
    head_learning_rate: float | None = None
    epochs: float | None = None
    batch_size: int = 16
    accumulation: int = 1
    max_length: int = 96
    warmup: float = 0.06
    weight_decay: float = 0.01
    clip: float = 1.0
    smoothing: float = 0.0
    imbalance: Imbalance = "none"
    focal_gamma: float = 2.0
    patience: int = 2
    """Evaluations (one an epoch) without a better validation loss after which training stops. 0 disables
    this.
    """
    optimizer: Optimizer = "adamw"
    checkpointing: bool = False
    bf16: bool = False
    dates_in_text: bool = False
    """Train half of the dated texts as "2024-05: text"."""
    seed: int = 42

    def __post_init__(self) -> None:
        positive = "rank alpha virtual_tokens learning_rate epochs batch_size accumulation"
        for name in positive.split():
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UsageError(f"{name} is {value}", hint="it must be above zero")
        for name in ("dropout", "warmup", "smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}", hint="it must be in [0, 1)")
        if self.shots and self.head != "words":
            raise UsageError(f"shots is {self.shots}", hint="a prompt with examples needs --head words")
        if not 0 <= self.shots <= 64:
            raise UsageError(f"shots is {self.shots}", hint="it must be in [0, 64]")
        if not 8 <= self.max_length <= 512:
            raise UsageError(f"max_length is {self.max_length}", hint="it must be in [8, 512] tokens")

    def to_dict(self) -> dict[str, Any]:
        """Return the hyper-parameters for the card."""
        return msgspec.structs.asdict(self)


def parse(**choices: Any) -> Recipe:
    """Make a recipe from command-line values. Raises UsageError for an impossible one."""
    try:
        return msgspec.convert(choices, Recipe)
    except msgspec.ValidationError as error:
        possible = {
            "imbalance": get_args(Imbalance),
            "optimizer": get_args(Optimizer),
            "head": get_args(Head),
        }
        wrong = [name for name in possible if name in choices and choices[name] not in possible[name]]
        hint = "; ".join(f"{name}: {', '.join(possible[name])}" for name in wrong)
        what = ", ".join(f"{name} is {choices[name]!r}" for name in wrong) or str(error)
        raise UsageError(what, hint=hint) from None


class MethodDefaults(msgspec.Struct, frozen=True, kw_only=True):
    """Defaults of a method. Prompts need far larger learning rates, and more epochs, than adapters."""

    learning_rate: float
    head_learning_rate: float
    epochs: float
    ranked: bool = False
    virtual_tokens: int | None = None


def default_rank(samples: int) -> int:
    """Return the default rank: 8 under 1,000 samples, 16 to 10,000, 32 beyond.

    Recommended are 4–8, 8–16 and 16–32; the upper end suits a small base.
    """
    return 8 if samples < 1_000 else 16 if samples <= 10_000 else 32


def default_epochs(samples: int, epochs: float) -> float:
    """Adapt a method's epochs, which are those for 1,000–10,000 samples, to fewer or more samples."""
    return epochs * 2 if samples < 1_000 else epochs if samples <= 10_000 else max(epochs / 2, 2.0)


def resolve(recipe: Recipe, defaults: MethodDefaults, samples: int) -> Recipe:
    """Return the recipe with a value for each None that the method uses. Alpha defaults to twice the rank."""
    rank = (recipe.rank or default_rank(samples)) if defaults.ranked else None
    virtual_tokens = defaults.virtual_tokens and (recipe.virtual_tokens or defaults.virtual_tokens)
    chosen: Mapping[str, Any] = {
        "rank": rank,
        "alpha": (recipe.alpha or 2 * rank) if rank else None,
        "virtual_tokens": virtual_tokens,
        "learning_rate": recipe.learning_rate or defaults.learning_rate,
        "head_learning_rate": recipe.head_learning_rate or defaults.head_learning_rate,
        "epochs": recipe.epochs or default_epochs(samples, defaults.epochs),
    }
    return msgspec.structs.replace(recipe, **chosen)
