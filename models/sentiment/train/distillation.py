"""Knowledge distillation (Hinton, Vinyals and Dean 2015) into a small, fast student, on text without labels.

The student starts as a copy of some of a teacher's layers, with a vocabulary trimmed to the texts. Every
single character stays in the vocabulary, so other words are spelled from pieces and the student can read any
text.
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
from models.cards import Card, write_card_with_hashes
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
    """Hyper-parameters of a student. `layers` are the teacher's layers that it starts with, in order."""

    layers: tuple[int, ...] = (0, 2, 3, 5)
    common_words: int = 9_000
    """Number of most frequent words that are always kept. WordPiece sorts its vocabulary by frequency."""
    min_count: int = 2
    """Other entries of the vocabulary are kept if the texts use them at least this often."""
    epochs: int = 3
    """0: the student is the copy of the chosen layers and words, without training."""
    batch_size: int = 32
    learning_rate: float = 4e-4
    softness: float = 2.0
    """Temperature at which the logits of teacher and student are compared."""
    state_weight: float = 1.0
    """Weight of the distance between pooled states, relative to that between logits."""
    seed: int = 42


def distil(
    teachers: Sequence[TrainedClassifier],
    texts: Sequence[str],
    output: Path,
    student: Student | None = None,
    *,
    progress: Progress | None = None,
) -> None:
    """Train a student on the teachers' mean logits of `texts`, and write its folder.

    Architecture, tokenizer and pooled states come from the first teacher. The folder is that of a fully tuned
    model: `load_trained` opens it, `export_model` exports it. Its card holds no metrics yet. Raises
    ModelError if the first teacher is not of the BERT family.
    """
    student = student or Student()
    torch.manual_seed(student.seed)
    vocabulary = trimmed_vocabulary(teachers[0].tokenizer.backend_tokenizer, texts, student)
    tokenizer = with_vocabulary(teachers[0].tokenizer.backend_tokenizer, vocabulary)
    model = shallow_copy(teachers[0], student.layers, vocabulary)
    if student.epochs:
        taught = [teacher.logits(texts, batch_size=64) for teacher in teachers]
        logits = np.mean([one for one, _ in taught], axis=0)
        length = teachers[0].card.max_length
        tokens = [tokenizer(text, truncation=True, max_length=length)["input_ids"] for text in texts]
        _fit(model, tokens, logits, taught[0][1], student, progress or (lambda *_: None))
    teacher_card = teachers[0].card
    inherited = (
        "base base_sha256 base_weights_sha256 base_released pooling max_length datasets threshold versions "
        "trained_until"
    )
    card = Card(
        **{name: getattr(teacher_card, name) for name in inherited.split()},
        method="distilled" if student.epochs else teacher_card.method,
        hyper=msgspec.to_builtins(student) | {"layers": ",".join(map(str, student.layers))},
        notes={"teachers": len(teachers), "texts": len(texts), "vocabulary": len(vocabulary)},
    )
    with replaced_folder(output) as folder:
        weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        save_file(weights, folder / FULL_WEIGHTS)
        model.config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        write_card_with_hashes(card, folder, [path.name for path in folder.iterdir()])


def trimmed_vocabulary(tokenizer: Tokenizer, texts: Sequence[str], student: Student) -> list[int]:
    """Return the ids to keep, ascending: special tokens, single characters, common words, and what the
    texts use.
    """
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
    """Return a WordPiece tokenizer with the `kept` entries of its vocabulary, renumbered in their order."""
    state = json.loads(tokenizer.to_str())
    model = state["model"]
    if model["type"] != "WordPiece":
        what = f"a {model['type']} vocabulary cannot be trimmed"
        raise ModelError(what, hint="distil a teacher of the BERT family")
    words = {number: word for word, number in model["vocab"].items()}
    model["vocab"] = renumbered = {words[number]: position for position, number in enumerate(kept)}
    for added in state["added_tokens"]:
        added["id"] = renumbered[added["content"]]
    for special in state["post_processor"]["special_tokens"].values():
        special["ids"] = [renumbered[word] for word in special["tokens"]]
    state["padding"] = state["truncation"] = None
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(state)), **_SPECIAL)


def shallow_copy(
    teacher: TrainedClassifier, layers: Sequence[int], vocabulary: Sequence[int]
) -> SentimentClassifier:
    """Copy some of the teacher's layers and words into a new classifier. Raises ModelError if it lacks
    such layers.
    """
    source = teacher.model.classifier
    config = type(source.config).from_dict(source.config.to_dict())
    blocks = getattr(getattr(source.encoder, "encoder", None), "layer", None)
    if blocks is None or max(layers) >= len(blocks):
        hint = "distil a teacher of the BERT family"
        raise ModelError(f"the teacher has no layers {tuple(layers)}", hint=hint)
    config.num_hidden_layers, config.vocab_size = len(layers), len(vocabulary)
    model = SentimentClassifier(AutoModel.from_config(config), source.pooling)
    state = source.state_dict()
    block = "encoder.encoder.layer."
    chosen = {name: tensor for name, tensor in state.items() if not name.startswith(block)}
    for position, layer in enumerate(layers):
        old, new = f"{block}{layer}.", f"{block}{position}."
        chosen |= {new + name.removeprefix(old): state[name] for name in state if name.startswith(old)}
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
    """Train with AdamW, a warm-up over a tenth of the steps and a linear decay to zero.

    The loss is KL divergence · softness² + state_weight · squared distance of the pooled states.
    """
    targets = torch.tensor(logits, dtype=torch.float32), torch.tensor(states, dtype=torch.float32)
    scale = targets[1].var().item()
    optimizer = torch.optim.AdamW(model.parameters(), lr=student.learning_rate, weight_decay=0.01)
    batches = [batch for epoch in range(student.epochs) for batch in _batches(tokens, student, epoch)]
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _triangle(len(batches)))
    model.train()
    for step, rows in enumerate(batches, 1):
        ids, mask = _padded([tokens[row] for row in rows])
        output = model(input_ids=ids, attention_mask=mask)
        distance = functional.mse_loss(output.embedding, targets[1][rows]) / scale
        loss = (
            _divergence(output.logits, targets[0][rows], student.softness) + student.state_weight * distance
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
    target = functional.softmax(teacher / softness, dim=-1)
    return functional.kl_div(soft, target, reduction="batchmean") * softness**2


def _triangle(steps: int, warm_up: float = 0.1) -> Callable[[int], float]:
    rising, falling = max(math.ceil(warm_up * steps), 1), (1 - warm_up) * steps
    return lambda step: min((step + 1) / rising, (steps - step) / falling)


def _batches(tokens: Sequence[Sequence[int]], student: Student, epoch: int) -> list[NDArray[np.int64]]:
    """Return the row numbers of batches of similar lengths, in a random order for each epoch."""
    rng = np.random.default_rng((student.seed, epoch))
    shuffled = rng.permutation(len(tokens))
    pool = 32 * student.batch_size
    batches = []
    for start in range(0, len(shuffled), pool):
        part = sorted(shuffled[start : start + pool], key=lambda row: len(tokens[row]))
        starts = range(0, len(part), student.batch_size)
        batches += [np.array(part[at : at + student.batch_size]) for at in starts]
    return [batches[number] for number in rng.permutation(len(batches))]


def _padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
    mask: Any = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return ids, mask
