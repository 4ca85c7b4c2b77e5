"""`tapewire sweep`: one replay of history for many variants of a strategy."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from agent.cli.command_options import ManyJobs, Page, Ranges, ReplayOptions, WorkerOptions
from agent.cli.console import err, print_columns, print_json, print_text, progress_bar
from agent.cli.research_output import (
    counting,
    number,
    percent,
    score_all,
    show_stamps,
    standing_in_words,
    write_result_page,
)
from agent.cli.typer_setup import option
from agent.core.errors import UsageError
from agent.system.fitted_table import figures

if TYPE_CHECKING:
    from agent.replay.batch import SweepResult

_SHOWN: Final = 40
"""Rows of the table; `--json` has all."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("sweep")(sweep)


def sweep(
    replay: ReplayOptions,
    where: WorkerOptions,
    ranges: Ranges = None,
    points: Annotated[int, option("--points", "Values of a range that states no step.", min=1)] = 5,
    limit: Annotated[int, option("--limit", "Most variants.", min=1)] = 2_000,
    store: Annotated[
        bool, option("--store", "Also record each variant as a run of its own, by a replay of its own.")
    ] = False,
    digests: Annotated[
        bool,
        option("--digests", "Also chain the decisions of each variant, to compare sweeps; takes longer."),
    ] = False,
    jobs: ManyJobs = None,
    report: Page = None,
    json: Annotated[
        bool, option("--json", "Print a JSON list on standard output: one object a variant.")
    ] = False,
) -> None:
    """Replay history once for all combinations of the ranges, and list their results.

    Without --range, the parameters with bounds are searched between them. Nothing is recorded without
    --store. The best of many variants is mostly luck: `tapewire tune` and `walkforward` judge it on other
    time.
    """
    from agent.research import sweep as sweeping
    from agent.research.parameter_space import describe_space, grid, parse_ranges

    material = replay.material()
    strategy = material.config.strategy
    space = parse_ranges(ranges or [], strategy.name)
    for line in describe_space(space, strategy.name, fixed=strategy.params):
        err.print(line, markup=False, highlight=False, soft_wrap=True)
    variants = grid(space, strategy.name, strategy.params, points=points)
    total = 1
    for item in space:
        total *= len(item.points(points))
    if total > len(variants):
        err.print(f"{total - len(variants):,} of {total:,} combinations are not valid, and left out")
    if len(variants) > limit:
        raise UsageError(
            f"{len(variants):,} variants are more than {limit:,}",
            hint="name fewer values, such as fast=5:50:5, or raise --limit",
        )
    score_all(material, workers=replay.mqtt_workers)
    leaks = material.leakage(material.whole_window.start)
    with where.workers(where.many(jobs)) as found:
        workers = min(found, len(variants))
        with progress_bar(f"replaying {len(variants):,} variants", float(workers)) as update:
            results = sweeping.sweep(
                material,
                variants,
                jobs=workers,
                digests=digests,
                advance=partial(update, advance=1) if workers > 1 else None,
                progress=lambda share: update(completed=share),
            )
    counted = sweeping.count_sweep(material, results)
    runs: list[str] = []
    if store:
        with counting("recording runs", len(variants)) as advance:
            for params in variants:
                runs.append(sweeping.record_variant(material, params))
                advance()
    rows = [
        _row(result, runs[at] if runs else None) | {"study": counted.standings[at]}
        for at, result in enumerate(results)
    ]
    best = "" if counted.best is None else standing_in_words(counted.standings[counted.best])
    if json:
        print_json(rows)
    else:
        show_stamps(leaks)
        _print_table(results)
        if best:
            print_text(f"the best of them, {best}", wrap=True)
    if report is not None:
        from agent.research.study_page import render_sweep

        page = render_sweep(strategy.name, material.config.market.symbols, results, best, leaks)
        write_result_page(page, report)
    failed = [result for result in results if result.error]
    if failed:
        err.print(
            f"{len(failed):,} variants ended early; the first: {failed[0].error}",
            markup=False,
            soft_wrap=True,
        )


def _row(result: SweepResult, run: str | None) -> dict[str, Any]:
    row = {
        "params": result.params,
        "final_equity": result.final_equity,
        "trades": result.metrics.trades.trades,
        "metrics": result.metrics,
        "decisions": result.decisions,
    }
    if result.digest:
        row["digest"] = result.digest
    if result.error:
        row["error"] = result.error
    return row if run is None else row | {"run": run}


def _print_table(results: list[SweepResult]) -> None:
    names = list(results[0].params)
    ranked = sorted(results, key=lambda one: one.final_equity, reverse=True)
    rows = []
    for one in ranked[:_SHOWN]:
        performance = one.metrics.performance
        rows.append(
            (
                *(f"{value:g}" if isinstance(value, float) else str(value) for value in one.params.values()),
                percent(performance.total_return),
                number(performance.sharpe),
                percent(performance.max_drawdown),
                f"{one.metrics.trades.trades:,}" + (" (failed)" if one.error else ""),
                number(float(one.final_equity)),
            )
        )
    titles = (*names, "total return", "Sharpe", "max drawdown", "trips", "final equity")
    print_columns(figures(*titles), rows)
    if len(ranked) > _SHOWN:
        print_text(f"the first {_SHOWN} of {len(ranked):,}; --json prints all")
    print_text(f"the best of {len(ranked):,} is mostly luck: tapewire tune judges it on other time")
