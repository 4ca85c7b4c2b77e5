"""Training of a fusion model: from a data set and a recipe to a folder with weights and card."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from math import inf
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from agent.core.events import DAY_MS
from agent.core.features import Features
from agent.system.atomic import replaced_folder
from models.calibration import fit_temperature
from models.cards import CARD_NAME, Card, DatasetRecord, Estimate, write_card_with_hashes
from models.classification_metrics import estimates
from models.fusion import CLASSES
from models.fusion.serve.predictor import WEIGHTS_NAME, FusionPredictor, fingerprint, standardise
from models.fusion.train.baseline import class_shares, gradient_boosting
from models.fusion.train.dataset import FusionData, RowLabels
from models.fusion.train.fusion_recipe import FusionRecipe
from models.fusion.train.network import FusionNetwork
from models.fusion.train.purged_splits import PARTS, Ints, Parts, split
from models.objective import Objective

Floats = NDArray[np.float64]
Progress = Callable[[str, int, int, float], None]
"""Called with (name of the network, epochs done, most epochs, validation loss)."""

MEASURED: Final = ("accuracy", "macro_f1", "nll", "brier", "ece")
_BLOCK: Final = 16_384
_VERSIONS: Final = ("torch", "numpy", "scikit-learn")
_LEAST_SPREAD: Final = 0.01  # of the median: dimensions that hardly vary are not scaled to unit variance


class FusionTrainingResult(msgspec.Struct, frozen=True):
    """Result of a training."""

    folder: Path
    card: Card
    rows: dict[str, int]
    """Rows of each part."""
    shares: dict[str, float]
    """Frequency of each class among the rows with a label."""
    table: dict[str, dict[str, Estimate]]
    """Metrics on the test part of "network", "boosting" and "shares"; the 95 % intervals resample whole
    days.
    """
    half_lives: dict[int, float]
    """Validation loss by half-life (ms)."""
    seconds: float


class _InputColumns(NamedTuple):
    """Input columns of all rows, read batch by batch."""

    features: NDArray[Any]  # (rows, 10), memory-mapped
    means: NDArray[np.float32]  # (votes, dimensions), memory-mapped; (0, 1) if no text is read
    vote: NDArray[Any]  # (rows,), -1 if none
    gate: Floats  # (rows,)
    norms: dict[str, Floats]  # mean and scale of features and means

    def batch(self, rows: Ints) -> tuple[Tensor, Tensor, Tensor]:
        """Return standardised features, standardised means and gates, as float32."""
        features = standardise(self.features[rows], self.norms["price.mean"], self.norms["price.scale"])
        means = standardise(self.text(rows), self.norms["text.mean"], self.norms["text.scale"])
        return _tensor(features), _tensor(means), _tensor(self.gate[rows][:, None])

    def text(self, rows: Ints) -> Floats:
        """Return the mean embedding of each row; zeros before the first headline."""
        vote = self.vote[rows]
        found = np.zeros((len(rows), self.means.shape[1]))
        found[vote >= 0] = self.means[vote[vote >= 0]]
        return found


def train(
    data: FusionData,
    recipe: FusionRecipe,
    datasets: Sequence[DatasetRecord],
    output: Path,
    *,
    start: int,
    end: int,
    test_until: int | None = None,
    seen_until: int = 0,
    compare: bool = True,
    progress: Progress | None = None,
) -> FusionTrainingResult:
    """Train on the rows of [start, end) (UTC ms), write the model into `output`, and measure it.

    The test part is the end of that window, or [end, test_until). `seen_until` is the sentiment model's
    `trained_until`, which the new card inherits if it is later than `end`. `compare` adds boosted trees to
    the table. Raises DataError if a part lacks a class.
    """
    began = time.monotonic()
    torch.manual_seed(recipe.seed)
    labels = data.labels(recipe.horizon, recipe.band)
    parts = split(data.rows["ts"], labels.kind, recipe, start=start, end=end, test_until=test_until)
    network, inputs, half_life, losses = _fit_best_half_life(data, recipe, labels.kind, parts, progress)
    weights: dict[str, Any] = {**inputs.norms, **network.weights()}
    if not recipe.reads_price:
        weights = {name: value for name, value in weights.items() if not name.startswith("price.")}
    if not recipe.reads_text:
        weights = {name: value for name, value in weights.items() if not name.startswith("text.")}
    card = _card(data, recipe, labels, parts, half_life, datasets, trained_until=max(end, seen_until))
    card.temperature = fit_temperature(
        np.log(np.maximum(_predict(FusionPredictor(card, weights), inputs, parts.calibration), 1e-6)),
        labels.kind[parts.calibration],
    )
    table = {}
    if len(parts.test):
        truth, days = labels.kind[parts.test], data.rows["ts"][parts.test] // DAY_MS
        predicted = {"network": _predict(FusionPredictor(card, weights), inputs, parts.test)}
        if compare:
            predicted["boosting"] = gradient_boosting(
                lambda rows: _as_table(inputs, recipe, rows), labels.kind, parts, recipe
            )
        predicted["shares"] = class_shares(labels.kind, parts)
        for name, probabilities in predicted.items():
            found = estimates(probabilities, truth, blocks=days, seed=recipe.seed)
            table[name] = {metric: found[metric] for metric in MEASURED}
    card.metrics = table
    seconds = time.monotonic() - began
    card.notes |= {"seconds": round(seconds, 1)}
    with replaced_folder(output, keep=lambda name: name not in (WEIGHTS_NAME, CARD_NAME)) as folder:
        np.savez(folder / WEIGHTS_NAME, **weights)
        card.fingerprint = fingerprint(folder, card)
        write_card_with_hashes(card, folder, (WEIGHTS_NAME,))
        FusionPredictor.load(folder)
    counts = np.bincount(labels.kind[labels.kind >= 0], minlength=len(CLASSES))
    return FusionTrainingResult(
        output,
        card,
        {name: len(getattr(parts, name)) for name in PARTS},
        dict(zip(CLASSES, (counts / counts.sum()).tolist(), strict=True)),
        table,
        losses,
        seconds,
    )


def _fit_best_half_life(
    data: FusionData, recipe: FusionRecipe, label: Ints, parts: Parts, progress: Progress | None
) -> tuple[FusionNetwork, _InputColumns, int, dict[int, float]]:
    """Train a network for each half-life; return the one with the least validation loss.

    The result is (network, its inputs, its half-life, validation loss by half-life).
    """
    found: dict[int, tuple[float, FusionNetwork]] = {}
    for half_life in recipe.half_lives if recipe.reads_text else recipe.half_lives[:1]:
        inputs = _inputs(data, recipe, half_life, parts)
        torch.manual_seed(recipe.seed)  # the same initial weights for each half-life
        found[half_life] = _fit(recipe, inputs, label, parts, half_life, progress)
    best = min(found, key=lambda half_life: found[half_life][0])
    losses = {half_life: loss for half_life, (loss, _) in found.items()}
    return found[best][1], _inputs(data, recipe, best, parts), best, losses


def _inputs(data: FusionData, recipe: FusionRecipe, half_life: int, parts: Parts) -> _InputColumns:
    rows = data.rows
    means, gate = np.zeros((0, 1), np.float32), np.zeros(len(rows))
    if recipe.reads_text:
        field = "chances" if recipe.ablation == "probabilities" else "embedding"
        means, mass = data.decayed_means(half_life, field)
        gate = mass / (1.0 + mass)
    features = rows["features"]
    norms = dict(zip(("price.mean", "price.scale"), _mean_and_scale(features, parts.train), strict=True))
    vote = rows["vote"] if recipe.reads_text else np.full(len(rows), -1)
    votes = np.unique(vote[parts.train])
    norms |= dict(zip(("text.mean", "text.scale"), _mean_and_scale(means, votes[votes >= 0]), strict=True))
    return _InputColumns(features, means, vote, gate, norms)


def _mean_and_scale(values: NDArray[Any], rows: Ints) -> tuple[Floats, Floats]:
    """Return mean and 1 / standard deviation of each column over `rows`, in one pass over blocks."""
    width = values.shape[1]
    total, squares = np.zeros(width), np.zeros(width)
    if not len(rows):
        return total, np.ones(width)
    pivot = values[rows[0]].astype(np.float64)  # near the mean, so that squares don't cancel
    for begin in range(0, len(rows), _BLOCK):
        block = values[rows[begin : begin + _BLOCK]] - pivot
        total += block.sum(axis=0)
        squares += (block * block).sum(axis=0)
    mean = total / len(rows)
    spread = np.sqrt(np.maximum(squares / len(rows) - mean * mean, 0.0))
    if width > len(Features._fields):  # an embedding, whose dimensions have similar scales
        spread = np.maximum(spread, _LEAST_SPREAD * np.median(spread))
    return pivot + mean, 1.0 / np.where(spread > 0.0, spread, 1.0)


def _fit(
    recipe: FusionRecipe,
    inputs: _InputColumns,
    label: Ints,
    parts: Parts,
    half_life: int,
    progress: Progress | None,
) -> tuple[float, FusionNetwork]:
    """Train until the validation loss stops falling; return the least loss and its network."""
    network = FusionNetwork(recipe, inputs.features.shape[1], inputs.means.shape[1])
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    counts = np.bincount(label[parts.train], minlength=len(CLASSES))
    weights = _tensor(counts.sum() / (len(CLASSES) * counts)) if recipe.balance == "weights" else None
    objective = Objective(weights, gamma=2.0 if recipe.balance == "focal" else 0.0)
    rng = np.random.default_rng(recipe.seed)
    best, least, waited = deepcopy(network), inf, 0
    for epoch in range(1, recipe.epochs + 1):
        network.train()
        order = rng.permutation(parts.train)
        for begin in range(0, len(order), recipe.batch_size):
            rows = order[begin : begin + recipe.batch_size]
            loss = objective(network(*inputs.batch(rows)), torch.from_numpy(label[rows]))
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
        held_out = _loss(network, inputs, label, parts.validation)
        waited = 0 if held_out < least else waited + 1
        if held_out < least:
            least, best = held_out, deepcopy(network)
        if progress:
            progress(f"{recipe.ablation}, half-life {half_life / 3_600_000:g} h", epoch, recipe.epochs, least)
        if waited >= recipe.patience:
            break
    return least, best.eval()


@torch.inference_mode()  # type: ignore[untyped-decorator]
def _loss(network: FusionNetwork, inputs: _InputColumns, label: Ints, rows: Ints) -> float:
    """Return the mean negative log-likelihood, without the weights of the objective."""
    network.eval()
    total = 0.0
    for begin in range(0, len(rows), _BLOCK):
        part = rows[begin : begin + _BLOCK]
        logits = network(*inputs.batch(part))
        total += float(nn.functional.cross_entropy(logits, torch.from_numpy(label[part]), reduction="sum"))
    return total / len(rows)


def _predict(predictor: FusionPredictor, inputs: _InputColumns, rows: Ints) -> Floats:
    """Return the serving model's probabilities of `rows`, (n, 3)."""
    found = []
    for begin in range(0, len(rows), _BLOCK):
        part = rows[begin : begin + _BLOCK]
        gate = inputs.gate[part]
        found.append(
            predictor.predict_block(
                inputs.features[part], predictor.read_block(inputs.text(part)), gate / (1.0 - gate)
            )
        )
    return np.concatenate(found)


def _as_table(inputs: _InputColumns, recipe: FusionRecipe, rows: Ints) -> Floats:
    """Return the network's inputs as one table, for the boosted trees."""
    features = [inputs.features[rows]] if recipe.reads_price else []
    text = [inputs.text(rows), inputs.gate[rows][:, None]] if recipe.reads_text else []
    return np.concatenate(features + text, axis=1)


def _card(
    data: FusionData,
    recipe: FusionRecipe,
    labels: RowLabels,
    parts: Parts,
    half_life: int,
    datasets: Sequence[DatasetRecord],
    *,
    trained_until: int,
) -> Card:
    moved = parts.train[labels.kind[parts.train] != 1]
    moved = moved[labels.scale[moved] > 0.0]
    move = float((np.abs(labels.forward[moved]) / labels.scale[moved]).mean())
    hyper: dict[str, str | int | float | bool | None] = {
        key: value
        for key, value in msgspec.structs.asdict(recipe).items()
        if isinstance(value, str | int | float)
    }
    hyper |= {
        "half_life": half_life,
        "move": move,
        "scorer": data.meta.scorer if recipe.reads_text else "",
        "features": ",".join(Features._fields),
        "dimensions": data.meta.dimensions if recipe.reads_text else 0,
    }
    return Card(
        kind="fusion",
        base="",
        method=recipe.ablation,
        labels=CLASSES,
        pooling="",
        max_length=0,
        hyper=hyper,
        datasets=tuple(datasets),
        versions={name: importlib.metadata.version(name) for name in _VERSIONS},
        trained_until=trained_until,
        notes={f"rows_{name}": len(getattr(parts, name)) for name in PARTS},
    )


def _tensor(values: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.asarray(values, np.float32))
