"""`tapewire tune`: search the parameters of a strategy, and measure how much of the best value is luck."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import msgspec
import typer

from agent.cli.command_options import (
    Json,
    Page,
    Placebo,
    Ranges,
    ReplayOptions,
    Seed,
    Warmup,
    WorkerOptions,
    parse_span,
    placebo_replays,
    warmup_ms,
    window,
)
from agent.cli.console import err, out, print_json, print_text
from agent.cli.research_output import (
    counting,
    describe_overrides,
    print_evidence,
    score_all,
    show_stamps,
    show_verdict,
    write_result_page,
)
from agent.cli.typer_setup import option
from agent.system.atomic import write_bytes
from agent.system.clock import iso

if TYPE_CHECKING:
    from agent.research.folds import Fold
    from agent.research.tuning_results import TuningResult


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("tune")(tune)


@dataclass(frozen=True, kw_only=True, slots=True)
class HoldoutOptions:
    """How to split the window into folds to search on and held-out time to judge on."""

    PANEL: ClassVar = "Split"

    folds: Annotated[
        int,
        option("--folds", "Parts of the in-sample time; a trial may be pruned after each of them.", min=1),
    ] = 4
    holdout: Annotated[
        str | None,
        option("--holdout", "End of the window, which no trial sees.", "DURATION", "a quarter of the window"),
    ] = None
    embargo: Annotated[str, option("--embargo", "Time left out before the held-out part.", "DURATION")] = "1d"

    def split(self, start: int, end: int) -> tuple[list[Fold], Fold]:
        """Return the folds to search on, and the held-out one; `start` and `end` are UTC ms."""
        from agent.core.events import DAY_MS
        from agent.research.tuning import split

        quarter = max((end - start) // 4 // DAY_MS * DAY_MS, DAY_MS)
        held = quarter if self.holdout is None else parse_span(self.holdout, "--holdout")
        embargo = parse_span(self.embargo, "--embargo")
        return split(start, end, holdout=held, embargo=embargo, folds=self.folds)


def tune(
    replay: ReplayOptions,
    cut: HoldoutOptions,
    where: WorkerOptions,
    ranges: Ranges = None,
    trials: Annotated[
        int,
        option("--trials -n", "Trials of the study in all; a resumed study runs the missing ones.", min=1),
    ] = 50,
    batch: Annotated[
        int,
        option(
            "--batch",
            "Trials that are drawn and replayed together: faster, and drawn without knowing each other.",
            min=1,
        ),
    ] = 8,
    workers: Annotated[
        int | None,
        option(
            "--workers -j", "Worker processes of this command.", default="1; of a cluster, all workers", min=1
        ),
    ] = None,
    warmup: Warmup = None,
    prune: Annotated[
        bool, option("--prune/--no-prune", "End a trial early if it is below the median so far.")
    ] = True,
    study: Annotated[
        str | None, option("--study", "Name of the study in the storage.", "NAME", "a hash of the options")
    ] = None,
    storage: Annotated[
        str, option("--storage", "Database of the study; PostgreSQL for workers on several machines.", "URL")
    ] = "sqlite:///var/tune.db",
    output: Annotated[
        Path | None,
        option("--output -o", "TOML file for the best parameters.", "FILE", "var/tune/STUDY.toml"),
    ] = None,
    placebo: Placebo = 20,
    seed: Seed = 0,
    judge_again: Annotated[
        bool,
        option("--judge-again", "Judge held-out time again that another variant was judged on; marked."),
    ] = False,
    report: Page = None,
    json: Json = False,
) -> None:
    """Search a strategy's parameters, and judge the best on time that the search has not seen.

    Without --range, the parameters with bounds are searched between them. The best value is reported with
    the share of it that luck explains, given the number of trials.
    """
    from agent.research import tuning
    from agent.research.parameter_space import describe_space, extremes, parse_ranges
    from agent.research.replay_inputs import with_widest_warm_up
    from agent.research.walk_forward import Settings

    material = replay.material()
    inside, held_out = cut.split(*window(material))
    warm = warmup_ms(material, warmup)
    strategy = material.config.strategy
    space = parse_ranges(ranges or [], strategy.name)
    for line in describe_space(space, strategy.name, fixed=strategy.params):
        err.print(line, markup=False, highlight=False, soft_wrap=True)
    material = with_widest_warm_up(material, extremes(space))
    search = tuning.Search(material, space, inside, study or "", storage, trials, warm, prune, seed, batch)
    search = search if study else search._replace(study=tuning.study_name(search))
    score_all(material, workers=replay.mqtt_workers)
    done = tuning.count_trials(search)
    if done:
        note = f"study {search.study}: {done:,} of {trials:,} trials come from an earlier search"
        err.print(note)
    with where.workers(where.many(workers)) as found, counting("trials", max(0, trials - done)) as advance:
        tuning.tune(search, workers=found, shared=where.address is not None, advance=advance)
    judging = Settings("none", warm, placebo_replays(material, placebo), seed=seed, judge_again=judge_again)
    with err.status("judging the best on held-out time"):
        tuned = tuning.evaluate_best(search, held_out, judging, reused=done)
    path = output or tuning.RESULTS / f"{search.study}.toml"
    write_bytes(path, tuning.toml_snippet(tuned, material.config.strategy.name).encode())
    tuning.record_result(tuned)
    if json:
        print_json({**msgspec.structs.asdict(tuned), "toml": str(path)})
    else:
        _print_result(tuned, path)
    if report is not None:
        from agent.research.study_page import render_tuning

        write_result_page(render_tuning(tuned), report)


def _print_result(tuned: TuningResult, path: Path) -> None:
    start, end = tuned.in_sample
    skipped = f", {tuned.invalid} invalid" if tuned.invalid else ""
    skipped += f", {tuned.reused} reused from an earlier search" if tuned.reused else ""
    print_text(
        f"study {tuned.study}: {tuned.trials} trials, {tuned.pruned} of them pruned{skipped}; "
        f"in sample {iso(start)[:10]} to {iso(end)[:10]}"
    )
    print_text(f"  best           {describe_overrides({'strategy': {'params': tuned.params}})}")
    print_text(f"  Sharpe ratio   {tuned.value:.2f} in sample, the best of {tuned.trials}")
    if tuned.deflated_sharpe is not None:
        print_text(
            f"  deflated       {tuned.deflated_sharpe:.1%} probability that it exceeds "
            f"what luck gives the best of {tuned.tries:,} tries on these data"
        )
    if tuned.overfitting is not None:
        print_text(
            f"  overfitting    {tuned.overfitting.probability:.1%} probability that parameters chosen on one "
            f"part are below the median on another ({tuned.overfitting.trials} trials)",
        )
    out.print()
    show_stamps(tuned.held_out.stamps)
    start, end = tuned.held_out.folds[0].test
    print_evidence(tuned.held_out.evidence, f"Held out: {iso(start)[:10]} to {iso(end)[:10]}")
    show_verdict(tuned.held_out.verdict)
    print_text(f"parameters: {path}; run {tuned.held_out.folds[0].run}")
