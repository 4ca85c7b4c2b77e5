"""`tapewire walkforward`: the default way to judge a strategy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from agent.cli import options
from agent.cli.console import err, out, print_json
from agent.core.durations import format_duration
from agent.core.errors import UsageError
from agent.system.clock import iso

if TYPE_CHECKING:
    from agent.analysis.chance import ChanceTest
    from agent.analysis.report.verdict import Verdict
    from agent.analysis.significance import Interval
    from agent.core.events import News
    from agent.research.assessment import OutOfSampleEvidence
    from agent.research.fitters import Fitter
    from agent.research.parameter_space import ParameterRange
    from agent.research.replay_inputs import ReplayInputs
    from agent.research.walk_forward import WalkForward
    from models.fusion.train.fusion_recipe import Recipe


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    app.command("walkforward")(walkforward)


def walkforward(
    config: options.ConfigFile = None,
    klines: options.Klines = None,
    news: options.News = None,
    sentiment: options.Sentiment = None,
    funding: options.Funding = None,
    start: options.Start = None,
    end: options.End = None,
    strategy: options.Strategy = None,
    settings: options.Settings = None,
    symbol: options.Symbols = None,
    category: options.Category = None,
    timezone: options.Timezone = None,
    model: options.Model = None,
    fusion: options.Fusion = None,
    allow_leakage: options.AllowLeakage = False,
    train: Annotated[str, typer.Option("--train", help="What each fold learns from.")] = "180d",
    test: Annotated[str, typer.Option("--test", help="What each fold is judged on.")] = "30d",
    embargo: Annotated[str, typer.Option("--embargo", help="Left out between the two.")] = "1d",
    purge: Annotated[str, typer.Option("--purge", help="Horizon of the labels: left out too.")] = "0d",
    anchored: Annotated[
        bool, typer.Option("--anchored", help="Learn from everything since the start.")
    ] = False,
    fit: Annotated[
        str, typer.Option("--fit", help="What is learned: none, refit (the strategy's parameters) or fusion.")
    ] = "none",
    ranges: options.Ranges = None,
    points: Annotated[int, typer.Option("--points", min=1, help="Of refit: values tried of each range.")] = 5,
    ablation: Annotated[
        str,
        typer.Option(
            "--ablation",
            help="Of fit fusion: full, price, text or probabilities; see `tapewire train fusion`.",
        ),
    ] = "full",
    interval: Annotated[
        str, typer.Option("--interval", help="Of fit fusion: of the bars that the model reads.")
    ] = "1h",
    horizon: Annotated[str, typer.Option("--horizon", help="Of fit fusion: how far ahead it looks.")] = "4h",
    warmup: options.Warmup = None,
    placebo: options.Placebo = 20,
    jobs: options.Jobs = 0,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Judge a strategy on time that nothing was learned from: fold by fold, costs in, with intervals and a verdict."""
    from agent.research.folds import make_folds
    from agent.research.walk_forward import Settings, check_test_length, walk_forward

    material = options.gather(
        config,
        klines,
        news,
        sentiment,
        funding,
        start,
        end,
        strategy or ("fusion" if fit == "fusion" else None),
        settings,
        symbol,
        category,
        timezone,
        model,
        allow_leakage,
        fusion,
    )
    begin, finish = options.window(material)
    span = options.parse_span
    recipe = _recipe(ablation, interval, horizon, seed) if fit == "fusion" else None
    if recipe is not None:
        if material.config.strategy.name != "fusion":
            raise UsageError(
                f"--fit fusion trades with the strategy fusion, not {material.config.strategy.name}",
                hint="leave --strategy out",
            )
        if not recipe.reads_text:
            material = material._replace(plan=material.plan._replace(news=None, sentiment=None))
    folds = make_folds(
        begin, finish, train=span(train, "--train"), test=span(test, "--test"), embargo=span(embargo, "--embargo"),
        purge=span(purge, "--purge"), anchored=anchored,
    )  # fmt: skip
    check_test_length(folds, material.config.market.interval)
    warm = options.warm_up(material, warmup)
    searched = _ranges(fit, ranges, material)
    score_all(material, embedded=recipe is not None)
    described = {
        "train": train, "test": test, "embargo": embargo, "purge": purge, "anchored": anchored,
        "ranges": searched, "points": points, "recipe": recipe, "config": material.config.recorded(),
    }  # fmt: skip
    with counting("folds", len(folds)) as advance:
        result = walk_forward(
            material,
            folds,
            _fitter(fit, material, searched, points, warm, recipe),
            Settings(fit, warm, options.placebos(material, placebo), options.processes(jobs), seed),
            described=described,
            advance=advance,
        )
    if json:
        print_json(result)
    else:
        _print(result)


def _ranges(fit: str, ranges: list[str] | None, material: ReplayInputs) -> list[ParameterRange]:
    from agent.research.parameter_space import parse_ranges

    if fit not in ("none", "refit", "fusion"):
        raise UsageError(f"--fit {fit}: there is no such fitter", hint="none, refit or fusion")
    if ranges and fit != "refit":
        raise UsageError(f"--range says what refit searches, but --fit is {fit}", hint="--fit refit")
    return parse_ranges(ranges or [], material.config.strategy.name) if fit == "refit" else []


def _recipe(ablation: str, interval: str, horizon: str, seed: int) -> Recipe:
    from models.fusion.train.fusion_recipe import Recipe

    return Recipe(
        ablation=ablation,  # type: ignore[arg-type]  # the recipe checks it
        interval=options.parse_span(interval, "--interval"),
        horizon=options.parse_span(horizon, "--horizon"),
        seed=seed,
        test=0.0,  # what judges comes after the fold
    )


def _fitter(
    fit: str,
    material: ReplayInputs,
    ranges: list[ParameterRange],
    points: int,
    warmup: int,
    recipe: Recipe | None,
) -> Fitter:
    from agent.research.fitters import GridFitter, NoFitter

    if recipe is not None:
        from models.fusion.train.fitter import FusionFitter

        return FusionFitter(material.plan, material.config, recipe)
    return GridFitter(material, ranges, points, warmup) if fit == "refit" else NoFitter()


def score_all(
    material: ReplayInputs, text: Callable[[News], str] | None = None, *, embedded: bool = False
) -> None:
    """Let the model read all headlines of the window (or what `text` makes of them) once, before processes share its memory.

    Embeddings are kept where they are asked for, or the fusion model that is configured reads them.
    """
    if material.plan.news is None:
        return
    from agent.replay.fusion_model import open_predictor
    from models.sentiment.serve.archive_scoring import fill_cache

    if material.config.fusion.path and not embedded:
        predictor = open_predictor(material.config)
        embedded = predictor is not None and predictor.reads_embeddings
    with material.database() as database:
        scorer = material.scoring(database, material.plan.end or 0).scorer
        if scorer is None:
            return
        with counting("scoring headlines", None) as advance:
            titles = (text(news) if text else news.title for news in material.headlines())
            fill_cache(scorer, titles, embedded=embedded, progress=advance.to)


class Advance:
    """Moves a bar: called, by one piece of work; `to` sets it."""

    def __init__(self, bar: Progress, task: TaskID) -> None:
        self._bar, self._task = bar, task

    def __call__(self) -> None:
        self._bar.advance(self._task)

    def to(self, done: int, total: int) -> None:
        """So much of so much is done."""
        self._bar.update(self._task, completed=done, total=total)


@contextmanager
def counting(title: str, total: int | None) -> Iterator[Advance]:
    """A bar on standard error over pieces of work; yields what moves it."""
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
        console=err, transient=True,
    ) as bar:  # fmt: skip
        yield Advance(bar, bar.add_task(title, total=total))


def percent(value: float | None) -> str:
    """`+1.23%`, or a dash."""
    return "–" if value is None else f"{value:+.2%}"


def number(value: float | None) -> str:
    """`1.23`, or a dash."""
    return "–" if value is None else f"{value:,.2f}"


def show_verdict(verdict: Verdict) -> None:
    """The words, worst first."""
    out.print(f"\n{verdict.headline}", style="bold", highlight=False, markup=False)
    for sentence in (*(f"! {warning}" for warning in verdict.warnings), *verdict.sentences):
        out.print(f"  {sentence}", highlight=False, markup=False, soft_wrap=True)


def evidence_table(evidence: OutOfSampleEvidence) -> Table:
    """The figures beside buy-and-hold's."""

    def with_interval(value: str, interval: Interval | None, show: Callable[[float], str]) -> str:
        return f"{value} [{show(interval.low)}, {show(interval.high)}]" if interval else value

    def chance(test: ChanceTest | None) -> str:
        return (
            "–"
            if test is None
            else f"median {percent(test.median)}, p = {test.p_value:.3f} of {test.draws:,}"
        )

    table = Table(title="Out of sample", title_justify="left", show_edge=False)
    for title in ("", "strategy", "buy and hold"):
        table.add_column(title, justify="left" if not title else "right")
    versus = evidence.versus_hold
    table.add_row(
        "total return",
        with_interval(percent(evidence.total_return), evidence.total_return_interval, percent),
        percent(evidence.buy_and_hold),
    )
    table.add_row(
        "Sharpe ratio",
        with_interval(number(evidence.sharpe), evidence.sharpe_interval, number),
        number(evidence.buy_and_hold_sharpe),
    )
    table.add_row("max drawdown, daily", percent(evidence.max_drawdown), "")
    table.add_row(
        "ahead of buy-and-hold",
        with_interval(percent(versus.total_return.value), versus.total_return, percent) if versus else "–",
        "",
    )
    table.add_row("true Sharpe above 0, probability", _share(evidence.probabilistic_sharpe), "")
    table.add_row(
        f"  deflated by {evidence.trials} tries" if evidence.trials > 1 else "  deflated by 1 try",
        _share(evidence.deflated_sharpe),
        "",
    )
    table.add_row("round trips", f"{evidence.trades:,}", "")
    table.add_row(
        "cost of a round trip", "–" if evidence.cost is None else f"{evidence.cost * 1e4:.1f} bps", ""
    )
    table.add_row("trades at random times", chance(evidence.random_entries), "")
    table.add_row("signals at other times", chance(evidence.shifted_signals), "")
    table.add_row("headlines shuffled", chance(evidence.placebo), "")
    return table


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _print(result: WalkForward) -> None:
    for stamp in result.stamps:
        out.print(f"[bold white on red] {stamp} [/]")
    table = Table(
        title=f"{result.strategy} on {', '.join(result.symbols)}, fit {result.fit}",
        title_justify="left",
        show_edge=False,
    )
    fits = any(fold.overrides for fold in result.folds)
    for title in (
        "fold",
        "judged from",
        "for",
        "return",
        "hold",
        "Sharpe",
        "trips",
        "learned" if fits else "drawdown",
    ):
        table.add_column(
            title,
            justify="left" if title in ("judged from", "learned") else "right",
            no_wrap=title != "learned",
        )
    for fold in result.folds:
        begin, end = fold.test
        table.add_row(
            str(fold.number), iso(begin)[:10], format_duration(end - begin), percent(fold.total_return),
            percent(fold.buy_and_hold), number(fold.sharpe), f"{fold.trades:,}",
            learned(fold.overrides) if fits else percent(fold.max_drawdown),
        )  # fmt: skip
    out.print(table)
    out.print()
    out.print(evidence_table(result.evidence))
    show_verdict(result.verdict)
    out.print(
        f"{result.id}: {len(result.folds)} folds in {result.seconds:.1f} s; each is a run that `tapewire verify` decides again "
        f"({result.folds[0].run} …); all of it in var/walkforward/{result.id}",
        highlight=False,
        soft_wrap=True,
    )


def learned(overrides: dict[str, Any]) -> str:
    """Overrides in a word: the strategy's parameters, or what else was set."""
    params = overrides.get("strategy", {}).get("params", {})
    shown = [
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in params.items()
    ]
    return " ".join([*shown, *(f"{name} model" for name in overrides if name != "strategy")]) or "–"
