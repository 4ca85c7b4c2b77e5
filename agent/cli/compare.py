"""`tapewire compare`: fine-tuning methods side by side on one split, beside the baselines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agent.cli.console import err, out, print_json
from agent.cli.labelled import (
    DataFiles,
    DataFormats,
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
    app.command("compare")(compare)


def compare(
    data: DataFiles,
    format: DataFormats,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the tables, the plot and the adapters.")
    ] = Path("var/compare"),
    methods: Annotated[
        str, typer.Option(help="Names with commas.")
    ] = "lora,qlora,adalora,prefix,prompt,ptuning,full",
    base: Annotated[
        str, typer.Option(help="embedded, a hub id such as ProsusAI/finbert, or a folder.")
    ] = "embedded",
    sweep: Annotated[
        int, typer.Option(min=0, help="Training rows of the learning-rate sweep of each method; 0: no sweep.")
    ] = 1000,
    epochs: Annotated[
        float | None, typer.Option(help="Of every method [each has its own].", show_default=False)
    ] = None,
    targets: Annotated[
        str, typer.Option(help="Layers with an adapter: auto (query, value), all, or names.")
    ] = "auto",
    test: Annotated[float, typer.Option(help="Share held out to measure on.")] = 0.2,
    jobs: Annotated[int, typer.Option(min=1, help="Methods trained at once.")] = 1,
    baselines: Annotated[
        bool, typer.Option(help="Majority, TF-IDF and the frozen base in the same table.")
    ] = True,
    seed: Annotated[int, typer.Option(help="Of the split and the trainings.")] = 42,
    text_column: TextColumn = "text",
    label_column: LabelColumn = "label",
    date_column: DateColumn = "",
    encoding: Encoding = "utf-8",
    per_target: PerTarget = False,
    skip_empty: SkipEmpty = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Train several methods on the same split and print one table; a sweep gives each its own learning rate."""
    from rich.table import Table

    from agent.cli.train import needs_training_libraries
    from models.sentiment.train.datasets import Options
    from models.sentiment.train.splits import Fractions, make_split

    options = Options(
        text_column=text_column,
        label_column=label_column,
        date_column=date_column,
        encoding=encoding,
        per_target=per_target,
        skip_empty=skip_empty,
    )
    loaded = load_all(data, format, options)
    examples = [example for dataset in loaded for example in dataset.examples]
    split = make_split(examples, Fractions(test=test), seed=seed)
    with needs_training_libraries(), err.status("") as status:
        from models.sentiment.train.comparison import COLUMNS, cells, save
        from models.sentiment.train.comparison import compare as run
        from models.sentiment.train.methods import get_method
        from models.sentiment.train.methods.recipe import Recipe
        from models.sentiment.train.silence import silence_warnings

        silence_warnings()
        wanted = [get_method(name.strip()).name for name in methods.split(",")]
        found = run(
            wanted,
            split,
            [dataset.record for dataset in loaded],
            output,
            base=base,
            recipe=Recipe(epochs=epochs, targets=targets, seed=seed),
            sweep_rows=sweep,
            baselines=baselines,
            jobs=jobs,
            tell=lambda what: status.update(f"training {what}"),
        )
    paths = save(found, output)
    if as_json:
        print_json(found)
        return
    table = Table(*COLUMNS, title=f"{found.sizes['test']:,} held-out texts of {', '.join(found.data)}")
    for row in found.rows:
        table.add_row(*cells(row))
    out.print(table)
    out.print(f"saved: {', '.join(map(str, paths))}", highlight=False, markup=False)
