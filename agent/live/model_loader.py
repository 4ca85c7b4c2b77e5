"""How the daemon opens a model folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import structlog

from agent.config import ModelConfig
from agent.data.sentiment import NamedScorer, Score
from agent.store.database import Database

_log: Final = structlog.get_logger(__name__)


class LazyScorer:
    """A model that is named by its card, and loaded when it first has something to score: workers may do it all."""

    def __init__(self, fingerprint: str, load: Callable[[], NamedScorer]) -> None:
        self.fingerprint = fingerprint
        self._load = load
        self._scorer: NamedScorer | None = None

    @property
    def loaded(self) -> bool:
        """Whether anything had to be scored."""
        return self._scorer is not None

    def score(self, texts: Sequence[str]) -> Sequence[Score]:
        """Raises ModelError where the folder can't be loaded after all."""
        if self._scorer is None:
            _log.info("the own model is loaded", model=self.fingerprint)
            self._scorer = self._load()
        return self._scorer.score(texts)


def model_loader(
    config: ModelConfig, database: Database, *, lazy: bool = False
) -> Callable[[str], NamedScorer]:
    """Opens a folder, or `starter`, with the store's cache of scores in front; blocking. It raises ModelError.

    With `lazy` the model is tried on two texts and let go; it is loaded again once it has something to score.
    """

    def load(folder: str) -> NamedScorer:
        from models.sentiment import model_dir
        from models.sentiment.serve.score_cache import CachedScorer, SqlScoreCache
        from models.sentiment.serve.scorer import Scorer

        return CachedScorer(
            Scorer.load(model_dir(folder), threads=config.threads or None), SqlScoreCache(database)
        )

    def name(folder: str) -> NamedScorer:
        from models.sentiment import model_dir
        from models.sentiment.serve.scorer import Scorer

        return LazyScorer(Scorer.load(model_dir(folder), threads=1).fingerprint, lambda: load(folder))

    return name if lazy else load
