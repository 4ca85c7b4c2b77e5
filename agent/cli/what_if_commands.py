"""`tapewire whatif` and `tapewire stories`: a run under a change, and without each of its stories."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Final

import typer

from agent.cli.backtest_commands import replay_progress
from agent.cli.command_options import ConfigFile, Json, RunId
from agent.cli.console import err, out, print_columns, print_json, print_text, progress_bar
from agent.cli.typer_setup import option
from agent.config import load
from agent.core.errors import UsageError
from agent.system.clock import iso
from agent.system.fitted_table import Column
from agent.system.fitted_table import figures as column_figures

if TYPE_CHECKING:
    from agent.analysis.story_table import StoryResults
    from agent.replay.what_if import WhatIf

TrustStrategy = Annotated[
    bool, option("--trust-strategy", "Import the run's strategy even if its file has changed since the run.")
]


_LIVES: Final = column_figures("as it was", "changed", "difference")


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
            "Change a setting of signals, risk, paper, or sleeves.NAME; may be repeated.",
            "KEY=VALUE",
        ),
    ] = None,
    strategy: Annotated[
        str | None,
        option("--strategy", "Another strategy; from an event on as `tapewire strategy use`.", "NAME"),
    ] = None,
    settings: Annotated[
        list[str] | None, option("--set", "Set a parameter of the strategy; may be repeated.", "NAME=VALUE")
    ] = None,
    sleeve: Annotated[
        str, option("--sleeve", "Sleeve whose strategy or parameters change.", "NAME", "none")
    ] = "",
    config: ConfigFile = None,
    trust_strategy: TrustStrategy = False,
    json: Json = False,
) -> None:
    """Fold a recorded run on under a change, beside the run as it was; nothing is recorded.

    The run is decided again from its own inputs. From --from on, a second life goes on with the change: other
    settings, costs, parameters, another strategy or sleeve, or without a headline. Without a change both
    lives are the same.
    """
    from agent.replay.recorded_inputs import load_inputs
    from agent.replay.what_if_request import WhatIfRequest, answer, as_object
    from agent.store.database import open_database
    from agent.store.queries import find_run

    settled = load(config)
    wanted = WhatIfRequest(
        begins=begins or "",
        change=_pairs("--change", change),
        params=_pairs("--set", settings),
        remove=tuple(remove or ()),
        flip=tuple(flip or ()),
        strategy=strategy or "",
        sleeve=sleeve,
    )
    with closing(open_database(settled.store.url, create=False)) as database:
        recorded = find_run(database, run)
        source = load_inputs(database, recorded, settled.live.folder, trust_strategy=trust_strategy)
        with replay_progress(
            "folding", source.run.first_event_at or 0, source.run.last_event_at or 0
        ) as progress:
            found = answer(source, wanted, progress=progress)
    if json:
        print_json(as_object(found))
    else:
        _print_lives(found)


def _pairs(name: str, given: list[str] | None) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for pair in given or ():
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"{name} {pair!r} changes nothing", hint=f"write {name} KEY=VALUE")
        pairs[key.strip()] = value.strip()
    return pairs


def _print_lives(found: WhatIf) -> None:
    from agent.replay.what_if_request import figures, remarks

    rows = [(row.name, *row.in_words()) for row in figures(found)]
    print_columns((Column("", wraps=True), *_LIVES), rows)
    _print_sleeves(found)
    for remark in remarks(found):
        err.print(remark, style="bold red" if found.as_recorded is False else None, markup=False)
    first = found.difference
    if first is None:
        out.print(f"the change makes no difference, from event {found.begins:,} of {found.run.events:,} on")
        return
    out.print(f"first difference: event {first.event_seq:,}, {iso(first.event.available_at)}")
    for title, what in (("event", first.event), ("as it was", first.as_it_was), ("changed", first.changed)):
        print_text(f"  {title:<9} {what if what is not None else 'nothing'}")


def _print_sleeves(found: WhatIf) -> None:
    """Print the profit of each sleeve in both lives; the differences add up to the account's."""
    from agent.replay.what_if_request import profits_by_sleeve

    rows = profits_by_sleeve(found)
    if not rows:
        return
    print_columns((Column("profit by sleeve"), *_LIVES), [(row.name, *row.in_words()) for row in rows])


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
    don't add up to the result: without one story, another may lead to the same trade. With sleeves each
    contribution is the sum of those in each sleeve.
    """
    from agent.replay.recorded_inputs import load_inputs
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

    names = list(dict.fromkeys(name for story in found.stories for name in story.sleeves))
    columns = (
        *column_figures("contribution", *names, "orders"),
        *(Column("first headline"), Column("headline"), Column("symbols"), Column("story", wraps=True)),
    )
    chosen, rows = table_of(found, most), []
    for number, story in enumerate(chosen.rows):
        if number == chosen.gap:
            rows.append(("…", *("",) * (len(columns) - 1)))
        rows.append(
            (
                f"{story.contribution:+,.2f}",
                *(f"{story.sleeves.get(name, 0):+,.2f}" for name in names),
                f"{story.orders - story.orders_without:+d}",
                iso(story.at)[:16].replace("T", " "),
                story.story[:8],
                " ".join(story.symbols),
                story.title,
            )
        )
    print_columns(columns, rows)
    out.print(chosen.summary)
