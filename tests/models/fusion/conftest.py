"""One market and one prepared dataset for all fusion tests, small enough to train on in seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from agent.config import Config, load
from agent.data.klines import KlineFile
from agent.replay.history import Plan
from models.fusion.train.fusion_recipe import FusionRecipe
from models.fusion.train.fusion_sources import PreparedDataset, prepare_dataset
from tests.models.fusion.fusion_harness import write_config, write_market
from tests.research.market_files import START, day

DAY = 86_400_000
CUT = START + 80 * DAY
END = START + 120 * DAY
RECIPE = FusionRecipe(
    horizon=2 * 3_600_000,
    half_lives=(3_600_000,),
    epochs=12,
    hidden=16,
    learning_rate=3e-3,
    embargo=3_600_000,
)


class MarketFiles(NamedTuple):
    """Paths of a market's files and of a configuration that reads them."""

    klines: Path
    news: Path
    settings: Path
    model: Path

    def plan(self) -> Plan:
        """Return a plan of all klines and headlines."""
        return Plan((KlineFile.parse_argument(str(self.klines)),), self.news)

    def config(self) -> Config:
        """Load the configuration as `tapewire --config` does."""
        return load(self.settings)


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory, write_model: Callable[..., Path]) -> MarketFiles:
    """Write a market of 120 days, a tiny sentiment model and a configuration."""
    folder = tmp_path_factory.mktemp("fusion")
    klines, news = write_market(folder)
    model = write_model(folder / "tiny")
    return MarketFiles(klines, news, write_config(folder, model), model)


@pytest.fixture(scope="session")
def prepared(place: MarketFiles, tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    """Prepare the training dataset of that market."""
    return prepare_dataset(place.plan(), place.config(), RECIPE, tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def first_eighty_days() -> tuple[str, str]:
    """As options of the command line."""
    return day(0), day(80)
