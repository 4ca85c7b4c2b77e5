"""`tapewire report`: a run as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agent.cli.console import err, out, print_json


def register(app: typer.Typer) -> None:
    """Add the verb."""

    @app.command()
    def report(
        run: Annotated[str, typer.Argument(help="Id of a run, or how it begins.")] = "latest",
        output: Annotated[
            Path | None, typer.Option("--output", "-o", help="Page to write [var/reports/RUN.html].")
        ] = None,
        config: Annotated[
            Path | None, typer.Option(help="Configuration file; its store.url is read.")
        ] = None,
        as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
        open_page: Annotated[bool, typer.Option("--open", help="Show the page in the browser.")] = False,
    ) -> None:
        """Write a run's report: one self-contained HTML page, and the same as JSON beside it."""
        from contextlib import closing

        from agent.analysis.report.html import write_report
        from agent.analysis.report.report_loader import load_report_data
        from agent.analysis.report.verdict import verdict_of
        from agent.config import load
        from agent.core.errors import UsageError
        from agent.store.database import open_database

        if output is not None and output.suffix.lower() not in (".html", ".htm"):
            raise UsageError(f"--output {output}: the report is a page", hint="name it with the ending .html")
        with (
            closing(open_database(load(config).store.url, create=False)) as database,
            err.status("Reading the run …"),
        ):
            data = load_report_data(database, run)
        page, twin = write_report(data, output or Path("var/reports") / f"{data.run.id}.html")
        verdict = verdict_of(data)
        if as_json:
            files = {"html": str(page), "data": str(twin)}
            print_json(
                {
                    "run": data.run.id,
                    **files,
                    "verdict": verdict,
                    "metrics": data.metrics,
                    "notes": data.notes,
                }
            )
        else:
            out.print(verdict.headline, style="bold", highlight=False, markup=False)
            for line in (
                *verdict.sentences,
                *(f"! {warning}" for warning in (*verdict.warnings, *data.notes)),
            ):
                out.print(line, highlight=False, markup=False)
            out.print(str(page), soft_wrap=True, highlight=False, markup=False)
        if open_page:
            typer.launch(page.resolve().as_uri())
