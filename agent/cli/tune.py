"""`tapewire tune`: a search for parameters that says how little its best value proves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli import options
from agent.cli.console import err, out, print_json
from agent.cli.walkforward import counting, evidence_table, learned, score_all, show_verdict
from agent.system.atomic import write_bytes
from agent.system.clock import iso

if TYPE_CHECKING:
    from agent.research.tuning import TuningResult


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    app.command("tune")(tune)


def tune(
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
    ranges: options.Ranges = None,
    trials: Annotated[
        int, typer.Option("--trials", "-n", min=1, help="Of the study in all; a resumed one makes the rest.")
    ] = 50,
    workers: Annotated[int, typer.Option("--workers", "-j", min=1, help="Processes of this machine.")] = 1,
    folds: Annotated[
        int,
        typer.Option("--folds", min=1, help="Parts of the in-sample time; a trial may be pruned after each."),
    ] = 4,
    holdout: Annotated[
        str | None, typer.Option("--holdout", help="End of the window that no trial sees [a quarter].")
    ] = None,
    embargo: Annotated[str, typer.Option("--embargo", help="Left out before it.")] = "1d",
    warmup: options.Warmup = None,
    prune: Annotated[
        bool, typer.Option("--prune/--no-prune", help="End trials that are behind the median so far.")
    ] = True,
    study: Annotated[
        str | None, typer.Option("--study", help="Name in the storage [from the options].")
    ] = None,
    storage: Annotated[
        str,
        typer.Option(
            "--storage", help="URL of the study's database; PostgreSQL for workers on many machines."
        ),
    ] = "sqlite:///var/tune.db",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="TOML to write [var/tune/STUDY.toml].")
    ] = None,
    placebo: options.Placebo = 20,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Search parameters in sample, and judge the best on held-out time: the value, what luck explains of it, and the truth."""
    from agent.core.events import DAY_MS
    from agent.research import tuning as search_for
    from agent.research.parameter_space import parse_ranges
    from agent.research.walk_forward import Settings

    material = options.gather(
        config,
        klines,
        news,
        sentiment,
        funding,
        start,
        end,
        strategy,
        settings,
        symbol,
        category,
        timezone,
        model,
        allow_leakage,
        fusion,
    )
    begin, finish = options.window(material)
    held = (
        max((finish - begin) // 4 // DAY_MS * DAY_MS, DAY_MS)
        if holdout is None
        else options.parse_span(holdout, "--holdout")
    )
    inside, outside = search_for.split(
        begin, finish, holdout=held, embargo=options.parse_span(embargo, "--embargo"), folds=folds
    )
    warm = options.warm_up(material, warmup)
    found = parse_ranges(ranges or [], material.config.strategy.name)
    search = search_for.Search(material, found, inside, study or "", storage, trials, warm, prune, seed)
    search = search if study else search._replace(study=search_for.study_name(search))
    score_all(material)
    made = search_for.count_trials(search)
    if made:
        err.print(
            f"study {search.study}: {made:,} of {trials:,} trials were made by an earlier search",
            highlight=False,
        )
    with counting("trials", max(0, trials - made)) as advance:
        search_for.tune(search, workers=workers, advance=advance)
    with err.status("judging the best on held-out time"):
        tuned = search_for.evaluate_best(
            search,
            outside,
            Settings("none", warm, options.placebos(material, placebo), seed=seed),
            reused=made,
        )
    path = output or Path("var/tune") / f"{search.study}.toml"
    write_bytes(path, search_for.toml_snippet(tuned, material.config.strategy.name).encode())
    if json:
        print_json({**{name: getattr(tuned, name) for name in tuned.__struct_fields__}, "toml": str(path)})
    else:
        _print(tuned, path)


def _print(tuned: TuningResult, path: Path) -> None:
    inside = f"{iso(tuned.in_sample[0])[:10]} to {iso(tuned.in_sample[1])[:10]}"
    skipped = f", {tuned.invalid} invalid" if tuned.invalid else ""
    skipped += f", {tuned.reused} reused from an earlier search" if tuned.reused else ""
    out.print(
        f"study {tuned.study}: {tuned.trials} trials, {tuned.pruned} of them pruned{skipped}; in sample {inside}",
        highlight=False,
    )
    out.print(f"  best           {learned({'strategy': {'params': tuned.params}})}", highlight=False)
    out.print(f"  Sharpe ratio   {tuned.value:.2f} in sample, the best of {tuned.trials}", highlight=False)
    deflated = tuned.deflated_sharpe
    if deflated is not None:
        out.print(
            f"  deflated       {deflated:.1%} that it is above what luck gives the best of so many",
            highlight=False,
        )
    if tuned.overfitting is not None:
        out.print(
            f"  overfitting    {tuned.overfitting.probability:.1%} that what is chosen is below the median where it was not chosen "
            f"({tuned.overfitting.trials} trials)",
            highlight=False,
            soft_wrap=True,
        )
    out.print()
    table = evidence_table(tuned.held_out.evidence)
    start, end = tuned.held_out.folds[0].test
    table.title = f"Held out: {iso(start)[:10]} to {iso(end)[:10]}"
    out.print(table)
    show_verdict(tuned.held_out.verdict)
    out.print(f"parameters: {path}; run {tuned.held_out.folds[0].run}", highlight=False, soft_wrap=True)
