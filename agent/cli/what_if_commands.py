"""`tapewire whatif` and `tapewire stories`: a run under a change, and without each of its stories."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from agent.cli.backtest_commands import replay_progress
from agent.cli.command_options import ConfigFile, Json, RunId, parse_time
from agent.cli.console import err, out, print_json, print_text, progress_bar
from agent.cli.research_output import percent
from agent.cli.typer_setup import option
from agent.config import load
from agent.core.errors import UsageError
from agent.system.clock import iso

if TYPE_CHECKING:
    from agent.analysis.story_table import StoryResults
    from agent.replay.what_if import FoldedLife, RecordedInputs, WhatIf

TrustStrategy = Annotated[
    bool, option("--trust-strategy", "Import the run's strategy even if its file has changed since the run.")
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("whatif")(whatif)
    app.command("stories")(stories)


def whatif(
    run: RunId = "latest",
    begins: Annotated[
        str | None,
        option(
            "--from", "Event number or UTC time from which the change holds.", "EVENT|TIME", "the beginning"
        ),
    ] = None,
    remove: Annotated[
        list[str] | None,
        option("--remove", "Leave out a headline, by the first characters of its id; may be repeated.", "ID"),
    ] = None,
    flip: Annotated[
        list[str] | None,
        option("--flip", "Exchange bullish and bearish of a headline; may be repeated.", "ID"),
    ] = None,
    change: Annotated[
        list[str] | None,
        option(
            "--change",
            "Change a setting of the sections signals, risk, paper; may be repeated.",
            "KEY=VALUE",
        ),
    ] = None,
    strategy: Annotated[
        str | None, option("--strategy", "Another strategy, from the beginning.", "NAME")
    ] = None,
    settings: Annotated[
        list[str] | None, option("--set", "Set a parameter of the strategy; may be repeated.", "NAME=VALUE")
    ] = None,
    config: ConfigFile = None,
    trust_strategy: TrustStrategy = False,
    json: Json = False,
) -> None:
    """Fold a recorded run on under a change, beside the run as it was; nothing is recorded.

    The run is decided again from its own inputs. From --from on, a second life goes on with the change: other
    settings, costs or parameters, or without a headline. Without a change both lives are the same.
    """
    from agent.replay.what_if import Change, fold_on, load_inputs
    from agent.store.database import open_database
    from agent.store.queries import find_run

    settled = load(config)
    with closing(open_database(settled.store.url, create=False)) as database:
        recorded = find_run(database, run)
        source = load_inputs(database, recorded, settled.live.folder, trust_strategy=trust_strategy)
        wanted = Change(
            _pairs("--change", change),
            strategy or "",
            _pairs("--set", settings),
            frozenset(map(source.headline, remove or ())),
            frozenset(map(source.headline, flip or ())),
        )
        first = _event_number(source, begins)
        with replay_progress(
            "folding", source.run.first_event_at or 0, source.run.last_event_at or 0
        ) as progress:
            found = fold_on(source, wanted, begins=first, progress=progress)
    if json:
        print_json(_as_object(found))
    else:
        _print_lives(found)


def _pairs(name: str, given: list[str] | None) -> dict[str, Any]:
    pairs: dict[str, Any] = {}
    for pair in given or ():
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"{name} {pair!r} changes nothing", hint=f"write {name} KEY=VALUE")
        pairs[key.strip()] = value.strip()
    return pairs


def _event_number(source: RecordedInputs, begins: str | None) -> int:
    if begins is None:
        return 1
    if begins.isdecimal():
        return int(begins)
    return source.event_at(parse_time(begins, "--from"))


def _as_object(found: WhatIf) -> dict[str, Any]:
    def life(one: FoldedLife) -> dict[str, Any]:
        return {
            "final_equity": one.final_equity,
            "orders": _orders(one),
            "trades": one.metrics.trades.trades,
            "metrics": one.metrics,
            "equity": list(zip(one.times, one.equity, strict=True)),
            "notes": one.notes,
        }

    difference = found.difference
    return {
        "run": found.run.id,
        "from": found.begins,
        "from_at": found.begins_at,
        "as_recorded": found.as_recorded,
        "identical": difference is None,
        "result_of_the_change": found.changed.final_equity - found.as_it_was.final_equity,
        "as_it_was": life(found.as_it_was),
        "changed": life(found.changed),
        "first_difference": None
        if difference is None
        else {
            "event": difference.event_seq,
            "at": difference.event.available_at,
            "input": difference.event,
            "as_it_was": difference.as_it_was,
            "changed": difference.changed,
        },
    }


def points(difference: float) -> str:
    """Format a difference of two fractions in percentage points."""
    return f"{100 * difference:+.2f} pp"


def _orders(life: FoldedLife) -> int:
    from agent.core.events import Order

    return sum(isinstance(made.decision, Order) for made in life.decisions)


def _print_lives(found: WhatIf) -> None:
    was, changed = found.as_it_was, found.changed
    table = Table(box=None, pad_edge=False)
    for title in ("", "as it was", "changed", "difference"):
        table.add_column(title, justify="left" if not title else "right")
    difference = changed.final_equity - was.final_equity
    table.add_row(
        "final equity", f"{was.final_equity:,.2f}", f"{changed.final_equity:,.2f}", f"{difference:+,.2f}"
    )
    returns = [life.metrics.performance.total_return for life in (was, changed)]
    table.add_row("return", *map(percent, returns), points(returns[1] - returns[0]))
    depths = [life.metrics.performance.max_drawdown for life in (was, changed)]
    table.add_row("largest drawdown", *map(percent, depths), points(depths[1] - depths[0]))
    for name, values in (
        ("orders", [_orders(life) for life in (was, changed)]),
        ("round trips", [life.metrics.trades.trades for life in (was, changed)]),
    ):
        table.add_row(name, f"{values[0]:,}", f"{values[1]:,}", f"{values[1] - values[0]:+,}")
    out.print(table)
    if found.as_recorded is False:
        err.print(
            "[bold red]the life as it was is not the recorded run[/]: tapewire verify shows where it differs"
        )
    if found.on_paper is False:
        err.print("a run at a venue: both lives are folded on paper, with the costs in \\[paper]")
    elif found.as_recorded is None:
        err.print("the run did not complete, so the life as it was can't be compared with its record")
    first = found.difference
    if first is None:
        out.print(f"the change makes no difference, from event {found.begins:,} of {found.run.events:,} on")
        return
    out.print(f"first difference: event {first.event_seq:,}, {iso(first.event.available_at)}")
    for title, what in (("event", first.event), ("as it was", first.as_it_was), ("changed", first.changed)):
        print_text(f"  {title:<9} {what if what is not None else 'nothing'}")


def stories(
    run: RunId = "latest",
    most: Annotated[
        int, option("--most", "Stories to print at each end; --json has all.", "NUMBER", min=1)
    ] = 10,
    config: ConfigFile = None,
    trust_strategy: TrustStrategy = False,
    json: Json = False,
) -> None:
    """Show which stories earned or lost: the run's equity minus that of a life without the story.

    Each life without a story goes on until both are flat and nothing of the story is left. Contributions
    don't add up to the result: without one story, another may lead to the same trade.
    """
    from agent.replay.what_if import load_inputs
    from agent.research.story_results import story_results
    from agent.store.database import open_database
    from agent.store.queries import find_run

    settled = load(config)
    with closing(open_database(settled.store.url, create=False)) as database:
        recorded = find_run(database, run)
        source = load_inputs(database, recorded, settled.live.folder, trust_strategy=trust_strategy)
        with progress_bar("folding", 1) as update:
            found = story_results(source, progress=lambda done, total: update(completed=done, total=total))
    if json:
        print_json(
            {
                "run": recorded.id,
                "stories": [story._asdict() for story in found.stories],
                "silent": found.silent,
            }
        )
    else:
        _print_stories(found, most)


def _print_stories(found: StoryResults, most: int) -> None:
    from agent.analysis.story_table import table_of

    table = Table(box=None, pad_edge=False)
    for title in ("contribution", "orders", "first headline", "headline", "symbols", "story"):
        table.add_column(
            title,
            justify="right" if title in ("contribution", "orders") else "left",
            no_wrap=True,
            overflow="ellipsis",
            min_width=None if title == "story" else len(title),
        )
    chosen = table_of(found, most)
    for number, story in enumerate(chosen.rows):
        if number == chosen.gap:
            table.add_row("…")
        table.add_row(
            f"{story.contribution:+,.2f}",
            f"{story.orders - story.orders_without:+d}",
            iso(story.at)[:16].replace("T", " "),
            story.story[:8],
            " ".join(story.symbols),
            Text(story.title),
        )
    out.print(table)
    out.print(chosen.summary)
