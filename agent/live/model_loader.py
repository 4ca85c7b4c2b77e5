"""Opens the daemon's sentiment models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import structlog

from agent.config import Config
from agent.core.symbols import AssetFinder
from agent.data.sentiment import NamedScorer, Score
from agent.store.database import Database
from models.cards import ReferenceShares

_log: Final = structlog.get_logger(__name__)


class LazyScorer:
    """A model known by its fingerprint and loaded at its first headline, since workers may score all of
    them.
    """

    def __init__(
        self,
        fingerprint: str,
        load: Callable[[], NamedScorer],
        *,
        names: str = "",
        reference: ReferenceShares | None = None,
    ) -> None:
        self.fingerprint = fingerprint
        self.names = names
        self.reference = reference
        self._load = load
        self._scorer: NamedScorer | None = None

    @property
    def loaded(self) -> bool:
        """True once the model has been loaded."""
        return self._scorer is not None

    def score(self, texts: Sequence[str]) -> Sequence[Score]:
        """Raises ModelError if the folder can no longer be loaded."""
        if self._scorer is None:
            _log.info("local model loaded", model=self.fingerprint)
            self._scorer = self._load()
        return self._scorer.score(texts)


def model_loader(config: Config, database: Database, *, lazy: bool = False) -> Callable[[str], NamedScorer]:
    """Return a blocking function that opens a model, as `model.path` names it, behind the store's cache of
    scores.

    The models also find assets by the names of the configured symbols. It raises as `open_cached_scorer`.
    With `lazy` a local model is only checked, and loaded again when it first has to score.
    """
    finder = AssetFinder(config.market.symbols, config.instruments)

    def load(folder: str) -> NamedScorer:
        from models.sentiment.open_scorer import open_cached_scorer

        return open_cached_scorer(folder, config, database, finder=finder)

    def name(folder: str) -> NamedScorer:
        from models.sentiment import is_local
        from models.sentiment.open_scorer import open_local_scorer

        if not is_local(folder):  # a language model takes no memory, and counts its requests
            return load(folder)
        scorer = open_local_scorer(folder, config, finder=finder, threads=1)
        return LazyScorer(
            scorer.fingerprint, lambda: load(folder), names=scorer.names, reference=scorer.reference
        )

    return name if lazy else load
