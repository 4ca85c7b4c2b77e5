"""LoRA (Hu et al. 2021): a low-rank update beside chosen linear layers, scaled by alpha / rank."""

from __future__ import annotations

from peft import LoraConfig, TaskType

from models.sentiment.train.methods import Plan, register
from models.sentiment.train.methods.recipe import Defaults, Recipe
from models.sentiment.train.methods.targets import target_modules


@register("lora", Defaults(learning_rate=2e-3, head_learning_rate=1e-3, epochs=4, ranked=True))
def configure(recipe: Recipe, plan: Plan) -> LoraConfig:
    """The head is trained and saved beside the adapter."""
    return LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules=target_modules(plan.encoder, recipe.targets),
    )
