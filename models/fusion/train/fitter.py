"""Training of a fusion model in each fold of a walk-forward."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from agent.config import Config
from agent.core.durations import format_duration
from agent.replay.history import Plan
from models.fusion.train.fusion_recipe import FusionRecipe
from models.fusion.train.fusion_sources import prepare_dataset


class FusionFitter(NamedTuple):
    """Trains a fusion model on a window of the plan's files, to be traded by the strategy `fusion`.

    Picklable, for other processes. The whole window trains, validates and calibrates; the walk-forward tests
    after it.
    """

    plan: Plan
    config: Config
    recipe: FusionRecipe = FusionRecipe(test=0.0)

    def fit(self, window: tuple[int, int], folder: Path) -> dict[str, Any]:
        """Train on [start, end) (UTC ms) alone, write the model into `folder`, and return overrides of the
        configuration.

        Needs the extra `train`. Raises DataError if the window is too short, and the errors of opening the
        sources.
        """
        from models.fusion.train.fusion_training import train

        start, end = window
        with TemporaryDirectory(dir=folder) as scratch:
            plan = self.plan._replace(start=start, end=end)
            prepared = prepare_dataset(plan, self.config, self.recipe, Path(scratch))
            train(
                prepared.data,
                self.recipe,
                prepared.records,
                folder,
                start=start,
                end=end,
                seen_until=prepared.seen_until,
                compare=False,
            )
        own = self.config.strategy.params if self.config.strategy.name == "fusion" else {}
        params = {"hold": format_duration(self.recipe.horizon), **own}
        return {"fusion": {"path": str(folder)}, "strategy": {"name": "fusion", "params": params}}
