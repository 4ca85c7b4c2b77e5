"""`tapewire train sentiment`: fine-tune a transformer on labelled text, in one command."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agent.cli.console import err, out, print_json
from agent.cli.labelled import (
    DataFiles,
    DataFormats,
    DateColumn,
    Encoding,
    Eventless,
    LabelColumn,
    Latest,
    PerTarget,
    SkipEmpty,
    TextColumn,
    load_all,
    to_ms,
)
from agent.core.errors import ConfigError

if TYPE_CHECKING:
    from models.sentiment.train.methods.recipe import Recipe
    from models.sentiment.train.splits import Split
    from models.sentiment.train.training import Trained


def register(app: typer.Typer) -> None:
    """Adds the verb to the group `train`."""
    train_group(app).command("sentiment")(sentiment)


def train_group(app: typer.Typer) -> typer.Typer:
    """The group `train` of the command line, begun by whoever comes first."""
    known = next((group.typer_instance for group in app.registered_groups if group.name == "train"), None)
    if known is not None:
        return known
    group = typer.Typer(help="Train a model: of sentiment, of fusion.", no_args_is_help=True)
    app.add_typer(group, name="train")
    return group


@contextmanager
def needs_training_libraries() -> Iterator[None]:
    """Turns a missing torch, transformers, peft … into one line that says how to get them."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"training needs {error.name}, which is not installed", hint='pip install "tapewire[train]"'
        ) from error


def sentiment(
    data: DataFiles,
    format: DataFormats,
    method: Annotated[
        str, typer.Option(help="lora, qlora, adalora, prefix, prompt, ptuning or full.")
    ] = "lora",
    base: Annotated[
        str, typer.Option(help="embedded, a hub id such as ProsusAI/finbert, or a folder.")
    ] = "embedded",
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the adapter.")] = Path(
        "var/models/sentiment"
    ),
    rank: Annotated[
        int | None, typer.Option(help="Of the update [by the number of samples].", show_default=False)
    ] = None,
    alpha: Annotated[int | None, typer.Option(help="Its scale [2 × rank].", show_default=False)] = None,
    dropout: Annotated[float, typer.Option(help="On the adapter's input.")] = 0.05,
    targets: Annotated[
        str, typer.Option(help="Layers with an adapter: auto (query, value), all, or names with commas.")
    ] = "auto",
    virtual_tokens: Annotated[
        int | None, typer.Option(help="Of prefix (20), prompt, ptuning (10).", show_default=False)
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", "--lr", help="[the method's own]", show_default=False)
    ] = None,
    head_learning_rate: Annotated[
        float | None, typer.Option(help="Of the new head [the method's own].", show_default=False)
    ] = None,
    epochs: Annotated[
        float | None, typer.Option(help="At most [by method and samples].", show_default=False)
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Texts a step and device.")] = 16,
    accumulation: Annotated[int, typer.Option(help="Batches a step.")] = 1,
    max_length: Annotated[int, typer.Option(help="Tokens a text.")] = 96,
    warmup: Annotated[
        float, typer.Option(help="Share of the steps in which the learning rate rises.")
    ] = 0.06,
    weight_decay: Annotated[float, typer.Option(help="Of AdamW.")] = 0.01,
    smoothing: Annotated[float, typer.Option(help="Label smoothing.")] = 0.0,
    imbalance: Annotated[
        str, typer.Option(help="none, weights (of classes), focal (loss) or oversample.")
    ] = "none",
    patience: Annotated[
        int, typer.Option(help="Epochs without a better validation loss until it stops; 0: never.")
    ] = 2,
    optimizer: Annotated[str, typer.Option(help="adamw, adamw_8bit or paged_adamw_8bit.")] = "adamw",
    checkpointing: Annotated[
        bool, typer.Option("--checkpointing", help="Recompute activations: slower, far less memory.")
    ] = False,
    bf16: Annotated[
        bool, typer.Option("--bf16", help="Compute in bfloat16 (a GPU that can, always does).")
    ] = False,
    dates_in_text: Annotated[
        bool, typer.Option("--dates-in-text", help="Put a dated text's month before it.")
    ] = False,
    validation: Annotated[float, typer.Option(help="Share for early stopping.")] = 0.05,
    calibration: Annotated[float, typer.Option(help="Share for the temperature.")] = 0.05,
    test: Annotated[float, typer.Option(help="Share held out to measure on.")] = 0.1,
    embargo_days: Annotated[
        float, typer.Option(help="Left out before each cut, where the split is by time.")
    ] = 1.0,
    stratified: Annotated[
        bool, typer.Option("--stratified", help="Split at random by class, dated or not.")
    ] = False,
    threshold: Annotated[
        float, typer.Option(help="Calibrated confidence from which a score is actionable.")
    ] = 0.7,
    seed: Annotated[int, typer.Option(help="Of the split and the training.")] = 42,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint beside --output.")
    ] = False,
    forgetting: Annotated[bool, typer.Option(help="Check what the base forgets of general language.")] = True,
    text_column: TextColumn = "text",
    label_column: LabelColumn = "label",
    date_column: DateColumn = "",
    encoding: Encoding = "utf-8",
    per_target: PerTarget = False,
    skip_empty: SkipEmpty = False,
    latest: Latest = "",
    eventless: Eventless = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the card as one JSON object.")] = False,
) -> None:
    """Fine-tune a base model; what is not given is chosen by method and number of samples, and printed.

    On several GPUs: `accelerate launch -m agent.cli.main train sentiment …`.
    """
    out.quiet = err.quiet = os.environ.get("RANK", "0") != "0"  # of several processes, one speaks
    from agent.core.events import DAY_MS
    from models.sentiment.train.datasets import Options
    from models.sentiment.train.splits import Fractions, make_split

    options = Options(
        text_column=text_column,
        label_column=label_column,
        date_column=date_column,
        encoding=encoding,
        per_target=per_target,
        skip_empty=skip_empty,
        latest=to_ms(latest),
    )
    loaded = load_all(data, format, options, eventless or ())
    split = make_split(
        [example for dataset in loaded for example in dataset.examples],
        Fractions(validation, calibration, test),
        seed=seed,
        embargo_ms=int(embargo_days * DAY_MS),
        stratified=stratified,
    )
    _show_split(split)
    with needs_training_libraries():
        from models.sentiment.train.silence import silence_warnings

        silence_warnings()  # before anything that it hushes is imported
        from models.sentiment.train.methods.recipe import parse
        from models.sentiment.train.training import train

        recipe = parse(
            method=method,
            rank=rank,
            alpha=alpha,
            dropout=dropout,
            targets=targets,
            virtual_tokens=virtual_tokens,
            learning_rate=learning_rate,
            head_learning_rate=head_learning_rate,
            epochs=epochs,
            batch_size=batch_size,
            accumulation=accumulation,
            max_length=max_length,
            warmup=warmup,
            weight_decay=weight_decay,
            smoothing=smoothing,
            imbalance=imbalance,
            patience=patience,
            optimizer=optimizer,
            checkpointing=checkpointing,
            bf16=bf16,
            dates_in_text=dates_in_text,
            seed=seed,
        )
        with _progress() as step:
            done = train(
                recipe,
                split,
                [dataset.record for dataset in loaded],
                output,
                base=base,
                resume=resume,
                threshold=threshold,
                progress=step,
                announce=_show_recipe,
                forgetting=forgetting,
            )
    card = done.card
    if card.base_released and (not card.trained_until or card.base_released > card.trained_until_iso):
        err.print(
            f"[yellow]warning[/]: the base model came out on {card.base_released} and may know the world until then"
        )
    if as_json:
        print_json(card)
    else:
        _show(done)


@contextmanager
def _progress() -> Iterator[Any]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
    )
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=err) as bar:
        task = bar.add_task("", total=None, loss=float("nan"))
        yield lambda done, steps, loss: bar.update(task, completed=done, total=steps, loss=loss)


def _show_split(split: Split) -> None:
    kind = "by time" if split.by_time else "stratified by class"
    err.print(
        f"split {kind}: {', '.join(f'{part} {rows:,}' for part, rows in split.sizes().items())}",
        highlight=False,
    )
    if split.duplicates or split.embargoed:
        err.print(
            f"left out: {split.duplicates:,} duplicates, {split.embargoed:,} rows in an embargo or retelling a story"
        )
    for text, labels in split.conflicts[:5]:
        err.print(f"[yellow]conflict[/]: labelled {labels}: ", end="")
        err.print(text[:80], markup=False, highlight=False)
    if len(split.conflicts) > 5:
        err.print(f"… {len(split.conflicts) - 5} more texts with two labels")


def _show_recipe(recipe: Recipe, trainable: int, parameters: int) -> None:
    from rich.table import Table

    table = Table("choice", "value", title=f"{recipe.method}, chosen for this data where not given")
    table.add_row("trainable parameters", f"{trainable:,} of {parameters:,} ({trainable / parameters:.2%})")
    for name, value in recipe.to_dict().items():
        if name != "method" and value is not None:
            table.add_row(name, f"{value:g}" if isinstance(value, float) else str(value))
    err.print(table)


def _show(done: Trained) -> None:
    from rich.table import Table

    card = done.card
    for part in ("test", "calibration"):
        if part in card.metrics:
            table = Table(
                "metric", "value", "95 % interval", title=f"{part}: {card.notes[f'rows_{part}']:,} texts"
            )
            for name, found in card.metrics[part].items():
                table.add_row(name, f"{found.value:.3f}", f"{found.low:.3f} – {found.high:.3f}")
            out.print(table)
            break
    acting = Table("acting from confidence", "coverage", "precision")
    for row in card.coverage:
        acting.add_row(
            f"{row.threshold:.2f}",
            f"{row.coverage:.1%}",
            "–" if row.precision is None else f"{row.precision:.1%}",
        )
    out.print(acting)
    out.print(f"temperature {card.temperature:.3f}; trained until {card.trained_until_iso}")
    out.print(f"{done.seconds:.0f} s, at most {done.peak_memory / 1e6:.0f} MB")
    for name, value in card.notes.items():
        if name.startswith(("mlm_loss", "perplexity", "similarity")):
            out.print(f"forgetting check: {name.replace('_', ' ')} {value:.3f}")
    out.print(f"saved: {done.folder}", highlight=False)
