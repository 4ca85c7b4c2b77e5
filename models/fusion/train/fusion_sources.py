"""Data sets for fusion training from files of klines and headlines, which are opened as for a backtest
and scored once.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

from agent.config import Config, FusionConfig, StrategyConfig
from agent.core.symbols import AssetFinder
from agent.data.sentiment import score_news
from agent.replay.history import History, Plan
from agent.store.database import open_database
from models.cards import DatasetRecord
from models.fusion.train.dataset import FusionData, build_dataset
from models.fusion.train.fusion_recipe import FusionRecipe
from models.sentiment.open_scorer import open_local_scorer
from models.sentiment.serve.history_scoring import score_history
from models.sentiment.serve.score_cache import CachedScorer, SqlScoreCache

Progress = Callable[[str, int, int], None]
"""Called with (activity, amount done, total amount)."""


class PreparedDataset(NamedTuple):
    """A data set and its provenance."""

    data: FusionData
    records: tuple[DatasetRecord, ...]
    seen_until: int
    """`trained_until` of the sentiment model, UTC ms; 0 without one."""


def prepare_dataset(
    plan: Plan, config: Config, recipe: FusionRecipe, folder: Path, *, progress: Progress | None = None
) -> PreparedDataset:
    """Convert the plan's window to a data set in `folder`.

    The configured sentiment model scores the headlines, except those with a score in the store's cache.
    Raises the errors of opening the files, the model and the store.
    """
    # Training uses neither an existing fusion model nor a strategy
    config = config.model_copy(update={"fusion": FusionConfig(), "strategy": StrategyConfig()})
    history = History(plan if recipe.reads_text else plan._replace(news=None), config)
    records = tuple(
        DatasetRecord(
            name=Path(item.path).name,
            format=item.role,
            sha256=item.sha256,
            rows=item.rows,
            latest=history.end,
            basis="dated rows",
        )
        for item in history.inputs
    )

    def on_time(now: int) -> None:
        if progress:
            progress("folding history", now - history.start, history.end - history.start)

    def on_scored(done: int, total: int) -> None:
        if progress:
            progress("scoring headlines", done, total)

    build = partial(
        build_dataset,
        history.klines,
        folder=folder,
        config=history.config,
        interval=recipe.interval,
        progress=on_time,
    )
    if not history.news:
        return PreparedDataset(build(news=()), records, 0)
    with closing(open_database(config.store.url)) as database:
        finder = AssetFinder(history.config.market.symbols, history.config.instruments)
        model = open_local_scorer(config.model.path, config, finder=finder)
        scorer = CachedScorer(model, SqlScoreCache(database))
        score_history(scorer, (news.title for news in history.news), progress=on_scored)
        latency, fingerprint = config.history.inference_latency, scorer.fingerprint
        news = score_news(history.news, scorer, latency, model=fingerprint, embedded=True)
        data = build(news=news, dimensions=model.dimensions, scorer=fingerprint)
    return PreparedDataset(data, records, model.card.trained_until)
