"""Replays of one window that differ in their costs or in the times of their headlines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from agent.analysis.trades import round_trips
from agent.config import Config
from agent.replay.evaluations import Evaluated, Result, record_results
from agent.research.assessment import round_trip_cost
from agent.research.parallel import Advance, run_parallel
from agent.research.replay_inputs import ReplayInputs, cached_window
from agent.research.replay_window import LoadedWindow, WindowResult
from agent.research.surrogate_market import shuffle_headlines
from agent.store.tries import study_of


class Variant(NamedTuple):
    """Another configuration, or headlines shuffled with a seed; by default nothing is changed."""

    config: Config | None = None
    shuffle_seed: int | None = None


class VariantResult(NamedTuple):
    """Result of one variant.

    `cost` is that of an average round trip as a fraction of its notional, None without any. `evaluation` is
    for the ledger of tries (see `count_check`).
    """

    total_return: float
    trades: int
    cost: float | None
    evaluation: Result


def replay_variants(
    inputs: ReplayInputs, variants: Sequence[Variant], *, jobs: int = 1, advance: Advance | None = None
) -> list[VariantResult]:
    """Replay each variant of settled `inputs` over `jobs` processes; each process reads the window once."""
    tasks = [(inputs, variant) for variant in variants]
    return run_parallel(replay_variant, tasks, jobs=jobs, advance=advance, inputs=inputs)


def replay_variant(task: tuple[ReplayInputs, Variant]) -> VariantResult:
    """Replay one variant. The window stays in this process's cache (see `clear_window_cache`)."""
    inputs, variant = task
    window = cached_window(inputs)
    news = window.news_events
    if variant.shuffle_seed is not None:
        news = shuffle_headlines(news, variant.shuffle_seed)
    result = window.replay(variant.config or inputs.config, news_events=news)
    trades = round_trips(result.fills_and_funding)
    costs = [round_trip_cost(trade) for trade in trades]
    return VariantResult(
        result.total_return,
        len(trades),
        sum(costs) / len(costs) if costs else None,
        evaluation_of(inputs, window, result),
    )


def evaluation_of(
    inputs: ReplayInputs, window: LoadedWindow, result: WindowResult, way: Mapping[str, Any] | None = None
) -> Result:
    """Return a replay of the settled `inputs` for the ledger of tries; `way` as in `Evaluated`."""
    files = window.history.inputs
    evaluated = Evaluated(inputs.config, files, window.versions, inputs.plan.timezone, way or {})
    return Result(evaluated, result.period, result.moments, result.total_return)


def count_check(inputs: ReplayInputs, evaluation: Result) -> None:
    """Record the replay that a check judges in the ledger of tries; a check shows its total return."""
    window = inputs.whole_window
    study = study_of(evaluation.evaluated.inputs, window.start, window.end)
    with inputs.database() as database:
        record_results(database, study, [evaluation], by=inputs.by, kind="check")
