"""Inputs of a replay: files, configuration and model, in a form that can be sent to other processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from agent.config import Config
from agent.core.errors import ConfigError
from agent.core.events import News
from agent.data.cascade import CascadeScorer
from agent.data.news import NewsFile
from agent.data.sentiment import NamedScorer
from agent.replay.backtest import refuse_leakage
from agent.replay.fusion_model import open_predictor
from agent.replay.history import Plan
from agent.replay.needed_bars import needed_bars
from agent.research.folds import Window
from agent.research.replay_window import LoadedWindow, with_params
from agent.store.database import Database, open_database
from agent.store.prompts import save_prompts
from agent.store.runs import LANGUAGE_MODEL, REVISING_MODEL
from agent.store.tries import PYTHON
from models.sentiment.scorer_facts import describe_language_models, prompts_of, trained_until

if TYPE_CHECKING:
    from models.sentiment.serve.score_cache import CachedScorer


class Scoring(NamedTuple):
    """The model that scores headlines, or two of them; leakage stamps for the report, and versions to
    record.
    """

    scorer: CachedScorer | CascadeScorer | None
    stamps: tuple[str, ...]
    versions: dict[str, str]


class ReplayInputs(NamedTuple):
    """What to replay. `plan` names files and window; it is *settled* once start and end are known.

    `by` is who evaluates (`Try.by`).
    """

    plan: Plan
    config: Config
    allow_leakage: bool = False
    by: str = PYTHON

    @property
    def whole_window(self) -> Window:
        """The settled window. Raises ValueError if start or end is missing."""
        if self.plan.start is None or self.plan.end is None:
            raise ValueError("the window must be settled")
        return Window(self.plan.start, self.plan.end)

    def part(self, window: Window, *, warmup: int = 0, close_out: bool = False, part_of: str = "") -> Plan:
        """Return the plan of a part of the window."""
        return self.plan._replace(
            start=window.start,
            end=window.end,
            warmup=warmup,
            close_out=close_out,
            part_of=part_of,
            pursues=close_out,
        )

    @contextmanager
    def database(self) -> Iterator[Database]:
        """Open the store with recorded runs and cached scores."""
        with closing(open_database(self.config.store.url)) as database:
            yield database

    def scoring(self, database: Database, start: int) -> Scoring:
        """Return the configured model for a replay from `start` (UTC ms), none if no headlines are read.

        Raises LeakageError if the model was trained on later text, unless leakage is allowed.
        """
        if not self.plan.news:
            return NO_SCORING
        return configured_scoring(self.config, database, start, allow_leakage=self.allow_leakage)

    def load_window(
        self, window: Window, *, warmup: int = 0, close_out: bool = False, judged_from: int | None = None
    ) -> LoadedWindow:
        """Load a part of the window.

        Models must not have seen data after `judged_from` (default: its start).
        """
        with self.database() as database:
            scoring = self.scoring(database, window.start if judged_from is None else judged_from)
            plan = self.part(window, warmup=warmup, close_out=close_out)
            return LoadedWindow(plan, self.config, scoring.scorer, scoring.versions)

    def leakage(self, start: int) -> tuple[str, ...]:
        """Return the leakage stamps of results from `start` (UTC ms) on.

        Raises LeakageError unless leakage is allowed.
        """
        with self.database() as database:
            stamps = self.scoring(database, start).stamps
        predictor = open_predictor(self.config) if self.config.fusion.path else None
        if predictor is not None:
            trained_until = predictor.card.trained_until
            stamps += refuse_leakage(
                trained_until, start, model=self.config.fusion.path, allow=self.allow_leakage
            )
        return tuple(dict.fromkeys(stamps))

    def headlines(self) -> list[News]:
        """Read all headlines of the window."""
        plan = self.plan
        if plan.news is None:
            return []
        delay = self.config.history.feed_delay
        return list(
            NewsFile(plan.news, feed_delay=delay, start=plan.start, end=plan.end, timezone=plan.timezone)
        )


def with_widest_warm_up(inputs: ReplayInputs, variants: Iterable[dict[str, Any]]) -> ReplayInputs:
    """Return inputs whose warm-up has the most bars of each interval that one of the variants needs.

    `variants` are sets of parameters; those that the strategy refuses are passed over.
    """
    widest = dict(inputs.plan.warm_up or {})
    for params in variants:
        try:
            needed = needed_bars(with_params(inputs.config, params))
        except ConfigError:
            continue
        for interval, bars in needed.items():
            widest[interval] = max(bars, widest.get(interval, 0))
    return inputs._replace(plan=inputs.plan._replace(warm_up=widest))


NO_SCORING = Scoring(None, (), {})

_CACHE: list[tuple[ReplayInputs, LoadedWindow]] = []


def cached_window(inputs: ReplayInputs) -> LoadedWindow:
    """Load the whole settled window once a process; other inputs replace it.

    Models may have seen the window: the caller compares replays that use the same model.
    """
    if not _CACHE or _CACHE[0][0] != inputs:
        _CACHE.clear()  # first, because each window may fill the memory
        window = inputs.whole_window
        _CACHE.append((inputs, inputs.load_window(window, judged_from=window.end)))
    return _CACHE[0][1]


def clear_window_cache() -> None:
    """Free the memory that `cached_window` uses."""
    _CACHE.clear()


def configured_scoring(config: Config, database: Database, start: int, *, allow_leakage: bool) -> Scoring:
    """Load the model that `config` names, and the one that revises its scores, with their cache in
    `database`.

    Raises ModelError and LeakageError.
    """
    from models.sentiment.open_scorer import open_cached_scorer

    path, other = config.model.path, config.model.revise_with
    scorer = open_cached_scorer(path, config, database)
    first = _scoring(scorer, path, start, allow_leakage=allow_leakage)
    if not other:
        return first
    reviser = open_cached_scorer(other, config, database)
    second = _scoring(reviser, other, start, allow_leakage=allow_leakage)
    stamps = tuple(dict.fromkeys(first.stamps + second.stamps))
    versions = first.versions | {REVISING_MODEL: reviser.fingerprint}
    named = [part.versions[LANGUAGE_MODEL] for part in (first, second) if LANGUAGE_MODEL in part.versions]
    if named:
        versions[LANGUAGE_MODEL] = ", ".join(named)
    return Scoring(CascadeScorer(scorer, reviser), stamps, versions)


def scoring_with(
    scorer: NamedScorer, name: str, database: Database, start: int, *, allow_leakage: bool
) -> Scoring:
    """Do the same with a loaded model; errors call it `name`. Raises LeakageError (see `refuse_leakage`)."""
    from models.sentiment.serve.score_cache import CachedScorer, SqlScoreCache

    save_prompts(database, prompts_of(scorer))
    cached = CachedScorer(scorer, SqlScoreCache(database))
    return _scoring(cached, name, start, allow_leakage=allow_leakage)


def _scoring(scorer: CachedScorer, name: str, start: int, *, allow_leakage: bool) -> Scoring:
    stamps = refuse_leakage(trained_until(scorer.scorer), start, model=name, allow=allow_leakage)
    language_models = describe_language_models(scorer)
    named = {LANGUAGE_MODEL: language_models} if language_models else {}
    return Scoring(scorer, stamps, {"model": scorer.fingerprint} | named)
