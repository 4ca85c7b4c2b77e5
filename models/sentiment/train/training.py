"""Training of a sentiment model: from base, method and data to a folder with adapter, tokenizer, card and
plot.
"""

from __future__ import annotations

import importlib.metadata
import math
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import torch
from accelerate import PartialState
from peft import PeftModel, get_peft_model, prepare_model_for_kbit_training
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedTokenizerBase, Trainer, set_seed

from agent.core.errors import ModelError, UsageError
from agent.system.atomic import replaced_folder, write_bytes
from models.calibration import before_after, fit_temperature, plot_reliability, softmax
from models.cards import (
    CARD_NAME,
    Card,
    DatasetRecord,
    fingerprint,
    latest_of,
    read_card,
    write_card_with_hashes,
)
from models.classification_metrics import Floats, Ints, coverage, estimates
from models.sentiment.serve.drift import reference_shares
from models.sentiment.serve.headline_score import HeadlineScore
from models.sentiment.train.bases import EMBEDDED, Base, load_base
from models.sentiment.train.catastrophic_forgetting import measure_forgetting
from models.sentiment.train.classifier import SentimentClassifier, WordLogits
from models.sentiment.train.evaluation import class_indices
from models.sentiment.train.methods import METHODS, UNTRAINED, WORD_METHODS, Method, MethodContext, get_method
from models.sentiment.train.methods.recipe import Recipe, resolve
from models.sentiment.train.splits import Split
from models.sentiment.train.text_tokens import TextTokens
from models.sentiment.train.trained_model import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    FULL_WEIGHTS,
    TOKENIZER,
    load_trained,
)
from models.sentiment.train.trainer import (
    Progress,
    TokenizedDataset,
    last_checkpoint,
    make_objective,
    make_trainer,
    tokenize_examples,
)
from models.sentiment.train.word_head import make_word_head
from models.sentiment.train.word_rows import WORDS_SHA256, rows_sha256

LogitsAndLabels = tuple[Floats, Ints]
"""(logits (n, 3), true classes (n,))."""

CHECKPOINTS: Final = ".checkpoints"
"""Suffix of the folder beside the output that holds the checkpoints until the training is complete."""
RELIABILITY: Final = "reliability.png"
_TOKENIZER_FILES: Final = (
    "tokenizer_config.json special_tokens_map.json added_tokens.json vocab.txt vocab.json merges.txt "
    "tokenizer.model"
    " chat_template.jinja"
)
_REPLACED: Final = {
    *(
        CARD_NAME,
        ADAPTER_CONFIG,
        ADAPTER_WEIGHTS,
        "adapter_model.bin",
        FULL_WEIGHTS,
        "config.json",
        TOKENIZER,
    ),
    *(RELIABILITY, "checkpoints", *_TOKENIZER_FILES.split()),
}
"""Files that a training by any method and version may write. Other entries of the output folder are kept."""
_VERSIONS: Final = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "tokenizers", "numpy")
_OUT_OF_MEMORY: Final = ("out of memory", "can't allocate memory", "cannot allocate memory")


class TrainingResult(msgspec.Struct, frozen=True):
    """Result of a training. `trainable` and `parameters` are counts of weights."""

    folder: Path
    card: Card
    recipe: Recipe
    trainable: int
    parameters: int
    seconds: float
    peak_memory: int
    """Bytes of the accelerator, or without one of this process."""
    losses: tuple[tuple[int, float], ...] = ()
    """Mean training loss of the last steps before each of these steps."""


def train(
    recipe: Recipe,
    split: Split,
    datasets: Sequence[DatasetRecord],
    output: Path,
    *,
    base: str = EMBEDDED,
    resume: bool = False,
    threshold: float = 0.7,
    progress: Progress | None = None,
    announce: Callable[[Recipe, int, int], None] | None = None,
    forgetting: bool = False,
) -> TrainingResult:
    """Fine-tune `base` on `split.train` and write the model into `output`.

    The validation part stops training early, the calibration part fits the temperature, and the test part is
    measured. `announce` receives (resolved recipe, trainable weights, all weights) before the first step.
    `forgetting` adds the check for catastrophic forgetting to the card.

    Raises ModelError if the base cannot be loaded or memory runs out, UsageError and ConfigError for settings
    that don't work with this base or on this machine.
    """
    set_seed(recipe.seed)
    method = get_method(recipe.method)
    if recipe.method not in (fitting := WORD_METHODS if recipe.head == "words" else METHODS):
        what = f"method {recipe.method} doesn't work with --head {recipe.head}"
        raise UsageError(what, hint=f"methods that do: {', '.join(fitting)}")
    recipe = resolve(recipe, method.defaults, len(split.train))
    processes = PartialState(cpu=not torch.cuda.is_available())
    checkpoints = checkpoints_of(output)
    if processes.is_main_process:
        _prepare_checkpoints(output, recipe, datasets, resume)
    processes.wait_for_everyone()
    try:
        loaded = load_base(base, four_bit=method.four_bit)
        head = make_word_head(loaded, recipe, split.train) if recipe.head == "words" else None
        tokens = head.tokens if head else TextTokens(loaded.tokenizer, recipe.max_length)
        steps = steps_of(recipe, len(split.train) // processes.num_processes)
        labels = class_indices(split.train)
        words = head.logits if head else None
        model = build_model(loaded, recipe, method, steps=steps, labels=labels, words=words)
        trainable, parameters = count_parameters(model) if method.trains else (0, count_parameters(model)[1])
        if announce:
            announce(recipe, trainable, parameters)
        trainer = make_trainer(model, tokens, recipe, split, checkpoints, progress)
        began = time.monotonic()
        if method.trains:
            trainer.train(
                resume_from_checkpoint=str(last_checkpoint(checkpoints)) if resume else None,
                ignore_keys_for_eval=["embedding"],
            )
        seconds = time.monotonic() - began
        predicted = {
            part: _predict(trainer, tokenize_examples(getattr(split, part), tokens, recipe))
            for part in ("validation", "calibration", "test")
            if getattr(split, part)
        }
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _out_of_memory(error, recipe) from error
    except RuntimeError as error:  # the CPU allocator has no error class
        if any(words in str(error).lower() for words in _OUT_OF_MEMORY):
            raise _out_of_memory(error, recipe) from error
        raise
    card = _card(loaded, recipe, split, datasets, predicted, threshold)
    if head:
        card.template = head.template
        card.notes[WORDS_SHA256] = rows_sha256(head.logits)
    card.notes |= {
        "seconds": round(seconds, 1),
        "trainable_parameters": trainable,
        "peak_memory_bytes": peak_memory(),
    }
    if trainer.is_world_process_zero():
        with replaced_folder(output, keep=lambda name: name not in _REPLACED) as folder:
            _save(model, loaded.tokenizer, card, folder, predicted)
            if forgetting and method.trains:
                card.notes |= measure_forgetting(load_trained(folder), base)
                write_card_with_hashes(card, folder, card.files)
        shutil.rmtree(checkpoints, ignore_errors=True)
    losses = tuple((row["step"], row["loss"]) for row in trainer.state.log_history if "loss" in row)
    return TrainingResult(output, card, recipe, trainable, parameters, seconds, peak_memory(), losses)


def build_model(
    base: Base,
    recipe: Recipe,
    method: Method,
    *,
    steps: int,
    labels: Ints | None = None,
    words: WordLogits | None = None,
) -> nn.Module:
    """Return the base with a head, or with `words` instead of one, wrapped by the method, for a resolved
    recipe.

    Class weights are computed from `labels` (n,).
    """
    if method.four_bit:
        prepare_model_for_kbit_training(base.encoder, use_gradient_checkpointing=recipe.checkpointing)
    classifier = SentimentClassifier(base.encoder, base.pooling, words=words)
    # The base's head was not trained on the mean of tokens
    if words is None and base.head is not None and base.pooling != "mean":
        weight, bias = base.head
        classifier.classifier.load_state_dict({"weight": weight.float(), "bias": bias.float()})
    classifier.objective = make_objective(recipe, labels)
    config = method.configure(recipe, MethodContext(base.encoder, steps))
    if config is None:
        return classifier
    try:
        return get_peft_model(classifier, config)
    except ValueError as error:
        what = f"{recipe.method} does not fit base model {base.name}: {error}"
        raise UsageError(what, hint="choose other --targets or method") from error


def checkpoints_of(output: Path) -> Path:
    """Return the folder of checkpoints of a training that writes `output`."""
    return output.resolve().with_name(output.resolve().name + CHECKPOINTS)


def steps_of(recipe: Recipe, samples: int) -> int:
    """Return the number of optimiser steps of a training on `samples` samples per process."""
    return math.ceil(math.ceil(samples / recipe.batch_size / recipe.accumulation) * (recipe.epochs or 1))


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Return the numbers of (trainable, all) weights; a 4-bit weight counts as one."""
    if isinstance(model, PeftModel):
        trainable, every = model.get_nb_trainable_parameters()
        return int(trainable), int(every)
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, learns in sizes if learns), sum(size for size, _ in sizes)


def peak_memory() -> int:
    """Return the most memory that this process used, in bytes: of the accelerator, or without one the
    resident set.
    """
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _predict(trainer: Trainer, rows: TokenizedDataset) -> LogitsAndLabels:
    found = trainer.predict(rows, ignore_keys=["embedding"])
    # Trainer sorts rows by length, so the labels must come from its result too
    return np.asarray(found.predictions, dtype=np.float64), np.asarray(found.label_ids, dtype=np.int64)


def _prepare_checkpoints(
    output: Path, recipe: Recipe, datasets: Sequence[DatasetRecord], resume: bool
) -> None:
    """Create an empty folder of checkpoints, or check that it belongs to the same recipe and data to resume
    from.

    Raises UsageError if it doesn't, or if `output` holds anything but a sentiment model.
    """
    checkpoints = checkpoints_of(output)
    settings = {"recipe": recipe, "data": [record.sha256 for record in datasets]}
    content = msgspec.json.format(msgspec.json.encode(settings), indent=1)
    recorded = checkpoints / "recipe.json"
    if resume:
        if last_checkpoint(checkpoints) is None or not recorded.is_file():
            raise UsageError(
                f"{checkpoints} holds no checkpoint to resume from", hint="train without --resume"
            )
        if recorded.read_bytes() != content:
            what = f"{checkpoints}: these are checkpoints of another recipe or other data"
            raise UsageError(what, hint="resume with the options and data that the training was started with")
        return
    if output.exists() and (
        not output.is_dir() or (any(output.iterdir()) and not _is_sentiment_model(output))
    ):
        raise UsageError(f"--output {output} holds something else", hint="name a new or empty folder")
    shutil.rmtree(checkpoints, ignore_errors=True)
    checkpoints.mkdir(parents=True)
    write_bytes(recorded, content)


def _is_sentiment_model(output: Path) -> bool:
    try:
        return read_card(output).kind == "sentiment"
    except ModelError:
        return False


def _card(
    base: Base,
    recipe: Recipe,
    split: Split,
    datasets: Sequence[DatasetRecord],
    predicted: dict[str, LogitsAndLabels],
    threshold: float,
) -> Card:
    temperature = fit_temperature(*predicted["calibration"]) if "calibration" in predicted else 1.0
    measured = next((part for part in ("test", "calibration") if part in predicted), None)
    card = Card(
        base=base.name,
        base_sha256=base.sha256,
        base_weights_sha256=base.weights_sha256,
        base_released=base.released,
        method=recipe.method,
        pooling=base.pooling,
        max_length=recipe.max_length,
        hyper=recipe.to_dict(),
        datasets=tuple(datasets),
        temperature=temperature,
        threshold=threshold,
        metrics={
            part: estimates(softmax(logits, temperature), truth)
            for part, (logits, truth) in predicted.items()
        },
        versions={name: importlib.metadata.version(name) for name in _VERSIONS},
        trained_until=latest_of(datasets),
    )
    if measured:
        logits, truth = predicted[measured]
        probabilities = softmax(logits, temperature)
        card.coverage = coverage(probabilities, truth)
        if np.isfinite(probabilities).all():
            card.reference = reference_shares(HeadlineScore(*row) for row in probabilities.tolist())
        card.notes |= {
            f"{measured}_{name}_{when}": value
            for when, values in before_after(logits, truth, temperature).items()
            for name, value in values.items()
        }
    if base.padding:
        card.notes["pad_token"] = base.padding
    card.notes |= {f"rows_{part}": rows for part, rows in split.sizes().items()}
    counts = Counter(example.label for example in split.train)
    card.notes |= {f"labels_{label}": count for label, count in sorted(counts.items())}
    return card


def _save(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    card: Card,
    folder: Path,
    predicted: dict[str, LogitsAndLabels],
) -> None:
    if isinstance(model, PeftModel):
        model.peft_config["default"].base_model_name_or_path = card.base
        model.save_pretrained(folder, save_embedding_layers=False)
        # peft writes a model card with blanks to fill in; card.json replaces it
        (folder / "README.md").unlink(missing_ok=True)
        weights = [folder / ADAPTER_WEIGHTS]
    elif card.method == UNTRAINED:
        weights = []
    else:
        weights = [folder / FULL_WEIGHTS]
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, weights[0])
        model.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    card.fingerprint = fingerprint([*weights, folder / TOKENIZER], card.temperature, card.template)
    write_card_with_hashes(card, folder, [path.name for path in folder.iterdir() if path.is_file()])
    part = next((part for part in ("test", "calibration") if part in predicted), None)
    if part:
        plot_reliability(*predicted[part], card.temperature, folder / RELIABILITY)


def _out_of_memory(error: BaseException, recipe: Recipe) -> ModelError:
    half = max(recipe.batch_size // 2, 1)
    return ModelError(
        f"out of memory while training ({str(error).partition('.')[0][:120] or type(error).__name__})",
        hint=f"--batch-size {half} --accumulation {recipe.accumulation * 2}, --checkpointing, --max-length "
        "64, --method qlora",
    )
