"""Comparison of methods on one split, each after a sweep of its learning rate, in one table with the
baselines.
"""

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
from msgspec.structs import replace

from agent.core.errors import UsageError
from agent.system.atomic import write_bytes
from models.cards import DatasetRecord, Estimate
from models.sentiment.train.methods import UNTRAINED, get_method
from models.sentiment.train.methods.recipe import Recipe
from models.sentiment.train.splits import PARTS, Split

if TYPE_CHECKING:
    from models.sentiment.train.training import TrainingResult

SWEEP: Final = (0.5, 1.0, 2.0)
"""Multiples of a method's default learning rate that the sweep tries."""
_TIMED: Final = 100


class ComparisonRow(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table. `metrics` are those of the test part, after temperature scaling."""

    method: str
    learning_rate: float | None = None
    trainable: int
    metrics: dict[str, Estimate]
    cpu_seconds: float
    """Processor time of training and measuring, without the sweep and other work on the machine."""
    peak_memory: int | None = None
    """Bytes of the training process or the accelerator."""
    ms: float | None = None
    """Median time of one headline alone, in torch on this machine: processor time, or wall-clock time
    with a GPU.
    """
    hyper: dict[str, Any] = {}
    swept: dict[str, float] = {}
    """Learning rate → calibrated validation NLL."""


class MethodComparison(msgspec.Struct, frozen=True, kw_only=True):
    """Result of `compare`."""

    base: str
    data: list[str]
    sizes: dict[str, int]
    seed: int
    rows: list[ComparisonRow]


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
    on_status: Callable[[str], None] = lambda _: None,
) -> MethodComparison:
    """Train each method in its own process, so that its memory can be measured, and measure all on
    `split.test`.

    With `sweep_rows`, the learning rate is chosen by the validation NLL of shorter trainings on that many
    rows; 0 disables the sweep. `jobs` methods are trained at once. A method that `output` already holds for
    the same split and settings is not trained again. `on_status` receives a line for each step. Raises the
    errors of `train`.
    """
    rows = []
    if baselines:
        from models.sentiment.train.baselines import BASELINES, measure

        for name in BASELINES:
            on_status(name)
            found = msgspec.structs.asdict(measure(name, split, base))
            rows.append(ComparisonRow(method=found.pop("name"), **found))
    runs = [
        _MethodRun(replace(recipe, method=name), split, tuple(datasets), output / name, base, sweep_rows)
        for name in methods
    ]
    with ThreadPoolExecutor(jobs) as pool:
        trained = list(pool.map(lambda run: _run_method(run, on_status), runs))
    timed = [example.text for example in split.test[:_TIMED]]
    # Timed after all trainings, so that none runs at the same time
    for run, row in zip(runs, trained, strict=True):
        on_status(f"{row.method}: timing")
        rows.append(replace(row, ms=_latency(run.output, timed)))
    names = [record.name for record in datasets]
    return MethodComparison(base=base, data=names, sizes=split.sizes(), seed=recipe.seed, rows=rows)


class _MethodRun(msgspec.Struct, frozen=True):
    recipe: Recipe
    split: Split
    datasets: tuple[DatasetRecord, ...]
    output: Path
    base: str
    sweep_rows: int

    @property
    def key(self) -> str:
        """Key of a cached row, equal for runs with the same result."""
        rows = [[(e.text, e.label, e.ts) for e in getattr(self.split, part)] for part in PARTS]
        settings = (self.recipe, get_method(self.recipe.method).defaults, rows, self.base, self.sweep_rows)
        return hashlib.sha256(msgspec.json.encode(settings)).hexdigest()


def _run_method(run: _MethodRun, on_status: Callable[[str], None]) -> ComparisonRow:
    """Sweep, train and measure one method, or return its cached row."""
    cached = run.output / "row.json"
    if cached.is_file():
        with suppress(msgspec.MsgspecError):  # truncated by an earlier version
            key, row = msgspec.json.decode(cached.read_bytes(), type=tuple[str, ComparisonRow])
            if key == run.key:
                return row
    recipe = run.recipe
    swept: dict[str, float] = {}
    if run.sweep_rows and recipe.learning_rate is None and recipe.method != UNTRAINED:
        with _own_process() as process:
            swept = _sweep(run, process, on_status)
        recipe = replace(recipe, learning_rate=float(min(swept, key=lambda rate: swept[rate])))
    on_status(f"{recipe.method}: {len(run.split.train):,} rows")
    arguments = recipe, run.split, run.datasets, run.output, run.base
    with _own_process() as process:
        row = replace(process.submit(_train_and_measure, *arguments).result(), swept=swept)
    write_bytes(cached, msgspec.json.encode((run.key, row)))
    return row


def _sweep(
    run: _MethodRun, process: ProcessPoolExecutor, on_status: Callable[[str], None]
) -> dict[str, float]:
    """Return learning rate → validation NLL after half the method's epochs on the first rows."""
    defaults = get_method(run.recipe.method).defaults
    fewer = replace(run.split, train=run.split.train[: run.sweep_rows], test=())
    folder = run.output / "sweep"
    swept = {}
    for multiple in SWEEP:
        rate = f"{defaults.learning_rate * multiple:.1e}"
        on_status(f"{run.recipe.method}: learning rate {rate} on {len(fewer.train):,} rows")
        epochs = (run.recipe.epochs or defaults.epochs) / 2
        shorter = replace(run.recipe, learning_rate=float(rate), epochs=epochs)
        swept[rate] = process.submit(_validation_nll, shorter, fewer, run.datasets, folder, run.base).result()
    shutil.rmtree(folder, ignore_errors=True)
    return swept


def _own_process() -> ProcessPoolExecutor:
    """Return a pool of one new process, whose memory and processor time are those of one training."""
    return ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn"))


def _validation_nll(
    recipe: Recipe, split: Split, datasets: Sequence[DatasetRecord], output: Path, base: str
) -> float:
    """Train, and return the NLL of the validation part, or of the calibration part without one."""
    metrics = _train(recipe, split, datasets, output, base).card.metrics
    part = next((part for part in ("validation", "calibration") if part in metrics), None)
    if part is None:
        raise UsageError(
            "a sweep chooses by held-out text, and none is held out",
            hint="--sweep 0, or hold out a validation part",
        )
    return metrics[part]["nll"].value


def _train_and_measure(
    recipe: Recipe, split: Split, datasets: Sequence[DatasetRecord], output: Path, base: str
) -> ComparisonRow:
    began = time.process_time()
    done = _train(recipe, split, datasets, output, base)
    return ComparisonRow(
        method=recipe.method,
        learning_rate=done.recipe.learning_rate if done.trainable else None,
        trainable=done.trainable,
        cpu_seconds=time.process_time() - began,
        peak_memory=done.peak_memory,
        hyper=done.recipe.to_dict(),
        metrics=done.card.metrics["test"],
    )


def _train(
    recipe: Recipe, split: Split, datasets: Sequence[DatasetRecord], output: Path, base: str
) -> TrainingResult:
    from models.sentiment.train import silence_warnings

    silence_warnings()
    from models.sentiment.train.training import train

    return train(recipe, split, datasets, output, base=base)


def _latency(folder: Path, texts: Sequence[str]) -> float:
    """Return the median time of one text alone in ms: processor time, or wall-clock time with a GPU."""
    import torch

    from models.sentiment.train.trained_model import load_trained

    cuda = torch.cuda.is_available()
    now = time.perf_counter if cuda else time.process_time
    trained = load_trained(folder, "cuda" if cuda else "cpu")
    taken = []
    for text in [texts[0], *texts]:  # the first one is the warm-up
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


def cells(row: ComparisonRow) -> tuple[str, ...]:
    """Format a row in the order of `COLUMNS`; ± is half the 95 % interval."""

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


def markdown(found: MethodComparison) -> str:
    """Format the table, below a line that names base, data and seed."""
    sizes = ", ".join(f"{part} {rows:,}" for part, rows in found.sizes.items())
    head = f"Base {found.base}; data {', '.join(found.data)} ({sizes}); seed {found.seed}"
    lines = [f"{head}; ± is half the 95 % bootstrap interval.", ""]
    lines += ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(cells(row)) + " |" for row in found.rows)]) + "\n"


def save(found: MethodComparison, output: Path) -> list[Path]:
    """Write compare.json, .md, .csv and .png into `output`; return their paths."""
    paths = [output / f"compare.{suffix}" for suffix in ("json", "md", "csv", "png")]
    write_bytes(paths[0], (json.dumps(msgspec.to_builtins(found), indent=1) + "\n").encode())
    write_bytes(paths[1], markdown(found).encode())
    table = io.StringIO(newline="")
    csv.writer(table).writerows([COLUMNS, *map(cells, found.rows)])
    write_bytes(paths[2], table.getvalue().encode())
    _plot(found, paths[3])
    return paths


def _plot(found: MethodComparison, path: Path) -> None:
    """Plot macro-F1 and calibration error of each method with their intervals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 0.5 * len(found.rows) + 1.5), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    names, f1, error = zip(
        *((row.method, row.metrics["macro_f1"], row.metrics["ece"]) for row in found.rows), strict=True
    )
    for axes, title, values in ((left, "macro-F1", f1), (right, "ECE", error)):
        spread = np.maximum([[v.value - v.low for v in values], [v.high - v.value for v in values]], 0)
        axes.barh(names, [v.value for v in values], xerr=spread, color="#4c72b0", ecolor="grey", capsize=2)
        axes.set_title(title)
    left.invert_yaxis()
    figure.savefig(path, dpi=120)
