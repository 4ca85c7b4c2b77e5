"""All that can be chosen about one training, and what the guide chooses where the person did not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import msgspec

from agent.core.errors import UsageError

Optimizer = Literal["adamw", "adamw_8bit", "paged_adamw_8bit"]
Imbalance = Literal["none", "weights", "focal", "oversample"]


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """Hyper-parameters. None means: by the guide, which knows the method and the number of samples."""

    method: str = "lora"
    rank: int | None = None
    alpha: int | None = None
    dropout: float = 0.05
    targets: str = "auto"
    """Layers that get an adapter: "auto" (query and value), "all" (every linear layer), or names with commas."""
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
    """Evaluations (one an epoch) without a better validation loss until training stops. 0: never."""
    optimizer: Optimizer = "adamw"
    checkpointing: bool = False
    bf16: bool = False
    dates_in_text: bool = False
    """Temporal context: a dated text is read as "2024-05: text"."""
    seed: int = 42

    def __post_init__(self) -> None:
        for name in (
            "rank",
            "alpha",
            "virtual_tokens",
            "learning_rate",
            "epochs",
            "batch_size",
            "accumulation",
        ):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UsageError(f"{name} is {value}", hint="it must be above zero")
        for name in ("dropout", "warmup", "smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}", hint="it must be in [0, 1)")
        if not 8 <= self.max_length <= 512:
            raise UsageError(f"max_length is {self.max_length}", hint="it must be in [8, 512] tokens")

    def to_dict(self) -> dict[str, Any]:
        """For the card."""
        return msgspec.structs.asdict(self)


def parse(**choices: Any) -> Recipe:
    """A recipe from what a person typed. Raises UsageError for a word or number that isn't possible."""
    try:
        return msgspec.convert(choices, Recipe)
    except msgspec.ValidationError as error:
        possible = {"imbalance": get_args(Imbalance), "optimizer": get_args(Optimizer)}
        wrong = [
            name for name, words in possible.items() if choices.get(name) not in words and name in choices
        ]
        hint = "; ".join(f"{name}: {', '.join(possible[name])}" for name in wrong)
        raise UsageError(
            f"{', '.join(f'{name} is {choices[name]!r}' for name in wrong) or error}", hint=hint
        ) from None


class Defaults(msgspec.Struct, frozen=True, kw_only=True):
    """What a method wants where the person did not say: prompts need far larger steps, and more of them, than adapters."""

    learning_rate: float
    head_learning_rate: float
    epochs: float
    ranked: bool = False
    virtual_tokens: int | None = None


def guided_rank(samples: int) -> int:
    """The guide: rank 4–8 under 1,000 samples, 8–16 to 10,000, 16–32 beyond; the upper end, as the base is small."""
    return 8 if samples < 1_000 else 16 if samples <= 10_000 else 32


def guided_epochs(samples: int, epochs: float) -> float:
    """A method's epochs hold for 1,000–10,000 samples; fewer need more passes, more need fewer."""
    return epochs * 2 if samples < 1_000 else epochs if samples <= 10_000 else max(epochs / 2, 2.0)


def resolve(recipe: Recipe, defaults: Defaults, samples: int) -> Recipe:
    """The recipe with nothing left open. Alpha is twice the rank."""
    rank = (recipe.rank or guided_rank(samples)) if defaults.ranked else None
    chosen: Mapping[str, Any] = {
        "rank": rank,
        "alpha": (recipe.alpha or 2 * rank) if rank else None,
        "virtual_tokens": (recipe.virtual_tokens or defaults.virtual_tokens)
        if defaults.virtual_tokens
        else None,
        "learning_rate": recipe.learning_rate or defaults.learning_rate,
        "head_learning_rate": recipe.head_learning_rate or defaults.head_learning_rate,
        "epochs": recipe.epochs or guided_epochs(samples, defaults.epochs),
    }
    return msgspec.structs.replace(recipe, **chosen)
