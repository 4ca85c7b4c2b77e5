"""Prompt tuning (Lester et al. 2021): learned embeddings before the text, at the input alone."""

from __future__ import annotations

from peft import PromptTuningConfig, PromptTuningInit, TaskType

from models.sentiment.train.methods import Plan, register
from models.sentiment.train.methods.recipe import Defaults, Recipe


@register("prompt", Defaults(learning_rate=3e-2, head_learning_rate=3e-3, epochs=5, virtual_tokens=10))
def configure(recipe: Recipe, _plan: Plan) -> PromptTuningConfig:
    """Starts from random words of the vocabulary, which learns faster than from noise."""
    return PromptTuningConfig(
        task_type=TaskType.SEQ_CLS,
        num_virtual_tokens=recipe.virtual_tokens,
        prompt_tuning_init=PromptTuningInit.SAMPLE_VOCAB,
    )
