"""Prefix-tuning (Li and Liang 2021): learned keys and values before the text, in every layer."""

from __future__ import annotations

from peft import PrefixTuningConfig, TaskType

from models.sentiment.train.methods import Plan, register
from models.sentiment.train.methods.recipe import Defaults, Recipe


@register("prefix", Defaults(learning_rate=2e-2, head_learning_rate=3e-3, epochs=5, virtual_tokens=20))
def configure(recipe: Recipe, _plan: Plan) -> PrefixTuningConfig:
    """Without a projection: the prefixes themselves are learned (P-tuning v2 does the same)."""
    return PrefixTuningConfig(task_type=TaskType.SEQ_CLS, num_virtual_tokens=recipe.virtual_tokens)
