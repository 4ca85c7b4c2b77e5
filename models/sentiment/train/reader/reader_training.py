"""Training of a reader on labels, on the scores of teachers, or on both (Hinton, Vinyals and Dean 2015)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from agent.core.errors import ModelError
from agent.core.news_kinds import NEWS_KINDS
from agent.system.atomic import replaced_file
from models.classification_metrics import Floats
from models.labels import LABELS
from models.sentiment.train.reader.reader_batches import (
    UNLABELLED,
    ReaderBatch,
    TokenisedHeadline,
    shuffled_batches,
    to_batch,
)
from models.sentiment.train.reader.reader_network import HeadlineReader, ReaderOutput
from models.sentiment.train.trainer import Progress

_READ_AT_ONCE: Final = 64
"""Texts of a batch that is only read."""


class ReaderRecipe(msgspec.Struct, frozen=True):
    """Hyper-parameters. Rates rise over `warm_up` of the steps and then fall linearly to zero."""

    epochs: int = 4
    batch_size: int = 32
    learning_rate: float = 2.5e-4
    head_learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warm_up: float = 0.06
    smoothing: float = 0.05
    kind_weight: float = 0.5
    """Weight of the loss of the kind of news, relative to those of headline and assets."""
    frozen_layers: int | None = None
    """Number of lower layers that, like the embeddings, keep their weights; None: all weights learn."""
    softness: float = 2.0
    """Temperature at which answers are compared with those of teachers."""
    label_share: float = 0.5
    """Weight of the labels of a text that teachers have answered, too."""
    bf16: bool = False
    """Multiply matrices in bfloat16; weights and losses stay in float32."""
    seed: int = 42


class ReaderAnswers(NamedTuple):
    """Logits of each text, of one model or the mean of several."""

    logits: Floats  # (texts, 3)
    kind_logits: Floats  # (texts, 9)
    asset_logits: tuple[Floats, ...]  # (assets, 3) for each text


class ReaderSet(NamedTuple):
    """Headlines to learn from; each epoch draws the share `share` of them anew."""

    rows: Sequence[TokenisedHeadline]
    share: float = 1.0
    taught: ReaderAnswers | None = None


def fit_reader(
    model: HeadlineReader,
    sets: Sequence[ReaderSet],
    recipe: ReaderRecipe,
    checkpoint: Path,
    *,
    pad: int = 0,
    progress: Progress | None = None,
) -> None:
    """Train `model` on `sets`. `pad` is the id of the token that pads.

    After each epoch the state goes into the file `checkpoint`, from which a later call with the same model
    and arguments continues. Raises ModelError if the checkpoint is damaged, or of another model, recipe or
    data.
    """
    identity = _identity(model, sets, recipe)
    if recipe.frozen_layers is not None:
        _freeze(model, recipe.frozen_layers)
    optimizer, rates = _optimizer(model, recipe)
    counts = [round(part.share * len(part.rows)) for part in sets]
    batches = -(-sum(counts) // recipe.batch_size)
    steps = recipe.epochs * batches
    for epoch in range(_resume(checkpoint, model, optimizer, identity), recipe.epochs):
        torch.manual_seed(recipe.seed + epoch)
        rng = np.random.default_rng((recipe.seed, epoch))
        chosen = [
            (part, int(row))
            for part, count in zip(sets, counts, strict=True)
            for row in rng.permutation(len(part.rows))[:count]
        ]
        lengths = [len(part.rows[row].ids) for part, row in chosen]
        model.train()
        for number, picked in enumerate(shuffled_batches(lengths, recipe.batch_size, rng)):
            step = epoch * batches + number
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * _slope(step, steps, recipe.warm_up)
            texts = [chosen[row] for row in picked]
            batch = to_batch([part.rows[row] for part, row in texts], pad)
            with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bf16):
                output = model(batch.input_ids, batch.attention_mask, batch.spans)
            loss = _loss(ReaderOutput(*(part.float() for part in output)), batch, texts, recipe)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            if progress:
                progress(step + 1, steps, float(loss.detach()))
        _save(checkpoint, model, optimizer, identity, epoch + 1)
    model.eval()


def answers_of(
    model: HeadlineReader, rows: Sequence[TokenisedHeadline], *, pad: int = 0, bf16: bool = False
) -> ReaderAnswers:
    """Return the model's logits of each headline; `bf16` multiplies matrices in bfloat16."""
    model.eval()
    logits = np.zeros((len(rows), len(LABELS)))
    kinds = np.zeros((len(rows), len(NEWS_KINDS)))
    assets: dict[int, Floats] = {}
    order = sorted(range(len(rows)), key=lambda row: len(rows[row].ids))
    with torch.inference_mode():
        for start in range(0, len(order), _READ_AT_ONCE):
            part = order[start : start + _READ_AT_ONCE]
            batch = to_batch([rows[row] for row in part], pad)
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                read = model(batch.input_ids, batch.attention_mask, batch.spans)
            output = ReaderOutput(*(one.float() for one in read))
            logits[part], kinds[part] = output.logits.numpy(), output.kind_logits.numpy()
            for number, row in enumerate(part):
                assets[row] = output.asset_logits[number, : len(rows[row].assets)].double().numpy()
    return ReaderAnswers(logits, kinds, tuple(assets[row] for row in range(len(rows))))


def mean_answers(answers: Sequence[ReaderAnswers]) -> ReaderAnswers:
    """Return the mean logits of several models on the same texts."""
    return ReaderAnswers(
        np.mean([one.logits for one in answers], axis=0),
        np.mean([one.kind_logits for one in answers], axis=0),
        tuple(
            np.mean(np.stack(each), axis=0)
            for each in zip(*(one.asset_logits for one in answers), strict=True)
        ),
    )


def _loss(
    output: ReaderOutput,
    batch: ReaderBatch,
    texts: Sequence[tuple[ReaderSet, int]],
    recipe: ReaderRecipe,
) -> Tensor:
    """Return the sum of the losses of the headline, its assets and, weighted, its kind.

    Each is the mean over its known scores: of the cross-entropy with the label, of KL divergence · softness²
    with the teachers, or of both.
    """
    taught = torch.zeros(len(texts), dtype=torch.bool)
    soft = torch.zeros_like(output.logits), torch.zeros_like(output.kind_logits)
    soft_assets = torch.zeros_like(output.asset_logits)
    for number, (part, row) in enumerate(texts):
        if part.taught is None:
            continue
        taught[number] = True
        soft[0][number] = torch.from_numpy(part.taught.logits[row])
        soft[1][number] = torch.from_numpy(part.taught.kind_logits[row])
        own = part.taught.asset_logits[row]
        soft_assets[number, : len(own)] = torch.from_numpy(own)
    each = taught.unsqueeze(1).expand(-1, output.asset_logits.shape[1])
    return (
        _mean_loss(output.logits, batch.labels, soft[0], taught, recipe)
        + recipe.kind_weight * _mean_loss(output.kind_logits, batch.kinds, soft[1], taught, recipe)
        + _mean_loss(
            output.asset_logits[batch.named],
            batch.asset_labels[batch.named],
            soft_assets[batch.named],
            each[batch.named],
            recipe,
        )
    )


def _mean_loss(logits: Tensor, labels: Tensor, soft: Tensor, taught: Tensor, recipe: ReaderRecipe) -> Tensor:
    """Return the mean loss of the rows that have a label or a score of teachers; 0 if none has."""
    labelled = labels != UNLABELLED
    hard = functional.cross_entropy(
        logits, labels, ignore_index=UNLABELLED, label_smoothing=recipe.smoothing, reduction="none"
    )
    distance = (
        functional.kl_div(
            functional.log_softmax(logits / recipe.softness, dim=-1),
            functional.softmax(soft / recipe.softness, dim=-1),
            reduction="none",
        ).sum(-1)
        * recipe.softness**2
    )
    share = torch.where(taught, torch.where(labelled, recipe.label_share, 0.0), 1.0)
    rows = torch.where(labelled, share * hard, 0.0) + torch.where(taught, (1.0 - share) * distance, 0.0)
    return rows.sum() / (labelled | taught).sum().clamp(min=1)


def _optimizer(model: HeadlineReader, recipe: ReaderRecipe) -> tuple[torch.optim.Optimizer, list[float]]:
    """Return AdamW and the full rate of each of its groups: matrices, vectors without decay, heads."""
    learning = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    body = [p for name, p in learning if name.startswith("encoder.")]
    heads = [p for name, p in learning if not name.startswith("encoder.")]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in body if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in body if p.ndim <= 1], "weight_decay": 0.0},
        {"params": heads, "weight_decay": recipe.weight_decay},
    ]
    rates = [recipe.learning_rate, recipe.learning_rate, recipe.head_learning_rate]
    return torch.optim.AdamW(groups), rates


def _freeze(model: HeadlineReader, layers: int) -> None:
    """Exclude the embeddings and the lower layers from training. Raises ModelError if there are fewer."""
    blocks = getattr(getattr(model.encoder, "encoder", None), "layer", None)
    embeddings = getattr(model.encoder, "embeddings", None)
    if blocks is None or embeddings is None or len(blocks) < layers:
        raise ModelError(f"the base has no {layers} layers to freeze", hint="frozen_layers = None")
    frozen: list[nn.Module] = [embeddings, *blocks[:layers]]
    for module in frozen:
        module.requires_grad_(False)


def _slope(step: int, steps: int, warm_up: float) -> float:
    rising = max(warm_up * steps, 1.0)
    return min((step + 1) / rising, max((steps - step) / max(steps - rising, 1.0), 0.0))


def _identity(model: HeadlineReader, sets: Sequence[ReaderSet], recipe: ReaderRecipe) -> str:
    """Return a hash of recipe, initial weights, headlines and teachers' scores."""
    digest = hashlib.sha256(msgspec.json.encode(recipe))
    for name, weight in model.state_dict().items():
        digest.update(name.encode() + weight.contiguous().numpy().tobytes())
    for part in sets:
        digest.update(msgspec.json.encode((part.share, part.rows)))
        if part.taught is not None:
            for logits in (part.taught.logits, part.taught.kind_logits, *part.taught.asset_logits):
                digest.update(logits.tobytes())
    return digest.hexdigest()


def _save(
    path: Path, model: HeadlineReader, optimizer: torch.optim.Optimizer, identity: str, epochs: int
) -> None:
    state = {"identity": identity, "epochs": epochs}
    with replaced_file(path) as file:
        torch.save(state | {"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)


def _resume(path: Path, model: HeadlineReader, optimizer: torch.optim.Optimizer, identity: str) -> int:
    """Load the state of an interrupted training; return the number of epochs it has completed."""
    if not path.exists():
        return 0
    try:
        state = torch.load(path, weights_only=True)
        if state["identity"] != identity:
            what = f"{path} is a checkpoint of another training: other options, data or base"
            raise ModelError(what, hint="delete it")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    except (OSError, RuntimeError, KeyError, ValueError, EOFError, UnpicklingError) as error:
        raise ModelError(f"{path}: {error}", hint="the checkpoint is damaged: delete it") from None
    return int(state["epochs"])
