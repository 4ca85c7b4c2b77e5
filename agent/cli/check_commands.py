"""`tapewire check lookahead | startup | placebo | masked | costs`: test whether a result is honest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from agent.cli.command_options import (
    Jobs,
    Json,
    Page,
    ReplayOptions,
    Seed,
    WorkerOptions,
    parse_span,
    window,
)
from agent.cli.console import out, print_columns, print_json, print_text
from agent.cli.research_output import counting, score_all, show_stamps, write_result_page
from agent.cli.typer_setup import Without, option
from agent.core.errors import UsageError
from agent.system.fitted_table import Column

if TYPE_CHECKING:
    from agent.research.check_summary import Check, CheckSummary


def register(app: typer.Typer) -> None:
    """Add the group `check`."""
    group = typer.Typer(
        no_args_is_help=True,
        help="Test whether a backtest's result is honest: lookahead, warm-up, news timing, memorised names, "
        "costs.\n\n"
        "Each check replays the history several times. Exit code 1 if the check fails.",
    )
    for command in (lookahead, startup, placebo, masked, costs):
        group.command(command.__name__)(command)
    app.add_typer(group, name="check")


def lookahead(
    replay: ReplayOptions,
    where: WorkerOptions,
    cuts: Annotated[int, option("--cuts", "Number of times at which events and bar files end.", min=2)] = 12,
    jobs: Jobs = 0,
    seed: Seed = 0,
    report: Page = None,
    json: Json = False,
) -> None:
    """Test whether a strategy uses information that it can't have yet.

    The strategy must decide the same on repetition and on a history and bar files that end earlier; on an
    artificial market its trades must not be timed for the real one.
    """
    from agent.research.lookahead import check_lookahead, count_replays

    material = replay.material()
    score_all(material, workers=replay.mqtt_workers)
    with where.workers(jobs) as workers, counting("replays", count_replays(cuts)) as advance:
        result = check_lookahead(material, cuts=cuts, jobs=workers, seed=seed, advance=advance)
    _show(result, report, json)


def startup(replay: ReplayOptions, report: Page = None, json: Json = False) -> None:
    """Test whether decisions change if the strategy reads more bars before the start.

    If they do, its warm_up is too short for its indicators or for the state that it keeps.
    """
    from agent.research.startup import check_startup, count_trials

    material = replay.material()
    score_all(material, workers=replay.mqtt_workers)
    with counting("replays", count_trials()) as advance:
        result = check_startup(material, advance=advance)
    _show(result, report, json)


def placebo(
    replay: ReplayOptions,
    where: WorkerOptions,
    draws: Annotated[
        int, option("--draws -n", "Number of replays with the headlines shuffled in time.", min=19)
    ] = 40,
    jobs: Jobs = 0,
    seed: Seed = 0,
    report: Page = None,
    json: Json = False,
) -> None:
    """Test whether the news makes the result: headlines shuffled in time must do worse."""
    from agent.research.placebo import check_placebo

    material = replay.material()
    stamps = material.leakage(window(material)[0])
    score_all(material, workers=replay.mqtt_workers)
    with where.workers(jobs) as workers, counting("replays", draws + 1) as advance:
        result = check_placebo(material, draws=draws, jobs=workers, seed=seed, advance=advance)
    _show(result, report, json, stamps)


def masked(
    replay: Annotated[ReplayOptions, Without("sentiment")],
    names: Annotated[
        list[str] | None, option("--name", "Another name to mask; may be repeated.", "NAME")
    ] = None,
    seed: Seed = 0,
    report: Page = None,
    json: Json = False,
) -> None:
    """Test whether the model reads the text or recalls names: replay with coins and companies masked."""
    from agent.research.masked_twin import check_masked, masker_for

    material = replay.material()
    start, _ = window(material)
    stamps = material.leakage(start)
    score_all(material, workers=replay.mqtt_workers)
    masker = masker_for(material.config, names or ())
    score_all(material, masker.title, workers=replay.mqtt_workers)
    with material.database() as database, counting("replays", 3) as advance:
        scorer = material.scoring(database, start).scorer
        if scorer is None:
            raise UsageError(
                f"strategy {material.config.strategy.name} reads no headlines: there is nothing to mask",
                hint="--news FILE",
            )
        result = check_masked(material, scorer, masker, seed=seed, advance=advance)
    _show(result, report, json, stamps)


def costs(
    replay: ReplayOptions,
    where: WorkerOptions,
    latency: Annotated[
        list[str] | None,
        option("--latency", "Latency in the table; may be repeated.", "DURATION", "0s, 250ms, 5s, 1m"),
    ] = None,
    fees: Annotated[
        list[float] | None,
        option("--fees", "Multiple of the fees in the table; may be repeated.", default="0, 1, 2, 4", min=0),
    ] = None,
    slippage: Annotated[
        list[float] | None,
        option(
            "--slippage", "Multiple of spread and slippage; may be repeated.", default="0, 1, 2, 4", min=0
        ),
    ] = None,
    margin: Annotated[
        float,
        option("--margin", "Multiple of the configured costs that the edge must exceed to pass.", min=1),
    ] = 1.5,
    jobs: Jobs = 0,
    report: Page = None,
    json: Json = False,
) -> None:
    """Find the costs and the latency at which the profit is gone.

    Prints the return for each combination of latency, fees and slippage, and the break-even points.
    """
    from agent.research.cost_limits import FACTORS, LATENCIES, MAX_SEARCH_REPLAYS, check_costs

    material = replay.material()
    latencies = [parse_span(text, "--latency") for text in latency] if latency else list(LATENCIES)
    by_fees, by_slippage = fees or list(FACTORS), slippage or list(FACTORS)
    stamps = material.leakage(window(material)[0])
    score_all(material, workers=replay.mqtt_workers)
    replays = len(latencies) * len(by_fees) * len(by_slippage) + MAX_SEARCH_REPLAYS
    with where.workers(jobs) as workers, counting("replays", replays) as advance:
        result = check_costs(
            material,
            latencies=latencies,
            fees=by_fees,
            slippage=by_slippage,
            margin=margin,
            jobs=workers,
            advance=advance,
        )
    _show(result, report, json, stamps)


def _show(result: Check, report: Path | None, json: bool, stamps: tuple[str, ...] = ()) -> None:
    from agent.research.check_summary import render_check, summarise

    if json:
        print_json({**msgspec.structs.asdict(result), "stamps": stamps})
    else:
        show_stamps(stamps)
        _print_summary(summarise(result))
    if report is not None:
        write_result_page(render_check(result, stamps), report)
    if not result.passed:
        raise typer.Exit(1)


def _print_summary(found: CheckSummary) -> None:
    for line in found.intro:
        print_text(line)
    for finding in found.findings:
        if finding.fine is None:
            print_text(f"– {finding.text}")
        else:
            mark, style = ("✓", "green") if finding.fine else ("✗", "bold red")
            out.print(f"[{style}]{mark}[/] ", end="")
            print_text(finding.text)
        for detail in finding.details:
            _print_detail(*detail)
    if found.table is not None:
        columns = [
            Column(heading, right=cell.number)
            for heading, cell in zip(found.table.columns, found.table.rows[0], strict=True)
        ]
        print_columns(columns, [[cell.text for cell in row] for row in found.table.rows])
    for line in found.figures:
        print_text(line, wrap=True)
    for example in found.examples:
        _print_detail(*example)
    print_text(f"\n{found.verdict}", style="bold")


def _print_detail(title: str, text: str) -> None:
    print_text(f"    {title:<9} {text}")
