"""Sweeps: one result for each combination of parameters, over one window."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from agent.analysis.deflation import StudyStanding, standing
from agent.replay.backtest import backtest
from agent.replay.batch import SweepResult, replay_batch
from agent.replay.evaluations import Evaluated, Result, input_files, record_results, versions_of
from agent.replay.history import History
from agent.replay.needed_bars import needed_bars
from agent.research.parallel import Advance, run_parallel, uses_cluster
from agent.research.replay_inputs import ReplayInputs
from agent.research.replay_window import with_params
from agent.store.tries import study_of, tries_on


class _Part(NamedTuple):
    inputs: ReplayInputs
    variants: list[dict[str, Any]]
    digests: bool


def sweep(
    inputs: ReplayInputs,
    variants: Sequence[dict[str, Any]],
    *,
    jobs: int = 1,
    digests: bool = False,
    advance: Advance | None = None,
    progress: Callable[[float], None] | None = None,
) -> list[SweepResult]:
    """Replay the settled window of `inputs` with each set of parameters; results are in their order.

    `jobs` processes share the variants; each of them reads the window once for all that need the same
    warm-up. With `digests` the results have the heads of the chains of decisions. `advance` is called after
    the part of a process; with one process, `progress` is called with the share that is done. Raises as
    `replay_batch`, LeakageError, ModelError.
    """
    jobs = max(1, min(jobs, len(variants)))
    parts = [_Part(inputs, list(variants[number::jobs]), digests) for number in range(jobs)]
    if jobs == 1 and not uses_cluster():
        results = _replay_part(parts[0], progress)
        if advance is not None:
            advance()
        return results
    done = run_parallel(_replay_part, parts, jobs=jobs, advance=advance, inputs=inputs)
    return [done[number % jobs][number // jobs] for number in range(len(variants))]


def _replay_part(part: _Part, progress: Callable[[float], None] | None = None) -> list[SweepResult]:
    inputs, variants = part.inputs, part.variants
    results: dict[int, SweepResult] = {}
    with inputs.database() as database:
        scorer = inputs.scoring(database, inputs.whole_window.start).scorer
        groups = _by_warm_up(inputs, variants)
        for at, (needed, numbers) in enumerate(groups):
            history = History(inputs.plan._replace(warm_up=needed), inputs.config)
            chosen = [variants[number] for number in numbers]
            start, length = history.start, max(history.end - history.start, 1)

            def report(now: int, *, at: int = at, start: int = start, length: int = length) -> None:
                if progress is not None:
                    progress((at + min(max(now - start, 0) / length, 1.0)) / len(groups))

            found = replay_batch(
                history, chosen, history.sources(scorer=scorer), digests=part.digests, progress=report
            )
            results.update(zip(numbers, found, strict=True))
    return [results[number] for number in range(len(variants))]


def _by_warm_up(
    inputs: ReplayInputs, variants: Sequence[dict[str, Any]]
) -> list[tuple[dict[str, int], list[int]]]:
    """Return the numbers of the variants by the history that they need before the start.

    Alone, a variant would read no more and no less. Variants with other needs don't share a pass.
    """
    groups: dict[tuple[tuple[str, int], ...], list[int]] = {}
    for number, params in enumerate(variants):
        needed = needed_bars(with_params(inputs.config, params))
        groups.setdefault(tuple(needed.items()), []).append(number)
    return [(dict(needed), numbers) for needed, numbers in groups.items()]


class CountedSweep(NamedTuple):
    """What each variant of a sweep is worth after all tries on the same data, in their order."""

    standings: list[StudyStanding]
    best: int | None  # the variant with the highest final equity; None if all ended early


def count_sweep(inputs: ReplayInputs, results: Sequence[SweepResult]) -> CountedSweep:
    """Record each variant in the ledger of tries."""
    window, files = inputs.whole_window, input_files(inputs.plan)
    study = study_of(files, window.start, window.end)
    with inputs.database() as database:
        versions = inputs.scoring(database, window.start).versions | versions_of(inputs.config)
        counted = [
            Result(
                Evaluated(with_params(inputs.config, one.params), files, versions, inputs.plan.timezone),
                one.period,
                one.moments,
                one.metrics.performance.total_return,
            )
            for one in results
        ]
        record_results(database, study, counted, by=inputs.by, kind="sweep")
        known = tries_on(database, study)
    standings = [standing(one.moments, one.period, study.id, known) for one in results]
    whole = [at for at, one in enumerate(results) if not one.error]
    return CountedSweep(standings, max(whole, key=lambda at: results[at].final_equity, default=None))


def record_variant(inputs: ReplayInputs, params: dict[str, Any]) -> str:
    """Replay one variant as a run of its own, record it, and return its id."""
    with inputs.database() as database:
        scoring = inputs.scoring(database, inputs.whole_window.start)
        done = backtest(
            History(inputs.plan._replace(warm_up=None), with_params(inputs.config, params)),
            database,
            scorer=scoring.scorer,
            stamps=scoring.stamps,
            versions=scoring.versions,
            allow_leakage=inputs.allow_leakage,
            by=inputs.by,
        )
    return done.run.id
