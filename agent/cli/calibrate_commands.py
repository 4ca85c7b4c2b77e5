"""`tapewire calibrate`: fit a language model's temperature on labelled text."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.progress import MofNCompleteColumn

from agent.cli.command_options import ConfigFile, Json
from agent.cli.console import err, print_columns, print_json, print_text, progress_bar
from agent.cli.model_options import FORMATS, ColumnOptions, end_of, load_datasets
from agent.cli.typer_setup import option
from agent.core.errors import UsageError
from agent.system.fitted_table import Column, figures

if TYPE_CHECKING:
    from models.sentiment.llm.llm_spec import LlmSpec
    from models.sentiment.train.llm_fitting import CalibrationReport, RequestEstimate


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("calibrate")(calibrate)


def calibrate(
    data: Annotated[
        Path, typer.Argument(metavar="LABELLED", help="File of labelled text.", show_default=False)
    ],
    columns: ColumnOptions,
    model: Annotated[str, option("--model", "openai:URL#MODEL.", "MODEL", "model.path")] = "",
    format: Annotated[str, option("--format", f"{FORMATS}.", "NAME")] = "csv",
    output: Annotated[
        Path, option("--output -o", "Where to write the calibration, for llm.calibration.", "FILE")
    ] = Path("llm.json"),
    limit: Annotated[
        int, option("--limit", "Number of texts to ask for, drawn at random; 0: all.", min=0)
    ] = 1000,
    test: Annotated[float, option("--test", "Share of the texts held out to measure on.")] = 0.5,
    latest: Annotated[
        str,
        option(
            "--latest", "Latest date that undated texts may know of.", "DATE", "year of publication, if known"
        ),
    ] = "",
    seed: Annotated[int, option("--seed", "Seed of the draw and of the split.")] = 42,
    yes: Annotated[
        bool, option("--yes -y", "Send the texts to a server on another machine without asking.")
    ] = False,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Query a language model for labelled texts, and fit the temperature that makes its shares probabilities.

    Answers are kept in the store, so that a repetition sends no request for them. The configuration's
    [llm] applies; its fallback and its calibration don't.
    """
    from agent.config import load
    from agent.store.database import open_database
    from models.cards import latest_of
    from models.sentiment import SERVER
    from models.sentiment.llm.llm_calibration import write_calibration
    from models.sentiment.llm.llm_scorer import LlmScorer
    from models.sentiment.open_scorer import open_cached_scorer
    from models.sentiment.train.llm_fitting import ask_all, estimate, fit_and_measure, split_labelled

    settled = load(config)
    path = model or settled.model.path
    if not path.startswith(SERVER):
        raise UsageError(f"{path} is no language model at a server", hint="--model openai:URL#MODEL")
    llm = settled.llm.model_copy(update={"fallback": "", "calibration": ""})
    (dataset,) = load_datasets([data], [format], columns.loader_options(end_of(latest)))
    parts = split_labelled(dataset.examples, test, limit, seed)
    fitted, held_out = (*parts.train, *parts.validation, *parts.calibration), parts.test
    texts = [example.text for example in (*fitted, *held_out)]
    with closing(open_database(settled.store.url)) as database:
        cached = open_cached_scorer(path, settled.model_copy(update={"llm": llm}), database)
        scorer = cast(LlmScorer, cached.scorer)
        with closing(scorer):
            _confirm(scorer.spec, len(texts), estimate(scorer, texts), yes=yes)
            with progress_bar("asking", len(texts), MofNCompleteColumn()) as update:
                scores = ask_all(
                    cached, texts, 4 * llm.concurrency, progress=lambda done: update(completed=done)
                )
            count = len(fitted)
            report = fit_and_measure(
                scorer,
                (scores[:count], [example.label for example in fitted]),
                (scores[count:], [example.label for example in held_out]),
                llm,
                latest_of([dataset.record]),
            )
            health = scorer.health
    write_calibration(output, report.calibration)
    if json:
        print_json({"file": str(output), "report": report, "health": health, "cached": cached.hits})
        return
    _show(report, path)
    spent = f"{health.requests:,} requests, {health.tokens_in:,} + {health.tokens_out:,} tokens"
    cost = f", cost {health.cost:,.4f}" if health.cost else ""
    print_text(f"{spent}{cost}; {cached.hits:,} texts had been answered before")
    print_text(f'saved: {output}; use it with [llm] calibration = "{output}"')


def _confirm(spec: LlmSpec, texts: int, found: RequestEstimate, *, yes: bool) -> None:
    """Print what the questions take at most. If texts leave this machine, ask, or raise UsageError."""
    cost = f", cost {found.cost:,.2f}" if found.cost else ", no prices in llm.budget"
    takes = (
        f"{texts:,} texts: at most {found.requests:,} requests, {found.tokens_in + found.tokens_out:,} tokens"
    )
    err.print(f"{takes}{cost}", markup=False, soft_wrap=True)
    if spec.local or yes:
        return
    what = f"the texts would be sent to {spec.host}"
    if not sys.stdin.isatty():
        raise UsageError(f"{what}: {takes}{cost}", hint="--yes sends them, --limit N sends fewer")
    typer.confirm(f"{what}. Send them?", abort=True, err=True)


def _show(report: CalibrationReport, path: str) -> None:
    calibration = report.calibration
    title = f"{report.held_out:,} held-out texts"
    names = (("accuracy", "accuracy"), ("macro_f1", "macro F1"), ("ece", "ECE"), ("nll", "NLL"))
    rows = [(text, f"{report.before[name]:.3f}", f"{report.after[name]:.3f}") for name, text in names]
    print_text(
        f"{path} by {calibration.method}: temperature {calibration.temperature:.3f}, "
        f"fitted on {calibration.rows:,} of {report.fitted_on:,} texts",
        wrap=True,
    )
    print_columns((Column(""), *figures("before", "after")), rows, title=title)
    if report.unanswered:
        print_text(f"{report.unanswered:,} held-out texts have no answer, and count as wrong")
