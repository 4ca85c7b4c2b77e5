"""Methods side by side: the same split, a learning-rate sweep for each, one table with the baselines in it."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import multiprocessing
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from agent.core.errors import UsageError
from agent.system.atomic import write_bytes
from models.cards import DatasetRecord, Estimate
from models.sentiment.train.methods import get_method
from models.sentiment.train.methods.recipe import Recipe
from models.sentiment.train.splits import PARTS, Split

if TYPE_CHECKING:
    from models.sentiment.train.training import Trained

SWEEP: Final = (0.5, 1.0, 2.0)
"""Multiples of a method's own learning rate that the sweep tries."""
_TIMED: Final = 100


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table. `metrics` are of the test part, after temperature scaling."""

    method: str
    learning_rate: float | None = None
    trainable: int
    metrics: dict[str, Estimate]
    cpu_seconds: float
    """Processor time of training and measuring, the sweep apart: other work on the machine doesn't count."""
    peak_memory: int | None = None
    """Bytes, of the training process or the accelerator."""
    ms: float | None = None
    """Median time of one headline alone, in torch on this machine: of the processor, or with a GPU on the wall."""
    hyper: dict[str, Any] = {}
    swept: dict[str, float] = {}
    """Learning rate → calibrated validation NLL."""


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """What `compare` answers and saves."""

    base: str
    data: list[str]
    sizes: dict[str, int]
    seed: int
    rows: list[Row]


def compare(
    methods: Sequence[str],
    split: Split,
    datasets: Sequence[DatasetRecord],
    output: Path,
    *,
    base: str,
    recipe: Recipe,
    sweep_rows: int = 1000,
    baselines: bool = True,
    jobs: int = 1,
    tell: Callable[[str], None] = lambda _: None,
) -> Comparison:
    """Trains each method in a process of its own, so that its memory is its own, and measures all on `split.test`.

    With `sweep_rows`, the learning rate comes from shorter trainings on so many rows, chosen by validation NLL; 0: no sweep.
    `jobs` methods are trained at once. A method that `output` already holds for the same split and choices is not trained again.
    Raises what `train` raises.
    """
    rows = []
    if baselines:
        from models.sentiment.train.baselines import BASELINES, measure

        for name in BASELINES:
            tell(name)
            found = measure(name, split, base)
            rows.append(
                Row(
                    method=name,
                    trainable=found.trainable,
                    cpu_seconds=found.cpu_seconds,
                    ms=found.ms,
                    metrics=found.metrics,
                )
            )
    plans = [
        _Plan(
            msgspec.structs.replace(recipe, method=name),
            split,
            tuple(datasets),
            output / name,
            base,
            sweep_rows,
        )
        for name in methods
    ]
    with ThreadPoolExecutor(jobs) as pool:
        trained = list(pool.map(lambda plan: _method(plan, tell), plans))
    timed = [example.text for example in split.test[:_TIMED]]
    # one after the other, when nothing is trained beside it
    for plan, row in zip(plans, trained, strict=True):
        tell(f"{row.method}: timing")
        rows.append(msgspec.structs.replace(row, ms=_latency(plan.output, timed)))
    return Comparison(
        base=base, data=[record.name for record in datasets], sizes=split.sizes(), seed=recipe.seed, rows=rows
    )


class _Plan(msgspec.Struct, frozen=True):
    recipe: Recipe
    split: Split
    datasets: tuple[DatasetRecord, ...]
    output: Path
    base: str
    sweep_rows: int

    @property
    def key(self) -> str:
        """Equal for plans that would give the same row."""
        rows = [[(e.text, e.label, e.ts) for e in getattr(self.split, part)] for part in PARTS]
        told = msgspec.json.encode(
            (self.recipe, get_method(self.recipe.method).defaults, rows, self.base, self.sweep_rows)
        )
        return hashlib.sha256(told).hexdigest()


def _method(plan: _Plan, tell: Callable[[str], None]) -> Row:
    """Sweeps, trains and measures one method, or finds its row from before."""
    kept = plan.output / "row.json"
    if kept.is_file():
        with suppress(msgspec.MsgspecError):  # cut off by an earlier version
            key, row = msgspec.json.decode(kept.read_bytes(), type=tuple[str, Row])
            if key == plan.key:
                return row
    recipe, name = plan.recipe, plan.recipe.method
    swept: dict[str, float] = {}
    if plan.sweep_rows and recipe.learning_rate is None:
        with _apart() as process:
            swept = _sweep(plan, process, tell)
        recipe = msgspec.structs.replace(
            recipe, learning_rate=float(min(swept, key=lambda rate: swept[rate]))
        )
    tell(f"{name}: {len(plan.split.train):,} rows")
    with _apart() as process:
        row = process.submit(_final, recipe, plan.split, plan.datasets, plan.output, plan.base).result()
    row = msgspec.structs.replace(row, swept=swept)
    write_bytes(kept, msgspec.json.encode((plan.key, row)))
    return row


def _sweep(plan: _Plan, process: ProcessPoolExecutor, tell: Callable[[str], None]) -> dict[str, float]:
    """Learning rate → validation NLL after half the method's epochs on the first rows."""
    defaults = get_method(plan.recipe.method).defaults
    fewer = msgspec.structs.replace(plan.split, train=plan.split.train[: plan.sweep_rows], test=())
    swept = {}
    for multiple in SWEEP:
        rate = f"{defaults.learning_rate * multiple:.1e}"
        tell(f"{plan.recipe.method}: learning rate {rate} on {len(fewer.train):,} rows")
        epochs = (plan.recipe.epochs or defaults.epochs) / 2
        shorter = msgspec.structs.replace(plan.recipe, learning_rate=float(rate), epochs=epochs)
        swept[rate] = process.submit(
            _tried, shorter, fewer, plan.datasets, plan.output / "sweep", plan.base
        ).result()
    shutil.rmtree(plan.output / "sweep", ignore_errors=True)
    return swept


def _apart() -> ProcessPoolExecutor:
    """A new process: what it takes of memory and processor is its own."""
    return ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn"))


def _tried(recipe: Recipe, split: Split, datasets: Sequence[DatasetRecord], output: Path, base: str) -> float:
    """The validation NLL after a training; without a validation part, the calibration's."""
    metrics = _train(recipe, split, datasets, output, base).card.metrics
    part = next((part for part in ("validation", "calibration") if part in metrics), None)
    if part is None:
        raise UsageError(
            "a sweep chooses by held-out text, and none is held out",
            hint="--sweep 0, or hold out a validation part",
        )
    return metrics[part]["nll"].value


def _final(recipe: Recipe, split: Split, datasets: Sequence[DatasetRecord], output: Path, base: str) -> Row:
    began = time.process_time()
    done = _train(recipe, split, datasets, output, base)
    return Row(
        method=recipe.method,
        learning_rate=done.recipe.learning_rate,
        trainable=done.trainable,
        cpu_seconds=time.process_time() - began,
        peak_memory=done.peak_memory,
        hyper=done.recipe.to_dict(),
        metrics=done.card.metrics["test"],
    )


def _train(
    recipe: Recipe, split: Split, datasets: Sequence[DatasetRecord], output: Path, base: str
) -> Trained:
    from models.sentiment.train.silence import silence_warnings

    silence_warnings()  # before anything that it hushes is imported
    from models.sentiment.train.training import train

    return train(recipe, split, datasets, output, base=base)


def _latency(folder: Path, texts: Sequence[str]) -> float:
    """Median processor ms of one text alone; on a GPU, of the clock on the wall."""
    import torch

    from models.sentiment.train.trained_model import load_trained

    cuda = torch.cuda.is_available()
    now = time.perf_counter if cuda else time.process_time
    trained = load_trained(folder, "cuda" if cuda else "cpu")
    taken = []
    for text in [texts[0], *texts]:  # the first one warms up
        began = now()
        trained.logits([text])
        taken.append(now() - began)
    return float(np.median(taken[1:])) * 1000


COLUMNS: Final = (
    "method",
    "lr",
    "trainable",
    "accuracy",
    "macro-F1",
    "weighted-F1",
    "ECE",
    "CPU s",
    "peak MB",
    "ms/headline",
)


def cells(row: Row) -> tuple[str, ...]:
    """A row as text, in the order of `COLUMNS`; ± is half the 95 % interval."""

    def with_interval(found: Estimate) -> str:
        return f"{found.value:.3f} ±{(found.high - found.low) / 2:.3f}"

    return (
        row.method,
        f"{row.learning_rate:.1e}" if row.learning_rate else "–",
        f"{row.trainable:,}",
        with_interval(row.metrics["accuracy"]),
        with_interval(row.metrics["macro_f1"]),
        f"{row.metrics['weighted_f1'].value:.3f}",
        f"{row.metrics['ece'].value:.3f}",
        f"{row.cpu_seconds:.0f}",
        f"{row.peak_memory / 1e6:.0f}" if row.peak_memory else "–",
        f"{row.ms:.2f}" if row.ms else "–",
    )


def markdown(found: Comparison) -> str:
    """The table, with what it was measured on above it."""
    sizes = ", ".join(f"{part} {rows:,}" for part, rows in found.sizes.items())
    lines = [
        f"Base {found.base}; data {', '.join(found.data)} ({sizes}); seed {found.seed}; ± is half the 95 % bootstrap interval.",
        "",
    ]
    lines += ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(cells(row)) + " |" for row in found.rows)]) + "\n"


def save(found: Comparison, output: Path) -> list[Path]:
    """Writes compare.json, .md, .csv and .png into `output`. Answers their paths."""
    paths = [output / f"compare.{suffix}" for suffix in ("json", "md", "csv", "png")]
    write_bytes(paths[0], (json.dumps(msgspec.to_builtins(found), indent=1) + "\n").encode())
    write_bytes(paths[1], markdown(found).encode())
    table = io.StringIO(newline="")
    csv.writer(table).writerows([COLUMNS, *map(cells, found.rows)])
    write_bytes(paths[2], table.getvalue().encode())
    _plot(found, paths[3])
    return paths


def _plot(found: Comparison, path: Path) -> None:
    """Macro-F1 with its interval, and the calibration error, a bar a method."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 0.5 * len(found.rows) + 1.5), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    names, f1, error = zip(
        *((row.method, row.metrics["macro_f1"], row.metrics["ece"]) for row in found.rows), strict=True
    )
    for axes, title, values in ((left, "macro-F1", f1), (right, "ECE", error)):
        spread = [[v.value - v.low for v in values], [v.high - v.value for v in values]]
        axes.barh(
            names,
            [v.value for v in values],
            xerr=np.maximum(spread, 0),
            color="#4c72b0",
            ecolor="grey",
            capsize=2,
        )
        axes.set_title(title)
    left.invert_yaxis()
    figure.savefig(path, dpi=120)
