"""`tapewire bundle`: one file with a run, to be verified anywhere."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli.command_options import ConfigFile, Json, RunId
from agent.cli.console import err, print_json, print_text
from agent.cli.typer_setup import option
from agent.config import load

if TYPE_CHECKING:
    from agent.store.database import Database


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("bundle")(bundle)


def bundle(
    run: RunId = "latest",
    output: Annotated[Path | None, option("--output -o", "File to write.", "FILE", "RUN.tapewire")] = None,
    without_inputs: Annotated[
        bool, option("--without-inputs", "Leave the price and news files out; their hashes stay.")
    ] = False,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Write one file with a run: journal, scores, decisions, strategy, inputs, report.

    `tapewire verify FILE` decides it again on any machine, and finds every changed byte. The file has no keys
    and no paths of this machine, but all headlines and prices of the run.
    """
    from agent.replay.run_bundle import bundle_run
    from agent.store.database import open_database
    from agent.store.queries import find_run

    with closing(open_database(load(config).store.url, create=False)) as database:
        recorded = find_run(database, run)
        target = output or Path(f"{recorded.id}.tapewire")
        with err.status("Writing the bundle …"):
            written = bundle_run(database, recorded, target, render=_render_report, inputs=not without_inputs)
    manifest = written.manifest
    if json:
        print_json(
            {
                "file": str(target),
                "bytes": written.size,
                "sha256": written.sha256,
                "run": manifest.run,
                "chain_head": manifest.chain_head,
                "left_out": manifest.left_out,
                "notes": manifest.notes,
            }
        )
        return
    print_text(f"{target}: run {manifest.run}, {manifest.events:,} events, {manifest.decisions:,} decisions")
    print_text(f"{written.size:,} bytes, SHA-256 {written.sha256}")
    for note in (*manifest.notes, *(f"without {name}" for name in manifest.left_out)):
        print_text(f"! {note}")
    print_text(f"verify it anywhere: tapewire verify {target}")


def _render_report(database: Database, run: str) -> str:
    from agent.analysis.report.html import render
    from agent.replay.complete_report import load_complete_report

    return render(load_complete_report(database, run))
