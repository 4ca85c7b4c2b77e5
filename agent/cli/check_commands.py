"""`tapewire check lookahead | startup | placebo | masked | costs`: test whether a result is honest."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from agent.cli.command_options import Jobs, Json, ReplayOptions, Seed, parse_span, window, worker_count
from agent.cli.console import out, print_columns, print_json, print_text
from agent.cli.research_output import counting, number, percent, score_all, show_stamps
from agent.cli.typer_setup import Without, option
from agent.core.durations import format_duration
from agent.core.errors import UsageError
from agent.system.clock import iso
from agent.system.fitted_table import Column, figures

if TYPE_CHECKING:
    from agent.core.events import Decision, Message
    from agent.research.cost_limits import CostCheck
    from agent.research.lookahead import LookaheadCheck, LookaheadDivergence
    from agent.research.masked_twin import MaskedCheck
    from agent.research.placebo import PlaceboCheck
    from agent.research.startup import StartupCheck


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
    cuts: Annotated[int, option("--cuts", "Number of times at which events and bar files end.", min=2)] = 12,
    jobs: Jobs = 0,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Test whether a strategy uses information that it can't have yet.

    The strategy must decide the same on repetition and on a history and bar files that end earlier; on an
    artificial market its trades must not be timed for the real one.
    """
    from agent.research.lookahead import check_lookahead, count_replays

    material = replay.material()
    score_all(material)
    with counting("replays", count_replays(cuts)) as advance:
        result = check_lookahead(material, cuts=cuts, jobs=worker_count(jobs), seed=seed, advance=advance)
    _show(result, json, _show_lookahead)


def startup(replay: ReplayOptions, json: Json = False) -> None:
    """Test whether decisions change if the strategy reads more bars before the start.

    If they do, its warm_up is too short for its indicators or for the state that it keeps.
    """
    from agent.research.startup import check_startup, count_trials

    material = replay.material()
    score_all(material)
    with counting("replays", count_trials()) as advance:
        result = check_startup(material, advance=advance)
    _show(result, json, _show_startup)


def placebo(
    replay: ReplayOptions,
    draws: Annotated[
        int, option("--draws -n", "Number of replays with the headlines shuffled in time.", min=19)
    ] = 40,
    jobs: Jobs = 0,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Test whether the news makes the result: headlines shuffled in time must do worse."""
    from agent.research.placebo import check_placebo

    material = replay.material()
    stamps = material.leakage(window(material)[0])
    score_all(material)
    with counting("replays", draws + 1) as advance:
        result = check_placebo(material, draws=draws, jobs=worker_count(jobs), seed=seed, advance=advance)
    _show(result, json, _show_placebo, stamps)


def masked(
    replay: Annotated[ReplayOptions, Without("sentiment")],
    names: Annotated[
        list[str] | None, option("--name", "Another name to mask; may be repeated.", "NAME")
    ] = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Test whether the model reads the text or recalls names: replay with coins and companies masked."""
    from agent.research.masked_twin import check_masked, masker_for

    material = replay.material()
    start, _ = window(material)
    stamps = material.leakage(start)
    score_all(material)
    masker = masker_for(material.config, names or ())
    score_all(material, masker.title)
    with material.database() as database, counting("replays", 3) as advance:
        scorer = material.scoring(database, start).scorer
        if scorer is None:
            raise UsageError(
                f"strategy {material.config.strategy.name} reads no headlines: there is nothing to mask",
                hint="--news FILE",
            )
        result = check_masked(material, scorer, masker, seed=seed, advance=advance)
    _show(result, json, _show_masked, stamps)


def costs(
    replay: ReplayOptions,
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
    score_all(material)
    with counting(
        "replays", len(latencies) * len(by_fees) * len(by_slippage) + MAX_SEARCH_REPLAYS
    ) as advance:
        result = check_costs(
            material,
            latencies=latencies,
            fees=by_fees,
            slippage=by_slippage,
            margin=margin,
            jobs=worker_count(jobs),
            advance=advance,
        )
    _show(result, json, _show_costs, stamps)


def _show(result: Any, json: bool, show: Callable[[Any], None], stamps: tuple[str, ...] = ()) -> None:
    if json:
        print_json({**msgspec.structs.asdict(result), "stamps": stamps})
    else:
        show_stamps(stamps)
        show(result)
    if not result.passed:
        raise typer.Exit(1)


def _show_finding(fine: bool, sentence: str) -> None:
    mark, style = ("✓", "green") if fine else ("✗", "bold red")
    out.print(f"[{style}]{mark}[/] ", end="")
    print_text(sentence)


def _show_lookahead(found: LookaheadCheck) -> None:
    out.print(
        f"{found.strategy}: {found.decisions:,} decisions, {found.orders:,} of them orders, "
        f"on {found.events:,} events; {len(found.cuts)} cuts",
        soft_wrap=True,
    )
    _show_divergence("repeated on the same events", found.again)
    ends = "events and bar files" if found.files_cut else "events"
    _show_divergence(f"on {ends} that end earlier", found.prefix)
    if not found.files_cut:
        out.print("– not tested with truncated files: this machine can't truncate files for a process")
    seen = found.foresight
    if seen is None:
        out.print("– too few trades to test whether it has seen the real market")
    else:
        how = f"{seen.fills:,} fills; {seen.way}: {seen.gain:+.1%}, p = {seen.p_value:.2g}"
        _show_finding(
            not found.knows_the_market,
            f"on an artificial market, its trades aren't timed for the real one ({how})"
            if not found.knows_the_market
            else f"on an artificial market, its trades are timed for the real one ({how}): "
            "it reads a file of the real prices, or its parameters were fitted to them",
        )
        if found.knows_the_market and seen.example is not None:
            _show_detail("the first", _describe(seen.example))
    failed = "The strategy uses information that it can't have yet: its results are worthless."
    if found.too_few and not (found.again or found.prefix):
        failed = f"{found.orders:,} orders are too few to detect lookahead: check a longer window."
    fine = "The strategy uses only what it has been shown."
    if seen is None or not found.files_cut:
        fine = "In what could be tested, the strategy uses only what it has been shown."
    _show_verdict(found.passed, fine, failed)


def _show_startup(found: StartupCheck) -> None:
    out.print(f"{found.strategy}: decisions from {iso(found.start)} on, by bars read before", soft_wrap=True)
    for trial in found.trials:
        bars = ", ".join(f"{count:,} of {name}" for name, count in trial.warm_up.items())
        case = f"{bars}: {trial.decisions:,} decisions"
        if trial is found.trials[-1]:
            out.print(f"– {case}, compared with", soft_wrap=True)
        elif trial.at is None:
            _show_finding(True, f"{case}, the same")
        else:
            _show_finding(False, f"{case}, the first different one at {iso(trial.at)}")
            _show_detail("found", _describe(trial.found))
            _show_detail("expected", _describe(trial.expected))
    _show_verdict(
        found.passed,
        "More warm-up doesn't change the decisions.",
        "More warm-up changes the decisions: declare a longer warm_up in the strategy.",
    )


def _show_divergence(case: str, slip: LookaheadDivergence | None) -> None:
    if slip is None:
        _show_finding(True, f"{case}, it decides the same")
        return
    cut = "" if slip.cut is None else f" (cut at {iso(slip.cut)})"
    _show_finding(False, f"{case}, it decides differently{cut}: first at {iso(slip.at)}, on this event")
    _show_detail("event", _fields(slip.event))
    if slip.error:
        _show_detail("error", slip.error)
        return
    _show_detail("expected", _describe(slip.expected))
    _show_detail("found", _describe(slip.found))


def _describe(decision: Decision | None) -> str:
    return "nothing" if decision is None else _fields(decision)


def _fields(message: Message) -> str:
    """Return kind and fields of an event or decision, without empty fields and NaN."""
    fields = {name: getattr(message, name) for name in message.__struct_fields__}
    present = {
        name: value
        for name, value in fields.items()
        if value not in (None, "", False, (), {}) and value == value
    }
    shown = (f"{name}={getattr(value, 'value', value)}" for name, value in present.items())
    return " ".join([type(message).__name__, *shown])


def _show_detail(title: str, text: str) -> None:
    print_text(f"    {title:<9} {text}")


def _show_verdict(passed: bool, good: str, bad: str) -> None:
    print_text(f"\n{good if passed else bad}", style="bold")


def _show_placebo(found: PlaceboCheck) -> None:
    test = found.test
    out.print(
        f"{found.strategy}: {percent(test.value)} over {found.trades:,} round trips\n"
        f"shuffled headlines, {test.draws} times: median {percent(test.median)}, "
        f"95 % between {percent(test.low)} and {percent(test.high)}\n"
        f"probability of a placebo at least as good: {test.p_value:.3f}",
        soft_wrap=True,
    )
    gain = "" if test.value > 0 else " It still lost money."
    _show_verdict(
        found.passed,
        f"The timing of the headlines matters.{gain}",
        "The placebo does as well: the news didn't make this result.",
    )


def _show_masked(found: MaskedCheck) -> None:
    share = found.masked / max(found.headlines, 1)
    relabelled = found.relabelled / max(found.masked, 1)
    out.print(f"{found.strategy}, original and masked headlines")
    rows = [
        ("total return", percent(found.total_return), percent(found.masked_return)),
        ("round trips", f"{found.trades:,}", f"{found.masked_trades:,}"),
    ]
    print_columns((Column(""), *figures("original", "masked")), rows)
    out.print(
        f"{found.masked:,} of {found.headlines:,} headlines ({share:.0%}) had a name; "
        f"masking changed the class of {found.relabelled:,} "
        f"({relabelled:.1%}), {found.reversed:,} of them to the opposite; "
        f"scores moved by {found.shift:.3f} on average",
        soft_wrap=True,
    )
    if found.own_answers:
        out.print(
            f"{found.own_answers:,} headlines have answers for single assets; both replays use those for the "
            "headline as a whole, because a masked headline names no asset",
            soft_wrap=True,
        )
    if found.difference is not None:
        ahead = found.difference.total_return
        out.print(
            f"masked minus original: {percent(ahead.value)} [{percent(ahead.low)}, {percent(ahead.high)}]",
            soft_wrap=True,
        )
    for before, after in found.examples:
        _show_detail("masked", f"{before} → {after}")
    _show_verdict(
        found.passed,
        "The result doesn't depend on names.",
        "Without names the result is gone: the model recalls names instead of reading the text.",
    )


def _show_costs(found: CostCheck) -> None:
    columns = sorted({(cell.fees, cell.slippage) for cell in found.table})
    slippages = sorted({slippage for _, slippage in columns})
    print_text(
        f"{found.strategy}: total return by latency and fees (down), spread and slippage (across)", wrap=True
    )
    rows = []
    cells = {(cell.latency, cell.fees, cell.slippage): cell.total_return for cell in found.table}
    for latency in sorted({cell.latency for cell in found.table}):
        for fees in sorted({cell.fees for cell in found.table}):
            values = [percent(cells[latency, fees, slippage]) for slippage in slippages]
            rows.append((format_duration(latency), f"× {fees:g}", *values))
    titles = figures("fees", *(f"× {slippage:g}" for slippage in slippages))
    print_columns((Column("latency"), *titles), rows)
    trip = "" if found.round_trip is None else f", {found.round_trip * 1e4:.1f} bps a round trip"
    out.print(f"at the configured costs{trip}: {percent(found.total_return)}", soft_wrap=True)
    if found.break_even is None:
        out.print("still profitable at 64 times the configured costs")
    elif found.break_even == 0:
        out.print("no profit even without fees, spread and slippage")
    else:
        trip = (
            ""
            if found.break_even_round_trip is None
            else f" ({found.break_even_round_trip * 1e4:.1f} bps a round trip)"
        )
        line = f"break-even at {number(found.break_even)} times the configured costs{trip}"
        out.print(line, soft_wrap=True)
    if found.total_return > 0:
        limit = found.latest
        late = "still profitable at a day" if limit is None else f"no profit at {format_duration(limit)}"
        out.print(f"{late} of latency")
    print_text(f"the configured costs are {found.costs}", wrap=True)
    if (fitted := found.fitted) is not None:
        out.print(
            f"at the lower ends of their intervals {percent(fitted.low)}, at the upper ends "
            f"{percent(fitted.high)}",
            soft_wrap=True,
        )
        _show_verdict(
            found.passed,
            "The strategy stays profitable at the upper ends of the fitted costs.",
            "The strategy isn't profitable at the upper ends of the fitted costs.",
        )
        return
    _show_verdict(
        found.passed,
        f"The strategy stays profitable at {found.margin:g} times the configured costs.",
        f"The strategy isn't profitable at {found.margin:g} times the configured costs.",
    )
