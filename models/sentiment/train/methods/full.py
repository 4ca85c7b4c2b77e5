"""Full fine-tuning, the yardstick: every weight learns."""

from __future__ import annotations

from models.sentiment.train.methods import Plan, register
from models.sentiment.train.methods.recipe import Defaults, Recipe


@register("full", Defaults(learning_rate=1e-4, head_learning_rate=1e-3, epochs=4))
def configure(_recipe: Recipe, _plan: Plan) -> None:
    """No adapter."""
