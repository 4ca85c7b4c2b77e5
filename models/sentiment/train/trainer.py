"""Set-up of transformers' Trainer for a recipe: data, optimiser groups, loss, early stopping, progress."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import (
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from agent.core.errors import ConfigError
from agent.system.atomic import write_bytes
from models.calibration import fit_temperature, softmax
from models.cards import sha256_files
from models.classification_metrics import Ints, measure
from models.labels import LABELS
from models.objective import Objective
from models.sentiment.train.datasets import Example
from models.sentiment.train.evaluation import class_indices
from models.sentiment.train.methods.recipe import Recipe
from models.sentiment.train.splits import Split
from models.sentiment.train.text_tokens import TextTokens

COMPLETE: Final = "complete"
"""Name of a file in a complete checkpoint, with the SHA-256 of all other files."""

Progress = Callable[[int, int, float], None]
"""Called with (steps done, all steps, latest training loss)."""


class _Trainer(Trainer):  # type: ignore[misc]
    """Trainer with a learning rate of its own for the head."""

    head_learning_rate: float = 0.0
    optimizer: Any

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Create three groups: matrices with weight decay, vectors without, and the head with its own
        rate.
        """
        if self.optimizer is None:
            learning = {name: p for name, p in (model or self.model).named_parameters() if p.requires_grad}
            # In the model's order, because a checkpoint's optimiser state is matched to parameters by
            # position
            head = [name for name in learning if "classifier." in name and "encoder." not in name]
            body = [p for name, p in learning.items() if name not in head]
            matrices, vectors = [p for p in body if p.ndim > 1], [p for p in body if p.ndim <= 1]
            decay, rate = self.args.weight_decay, self.head_learning_rate
            groups = [
                {"params": matrices, "weight_decay": decay},
                {"params": vectors, "weight_decay": 0.0},
                {"params": [learning[name] for name in head], "weight_decay": decay, "lr": rate},
            ]
            kind, arguments = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = kind([group for group in groups if group["params"]], **arguments)
        return self.optimizer


class _ProgressCallback(TrainerCallback):  # type: ignore[misc]
    """Calls `progress` after each step."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.loss = math.nan

    def on_log(self, *_: Any, logs: dict[str, float] | None = None, **__: Any) -> None:
        self.loss = (logs or {}).get("loss", self.loss)

    def on_step_end(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        self.progress(state.global_step, state.max_steps, self.loss)


class _RankAllocator(TrainerCallback):  # type: ignore[misc]
    """Reallocates the rank of AdaLoRA after each optimiser step, before the gradients are cleared."""

    def on_optimizer_step(self, _args: Any, state: Any, _control: Any, model: Any = None, **_: Any) -> None:
        inner = model.module if hasattr(model, "module") else model
        inner.base_model.update_and_allocate(state.global_step + 1)


class _CheckpointMarker(TrainerCallback):  # type: ignore[misc]
    """Marks complete checkpoints. A process that is killed while it saves leaves one without a mark."""

    def on_save(self, args: Any, state: Any, _control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            checkpoint = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
            write_bytes(checkpoint / COMPLETE, _content(checkpoint).encode())


def last_checkpoint(checkpoints: Path) -> Path | None:
    """Return the latest complete checkpoint, None without one."""
    paths = {path.name.rpartition("-")[2]: path for path in checkpoints.glob(f"{PREFIX_CHECKPOINT_DIR}-*")}
    for step in sorted(filter(str.isdecimal, paths), key=int, reverse=True):
        checkpoint = paths[step]
        try:
            if (checkpoint / COMPLETE).read_text() == _content(checkpoint):
                return checkpoint
        except OSError:
            continue
    return None


def _content(checkpoint: Path) -> str:
    return sha256_files(path for path in checkpoint.iterdir() if path.is_file() and path.name != COMPLETE)


class TokenizedDataset(torch.utils.data.Dataset[dict[str, Any]]):  # type: ignore[misc]
    """Token ids and labels of texts, tokenised at construction."""

    def __init__(self, texts: Sequence[str], labels: Ints, tokens: TextTokens) -> None:
        self.rows = [
            {"input_ids": row, "attention_mask": [1] * len(row), "labels": int(label)}
            for row, label in zip(tokens.whole(texts), labels, strict=True)
        ]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return self.rows[i]


def tokenize_examples(
    examples: Sequence[Example], tokens: TextTokens, recipe: Recipe, *, training: bool = False
) -> TokenizedDataset:
    """Tokenise examples; for training also with dates and oversampling, if the recipe enables them."""
    texts = [example.text for example in examples]
    truth = class_indices(examples)
    if training and recipe.dates_in_text:
        texts = _dated(examples, recipe.seed)
    if training and recipe.imbalance == "oversample":
        rows = oversampled(truth, recipe.seed)
        texts, truth = [texts[i] for i in rows], truth[rows]
    return TokenizedDataset(texts, truth, tokens)


def oversampled(labels: Ints, seed: int) -> NDArray[np.int64]:
    """Return the numbers of all rows and of random repetitions that make every class as frequent as the
    largest one.
    """
    rng = np.random.default_rng(seed)
    rows = [np.flatnonzero(labels == label) for label in range(len(LABELS))]
    most = max(map(len, rows))
    extra = [rng.choice(some, most - len(some)) for some in rows if len(some)]
    return rng.permutation(np.concatenate([*rows, *extra])).astype(np.int64)


def _dated(examples: Sequence[Example], seed: int) -> list[str]:
    """Prefix a random half of the texts with their month, so that the model learns to read texts with and
    without it.
    """
    with_date = np.random.default_rng(seed).random(len(examples)) < 0.5
    return [
        f"{datetime.fromtimestamp(example.ts / 1000, UTC):%Y-%m}: {example.text}"
        if example.ts is not None and dated
        else example.text
        for example, dated in zip(examples, with_date, strict=True)
    ]


def make_objective(recipe: Recipe, labels: Ints | None) -> Objective:
    """Return the loss of a recipe. Class weights are inverse frequencies of `labels` (n,)."""
    weights = None
    if recipe.imbalance == "weights" and labels is not None:
        counts = np.bincount(labels, minlength=len(LABELS))
        weights = torch.tensor(len(labels) / (len(LABELS) * np.maximum(counts, 1)), dtype=torch.float32)
    gamma = recipe.focal_gamma if recipe.imbalance == "focal" else 0.0
    return Objective(weights, smoothing=recipe.smoothing, gamma=gamma)


def make_trainer(
    model: nn.Module,
    tokens: TextTokens,
    recipe: Recipe,
    split: Split,
    checkpoints: Path,
    progress: Progress | None,
) -> _Trainer:
    """Return a Trainer that evaluates and saves once an epoch and stops early.

    It ends with the checkpoint of the least validation NLL after temperature scaling. Raises ConfigError if
    the recipe enables bf16 and the processor doesn't support it.
    """
    cpu = not torch.cuda.is_available()
    if recipe.bf16 and not bf16_supported():
        raise ConfigError("bf16 is not supported by this processor", hint="leave --bf16 away")
    validated = bool(split.validation)
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        per_device_train_batch_size=recipe.batch_size,
        per_device_eval_batch_size=64,
        gradient_accumulation_steps=recipe.accumulation,
        num_train_epochs=recipe.epochs,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.clip,
        warmup_steps=recipe.warmup,
        lr_scheduler_type="linear",
        optim={
            "adamw": "adamw_torch",
            "adamw_8bit": "adamw_bnb_8bit",
            "paged_adamw_8bit": "paged_adamw_8bit",
        }[recipe.optimizer],
        bf16=recipe.bf16 or (not cpu and torch.cuda.is_bf16_supported()),
        use_cpu=cpu,
        activation_checkpointing=recipe.checkpointing,
        eval_strategy="epoch" if validated else "no",
        save_strategy="epoch",
        save_total_limit=2,
        load_best_model_at_end=validated,
        metric_for_best_model="nll" if validated else None,
        greater_is_better=False if validated else None,
        train_sampling_strategy="group_by_length",
        seed=recipe.seed,
        label_names=["labels"],
        remove_unused_columns=False,
        dataloader_pin_memory=not cpu,
        logging_steps=10,
        disable_tqdm=True,
        report_to="none",
    )
    callbacks: list[TrainerCallback] = [
        _CheckpointMarker(),
        *([_ProgressCallback(progress)] if progress else []),
    ]
    if validated and recipe.patience:
        callbacks.append(EarlyStoppingCallback(early_stopping_patience=recipe.patience))
    if recipe.method == "adalora":
        callbacks.append(_RankAllocator())
    trainer = _Trainer(
        model=model,
        args=arguments,
        train_dataset=tokenize_examples(split.train, tokens, recipe, training=True),
        eval_dataset=tokenize_examples(split.validation, tokens, recipe) if validated else None,
        data_collator=DataCollatorWithPadding(tokens.tokenizer, pad_to_multiple_of=8 if not cpu else None),
        compute_metrics=_scores,
        callbacks=callbacks,
    )
    trainer.head_learning_rate = recipe.head_learning_rate or recipe.learning_rate or 0.0
    trainer.remove_callback(PrinterCallback)
    return trainer


def _scores(found: Any) -> dict[str, float]:
    """Measure the validation part at the temperature that fits it, because overconfidence is corrected
    after training.
    """
    logits, truth = np.asarray(found.predictions, dtype=np.float64), np.asarray(found.label_ids)
    return measure(softmax(logits, fit_temperature(logits, truth)), truth)


def bf16_supported() -> bool:
    """True if the GPU, or without one the CPU, multiplies bfloat16 natively."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
