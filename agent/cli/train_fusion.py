"""`tapewire train fusion`: learn from klines and headlines, in one command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agent.cli.console import err, out, print_json
from agent.cli.moments import parse_moment
from agent.cli.train import needs_training_libraries, train_group
from agent.config import load
from agent.core.durations import format_duration, parse_duration
from agent.core.errors import ModelError, UsageError

if TYPE_CHECKING:
    from models.fusion.train.fusion_training import Trained


def register(app: typer.Typer) -> None:
    """Adds the verb to the group `train`."""
    train_group(app).command("fusion")(fusion)


def fusion(
    klines: Annotated[
        list[str], typer.Option("--klines", help="FILE or SYMBOL=FILE, parquet or CSV; may be repeated.")
    ],
    news: Annotated[
        Path | None, typer.Option("--news", help="Headlines; not needed for --ablation price.")
    ] = None,
    start: Annotated[
        str | None, typer.Option("--start", help="First bar's open, e.g. 2023-11-01 (UTC).")
    ] = None,
    end: Annotated[str | None, typer.Option("--end", help="The same; nothing from it on teaches.")] = None,
    test_until: Annotated[
        str | None,
        typer.Option(
            "--test-until", help="Measure on what follows --end until here, not on a share before it."
        ),
    ] = None,
    ablation: Annotated[str, typer.Option(help="full, price, text or probabilities.")] = "full",
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the model.")] = Path(
        "var/models/fusion"
    ),
    interval: Annotated[str, typer.Option(help="Of the bars that the model reads.")] = "1h",
    horizon: Annotated[str, typer.Option(help="How far ahead it looks.")] = "4h",
    band: Annotated[
        float, typer.Option(min=0, help="Half width of flat, in usual moves over the horizon.")
    ] = 0.5,
    half_life: Annotated[
        list[str] | None,
        typer.Option(help="Of what was read; may be repeated, the best one is taken [30m, 2h, 8h, 1d]."),
    ] = None,
    hidden: Annotated[int, typer.Option(min=1, help="Width of the network.")] = 32,
    dropout: Annotated[float, typer.Option(min=0, max=0.9)] = 0.2,
    learning_rate: Annotated[float, typer.Option("--learning-rate", "--lr")] = 1e-3,
    weight_decay: Annotated[float, typer.Option(min=0, help="Of AdamW.")] = 0.05,
    batch_size: Annotated[int, typer.Option(min=1)] = 512,
    epochs: Annotated[int, typer.Option(min=1, help="At most.")] = 30,
    patience: Annotated[
        int, typer.Option(min=1, help="Epochs without a better validation loss until it stops.")
    ] = 4,
    balance: Annotated[str, typer.Option(help="none, weights (of classes) or focal (loss).")] = "none",
    validation: Annotated[
        float, typer.Option(help="Share of the time for early stopping and the half-life.")
    ] = 0.12,
    calibration: Annotated[float, typer.Option(help="Share for the temperature.")] = 0.08,
    test: Annotated[float, typer.Option(help="Share to measure on.")] = 0.15,
    embargo: Annotated[str, typer.Option(help="Left out after each cut.")] = "1d",
    seed: Annotated[int, typer.Option()] = 42,
    compare: Annotated[bool, typer.Option(help="Train gradient boosting beside it.")] = True,
    model: Annotated[
        str | None, typer.Option("--model", help="The sentiment model: a folder, or starter.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Where store, model and signals are named.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Train a fusion model: price features and what was read lately, to the chances of down, flat and up.

    Headlines are scored once, and remembered in the store. The last slices of the window, each after an embargo, stop the
    training, calibrate it and measure it.
    """
    from agent.data.klines import KlineFile
    from agent.replay.history import Plan
    from models.fusion.train.fusion_recipe import HALF_LIVES, Recipe
    from models.fusion.train.fusion_sources import gather

    recipe = Recipe(
        ablation=ablation,  # type: ignore[arg-type]  # the recipe checks it
        interval=_duration(interval, "--interval"),
        horizon=_duration(horizon, "--horizon"),
        band=band,
        half_lives=tuple(_duration(text, "--half-life") for text in half_life or ()) or HALF_LIVES,
        hidden=hidden,
        dropout=dropout,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        batch_size=batch_size,
        epochs=epochs,
        patience=patience,
        balance=balance,  # type: ignore[arg-type]
        validation=validation,
        calibration=calibration,
        test=test,
        embargo=_duration(embargo, "--embargo"),
        seed=seed,
    )
    if recipe.reads_text and news is None:
        raise UsageError(
            f"--ablation {ablation} reads headlines, and none are named",
            hint="--news FILE, or --ablation price",
        )
    if test_until is not None and end is None:
        raise UsageError("--test-until measures on what follows --end, and none is given")
    _require_room(output)
    until = parse_moment(test_until, "--test-until") if test_until else None
    begin, finish = (
        parse_moment(start, "--start") if start else None,
        parse_moment(end, "--end") if end else None,
    )
    settled = load(config)
    if model is not None:
        settled = settled.model_copy(update={"model": settled.model.model_copy(update={"path": model})})
    plan = Plan(
        tuple(KlineFile.parse_argument(text) for text in klines), news, start=begin, end=until or finish,
        timezone=settled.history.timezone or None,
    )  # fmt: skip
    with needs_training_libraries():
        from models.sentiment.train.silence import silence_warnings

        silence_warnings()  # before anything that it hushes is imported
        from models.fusion.train.fusion_training import train

        output.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=output) as scratch:
            with _progress() as tell:
                gathered = gather(plan, settled, recipe, Path(scratch), progress=tell)
            meta = gathered.data.meta
            with _progress() as tell:
                done = train(
                    gathered.data,
                    recipe,
                    gathered.records,
                    output,
                    start=begin or meta.start,
                    end=finish or meta.end,
                    test_until=until,
                    seen_until=gathered.seen_until,
                    compare=compare,
                    progress=lambda what, epoch, epochs, loss: tell(
                        f"{what}, loss {loss:.4f}", epoch, epochs
                    ),
                )
    if json:
        print_json(
            {
                "folder": str(done.folder),
                "ablation": ablation,
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
        _show(done)


def _duration(text: str, option: str) -> int:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from None


def _require_room(output: Path) -> None:
    """Nothing but an older fusion model is written over."""
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
def _progress() -> Iterator[Any]:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    with Progress(
        TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=err, transient=True
    ) as bar:
        task = bar.add_task("", total=None)
        yield lambda what, done, every: bar.update(task, description=what, completed=done, total=every)


def _show(done: Trained) -> None:
    from rich.table import Table

    card = done.card
    out.print(f"rows: {', '.join(f'{part} {rows:,}' for part, rows in done.rows.items())}", highlight=False)
    out.print(
        f"classes: {', '.join(f'{name} {share:.1%}' for name, share in done.shares.items())}", highlight=False
    )
    if len(done.half_lives) > 1:
        tried = ", ".join(f"{format_duration(key)} {loss:.4f}" for key, loss in done.half_lives.items())
        out.print(f"validation loss by half-life: {tried}", highlight=False)
    if done.table:
        table = Table(
            "",
            *next(iter(done.table.values())),
            title=f"test: {done.rows['test']:,} rows; 95 % intervals, by day",
        )
        for name, metrics in done.table.items():
            table.add_row(
                name,
                *(f"{found.value:.3f} ({found.low:.3f} – {found.high:.3f})" for found in metrics.values()),
            )
        out.print(table)
        out.print(_verdict(done), highlight=False)
    out.print(
        f"temperature {card.temperature:.3f}; trained until {card.trained_until_iso}; {done.seconds:.0f} s",
        highlight=False,
    )
    out.print(f"saved: {done.folder}", highlight=False, soft_wrap=True, markup=False)


def _verdict(done: Trained) -> str:
    """Whether it knows more than how often each class occurs, and than the trees, in words."""
    nll = {name: metrics["nll"] for name, metrics in done.table.items()}
    mine, known = nll["network"], nll["shares"]
    if mine.value >= known.value:
        first = "it knows no more than how often each class occurs"
    elif mine.high >= known.value:
        first = "it seems to know a little more than how often each class occurs, within the error"
    else:
        first = "it knows more than how often each class occurs"
    if "boosting" not in nll:
        return f"{first}."
    trees = nll["boosting"].value
    return f"{first}; gradient boosting is {'better' if trees < mine.value else 'no better'} (NLL {trees:.4f} against {mine.value:.4f})."
