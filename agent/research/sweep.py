"""Sweeps: one result for each combination of parameters, over one window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from agent.replay.backtest import backtest
from agent.replay.batch import SweepResult, replay_batch
from agent.replay.history import History
from agent.replay.needed_bars import needed_bars
from agent.research.parallel import Advance, run_parallel
from agent.research.replay_inputs import ReplayInputs
from agent.research.replay_window import with_params


class _Part(NamedTuple):
    inputs: ReplayInputs
    variants: list[dict[str, Any]]


def sweep(
    inputs: ReplayInputs,
    variants: Sequence[dict[str, Any]],
    *,
    jobs: int = 1,
    advance: Advance | None = None,
) -> list[SweepResult]:
    """Replay the settled window of `inputs` with each set of parameters; results are in their order.

    `jobs` processes share the variants; each of them reads the window once. `advance` is called after the
    part of a process. Raises as `replay_batch`, LeakageError, ModelError.
    """
    jobs = max(1, min(jobs, len(variants)))
    parts = [_Part(inputs, list(variants[number::jobs])) for number in range(jobs)]
    done = run_parallel(_replay_part, parts, jobs=jobs, advance=advance)
    return [done[number % jobs][number // jobs] for number in range(len(variants))]


def _replay_part(part: _Part) -> list[SweepResult]:
    inputs = part.inputs
    with inputs.database() as database:
        scorer = inputs.scoring(database, inputs.whole_window.start).scorer
        results: dict[int, SweepResult] = {}
        for warm_up, numbers in _by_warm_up(part):
            history = History(inputs.plan._replace(warm_up=warm_up), inputs.config)
            variants = [part.variants[number] for number in numbers]
            found = replay_batch(history, variants, history.sources(scorer=scorer))
            results |= dict(zip(numbers, found, strict=True))
    return [results[number] for number in range(len(part.variants))]


def _by_warm_up(part: _Part) -> list[tuple[dict[str, int], list[int]]]:
    """Group the numbers of the variants by the warm-up that each reads when it is run alone."""
    groups: list[tuple[dict[str, int], list[int]]] = []
    for number, params in enumerate(part.variants):
        needed = needed_bars(with_params(part.inputs.config, params))
        for warm_up, numbers in groups:
            if warm_up == needed:
                numbers.append(number)
                break
        else:
            groups.append((needed, [number]))
    return groups


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
        )
    return done.run.id
