"""How the daemon opens a model folder."""

from __future__ import annotations

from collections.abc import Callable

from agent.backtest import NamedScorer
from agent.config import ModelConfig
from agent.store.database import Database


def model_loader(config: ModelConfig, database: Database) -> Callable[[str], NamedScorer]:
    """Opens a folder, or `starter`, with the store's cache of scores in front; blocking. It raises ModelError."""

    def load(folder: str) -> NamedScorer:
        from models.sentiment import model_dir
        from models.sentiment.cache import CachedScorer, SqlScoreCache
        from models.sentiment.scorer import Scorer

        return CachedScorer(Scorer.load(model_dir(folder), threads=config.threads or None), SqlScoreCache(database))

    return load
