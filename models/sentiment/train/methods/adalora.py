"""AdaLoRA (Zhang et al. 2023): updates in SVD form, whose rank is moved to where it helps while training."""

from __future__ import annotations

from peft import AdaLoraConfig, TaskType

from models.sentiment.train.methods import Plan, register
from models.sentiment.train.methods.recipe import Defaults, Recipe
from models.sentiment.train.methods.targets import target_modules


@register("adalora", Defaults(learning_rate=5e-3, head_learning_rate=1e-3, epochs=5, ranked=True))
def configure(recipe: Recipe, plan: Plan) -> AdaLoraConfig:
    """Begins at 1.5 × the rank, prunes between the first tenth and the last third of the steps, and then settles."""
    rank = recipe.rank or 8
    return AdaLoraConfig(
        task_type=TaskType.SEQ_CLS,
        init_r=max(rank * 3 // 2, rank + 1),
        target_r=rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules=target_modules(plan.encoder, recipe.targets),
        total_step=max(plan.steps, 3),
        tinit=plan.steps // 10,
        tfinal=plan.steps // 3,
        deltaT=max(plan.steps // 100, 1),
    )
