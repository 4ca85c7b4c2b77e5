"""`tapewire check lookahead | placebo | masked | costs`: is a result honest? Exit code 1 where it isn't."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.table import Table

from agent.cli import options
from agent.cli.console import out, print_json
from agent.cli.walkforward import counting, number, percent, score_all
from agent.core.durations import format_duration
from agent.core.errors import UsageError
from agent.system.clock import iso

if TYPE_CHECKING:
    from agent.core.events import Decision, Message
    from agent.research.cost_limits import CostCheck
    from agent.research.lookahead import LookaheadCheck, LookaheadDivergence
    from agent.research.masked_twin import MaskedCheck
    from agent.research.placebo import PlaceboCheck


def register(app: typer.Typer) -> None:
    """Adds the verbs."""
    verbs = typer.Typer(
        no_args_is_help=True,
        help="Is a result honest? Each check replays the engine; exit code 1 where one fails.",
    )
    verbs.command("lookahead")(lookahead)
    verbs.command("placebo")(placebo)
    verbs.command("masked")(masked)
    verbs.command("costs")(costs)
    app.add_typer(verbs, name="check")


def lookahead(
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
    cuts: Annotated[
        int, typer.Option("--cuts", min=2, help="Moments at which events and files of bars end.")
    ] = 12,
    jobs: options.Jobs = 0,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Does the strategy know what it can't know yet? Prefixes, files of bars that end, and another market."""
    from agent.research.lookahead import check_lookahead, count_replays

    material = options.gather(
        config, klines, news, sentiment, funding, start, end, strategy, settings, symbol, category, timezone, model, allow_leakage,
        fusion,
    )  # fmt: skip
    score_all(material)
    with counting("replays", count_replays(cuts)) as advance:
        result = check_lookahead(
            material, cuts=cuts, jobs=options.processes(jobs), seed=seed, advance=advance
        )
    _tell(result, json, _lookahead_found)


def placebo(
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
    draws: Annotated[
        int, typer.Option("--draws", "-n", min=19, help="Replays with the headlines shuffled in time.")
    ] = 40,
    jobs: options.Jobs = 0,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Would headlines at each other's times have done as well? Then it isn't the news that pays."""
    from agent.research.placebo import check_placebo

    material = options.gather(
        config, klines, news, sentiment, funding, start, end, strategy, settings, symbol, category, timezone, model, allow_leakage,
        fusion,
    )  # fmt: skip
    stamps = material.leakage(options.window(material)[0])
    score_all(material)
    with counting("replays", draws + 1) as advance:
        result = check_placebo(
            material, draws=draws, jobs=options.processes(jobs), seed=seed, advance=advance
        )
    _tell(result, json, _placebo_found, stamps)


def masked(
    config: options.ConfigFile = None,
    klines: options.Klines = None,
    news: options.News = None,
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
    names: Annotated[
        list[str] | None, typer.Option("--name", help="One more name to mask; may be repeated.")
    ] = None,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Does the model read, or does it know the names? The same replay with names of coins and companies masked."""
    from agent.research.masked_twin import check_masked, masker_for

    material = options.gather(
        config, klines, news, None, funding, start, end, strategy, settings, symbol, category, timezone, model, allow_leakage,
        fusion,
    )  # fmt: skip
    stamps = material.leakage(options.window(material)[0])
    score_all(material)
    masker = masker_for(material.config, names or ())
    score_all(material, masker.title)
    with material.database() as database, counting("replays", 3) as advance:
        begin, _ = options.window(material)
        scorer = material.scoring(database, begin).scorer
        if scorer is None:
            raise UsageError(
                f"strategy {material.config.strategy.name} reads no headlines: there is nothing to mask",
                hint="--news FILE",
            )
        result = check_masked(material, scorer, masker, seed=seed, advance=advance)
    _tell(result, json, _masked_found, stamps)


def costs(
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
    latency: Annotated[
        list[str] | None, typer.Option("--latency", help="Of the table [0s 250ms 5s 1m]; may be repeated.")
    ] = None,
    fees: Annotated[
        list[float] | None, typer.Option("--fees", min=0, help="Times the configured fees [0 1 2 4].")
    ] = None,
    slippage: Annotated[
        list[float] | None,
        typer.Option("--slippage", min=0, help="Times the configured spread and slippage [0 1 2 4]."),
    ] = None,
    margin: Annotated[
        float, typer.Option("--margin", min=1, help="The edge must bear so many times the configured costs.")
    ] = 1.5,
    jobs: options.Jobs = 0,
    json: options.Json = False,
) -> None:
    """At which cost, and at which latency, is the edge gone? A table of returns, and the limits by bisection."""
    from agent.research.cost_limits import FACTORS, LATENCIES, MAX_SEARCH_REPLAYS, check_costs

    material = options.gather(
        config, klines, news, sentiment, funding, start, end, strategy, settings, symbol, category, timezone, model, allow_leakage,
        fusion,
    )  # fmt: skip
    latencies = [options.parse_span(text, "--latency") for text in latency] if latency else list(LATENCIES)
    by_fees, by_slippage = fees or list(FACTORS), slippage or list(FACTORS)
    stamps = material.leakage(options.window(material)[0])
    score_all(material)
    with counting(
        "replays", len(latencies) * len(by_fees) * len(by_slippage) + MAX_SEARCH_REPLAYS
    ) as advance:
        result = check_costs(
            material, latencies=latencies, fees=by_fees, slippage=by_slippage, margin=margin, jobs=options.processes(jobs),
            advance=advance,
        )  # fmt: skip
    _tell(result, json, _costs_found, stamps)


def _tell(result: Any, json: bool, show: Any, stamps: tuple[str, ...] = ()) -> None:
    if json:
        print_json({**msgspec.structs.asdict(result), "stamps": stamps})
    else:
        for stamp in stamps:
            out.print(f"[bold white on red] {stamp} [/]")
        show(result)
    if not result.passed:
        raise typer.Exit(1)


def _say(fine: bool, sentence: str) -> None:
    mark, style = ("✓", "green") if fine else ("✗", "bold red")
    out.print(f"[{style}]{mark}[/] ", end="")
    out.print(sentence, highlight=False, markup=False, soft_wrap=True)


def _lookahead_found(found: LookaheadCheck) -> None:
    out.print(
        f"{found.strategy}: {found.decisions:,} decisions, {found.orders:,} of them orders, on {found.events:,} events; "
        f"{len(found.cuts)} cuts",
        highlight=False,
        soft_wrap=True,
    )
    _slip(
        found.again,
        "the same events decide the same twice",
        "the same events decide something else the second time",
    )
    ends = "events and files of bars end early" if found.files_cut else "events end early"
    _slip(found.prefix, f"if {ends}, it decides the same", f"if {ends}, it decides something else")
    if not found.files_cut:
        out.print(
            "– this machine doesn't let files be cut for a process: whether it reads them was not tried",
            highlight=False,
        )
    seen = found.foresight
    if seen is None:
        out.print("– too few trades to tell whether it knows the market from elsewhere", highlight=False)
    else:
        how = f"{seen.fills:,} fills; {seen.way}: {seen.gain:+.1%}, chance {seen.p_value:.2g}"
        _say(
            not found.knows_the_market,
            f"shown another market, it knows nothing of the real one ({how})"
            if not found.knows_the_market
            else f"shown another market, its trades are timed for the real one ({how}): a file tells it, or parameters fitted to it",
        )
        if found.knows_the_market and seen.example is not None:
            _detail("the first", _decision(seen.example))
    guilty = "It knows what it can't know: its results mean nothing."
    if found.too_few and not (found.again or found.prefix):
        guilty = f"{found.orders:,} orders are too few to tell whether it looks ahead: check a longer window."
    untried = seen is None or not found.files_cut
    fine = (
        "In what could be tried, it decides by what it is shown."
        if untried
        else "It decides by what it is shown."
    )
    _verdict(found.passed, fine, guilty)


def _slip(slip: LookaheadDivergence | None, fine: str, bad: str) -> None:
    if slip is None:
        _say(True, fine)
        return
    cut = "" if slip.cut is None else f" (cut at {iso(slip.cut)})"
    _say(False, f"{bad}{cut}: first at {iso(slip.at)}, on this event")
    _detail("event", _brief(slip.event))
    if slip.error:
        _detail("error", slip.error)
        return
    _detail("expected", _decision(slip.expected))
    _detail("found", _decision(slip.found))


def _decision(decision: Decision | None) -> str:
    return "nothing" if decision is None else _brief(decision)


def _brief(message: Message) -> str:
    """Kind and fields, without those that say nothing."""
    fields = {name: getattr(message, name) for name in message.__struct_fields__}
    said = {
        name: value
        for name, value in fields.items()
        if value not in (None, "", False, (), {}) and value == value
    }
    return " ".join(
        [
            type(message).__name__,
            *(f"{name}={getattr(value, 'value', value)}" for name, value in said.items()),
        ]
    )


def _detail(title: str, text: str) -> None:
    out.print(f"    {title:<9} {text}", highlight=False, markup=False, soft_wrap=True)


def _verdict(passed: bool, good: str, bad: str) -> None:
    out.print(f"\n{good if passed else bad}", style="bold", highlight=False, markup=False, soft_wrap=True)


def _placebo_found(found: PlaceboCheck) -> None:
    test = found.test
    out.print(
        f"{found.strategy}: {percent(test.value)} over {found.trades:,} round trips\n"
        f"shuffled headlines, {test.draws} times: median {percent(test.median)}, 95 % between {percent(test.low)} and "
        f"{percent(test.high)}\nchance of a placebo at least as good: {test.p_value:.3f}",
        highlight=False,
        soft_wrap=True,
    )
    gain = "" if test.value > 0 else " It lost money all the same."
    _verdict(
        found.passed,
        f"The timing of the headlines matters.{gain}",
        "The placebo does as well: it isn't the news that made this result.",
    )


def _masked_found(found: MaskedCheck) -> None:
    share = found.masked / max(found.headlines, 1)
    relabelled = found.relabelled / max(found.masked, 1)
    out.print(f"{found.strategy}, headlines as they were and masked", highlight=False)
    table = Table(show_edge=False)
    for title in ("", "as they were", "masked"):
        table.add_column(title, justify="left" if not title else "right")
    table.add_row("total return", percent(found.total_return), percent(found.masked_return))
    table.add_row("round trips", f"{found.trades:,}", f"{found.masked_trades:,}")
    out.print(table)
    out.print(
        f"{found.masked:,} of {found.headlines:,} headlines ({share:.0%}) had a name; masking changed the class of {found.relabelled:,} "
        f"({relabelled:.1%}), {found.reversed:,} of them to the opposite; scores moved by {found.shift:.3f} on average",
        highlight=False,
        soft_wrap=True,
    )
    if found.difference is not None:
        ahead = found.difference.total_return
        out.print(
            f"masked minus real: {percent(ahead.value)} [{percent(ahead.low)}, {percent(ahead.high)}]",
            highlight=False,
            soft_wrap=True,
        )
    for before, after in found.examples:
        _detail("masked", f"{before} → {after}")
    _verdict(
        found.passed,
        "The result doesn't rest on names.",
        "Without names the result is gone: the model knows them, it doesn't read.",
    )


def _costs_found(found: CostCheck) -> None:
    columns = sorted({(cell.fees, cell.slippage) for cell in found.table})
    slippages = sorted({slippage for _, slippage in columns})
    out.print(
        f"{found.strategy}: total return by latency and fees (down), spread and slippage (across)",
        highlight=False,
    )
    table = Table(show_edge=False)
    table.add_column("latency")
    table.add_column("fees", justify="right")
    for slippage in slippages:
        table.add_column(f"× {slippage:g}", justify="right")
    cells = {(cell.latency, cell.fees, cell.slippage): cell.total_return for cell in found.table}
    for latency in sorted({cell.latency for cell in found.table}):
        for fees in sorted({cell.fees for cell in found.table}):
            values = [percent(cells[latency, fees, slippage]) for slippage in slippages]
            table.add_row(format_duration(latency), f"× {fees:g}", *values)
    out.print(table)
    trip = "" if found.round_trip is None else f", {found.round_trip * 1e4:.1f} bps a round trip"
    out.print(
        f"at the configured costs{trip}: {percent(found.total_return)}", highlight=False, soft_wrap=True
    )
    if found.break_even is None:
        out.print("it bears 64 times the configured costs", highlight=False)
    elif found.break_even == 0:
        out.print("there is no edge even without fees, spread and slippage", highlight=False)
    else:
        dear = (
            ""
            if found.break_even_round_trip is None
            else f" ({found.break_even_round_trip * 1e4:.1f} bps a round trip)"
        )
        out.print(
            f"the edge is gone at {number(found.break_even)} times the configured costs{dear}",
            highlight=False,
            soft_wrap=True,
        )
    if found.total_return > 0:
        late = (
            "it bears a day of latency"
            if found.latest is None
            else f"it is gone at a latency of {format_duration(found.latest)}"
        )
        out.print(late, highlight=False)
    _verdict(
        found.passed,
        f"The edge bears more than {found.margin:g} times the costs assumed.",
        f"The edge doesn't bear {found.margin:g} times the costs assumed.",
    )
