"""What is to be judged: files, configuration and model, in a form that travels to other processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, NamedTuple

from agent.config import Config
from agent.core.events import News
from agent.data.news import NewsFile
from agent.replay.backtest import refuse_leakage
from agent.replay.fusion_model import open_predictor
from agent.replay.history import Plan
from agent.research.folds import Window
from agent.research.rehearsal import Stage
from agent.store.database import Database, open_database

if TYPE_CHECKING:
    from models.sentiment.serve.score_cache import CachedScorer
    from models.sentiment.serve.scorer import Scorer


class Scoring(NamedTuple):
    """The model behind a replay's headlines, the stamps that its age brings, and what to record of it."""

    scorer: CachedScorer | None
    stamps: tuple[str, ...]
    versions: dict[str, str]


class Material(NamedTuple):
    """`plan` names the files and the whole window; parts of it are cut by `part`."""

    plan: Plan
    config: Config
    allow_leakage: bool = False

    def part(self, window: Window, *, warmup: int = 0, close_out: bool = False, part_of: str = "") -> Plan:
        """The plan of a part of the window."""
        return self.plan._replace(
            start=window.start, end=window.end, warmup=warmup, close_out=close_out, part_of=part_of
        )

    @contextmanager
    def database(self) -> Iterator[Database]:
        """The store, where runs are recorded and scores remembered."""
        with closing(open_database(self.config.store.url)) as database:
            yield database

    def scoring(self, database: Database, start: int) -> Scoring:
        """The configured model for a replay that begins at `start`. Raises LeakageError where it saw text of later (see there)."""
        return (
            configured_scoring(self.config, database, start, allow_leakage=self.allow_leakage)
            if self.plan.news
            else NO_SCORING
        )

    def stage(
        self, window: Window, *, warmup: int = 0, close_out: bool = False, judged_from: int | None = None
    ) -> Stage:
        """A part of the window in memory, to rehearse. `judged_from` (default: its start) is where leakage begins to matter."""
        with self.database() as database:
            scorer = self.scoring(database, window.start if judged_from is None else judged_from).scorer
            return Stage(self.part(window, warmup=warmup, close_out=close_out), self.config, scorer)

    def leakage(self, start: int) -> tuple[str, ...]:
        """The stamps of whatever is judged from `start` (UTC ms) on. Raises LeakageError where a model saw later data (see there)."""
        with self.database() as database:
            stamps = self.scoring(database, start).stamps
        predictor = open_predictor(self.config) if self.config.fusion.path else None
        if predictor is not None:
            seen = predictor.card.trained_until
            stamps += refuse_leakage(seen, start, model=self.config.fusion.path, allow=self.allow_leakage)
        return tuple(dict.fromkeys(stamps))

    def headlines(self) -> list[News]:
        """All of the window."""
        plan = self.plan
        if plan.news is None:
            return []
        delay = self.config.history.feed_delay
        return list(
            NewsFile(plan.news, feed_delay=delay, start=plan.start, end=plan.end, timezone=plan.timezone)
        )


NO_SCORING = Scoring(None, (), {})

_HELD: list[tuple[Material, Stage]] = []


def held_stage(material: Material) -> Stage:
    """The whole window in memory, read once a process; another material takes its place. Leakage matters from its end on.

    For work in which a model's age doesn't: what is compared are two replays with the same model.
    """
    if not _HELD or _HELD[0][0] != material:
        _HELD.clear()  # before the next is read: its events fill the memory
        start, end = material.plan.start, material.plan.end
        if start is None or end is None:
            raise ValueError("the window of a material that is held must be settled")
        _HELD.append((material, material.stage(Window(start, end), judged_from=end)))
    return _HELD[0][1]


def release() -> None:
    """Forget what is held."""
    _HELD.clear()


def configured_scoring(config: Config, database: Database, start: int, *, allow_leakage: bool) -> Scoring:
    """The model that `config` names, with its memory in `database`. Raises ModelError, and LeakageError (see `refuse_leakage`)."""
    from models.sentiment import model_dir
    from models.sentiment.serve.scorer import Scorer

    scorer = Scorer.load(model_dir(config.model.path), threads=config.model.threads or None)
    return scoring_by(scorer, config.model.path, database, start, allow_leakage=allow_leakage)


def scoring_by(scorer: Scorer, name: str, database: Database, start: int, *, allow_leakage: bool) -> Scoring:
    """The same with a model that is loaded already, and is called `name` in an error."""
    from models.sentiment.serve.score_cache import CachedScorer, SqlScoreCache

    stamps = refuse_leakage(scorer.card.trained_until, start, model=name, allow=allow_leakage)
    cached = CachedScorer(scorer, SqlScoreCache(database))
    return Scoring(cached, stamps, {"model": cached.fingerprint})
