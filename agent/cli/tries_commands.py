"""`tapewire tries`: the ledger of tries, by which results are deflated."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli.command_options import ConfigFile, Json
from agent.cli.console import out, print_columns, print_json, print_text
from agent.cli.research_output import number, percent
from agent.cli.typer_setup import option
from agent.config import load
from agent.core.errors import UsageError
from agent.system.clock import iso
from agent.system.fitted_table import Column, figures

if TYPE_CHECKING:
    from agent.analysis.study_list import StudyLine, TryLine
    from agent.store.database import Database
    from agent.store.tries import Study

_STUDY_COLUMNS = (
    Column("study"),
    Column("symbols", wraps=True),
    Column("from"),
    Column("to"),
    *figures("tries"),
    Column("on the data", right=True, optional=2),
    Column("held out", right=True, optional=3),
    Column("last", optional=1),
    Column("by", wraps=True),
)
_TRY_COLUMNS = (
    Column("at"),
    Column("by", wraps=True),
    Column("kind", wraps=True),
    Column("variant", optional=1),
    Column("parameters", wraps=True),
    *figures("return", "Sharpe", "deflated"),
    Column("times", right=True, optional=2),
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("tries")(tries)


def tries(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN]",
            help="Run or walk-forward whose study to show; latest: the newest run.",
            show_default=False,
        ),
    ] = None,
    study: Annotated[str | None, option("--study", "Study to show, or its first characters.", "ID")] = None,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """List how often strategies were tried on which data; with RUN or --study, the tries on the same data.

    Backtests, variants of sweeps, trials of tune, walk-forwards and checks count, by whomever; the same
    variant on the same window counts once. The more tries, the better the best of them by luck: results are
    deflated by their number. A try stays if its run is deleted.
    """
    from agent.analysis.study_list import list_studies, list_tries
    from agent.store.database import open_database
    from agent.store.tries import find_study

    if run is not None and study is not None:
        raise UsageError("RUN and --study both name a study", hint="give one of them")
    with closing(open_database(load(config).store.url, create=False)) as database:
        if run is None and study is None:
            lines = list_studies(database)
            if json:
                print_json({"studies": lines})
            else:
                _print_studies(lines)
            return
        found = find_study(database, study) if study is not None else _study_of(database, run or "")
        known = list_tries(database, found)
    if json:
        print_json({"study": found, "count": len(known), "tries": known})
    else:
        _print_tries(found, known)


def _study_of(database: Database, run: str) -> Study:
    from agent.store.queries import find_run
    from agent.store.tries import study_of_run

    found = study_of_run(database, run)
    if found is None:
        name = find_run(database, run).id
        found = study_of_run(database, name)
        if found is None:
            raise UsageError(
                f"run {name} is not among the tries",
                hint="live runs, folds of walk-forwards and runs of earlier versions are not counted; "
                "tapewire tries lists the studies",
            )
    return found


def _print_studies(lines: list[StudyLine]) -> None:
    if not lines:
        print_text("nothing was tried yet: tapewire backtest makes the first try")
        return
    rows = [
        (
            one.study,
            ", ".join(one.symbols),
            iso(one.start)[:10],
            iso(one.end)[:10],
            f"{one.tries:,}",
            f"{one.tries_on_data:,}",
            f"{one.held_out:,}" if one.held_out else "",
            iso(one.last_at)[:16],
            one.last_by,
        )
        for one in lines
    ]
    print_columns(_STUDY_COLUMNS, rows)


def _print_tries(study: Study, lines: list[TryLine]) -> None:
    rows = []
    for one in lines:
        deflated = "–" if one.deflated_sharpe is None else f"{one.deflated_sharpe:.1%}"
        kind = one.kind + (" (held out)" if one.held_out else "" if one.study == study.id else " (overlaps)")
        row = (
            iso(one.recorded_at)[:16],
            one.by,
            kind,
            one.variant[:8],
            f"{one.strategy} " + " ".join(f"{name}={value}" for name, value in one.params.items()),
            percent(one.total_return),
            number(one.sharpe),
            deflated,
            f"{one.evaluations:,}",
        )
        rows.append(row)
    window = f"{iso(study.start)[:16]} to {iso(study.end)[:16]}"
    symbols = ", ".join(study.symbols)
    print_text(f"study {study.id}: {symbols}, {window}: {len(lines):,} tries on these data")
    print_columns(_TRY_COLUMNS, rows)
    out.print(
        "Sharpe ratios are per hour or day; deflated: probability that the true one beats luck", style="dim"
    )
