"""`tapewire train reader`: a model that also reads single assets and the kind of news."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.progress import MofNCompleteColumn

from agent.cli.console import err, out, print_columns, print_json, progress_bar
from agent.cli.model_options import BaseModel, needs_training_libraries
from agent.cli.typer_setup import option
from agent.core.errors import UsageError
from agent.system.fitted_table import Column, figures

if TYPE_CHECKING:
    from models.cards import Card


def reader(
    data: Annotated[list[Path], option("--data", "File of labelled headlines; may be repeated.", "FILE")],
    format: Annotated[
        list[str], option("--format", "wire or sentfin; one for all files, or one per file.", "NAME")
    ],
    base: BaseModel = "embedded",
    output: Annotated[Path, option("--output -o", "Folder to write the model to.", "FOLDER")] = Path(
        "var/models/reader"
    ),
    epochs: Annotated[int, option("--epochs", "Number of epochs.", min=1)] = 4,
    batch_size: Annotated[int, option("--batch-size", "Headlines per step.", min=1)] = 32,
    learning_rate: Annotated[float, option("--learning-rate", "Learning rate of the base.")] = 2.5e-4,
    frozen_layers: Annotated[
        int | None,
        option("--frozen-layers", "Lower layers that keep their weights.", default="none", min=0),
    ] = None,
    calibration: Annotated[float, option("--calibration", "Share for fitting the temperatures.")] = 0.05,
    test: Annotated[float, option("--test", "Share held out to measure on.")] = 0.1,
    quantise: Annotated[
        bool,
        option("--quantise/--no-quantise", "Use int8 weights and activations: for a CPU, not for a GPU."),
    ] = True,
    seed: Annotated[int, option("--seed", "Seed of the split and of the training.")] = 42,
    json: Annotated[bool, option("--json", "Print the model's card as one JSON object.")] = False,
) -> None:
    """Fine-tune a base on headlines with labels for each asset that they name, and their kind of news.

    The result is exported: `tapewire score --model FOLDER` and `model.path` use it. An interrupted training
    continues when it is started again with the same options.
    """
    from models.sentiment.train.datasets.asset_labels import load_assets
    from models.sentiment.train.splits import Fractions

    if len(format) not in (1, len(data)):
        what = f"{len(data)} --data but {len(format)} --format"
        raise UsageError(what, hint="give one format, or one for each file in order")
    formats = format * (len(data) if len(format) == 1 else 1)
    with needs_training_libraries():
        from models.sentiment.train import silence_warnings

        silence_warnings()
        from models.sentiment.train.reader.reader_build import split_headlines, train_reader
        from models.sentiment.train.reader.reader_training import ReaderRecipe

        datasets = [load_assets(path, name) for path, name in zip(data, formats, strict=True)]
        examples = [example for dataset in datasets for example in dataset.examples]
        split = split_headlines(examples, Fractions(0.0, calibration, test), seed)
        sizes = (f"{name} {len(part):,}" for name, part in split._asdict().items())
        err.print(f"headlines: {', '.join(sizes)}")
        if left_out := len(examples) - sum(map(len, split)):
            err.print(f"left out: {left_out:,} duplicates, near-duplicates and headlines close to a cut")
        if split.unplaced:
            err.print(f"not learned: {split.unplaced:,} labels of assets whose names aren't in the headline")
        recipe = ReaderRecipe(
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            frozen_layers=frozen_layers,
            seed=seed,
        )
        with progress_bar(
            "training", None, MofNCompleteColumn(), "loss {task.fields[loss]:.3f}", loss=float("nan")
        ) as update:
            card = train_reader(
                datasets,
                split,
                recipe,
                output,
                base=base,
                quantise=quantise,
                progress=lambda step, steps, loss: update(completed=step, total=steps, loss=loss),
            )
    if json:
        print_json(card)
    else:
        _show(card, output)


def _show(card: Card, output: Path) -> None:
    rows: list[tuple[str, ...]] = []
    titles = {
        "test": "headlines",
        "test_assets": "assets",
        "test_mixed_assets": "assets that differ in one headline",
        "test_kinds": "kinds of news",
    }
    for name, title in titles.items():
        if name in card.metrics:
            found = card.metrics[name]
            accuracy = found["accuracy"]
            others = (f"{found[key].value:.3f}" if key in found else "" for key in ("macro_f1", "ece"))
            interval = f"{accuracy.low:.3f} – {accuracy.high:.3f}"
            rows.append((title, f"{accuracy.value:.3f}", interval, *others))
    columns = figures("accuracy", "95 % interval", "macro-F1", "ECE")
    print_columns((Column("held out", wraps=True), *columns), rows)
    out.print(f"trained until {card.trained_until_iso}")
    out.print(f"saved: {output}")
