"""`tapewire evaluate`: how good a model is on labelled text that it has not seen."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from agent.cli.console import err, out, print_json
from agent.cli.labelled import (
    FORMATS,
    DateColumn,
    Encoding,
    LabelColumn,
    PerTarget,
    SkipEmpty,
    TextColumn,
    load_all,
)


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    app.command("evaluate")(evaluate)


def evaluate(
    data: Annotated[Path, typer.Option(help="Labelled text.", show_default=False)],
    format: Annotated[str, typer.Option(help=FORMATS, show_default=False)],
    adapter: Annotated[
        str, typer.Option(help="starter, or a folder written by `train sentiment` or `export`.")
    ] = "starter",
    base: Annotated[
        str | None, typer.Option(help="Base model of an adapter, where its card's name doesn't find it.")
    ] = None,
    text_column: TextColumn = "text",
    label_column: LabelColumn = "label",
    date_column: DateColumn = "",
    encoding: Encoding = "utf-8",
    per_target: PerTarget = False,
    skip_empty: SkipEmpty = False,
    resamples: Annotated[
        int, typer.Option(min=100, help="Bootstrap resamples of the confidence intervals.")
    ] = 1000,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure a model on labelled text: accuracy, F1, calibration, with 95 % confidence intervals."""
    from models.sentiment import model_dir
    from models.sentiment.train.datasets import Options
    from models.sentiment.train.evaluation import evaluate as measure

    options = Options(
        text_column=text_column,
        label_column=label_column,
        date_column=date_column,
        encoding=encoding,
        per_target=per_target,
        skip_empty=skip_empty,
    )
    (dataset,) = load_all([data], [format], options)
    with err.status(f"scoring {len(dataset.examples):,} texts"):
        found = measure(model_dir(adapter), dataset, base=base, resamples=resamples)
    if found["seen"]:
        err.print(f"[yellow]warning[/]: the model was trained on {data.name}: these numbers flatter it")
    if as_json:
        print_json(found)
    else:
        _show(found)


def _show(found: dict[str, Any]) -> None:
    from rich.table import Table

    from models.labels import LABELS

    summary = Table(
        "metric",
        "value",
        "95 % interval",
        title=f"{found['data']}: {found['n']:,} texts, {found['abstained']} abstained",
    )
    for name, (low, high) in found["confidence_intervals"].items():
        summary.add_row(name, f"{found[name]:.3f}", f"{low:.3f} – {high:.3f}")
    classes = Table("class", "precision", "recall", "F1", "texts", *(f"→ {label}" for label in LABELS))
    for label, counts in zip(LABELS, found["confusion"], strict=True):
        row = found["classes"][label]
        classes.add_row(
            label,
            *(f"{row[key]:.3f}" for key in ("precision", "recall", "f1")),
            str(row["support"]),
            *map(str, counts),
        )
    acting = Table("acting from confidence", "coverage", "precision")
    for at in found["coverage"]:
        acting.add_row(
            f"{at.threshold:.2f}",
            f"{at.coverage:.1%}",
            "–" if at.precision is None else f"{at.precision:.1%}",
        )
    for table in (summary, classes, acting):
        out.print(table)
