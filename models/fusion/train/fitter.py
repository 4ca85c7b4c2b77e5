"""A fusion model as something that a walk-forward learns anew in each fold."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from agent.config import Config
from agent.core.durations import format_duration
from agent.replay.history import Plan
from models.fusion.train.fusion_recipe import Recipe
from models.fusion.train.fusion_sources import gather


class FusionFitter(NamedTuple):
    """Trains on a window of the plan's files, and trades what it has learned with the strategy `fusion`.

    It travels to other processes. All of a window teaches, validates and calibrates: what judges comes after it.
    """

    plan: Plan
    config: Config
    recipe: Recipe = Recipe(test=0.0)

    def fit(self, window: tuple[int, int], folder: Path) -> dict[str, Any]:
        """Train on [start, end) in UTC ms and nothing else, into `folder`; answers overrides of the configuration.

        Needs the extra `train`. Raises DataError where the window is too short, and what opening its sources raises.
        """
        from models.fusion.train.fusion_training import train

        start, end = window
        with TemporaryDirectory(dir=folder) as scratch:
            gathered = gather(
                self.plan._replace(start=start, end=end), self.config, self.recipe, Path(scratch)
            )
            train(
                gathered.data,
                self.recipe,
                gathered.records,
                folder,
                start=start,
                end=end,
                seen_until=gathered.seen_until,
                compare=False,
            )
        own = self.config.strategy.params if self.config.strategy.name == "fusion" else {}
        params = {"hold": format_duration(self.recipe.horizon), **own}
        return {"fusion": {"path": str(folder)}, "strategy": {"name": "fusion", "params": params}}
