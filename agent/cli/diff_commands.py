"""`tapewire diff`: compare two recorded runs, or two walk-forwards."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from agent.cli.command_options import ConfigFile, Json, Seed
from agent.cli.console import err, print_json, print_text
from agent.cli.typer_setup import option
from agent.config import load
from agent.core.errors import UsageError

_Which = Annotated[
    str,
    typer.Argument(help="Id of a run or of a walk-forward, or its first characters; latest: the newest run."),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("diff")(diff)


def diff(
    a: _Which,
    b: _Which,
    html: Annotated[
        Path | None, option("--html", "Also write the comparison as an HTML page.", "FILE")
    ] = None,
    config: ConfigFile = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Compare two runs: settings, inputs, decisions, metrics, returns, round trips and costs.

    If the inputs are the same, the first differing decision is named. The difference of the returns has
    intervals of a paired bootstrap. Two walk-forwards are compared by their settings, folds and daily
    returns. Exit code 0, also if the runs differ.
    """
    from agent.research.study_comparison import is_study

    if html is not None and html.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--html {html}: the page is HTML", hint="use a name that ends with .html")
    kinds = is_study(a), is_study(b)
    if kinds[0] != kinds[1]:
        study, run = (a, b) if kinds[0] else (b, a)
        raise UsageError(
            f"{study} is a walk-forward, {run} is a run",
            hint="compare a fold's run (tapewire runs --folds), or two walk-forwards",
        )
    if kinds[0]:
        _diff_studies(a, b, html, seed, json=json)
    else:
        _diff_runs(a, b, html, config, seed, json=json)


def _diff_runs(a: str, b: str, html: Path | None, config: Path | None, seed: int, *, json: bool) -> None:
    from agent.cli.diff_output import print_comparison
    from agent.replay.run_comparison import compare_runs
    from agent.store.database import open_database
    from agent.store.queries import find_run
    from agent.system.clock import iso

    with closing(open_database(load(config).store.url, create=False)) as database:
        runs = find_run(database, a), find_run(database, b)
        with err.status("comparing the runs …") as status:
            found = compare_runs(
                database, *runs, seed=seed, progress=lambda at: status.update(f"inputs at {iso(at)[:16]}")
            )
    page = None
    if html is not None:
        from agent.analysis.comparison.comparison_page import render_comparison
        from agent.analysis.report.page_parts import write_page

        page = write_page(render_comparison(found), html, "--html")
    if json:
        print_json(found if page is None else msgspec.structs.asdict(found) | {"html": str(page)})
        return
    print_comparison(found)
    if page is not None:
        print_text(str(page))


def _diff_studies(a: str, b: str, html: Path | None, seed: int, *, json: bool) -> None:
    from agent.cli.diff_output import print_study_comparison
    from agent.research.study_comparison import compare_studies, find_study

    found = compare_studies(find_study(a), find_study(b), seed=seed)
    page = None
    if html is not None:
        from agent.analysis.report.page_parts import write_page
        from agent.research.study_comparison import render_studies

        page = write_page(render_studies(found), html, "--html")
    if json:
        print_json(found if page is None else msgspec.structs.asdict(found) | {"html": str(page)})
        return
    print_study_comparison(found)
    if page is not None:
        print_text(str(page))
