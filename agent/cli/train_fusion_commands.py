"""`tapewire train fusion`: train a fusion model on klines and headlines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, ClassVar

from agent.cli.command_options import ConfigFile, End, Json, SentimentModel, Start, parse_span, parse_time
from agent.cli.console import out, print_columns, print_json, print_text, progress_bar
from agent.cli.model_options import needs_training_libraries
from agent.cli.typer_setup import option
from agent.config import Config, load
from agent.core.durations import format_duration
from agent.core.errors import ModelError, UsageError
from agent.system.fitted_table import Column, figures

if TYPE_CHECKING:
    from agent.replay.history import Plan
    from models.fusion.train.fusion_recipe import FusionRecipe
    from models.fusion.train.fusion_training import FusionTrainingResult


@dataclass(frozen=True, kw_only=True, slots=True)
class FusionDataOptions:
    """The history to train on."""

    PANEL: ClassVar = "History"

    klines: Annotated[
        list[str], option("--klines", "Klines, Parquet or CSV; may be repeated.", "[SYMBOL=]FILE")
    ]
    news: Annotated[Path | None, option("--news", "Headlines; not needed for --ablation price.", "FILE")] = (
        None
    )
    start: Start = None
    end: End = None
    test_until: Annotated[
        str | None,
        option("--test-until", "Measure from --end to this, instead of on a share before --end.", "TIME"),
    ] = None
    config: ConfigFile = None
    model: SentimentModel = None

    def configured(self) -> Config:
        """Return the configuration with the sentiment model given here."""
        config = load(self.config)
        if self.model is None:
            return config
        return config.model_copy(update={"model": config.model.model_copy(update={"path": self.model})})

    def times(self) -> tuple[int | None, int | None, int | None]:
        """Return --start, --end and --test-until in UTC ms."""
        start = parse_time(self.start, "--start") if self.start else None
        end = parse_time(self.end, "--end") if self.end else None
        return start, end, parse_time(self.test_until, "--test-until") if self.test_until else None

    def plan(self, config: Config) -> Plan:
        """Return the files and the window to read."""
        from agent.data.klines import KlineFile
        from agent.replay.history import Plan

        start, end, until = self.times()
        files = tuple(KlineFile.parse_argument(text) for text in self.klines)
        return Plan(files, self.news, start=start, end=until or end, timezone=config.history.timezone or None)


@dataclass(frozen=True, kw_only=True, slots=True)
class FusionRecipeOptions:
    """Hyper-parameters of the fusion model."""

    PANEL: ClassVar = "Training"

    ablation: Annotated[
        str, option("--ablation", "Inputs of the model: full, price, text or probabilities.", "NAME")
    ] = "full"
    interval: Annotated[str, option("--interval", "Length of the bars that the model reads.", "DURATION")] = (
        "1h"
    )
    horizon: Annotated[str, option("--horizon", "How far ahead the model predicts.", "DURATION")] = "4h"
    band: Annotated[
        float,
        option("--band", "Half width of the class flat, in standard deviations over the horizon.", min=0),
    ] = 0.5
    half_life: Annotated[
        list[str] | None,
        option(
            "--half-life",
            "Half-life of a headline; may be repeated, the best is used.",
            "DURATION",
            "30m, 2h, 8h, 1d",
        ),
    ] = None
    hidden: Annotated[int, option("--hidden", "Width of the network.", min=1)] = 32
    dropout: Annotated[float, option("--dropout", "Dropout rate.", min=0, max=0.9)] = 0.2
    learning_rate: Annotated[float, option("--learning-rate --lr", "Learning rate.")] = 1e-3
    weight_decay: Annotated[float, option("--weight-decay", "Weight decay of AdamW.", min=0)] = 0.05
    batch_size: Annotated[int, option("--batch-size", "Rows per step.", min=1)] = 512
    epochs: Annotated[int, option("--epochs", "Maximum number of epochs.", min=1)] = 30
    patience: Annotated[
        int, option("--patience", "Stop after so many epochs without a better validation loss.", min=1)
    ] = 4
    balance: Annotated[
        str,
        option("--balance", "Treatment of rare classes: none, weights (of classes) or focal (loss).", "NAME"),
    ] = "none"
    validation: Annotated[
        float, option("--validation", "Share of the time for early stopping and the choice of half-life.")
    ] = 0.12
    calibration: Annotated[float, option("--calibration", "Share for fitting the temperature.")] = 0.08
    test: Annotated[float, option("--test", "Share held out to measure on.")] = 0.15
    embargo: Annotated[str, option("--embargo", "Time left out after each cut.", "DURATION")] = "1d"
    seed: Annotated[int, option("--seed", "Seed of the training.")] = 42

    def recipe(self) -> FusionRecipe:
        """Return the recipe. Raises UsageError for a value that isn't possible."""
        from models.fusion.train.fusion_recipe import HALF_LIVES, FusionRecipe

        return FusionRecipe(
            ablation=self.ablation,  # type: ignore[arg-type]  # FusionRecipe checks it
            interval=parse_span(self.interval, "--interval"),
            horizon=parse_span(self.horizon, "--horizon"),
            band=self.band,
            half_lives=tuple(parse_span(text, "--half-life") for text in self.half_life or ()) or HALF_LIVES,
            hidden=self.hidden,
            dropout=self.dropout,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            batch_size=self.batch_size,
            epochs=self.epochs,
            patience=self.patience,
            balance=self.balance,  # type: ignore[arg-type]  # FusionRecipe checks it
            validation=self.validation,
            calibration=self.calibration,
            test=self.test,
            embargo=parse_span(self.embargo, "--embargo"),
            seed=self.seed,
        )


def fusion(
    history: FusionDataOptions,
    hyper: FusionRecipeOptions,
    output: Annotated[Path, option("--output -o", "Folder to write the model to.", "FOLDER")] = Path(
        "var/models/fusion"
    ),
    compare: Annotated[
        bool, option("--compare/--no-compare", "Train gradient boosting as well, for comparison.")
    ] = True,
    json: Json = False,
) -> None:
    """Train a model that predicts down, flat or up from price features and recent headlines.

    Headlines are scored once; the store keeps the scores. The last parts of the window, each after an
    embargo, are used to stop the training, to calibrate the model and to measure it.
    """
    from models.fusion.train.fusion_sources import prepare_dataset

    recipe = hyper.recipe()
    if recipe.reads_text and history.news is None:
        raise UsageError(
            f"--ablation {hyper.ablation} reads headlines, but no file of headlines is given",
            hint="--news FILE, or --ablation price",
        )
    if history.test_until is not None and history.end is None:
        raise UsageError("--test-until measures on the time after --end, but --end is not given")
    _require_free(output)
    start, end, until = history.times()
    config = history.configured()
    plan = history.plan(config)
    with needs_training_libraries():
        from models.sentiment.train import silence_warnings

        silence_warnings()  # before the libraries are imported
        from models.fusion.train.fusion_training import train

        output.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=output) as scratch:
            with _stages() as show:
                prepared = prepare_dataset(plan, config, recipe, Path(scratch), progress=show)
            meta = prepared.data.meta
            with _stages() as show:
                done = train(
                    prepared.data,
                    recipe,
                    prepared.records,
                    output,
                    start=start or meta.start,
                    end=end or meta.end,
                    test_until=until,
                    seen_until=prepared.seen_until,
                    compare=compare,
                    progress=lambda what, epoch, epochs, loss: show(
                        f"{what}, loss {loss:.4f}", epoch, epochs
                    ),
                )
    if json:
        print_json(
            {
                "folder": str(done.folder),
                "ablation": hyper.ablation,
                "rows": done.rows,
                "shares": done.shares,
                "metrics": done.table,
                "half_lives": {format_duration(key): loss for key, loss in done.half_lives.items()},
                "half_life": format_duration(int(done.card.hyper["half_life"] or 0)),
                "temperature": done.card.temperature,
                "trained_until": done.card.trained_until_iso,
                "bars": meta.bars,
                "seconds": round(done.seconds, 1),
            }
        )
    else:
        _show_result(done)


def _require_free(output: Path) -> None:
    """Raise UsageError unless `output` is missing, empty, or an older fusion model."""
    from models.cards import read_card

    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    try:
        read_card(output, kind="fusion")
    except ModelError:
        raise UsageError(
            f"--output {output} holds something else", hint="name a new or empty folder"
        ) from None


@contextmanager
def _stages() -> Iterator[Callable[[str, int, int], None]]:
    with progress_bar("", None) as update:
        yield lambda title, done, total: update(description=title, completed=done, total=total)


def _show_result(done: FusionTrainingResult) -> None:
    card = done.card
    out.print(f"rows: {', '.join(f'{part} {rows:,}' for part, rows in done.rows.items())}")
    out.print(f"classes: {', '.join(f'{name} {share:.1%}' for name, share in done.shares.items())}")
    if len(done.half_lives) > 1:
        tried = ", ".join(f"{format_duration(key)} {loss:.4f}" for key, loss in done.half_lives.items())
        out.print(f"validation loss by half-life: {tried}")
    if done.table:
        rows = [
            (name, *(f"{one.value:.3f} ({one.low:.3f} – {one.high:.3f})" for one in metrics.values()))
            for name, metrics in done.table.items()
        ]
        title = f"test: {done.rows['test']:,} rows; 95 % intervals by day"
        print_columns((Column("model"), *figures(*next(iter(done.table.values())))), rows, title=title)
        out.print(_verdict(done))
    out.print(
        f"temperature {card.temperature:.3f}; trained until {card.trained_until_iso}; {done.seconds:.0f} s"
    )
    print_text(f"saved: {done.folder}")


def _verdict(done: FusionTrainingResult) -> str:
    """Return whether the model beats the frequencies of the classes, and gradient boosting."""
    nll = {name: metrics["nll"] for name, metrics in done.table.items()}
    network, frequencies = nll["network"], nll["shares"]
    if network.value >= frequencies.value:
        first = "the model is no better than the frequencies of the classes"
    elif network.high >= frequencies.value:
        first = "the model seems slightly better than the frequencies of the classes, within the error"
    else:
        first = "the model is better than the frequencies of the classes"
    if "boosting" not in nll:
        return f"{first}."
    trees = nll["boosting"].value
    relation = "better" if trees < network.value else "no better"
    return f"{first}; gradient boosting is {relation} (NLL {trees:.4f}, network {network.value:.4f})."
