"""`tapewire train sentiment`: fine-tune a transformer on labelled text."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer
from rich.progress import MofNCompleteColumn

from agent.cli.console import err, out, print_columns, print_json, progress_bar
from agent.cli.model_commands import print_coverage
from agent.cli.model_options import BaseModel, TrainingDataOptions, needs_training_libraries
from agent.cli.train_ensemble_commands import ensemble
from agent.cli.train_fusion_commands import fusion
from agent.cli.train_reader_commands import reader
from agent.cli.typer_setup import option
from agent.system.fitted_table import Column, figures

if TYPE_CHECKING:
    from models.sentiment.train.datasets import Dataset
    from models.sentiment.train.methods.recipe import Recipe
    from models.sentiment.train.splits import Split
    from models.sentiment.train.training import TrainingResult


def register(app: typer.Typer) -> None:
    """Add the group `train` with the commands `sentiment`, `reader`, `ensemble` and `fusion`."""
    kinds = "a sentiment model, a reader, an ensemble or a fusion model"
    group = typer.Typer(help=f"Train {kinds}.", no_args_is_help=True)
    group.command("sentiment")(sentiment)
    group.command("reader")(reader)
    group.command("ensemble")(ensemble)
    group.command("fusion")(fusion)
    app.add_typer(group, name="train")


@dataclass(frozen=True, kw_only=True, slots=True)
class RecipeOptions:
    """Hyper-parameters of the fine-tuning; the fields are those of
    `models.sentiment.train.methods.recipe.Recipe`.
    """

    PANEL: ClassVar = "Training"

    method: Annotated[
        str, option("--method", "lora, qlora, adalora, prefix, prompt, ptuning, full or none.", "NAME")
    ] = "lora"
    head: Annotated[
        str, option("--head", "linear: a new layer; words: a decoder's own logits of label words.", "NAME")
    ] = "linear"
    shots: Annotated[
        int, option("--shots", "Examples that the prompt of --head words shows.", min=0, max=64)
    ] = 0
    rank: Annotated[
        int | None, option("--rank", "Rank of the update.", default="by the number of samples")
    ] = None
    alpha: Annotated[int | None, option("--alpha", "Scale of the update.", default="2 × rank")] = None
    dropout: Annotated[float, option("--dropout", "Dropout on the adapter's input.")] = 0.05
    targets: Annotated[
        str, option("--targets", "Layers with an adapter: auto (query, value), all, or names.", "NAMES")
    ] = "auto"
    virtual_tokens: Annotated[
        int | None,
        option(
            "--virtual-tokens",
            "Virtual tokens of prefix, prompt and ptuning.",
            default="prefix 20, prompt and ptuning 10",
        ),
    ] = None
    learning_rate: Annotated[
        float | None, option("--learning-rate --lr", "Learning rate.", default="the method's own")
    ] = None
    head_learning_rate: Annotated[
        float | None,
        option(
            "--head-learning-rate", "Learning rate of the new classifier head.", default="the method's own"
        ),
    ] = None
    epochs: Annotated[
        float | None,
        option("--epochs", "Maximum number of epochs.", default="by method and number of samples"),
    ] = None
    batch_size: Annotated[int, option("--batch-size", "Texts per step and device.")] = 16
    accumulation: Annotated[int, option("--accumulation", "Batches per optimizer step.")] = 1
    max_length: Annotated[int, option("--max-length", "Maximum tokens per text.")] = 96
    warmup: Annotated[float, option("--warmup", "Share of the steps in which the learning rate rises.")] = (
        0.06
    )
    weight_decay: Annotated[float, option("--weight-decay", "Weight decay of AdamW.")] = 0.01
    smoothing: Annotated[float, option("--smoothing", "Label smoothing.")] = 0.0
    imbalance: Annotated[
        str, option("--imbalance", "For rare classes: none, weights, focal (loss) or oversample.", "NAME")
    ] = "none"
    patience: Annotated[
        int, option("--patience", "Stop after so many epochs without a better validation loss; 0: never.")
    ] = 2
    optimizer: Annotated[str, option("--optimizer", "adamw, adamw_8bit or paged_adamw_8bit.", "NAME")] = (
        "adamw"
    )
    checkpointing: Annotated[
        bool, option("--checkpointing", "Recompute activations: slower, but needs far less memory.")
    ] = False
    bf16: Annotated[
        bool, option("--bf16", "Compute in bfloat16 (always on with a GPU that supports it).")
    ] = False
    dates_in_text: Annotated[
        bool, option("--dates-in-text", "Prefix each dated text with its year and month.")
    ] = False
    seed: Annotated[int, option("--seed", "Seed of the split and of the training.")] = 42

    def recipe(self) -> Recipe:
        """Return the recipe. Raises UsageError for a value that isn't possible."""
        from models.sentiment.train.methods.recipe import parse

        return parse(**asdict(self))


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitOptions:
    """How to split the texts into training, validation, calibration and test."""

    PANEL: ClassVar = "Split"

    validation: Annotated[float, option("--validation", "Share of the texts for early stopping.")] = 0.05
    calibration: Annotated[float, option("--calibration", "Share for fitting the temperature.")] = 0.05
    test: Annotated[float, option("--test", "Share held out to measure on.")] = 0.1
    embargo_days: Annotated[
        float, option("--embargo-days", "Days left out before each cut of a split by time.")
    ] = 1.0
    stratified: Annotated[
        bool, option("--stratified", "Split at random by class even if the texts are dated.")
    ] = False

    def split(self, datasets: list[Dataset], seed: int) -> Split:
        """Return the split of all texts."""
        from agent.core.events import DAY_MS
        from models.sentiment.train.splits import Fractions, make_split

        return make_split(
            [example for dataset in datasets for example in dataset.examples],
            Fractions(self.validation, self.calibration, self.test),
            seed=seed,
            embargo_ms=int(self.embargo_days * DAY_MS),
            stratified=self.stratified,
        )


def sentiment(
    datasets: TrainingDataOptions,
    hyper: RecipeOptions,
    cut: SplitOptions,
    base: BaseModel = "embedded",
    output: Annotated[Path, option("--output -o", "Folder to write the adapter to.", "FOLDER")] = Path(
        "var/models/sentiment"
    ),
    threshold: Annotated[
        float, option("--threshold", "Calibrated confidence from which a score is actionable.")
    ] = 0.7,
    resume: Annotated[bool, option("--resume", "Continue from the last checkpoint beside --output.")] = False,
    forgetting: Annotated[
        bool, option("--forgetting/--no-forgetting", "Measure how much general language the base forgets.")
    ] = True,
    json: Annotated[bool, option("--json", "Print the model's card as one JSON object.")] = False,
) -> None:
    """Fine-tune a base model on labelled text.

    Hyper-parameters not given are chosen by method and number of samples, and printed. To use several GPUs,
    start it as `accelerate launch -m agent.cli.main train sentiment`, followed by the options.
    """
    out.quiet = err.quiet = (
        os.environ.get("RANK", "0") != "0"
    )  # with several processes, only the first prints
    loaded = datasets.load()
    split = cut.split(loaded, hyper.seed)
    _show_split(split)
    with needs_training_libraries():
        from models.sentiment.train import silence_warnings

        silence_warnings()  # before the libraries are imported
        from models.sentiment.train.training import train

        recipe = hyper.recipe()
        with progress_bar(
            "training", None, MofNCompleteColumn(), "loss {task.fields[loss]:.3f}", loss=float("nan")
        ) as update:
            done = train(
                recipe,
                split,
                [dataset.record for dataset in loaded],
                output,
                base=base,
                resume=resume,
                threshold=threshold,
                progress=lambda step, steps, loss: update(completed=step, total=steps, loss=loss),
                announce=_show_recipe,
                forgetting=forgetting,
            )
    card = done.card
    if card.base_released and (not card.trained_until or card.base_released > card.trained_until_iso):
        released = card.base_released
        err.print(
            f"[yellow]warning[/]: the base model was released on {released} and may know events until then"
        )
    if json:
        print_json(card)
    else:
        _show_result(done)


def _show_split(split: Split) -> None:
    kind = "by time" if split.by_time else "stratified by class"
    sizes = ", ".join(f"{part} {rows:,}" for part, rows in split.sizes().items())
    err.print(f"split {kind}: {sizes}")
    if split.duplicates or split.embargoed:
        err.print(
            f"left out: {split.duplicates:,} duplicates, "
            f"{split.embargoed:,} rows in an embargo or of the same story"
        )
    for text, labels in split.conflicts[:5]:
        err.print(f"[yellow]conflict[/]: labelled {labels}: ", end="")
        err.print(text[:80], markup=False)
    if len(split.conflicts) > 5:
        err.print(f"… {len(split.conflicts) - 5} more texts with two labels")


def _show_recipe(recipe: Recipe, trainable: int, parameters: int) -> None:
    from rich.table import Table

    table = Table("choice", "value", title=f"{recipe.method}: as given, else chosen for this data")
    table.add_row("trainable parameters", f"{trainable:,} of {parameters:,} ({trainable / parameters:.2%})")
    for name, value in recipe.to_dict().items():
        if name != "method" and value is not None:
            table.add_row(name, f"{value:g}" if isinstance(value, float) else str(value))
    err.print(table)


def _show_result(done: TrainingResult) -> None:
    card = done.card
    for part in ("test", "calibration"):
        if part in card.metrics:
            rows = [
                (name, f"{found.value:.3f}", f"{found.low:.3f} – {found.high:.3f}")
                for name, found in card.metrics[part].items()
            ]
            title = f"{part}: {card.notes[f'rows_{part}']:,} texts"
            print_columns((Column("metric"), *figures("value", "95 % interval")), rows, title=title)
            break
    print_coverage(card.coverage)
    out.print(f"temperature {card.temperature:.3f}; trained until {card.trained_until_iso}")
    out.print(f"{done.seconds:.0f} s, at most {done.peak_memory / 1e6:.0f} MB")
    for name, value in card.notes.items():
        if name.startswith(("mlm_loss", "perplexity", "similarity")):
            out.print(f"forgetting check: {name.replace('_', ' ')} {value:.3f}")
    out.print(f"saved: {done.folder}")
