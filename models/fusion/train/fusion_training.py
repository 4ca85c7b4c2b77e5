"""One training: a data set and a recipe -> a folder with weights and card, measured on what none of it has seen."""

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
from models.cards import CARD_NAME, Card, DatasetRecord, Estimate, seal
from models.classification_metrics import estimates
from models.fusion import CLASSES
from models.fusion.serve.predictor import WEIGHTS_NAME, FusionPredictor, fingerprint, standardise
from models.fusion.train.baseline import boosted, shares
from models.fusion.train.dataset import FusionData, Labels
from models.fusion.train.fusion_recipe import Recipe
from models.fusion.train.network import FusionNetwork
from models.fusion.train.purged_splits import PARTS, Ints, Parts, split
from models.objective import Objective

Floats = NDArray[np.float64]
Progress = Callable[[str, int, int, float], None]
"""(what is being trained, epochs done, epochs at most, validation loss)."""

MEASURED: Final = ("accuracy", "macro_f1", "nll", "brier", "ece")
_BLOCK: Final = 16_384
_VERSIONS: Final = ("torch", "numpy", "scikit-learn")
_LEAST_SPREAD: Final = 0.01  # of the median: dimensions that hardly vary are not blown up


class Trained(msgspec.Struct, frozen=True):
    """What a training answers."""

    folder: Path
    card: Card
    rows: dict[str, int]
    """Rows of each part."""
    shares: dict[str, float]
    """Of each class, of all rows with a label."""
    table: dict[str, dict[str, Estimate]]
    """Metrics on the test part with 95 % intervals, days drawn as blocks: of the network, boosting and the mere shares."""
    half_lives: dict[int, float]
    """Validation loss by half-life (ms)."""
    seconds: float


class _Inputs(NamedTuple):
    """The columns of all rows that the network reads, looked up a batch at a time."""

    features: NDArray[Any]  # (rows, 10), mapped
    means: NDArray[np.float32]  # (votes, dimensions), mapped; (0, 1) where no text is read
    vote: NDArray[Any]  # (rows,), -1: none
    gate: Floats  # (rows,)
    norms: dict[str, Floats]  # mean and scale of both

    def batch(self, rows: Ints) -> tuple[Tensor, Tensor, Tensor]:
        """Standardised features, standardised means and gates, as float32."""
        features = standardise(self.features[rows], self.norms["price.mean"], self.norms["price.scale"])
        means = standardise(self.text(rows), self.norms["text.mean"], self.norms["text.scale"])
        return _tensor(features), _tensor(means), _tensor(self.gate[rows][:, None])

    def text(self, rows: Ints) -> Floats:
        """The mean of what each row has heard; zeros where that is nothing."""
        vote = self.vote[rows]
        found = np.zeros((len(rows), self.means.shape[1]))
        found[vote >= 0] = self.means[vote[vote >= 0]]
        return found


def train(
    data: FusionData,
    recipe: Recipe,
    datasets: Sequence[DatasetRecord],
    output: Path,
    *,
    start: int,
    end: int,
    test_until: int | None = None,
    seen_until: int = 0,
    compare: bool = True,
    progress: Progress | None = None,
) -> Trained:
    """Train on the rows of [start, end) (UTC ms), write the model into `output`, and measure.

    The test part is the end of that window, or with `test_until` what comes after it. `seen_until` is when the sentiment model's
    own training ended: what this one knows, it knows from there too. `compare` trains boosted trees beside it.
    Raises DataError where a part lacks a class.
    """
    began = time.monotonic()
    torch.manual_seed(recipe.seed)
    labels = data.labels(recipe.horizon, recipe.band)
    parts = split(data.rows["ts"], labels.kind, recipe, start=start, end=end, test_until=test_until)
    network, inputs, half_life, losses = _best(data, recipe, labels.kind, parts, progress)
    weights: dict[str, Any] = {**inputs.norms, **network.weights()}
    if not recipe.reads_price:
        weights = {name: value for name, value in weights.items() if not name.startswith("price.")}
    if not recipe.reads_text:
        weights = {name: value for name, value in weights.items() if not name.startswith("text.")}
    card = _card(data, recipe, labels, parts, half_life, datasets, trained_until=max(end, seen_until))
    card.temperature = fit_temperature(
        np.log(np.maximum(_answers(FusionPredictor(card, weights), inputs, parts.calibration), 1e-6)),
        labels.kind[parts.calibration],
    )
    table = {}
    if len(parts.test):
        truth, days = labels.kind[parts.test], data.rows["ts"][parts.test] // DAY_MS
        answers = {"network": _answers(FusionPredictor(card, weights), inputs, parts.test)}
        if compare:
            answers["boosting"] = boosted(
                lambda rows: _flat(inputs, recipe, rows), labels.kind, parts, recipe
            )
        answers["shares"] = shares(labels.kind, parts)
        for name, probabilities in answers.items():
            found = estimates(probabilities, truth, blocks=days, seed=recipe.seed)
            table[name] = {metric: found[metric] for metric in MEASURED}
    card.metrics = table
    seconds = time.monotonic() - began
    card.notes |= {"seconds": round(seconds, 1)}
    with replaced_folder(output, keep=lambda name: name not in (WEIGHTS_NAME, CARD_NAME)) as folder:
        np.savez(folder / WEIGHTS_NAME, **weights)
        card.fingerprint = fingerprint(folder, card)
        seal(card, folder, (WEIGHTS_NAME,))
        FusionPredictor.load(folder)
    counts = np.bincount(labels.kind[labels.kind >= 0], minlength=len(CLASSES))
    return Trained(
        output,
        card,
        {name: len(getattr(parts, name)) for name in PARTS},
        dict(zip(CLASSES, (counts / counts.sum()).tolist(), strict=True)),
        table,
        losses,
        seconds,
    )


def _best(
    data: FusionData, recipe: Recipe, label: Ints, parts: Parts, progress: Progress | None
) -> tuple[FusionNetwork, _Inputs, int, dict[int, float]]:
    """The network of the half-life with the least validation loss, its inputs, that half-life, and every one's loss."""
    found: dict[int, tuple[float, FusionNetwork]] = {}
    for half_life in recipe.half_lives if recipe.reads_text else recipe.half_lives[:1]:
        inputs = _inputs(data, recipe, half_life, parts)
        torch.manual_seed(recipe.seed)  # each half-life begins with the same weights
        found[half_life] = _fit(recipe, inputs, label, parts, half_life, progress)
    best = min(found, key=lambda half_life: found[half_life][0])
    return (
        found[best][1],
        _inputs(data, recipe, best, parts),
        best,
        {half_life: loss for half_life, (loss, _) in found.items()},
    )


def _inputs(data: FusionData, recipe: Recipe, half_life: int, parts: Parts) -> _Inputs:
    rows = data.rows
    means, gate = np.zeros((0, 1), np.float32), np.zeros(len(rows))
    if recipe.reads_text:
        means, mass = data.states(half_life, "chances" if recipe.ablation == "probabilities" else "embedding")
        gate = mass / (1.0 + mass)
    features = rows["features"]
    norms = dict(zip(("price.mean", "price.scale"), _norm(features, parts.train), strict=True))
    vote = rows["vote"] if recipe.reads_text else np.full(len(rows), -1)
    heard = np.unique(vote[parts.train])
    norms |= dict(zip(("text.mean", "text.scale"), _norm(means, heard[heard >= 0]), strict=True))
    return _Inputs(features, means, vote, gate, norms)


def _norm(values: NDArray[Any], rows: Ints) -> tuple[Floats, Floats]:
    """Mean and 1 / standard deviation of a column over `rows`, in one pass over blocks."""
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
    if width > len(Features._fields):  # of an embedding, whose dimensions are alike
        spread = np.maximum(spread, _LEAST_SPREAD * np.median(spread))
    return pivot + mean, 1.0 / np.where(spread > 0.0, spread, 1.0)


def _fit(
    recipe: Recipe, inputs: _Inputs, label: Ints, parts: Parts, half_life: int, progress: Progress | None
) -> tuple[float, FusionNetwork]:
    """Train until the validation loss stops falling; the best one, and its network."""
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
def _loss(network: FusionNetwork, inputs: _Inputs, label: Ints, rows: Ints) -> float:
    """Mean negative log-likelihood, whatever the objective weighs."""
    network.eval()
    total = 0.0
    for begin in range(0, len(rows), _BLOCK):
        part = rows[begin : begin + _BLOCK]
        logits = network(*inputs.batch(part))
        total += float(nn.functional.cross_entropy(logits, torch.from_numpy(label[part]), reduction="sum"))
    return total / len(rows)


def _answers(predictor: FusionPredictor, inputs: _Inputs, rows: Ints) -> Floats:
    """What the model that serves says of `rows`, (n, 3)."""
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


def _flat(inputs: _Inputs, recipe: Recipe, rows: Ints) -> Floats:
    """All that the network reads, as one table for the trees."""
    features = [inputs.features[rows]] if recipe.reads_price else []
    text = [inputs.text(rows), inputs.gate[rows][:, None]] if recipe.reads_text else []
    return np.concatenate(features + text, axis=1)


def _card(
    data: FusionData,
    recipe: Recipe,
    labels: Labels,
    parts: Parts,
    half_life: int,
    datasets: Sequence[DatasetRecord],
    *,
    trained_until: int,
) -> Card:
    left = parts.train[labels.kind[parts.train] != 1]  # the band, that is
    usual = labels.scale[left] > 0.0
    move = float((np.abs(labels.forward[left][usual]) / labels.scale[left][usual]).mean())
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
