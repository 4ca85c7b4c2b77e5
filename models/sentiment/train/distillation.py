"""A small, fast student that answers as its teachers do (Hinton, Vinyals and Dean 2015), on text that needs no labels.

The student is a copy of some of a teacher's layers with the embeddings of the words that its field uses. Words that were left
out are spelled from pieces and characters, of which every one is kept: there is nothing it cannot read.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional
from transformers import AutoModel, PreTrainedTokenizerFast

from agent.core.errors import ModelError
from agent.system.atomic import replaced_folder
from models.cards import Card, seal
from models.classification_metrics import Floats
from models.sentiment.train.classifier import SentimentClassifier
from models.sentiment.train.trained_model import FULL_WEIGHTS, TrainedClassifier
from models.sentiment.train.trainer import Progress

PIECE: Final = "##"
_SPECIAL: Final = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


class Student(msgspec.Struct, frozen=True):
    """How a student is made. `layers` are those of the teacher that it begins with, in order."""

    layers: tuple[int, ...] = (0, 2, 3, 5)
    common_words: int = 9_000
    """So many of the vocabulary's first entries, which WordPiece sorts by frequency, are kept whatever the texts hold."""
    min_count: int = 2
    """Other entries are kept if the texts use them so often."""
    epochs: int = 3
    """0: nothing is learned, the chosen layers and words of the teacher are all there is."""
    batch_size: int = 32
    learning_rate: float = 4e-4
    softness: float = 2.0
    """Temperature at which teacher and student are compared."""
    state_weight: float = 1.0
    """Weight of the distance of the pooled states, beside that of the answers."""
    seed: int = 42


def distil(
    teachers: Sequence[TrainedClassifier],
    texts: Sequence[str],
    output: Path,
    student: Student | None = None,
    *,
    progress: Progress | None = None,
) -> None:
    """Train a student of the first teacher's kind on the teachers' mean answers to `texts`, and write its folder.

    The folder is one of a fully tuned model: `load_trained` opens it, `export_model` exports it. Its card says where it comes
    from; nothing is measured yet. Raises ModelError where that teacher is no BERT.
    """
    student = student or Student()
    torch.manual_seed(student.seed)
    vocabulary = trimmed_vocabulary(teachers[0].tokenizer.backend_tokenizer, texts, student)
    tokenizer = with_vocabulary(teachers[0].tokenizer.backend_tokenizer, vocabulary)
    model = shallow_copy(teachers[0], student.layers, vocabulary)
    if student.epochs:
        answers = [teacher.logits(texts, batch_size=64) for teacher in teachers]
        logits = np.mean([answer for answer, _ in answers], axis=0)
        tokens = [
            tokenizer(text, truncation=True, max_length=teachers[0].card.max_length)["input_ids"]
            for text in texts
        ]
        _fit(model, tokens, logits, answers[0][1], student, progress or (lambda *_: None))
    of = teachers[0].card
    card = Card(
        base=of.base, base_sha256=of.base_sha256, base_weights_sha256=of.base_weights_sha256,
        base_released=of.base_released,
        method="distilled" if student.epochs else of.method, pooling=of.pooling,
        max_length=of.max_length, hyper=msgspec.to_builtins(student) | {"layers": ",".join(map(str, student.layers))},
        datasets=of.datasets, threshold=of.threshold, versions=of.versions, trained_until=of.trained_until,
        notes={"teachers": len(teachers), "texts": len(texts), "vocabulary": len(vocabulary)},
    )  # fmt: skip
    with replaced_folder(output) as folder:
        save_file(
            {name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / FULL_WEIGHTS
        )
        model.config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        seal(card, folder, [path.name for path in folder.iterdir()])


def trimmed_vocabulary(tokenizer: Tokenizer, texts: Sequence[str], student: Student) -> list[int]:
    """Ids to keep, ascending: special ones, every single character, the commonest words, and what the texts use."""
    used = Counter(token for encoding in tokenizer.encode_batch_fast(list(texts)) for token in encoding.ids)
    words = tokenizer.get_vocab()
    first_word = min(number for word, number in words.items() if word in ("the", "of", "and"))
    return sorted(
        number
        for word, number in words.items()
        if word in _SPECIAL.values()
        or len(word.removeprefix(PIECE)) == 1
        or first_word <= number < first_word + student.common_words
        or used[number] >= student.min_count
    )


def with_vocabulary(tokenizer: Tokenizer, kept: Sequence[int]) -> PreTrainedTokenizerFast:
    """The same WordPiece tokenizer over some of its entries, renumbered in their order."""
    told = json.loads(tokenizer.to_str())
    if told["model"]["type"] != "WordPiece":
        raise ModelError(
            f"a {told['model']['type']} vocabulary cannot be trimmed",
            hint="distil a teacher of the BERT family",
        )
    words = {number: word for word, number in told["model"]["vocab"].items()}
    told["model"]["vocab"] = renumbered = {words[number]: position for position, number in enumerate(kept)}
    for added in told["added_tokens"]:
        added["id"] = renumbered[added["content"]]
    for special in told["post_processor"]["special_tokens"].values():
        special["ids"] = [renumbered[word] for word in special["tokens"]]
    told["padding"] = told["truncation"] = None
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(told)), **_SPECIAL)


def shallow_copy(
    teacher: TrainedClassifier, layers: Sequence[int], vocabulary: Sequence[int]
) -> SentimentClassifier:
    """A classifier of the teacher's chosen layers and words. Raises ModelError where it has no such layers."""
    source = teacher.model.classifier
    config = type(source.config).from_dict(source.config.to_dict())
    blocks = getattr(getattr(source.encoder, "encoder", None), "layer", None)
    if blocks is None or max(layers) >= len(blocks):
        raise ModelError(
            f"the teacher has no layers {tuple(layers)}", hint="distil a teacher of the BERT family"
        )
    config.num_hidden_layers, config.vocab_size = len(layers), len(vocabulary)
    model = SentimentClassifier(AutoModel.from_config(config), source.pooling)
    state = source.state_dict()
    block = "encoder.encoder.layer."
    chosen = {name: tensor for name, tensor in state.items() if not name.startswith(block)}
    for position, layer in enumerate(layers):
        of, to = f"{block}{layer}.", f"{block}{position}."
        chosen |= {
            to + name.removeprefix(of): tensor for name, tensor in state.items() if name.startswith(of)
        }
    words = "encoder.embeddings.word_embeddings.weight"
    chosen[words] = state[words][list(vocabulary)]
    model.load_state_dict(chosen)
    return model


def _fit(
    model: SentimentClassifier,
    tokens: Sequence[Sequence[int]],
    logits: Floats,
    states: Floats,
    student: Student,
    progress: Progress,
) -> None:
    """AdamW, a tenth of warm-up, then a straight line to zero; the loss is KL · softness² + weight · squared distance."""
    targets = torch.tensor(logits, dtype=torch.float32), torch.tensor(states, dtype=torch.float32)
    scale = targets[1].var().item()
    optimizer = torch.optim.AdamW(model.parameters(), lr=student.learning_rate, weight_decay=0.01)
    batches = [batch for epoch in range(student.epochs) for batch in _batches(tokens, student, epoch)]
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _triangle(len(batches)))
    model.train()
    for step, rows in enumerate(batches, 1):
        ids, mask = _padded([tokens[row] for row in rows])
        output = model(input_ids=ids, attention_mask=mask)
        answers = _divergence(output.logits, targets[0][rows], student.softness)
        loss = (
            answers + student.state_weight * functional.mse_loss(output.embedding, targets[1][rows]) / scale
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        progress(step, len(batches), loss.item())
    model.eval()


def _divergence(logits: Tensor, teacher: Tensor, softness: float) -> Tensor:
    soft = functional.log_softmax(logits / softness, dim=-1)
    return (
        functional.kl_div(soft, functional.softmax(teacher / softness, dim=-1), reduction="batchmean")
        * softness**2
    )


def _triangle(steps: int, warm_up: float = 0.1) -> Callable[[int], float]:
    return lambda step: min(
        (step + 1) / max(math.ceil(warm_up * steps), 1), (steps - step) / ((1 - warm_up) * steps)
    )


def _batches(tokens: Sequence[Sequence[int]], student: Student, epoch: int) -> list[NDArray[np.int64]]:
    """Row numbers of batches of like lengths, in random order, another one each epoch."""
    rng = np.random.default_rng((student.seed, epoch))
    shuffled = rng.permutation(len(tokens))
    pool = 32 * student.batch_size
    batches = []
    for start in range(0, len(shuffled), pool):
        part = sorted(shuffled[start : start + pool], key=lambda row: len(tokens[row]))
        batches += [
            np.array(part[at : at + student.batch_size]) for at in range(0, len(part), student.batch_size)
        ]
    return [batches[number] for number in rng.permutation(len(batches))]


def _padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
    mask: Any = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return ids, mask
