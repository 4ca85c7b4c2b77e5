"""What is to be judged: files, configuration and model, in a form that travels to other processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import NamedTuple

from agent.backtest import NamedScorer, Plan, refuse_leakage
from agent.config import Config
from agent.events import News
from agent.feeds.history.news import NewsFile
from agent.research.folds import Window
from agent.research.rehearsal import Stage
from agent.store.database import Database, open_database

_BLOCK = 512


class Scoring(NamedTuple):
    """The model behind a replay's headlines, the stamps that its age brings, and what to record of it."""

    scorer: NamedScorer | None
    stamps: tuple[str, ...]
    versions: dict[str, str]


class Material(NamedTuple):
    """`plan` names the files and the whole window; parts of it are cut by `part`."""

    plan: Plan
    config: Config
    allow_leakage: bool = False

    def part(self, window: Window, *, warmup: int = 0, close_out: bool = False, part_of: str = "") -> Plan:
        """The plan of a part of the window."""
        return self.plan._replace(start=window.start, end=window.end, warmup=warmup, close_out=close_out, part_of=part_of)

    @contextmanager
    def database(self) -> Iterator[Database]:
        """The store, where runs are recorded and scores remembered."""
        with closing(open_database(self.config.store.url)) as database:
            yield database

    def scoring(self, database: Database, start: int) -> Scoring:
        """The configured model for a replay that begins at `start`. Raises LeakageError where it saw text of later (see there)."""
        return (
            configured_scoring(self.config, database, start, allow_leakage=self.allow_leakage) if self.plan.news else NO_SCORING
        )

    def stage(self, window: Window, *, warmup: int = 0, close_out: bool = False, judged_from: int | None = None) -> Stage:
        """A part of the window in memory, to rehearse. `judged_from` (default: its start) is where leakage begins to matter."""
        with self.database() as database:
            scorer = self.scoring(database, window.start if judged_from is None else judged_from).scorer
            return Stage(self.part(window, warmup=warmup, close_out=close_out), self.config, scorer)

    def headlines(self) -> list[News]:
        """All of the window."""
        plan = self.plan
        if plan.news is None:
            return []
        delay = self.config.history.feed_delay
        return list(NewsFile(plan.news, feed_delay=delay, start=plan.start, end=plan.end, timezone=plan.timezone))


NO_SCORING = Scoring(None, (), {})


def configured_scoring(config: Config, database: Database, start: int, *, allow_leakage: bool) -> Scoring:
    """The model that `config` names, with its memory in `database`. Raises ModelError, and LeakageError (see `refuse_leakage`)."""
    from models.cards import read_card
    from models.sentiment import model_dir
    from models.sentiment.cache import CachedScorer, SqlScoreCache
    from models.sentiment.scorer import Scorer

    settings = config.model
    folder = model_dir(settings.path)
    card = read_card(folder)
    stamps = refuse_leakage(card.trained_until, start, model=settings.path, allow=allow_leakage)
    scorer = CachedScorer(Scorer.load(folder, threads=settings.threads or None), SqlScoreCache(database))
    return Scoring(scorer, stamps, {"model": scorer.fingerprint})


def score_ahead(material: Material, scorer: NamedScorer) -> Iterator[tuple[int, int]]:
    """Score all headlines of the window, so that no process after this one has to; yields (done, all) as it goes."""
    titles = list(dict.fromkeys(news.title for news in material.headlines()))
    for begin in range(0, len(titles), _BLOCK):
        scorer.score(titles[begin : begin + _BLOCK])
        yield min(begin + _BLOCK, len(titles)), len(titles)
