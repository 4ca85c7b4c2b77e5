"""`tapewire walkforward`: the default way to judge a strategy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from agent.cli.command_options import (
    Jobs,
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
from agent.cli.console import out, print_columns, print_json
from agent.cli.research_output import (
    counting,
    describe_overrides,
    number,
    percent,
    print_evidence,
    score_all,
    show_stamps,
    show_verdict,
    write_result_page,
)
from agent.cli.typer_setup import option
from agent.core.durations import format_duration
from agent.core.errors import UsageError
from agent.system.clock import iso
from agent.system.fitted_table import Column, figures

if TYPE_CHECKING:
    from agent.research.fitters import Fitter
    from agent.research.folds import Fold
    from agent.research.parameter_space import ParameterRange
    from agent.research.replay_inputs import ReplayInputs
    from agent.research.walk_forward import WalkForward
    from models.fusion.train.fusion_recipe import FusionRecipe


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("walkforward")(walkforward)


@dataclass(frozen=True, kw_only=True, slots=True)
class FoldOptions:
    """How to cut the window into folds."""

    PANEL: ClassVar = "Folds"

    train: Annotated[str, option("--train", "What each fold is fitted on.", "DURATION")] = "180d"
    test: Annotated[str, option("--test", "What each fold is judged on.", "DURATION")] = "30d"
    embargo: Annotated[str, option("--embargo", "Time left out between the two.", "DURATION")] = "1d"
    purge: Annotated[str, option("--purge", "Horizon of the labels; left out as well.", "DURATION")] = "0d"
    anchored: Annotated[
        bool, option("--anchored", "Fit each fold on everything since the start of the window.")
    ] = False

    def folds(self, start: int, end: int) -> list[Fold]:
        """Return the folds of the window from `start` to `end` (UTC ms)."""
        from agent.research.folds import make_folds

        return make_folds(
            start,
            end,
            train=parse_span(self.train, "--train"),
            test=parse_span(self.test, "--test"),
            embargo=parse_span(self.embargo, "--embargo"),
            purge=parse_span(self.purge, "--purge"),
            anchored=self.anchored,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class FitOptions:
    """What each fold fits before it is judged."""

    PANEL: ClassVar = "Fit"

    fit: Annotated[
        str, option("--fit", "none, refit (the strategy's parameters) or fusion (a model).", "NAME")
    ] = "none"
    ranges: Ranges = None
    points: Annotated[int, option("--points", "Values of each range that --fit refit tries.", min=1)] = 5
    ablation: Annotated[
        str, option("--ablation", "Inputs of --fit fusion: full, price, text or probabilities.", "NAME")
    ] = "full"
    interval: Annotated[
        str, option("--interval", "Length of the bars that --fit fusion reads.", "DURATION")
    ] = "1h"
    horizon: Annotated[str, option("--horizon", "How far ahead --fit fusion predicts.", "DURATION")] = "4h"

    def recipe(self, seed: int) -> FusionRecipe | None:
        """Return the fusion model to train in each fold; None unless --fit is fusion."""
        if self.fit != "fusion":
            return None
        from models.fusion.train.fusion_recipe import FusionRecipe

        return FusionRecipe(
            ablation=self.ablation,  # type: ignore[arg-type]  # FusionRecipe checks it
            interval=parse_span(self.interval, "--interval"),
            horizon=parse_span(self.horizon, "--horizon"),
            seed=seed,
            test=0.0,  # the fold itself is the test
        )

    def search_space(self, material: ReplayInputs) -> list[ParameterRange]:
        """Return the ranges that --fit refit searches. Raises UsageError."""
        from agent.research.parameter_space import parse_ranges

        if self.fit not in ("none", "refit", "fusion"):
            raise UsageError(f"--fit {self.fit}: there is no such fitter", hint="none, refit or fusion")
        if self.ranges and self.fit != "refit":
            raise UsageError(f"--range is what refit searches, but --fit is {self.fit}", hint="--fit refit")
        return parse_ranges(self.ranges or [], material.config.strategy.name) if self.fit == "refit" else []

    def fitter(
        self, material: ReplayInputs, space: list[ParameterRange], warmup: int, recipe: FusionRecipe | None
    ) -> Fitter:
        """Return what fits each fold; `warmup` is in ms."""
        from agent.research.fitters import GridFitter, NoFitter

        if recipe is not None:
            from models.fusion.train.fitter import FusionFitter

            return FusionFitter(material.plan, material.config, recipe)
        return GridFitter(material, space, self.points, warmup) if self.fit == "refit" else NoFitter()


def walkforward(
    replay: ReplayOptions,
    cut: FoldOptions,
    fitting: FitOptions,
    where: WorkerOptions,
    warmup: Warmup = None,
    placebo: Placebo = 20,
    jobs: Jobs = 0,
    seed: Seed = 0,
    report: Page = None,
    json: Json = False,
) -> None:
    """Judge a strategy fold by fold, always on time after the data that it was fitted on.

    Costs are included, figures have confidence intervals, and a verdict sums them up. Each fold is a recorded
    run.
    """
    from agent.research.walk_forward import Settings, check_test_length, walk_forward

    recipe = fitting.recipe(seed)
    material = (
        replay if recipe is None or replay.strategy else replace(replay, strategy="fusion")
    ).material()
    if recipe is not None:
        if material.config.strategy.name != "fusion":
            raise UsageError(
                f"--fit fusion trades with the strategy fusion, not {material.config.strategy.name}",
                hint="leave --strategy out",
            )
        if not recipe.reads_text:
            material = material._replace(plan=material.plan._replace(news=None, sentiment=None))
    folds = cut.folds(*window(material))
    check_test_length(folds, material.config.market.interval)
    warm = warmup_ms(material, warmup)
    space = fitting.search_space(material)
    score_all(material, embeddings=recipe is not None, workers=replay.mqtt_workers)
    described = {
        "train": cut.train,
        "test": cut.test,
        "embargo": cut.embargo,
        "purge": cut.purge,
        "anchored": cut.anchored,
        "ranges": space,
        "points": fitting.points,
        "recipe": recipe,
        "config": material.config.persisted(),
    }
    with where.workers(jobs) as workers, counting("folds", len(folds)) as advance:
        result = walk_forward(
            material,
            folds,
            fitting.fitter(material, space, warm, recipe),
            Settings(fitting.fit, warm, placebo_replays(material, placebo), workers, seed),
            described=described,
            advance=advance,
        )
    if json:
        print_json(result)
    else:
        _print_result(result)
    if report is not None:
        from agent.research.study_page import render_walk_forward

        write_result_page(render_walk_forward(result), report)


def _print_result(result: WalkForward) -> None:
    show_stamps(result.stamps)
    fitted = any(fold.overrides for fold in result.folds)
    columns = (
        *(Column("fold", right=True), Column("judged from")),
        *figures("for", "return", "hold", "Sharpe", "trips"),
        Column("fitted", wraps=True) if fitted else Column("drawdown", right=True),
    )
    rows = []
    for fold in result.folds:
        start, end = fold.test
        rows.append(
            (
                str(fold.number),
                iso(start)[:10],
                format_duration(end - start),
                percent(fold.total_return),
                percent(fold.buy_and_hold),
                number(fold.sharpe),
                f"{fold.trades:,}",
                describe_overrides(fold.overrides) if fitted else percent(fold.max_drawdown),
            )
        )
    title = f"{result.strategy} on {', '.join(result.symbols)}, fit {result.fit}"
    print_columns(columns, rows, title=title)
    out.print()
    print_evidence(result.evidence, "Out of sample")
    show_verdict(result.verdict)
    out.print(
        f"{result.id}: {len(result.folds)} folds in {result.seconds:.1f} s; "
        f"each is a run that `tapewire verify` can replay ({result.folds[0].run} …); "
        f"details in var/walkforward/{result.id}",
        soft_wrap=True,
    )
