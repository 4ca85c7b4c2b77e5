"""Distillation: a student is smaller than its teacher, tokenizes any text, and predicts alike."""

from __future__ import annotations

import string
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from agent.core.errors import ModelError
from models.cards import Card, read_card
from models.sentiment.train.classifier import SentimentClassifier
from models.sentiment.train.datasets import Example
from models.sentiment.train.distillation import (
    Student,
    distil,
    shallow_copy,
    trimmed_vocabulary,
    with_vocabulary,
)
from models.sentiment.train.trained_model import MergedModel, TrainedClassifier, load_trained

pytestmark = pytest.mark.train

LEARNER = Student(layers=(0, 2), common_words=3, min_count=1, epochs=40, batch_size=16, learning_rate=2e-3)


@pytest.fixture(scope="module")
def teacher(headlines: tuple[Example, ...]) -> TrainedClassifier:
    words = sorted(
        {word for example in headlines for word in example.text.split()}
        | {"the", "of", "and", "##s", "never", "unused"}
    )
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *string.ascii_lowercase,
        *(f"##{c}" for c in string.ascii_lowercase),
    ]
    vocabulary = {
        word: number for number, word in enumerate(dict.fromkeys([*pieces, "the", "of", "and", *words]))
    }
    inner = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    inner.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
    torch.manual_seed(1)
    config = transformers.BertConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=64,
        vocab_size=len(vocabulary),
    )
    classifier = SentimentClassifier(transformers.BertModel(config), "mean")
    classifier.classifier.weight.data *= 100  # spread the probabilities of the random model
    card = Card(base="tiny", method="lora", max_length=32)
    return TrainedClassifier(MergedModel(classifier.eval()), tokenizer, card)


def test_the_student_learns_the_teachers_probabilities(
    teacher: TrainedClassifier, headlines: tuple[Example, ...], tmp_path: Path
) -> None:
    texts = [example.text for example in headlines]
    distil([teacher], texts[:110], tmp_path, LEARNER)
    student = load_trained(tmp_path)
    unseen = texts[110:]
    error = np.abs(student.probabilities(unseen) - teacher.probabilities(unseen)).mean()
    guess = np.abs(teacher.probabilities(texts[:110]).mean(axis=0) - teacher.probabilities(unseen)).mean()
    assert error < 0.5 * guess
    assert read_card(tmp_path).method == "distilled"
    assert student.model.classifier.config.num_hidden_layers == 2


def test_the_trimmed_vocabulary_keeps_characters_common_tokens_and_used_tokens(
    teacher: TrainedClassifier,
) -> None:
    tokenizer = teacher.tokenizer.backend_tokenizer
    kept = {
        tokenizer.id_to_token(number) for number in trimmed_vocabulary(tokenizer, ["bitcoin surges"], LEARNER)
    }
    assert {"[CLS]", "[UNK]", "a", "##z", "the", "of", "and", "bitcoin", "surges"} <= kept
    assert not {"unused", "never", "plunges"} & kept


def test_a_token_outside_the_trimmed_vocabulary_is_split_into_characters(teacher: TrainedClassifier) -> None:
    tokenizer = teacher.tokenizer.backend_tokenizer
    trimmed = with_vocabulary(tokenizer, trimmed_vocabulary(tokenizer, ["bitcoin surges"], LEARNER))
    assert trimmed.tokenize("bitcoin never surges") == ["bitcoin", "n", "##e", "##v", "##e", "##r", "surges"]
    assert trimmed("the").input_ids == [
        trimmed.cls_token_id,
        trimmed.convert_tokens_to_ids("the"),
        trimmed.sep_token_id,
    ]


def test_a_copy_with_all_layers_and_tokens_equals_the_teacher(
    teacher: TrainedClassifier, headlines: tuple[Example, ...]
) -> None:
    everything = range(teacher.tokenizer.vocab_size)
    twin = TrainedClassifier(
        MergedModel(shallow_copy(teacher, (0, 1, 2), everything).eval()), teacher.tokenizer, teacher.card
    )
    texts = [example.text for example in headlines[:8]]
    assert twin.logits(texts)[0] == pytest.approx(teacher.logits(texts)[0], abs=1e-5)


def test_layers_that_the_teacher_lacks_are_refused(teacher: TrainedClassifier) -> None:
    with pytest.raises(ModelError, match=r"no layers \(0, 9\)"):
        shallow_copy(teacher, (0, 9), [0, 1])
