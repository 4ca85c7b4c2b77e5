"""P-tuning (Liu et al. 2021): the input's soft prompt is written by a small network, which steadies its training."""

from __future__ import annotations

from peft import PromptEncoderConfig, TaskType

from models.sentiment.train.methods import Plan, register
from models.sentiment.train.methods.recipe import Defaults, Recipe


@register("ptuning", Defaults(learning_rate=1e-3, head_learning_rate=3e-3, epochs=5, virtual_tokens=10))
def configure(recipe: Recipe, plan: Plan) -> PromptEncoderConfig:
    """An MLP as wide as the body."""
    return PromptEncoderConfig(
        task_type=TaskType.SEQ_CLS,
        num_virtual_tokens=recipe.virtual_tokens,
        encoder_hidden_size=plan.encoder.config.hidden_size,
    )
