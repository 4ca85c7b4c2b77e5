"""From files to a data set: klines and headlines opened as a backtest opens them, scored once, folded."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from agent.config import Config, FusionConfig, StrategyConfig
from agent.data.sentiment import score_news
from agent.replay.history import History, Plan
from agent.store.database import open_database
from models.cards import DatasetRecord
from models.fusion.train.dataset import FusionData, build_dataset
from models.fusion.train.fusion_recipe import Recipe
from models.sentiment import model_dir
from models.sentiment.serve.archive_scoring import fill_cache
from models.sentiment.serve.score_cache import CachedScorer, SqlScoreCache
from models.sentiment.serve.scorer import Scorer

Progress = Callable[[str, int, int], None]
"""(what is being done, how much of it, all of it)."""


class Gathered(NamedTuple):
    """A data set, where it comes from, and from when on its scorer knows nothing (UTC ms, 0: it saw no dated event)."""

    data: FusionData
    records: tuple[DatasetRecord, ...]
    seen_until: int


def gather(
    plan: Plan, config: Config, recipe: Recipe, folder: Path, *, progress: Progress | None = None
) -> Gathered:
    """Fold the plan's window into `folder`; its headlines are scored by the configured model, those that the store has, not again.

    Raises what opening the files, the model and the store raises.
    """
    # The model that is to come reads no other one, and nobody trades on it yet
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

    def tick(now: int) -> None:
        if progress:
            progress("folding history", now - history.start, history.end - history.start)

    if not history.news:
        data = build_dataset(
            history.klines, (), folder, config=history.config, interval=recipe.interval, progress=tick
        )
        return Gathered(data, records, 0)
    with closing(open_database(config.store.url)) as database:
        scorer = CachedScorer(
            Scorer.load(model_dir(config.model.path), threads=config.model.threads or None),
            SqlScoreCache(database),
        )
        fill_cache(
            scorer,
            (news.title for news in history.news),
            progress=None
            if progress is None
            else lambda done, every: progress("scoring headlines", done, every),
        )
        data = build_dataset(
            history.klines,
            score_news(
                history.news,
                scorer,
                config.history.inference_latency,
                model=scorer.fingerprint,
                embedded=True,
            ),
            folder,
            config=history.config,
            interval=recipe.interval,
            dimensions=scorer.scorer.dimensions,
            scorer=scorer.fingerprint,
            progress=tick,
        )
    return Gathered(data, records, scorer.scorer.card.trained_until)
