"""Evaluation of a language model as it is: by its label words, with zero or a few examples in its prompt."""

from __future__ import annotations

from typing import Any

import torch

from models.calibration import softmax
from models.classification_metrics import report
from models.sentiment.train.bases import load_base
from models.sentiment.train.classifier import SentimentClassifier
from models.sentiment.train.datasets import Dataset
from models.sentiment.train.evaluation import class_indices
from models.sentiment.train.label_words import choose_examples
from models.sentiment.train.methods import UNTRAINED
from models.sentiment.train.methods.recipe import Recipe
from models.sentiment.train.trained_model import embed, with_prompt
from models.sentiment.train.word_head import make_word_head


def evaluate_untrained(
    base: str, dataset: Dataset, shots: int, *, seed: int = 42, resamples: int = 1000
) -> dict[str, Any]:
    """Return what `tapewire evaluate` prints for a base that isn't trained.

    The examples of the prompt are drawn from the set and not measured. The prompt's own bias is removed;
    without a calibration part no temperature is fitted. Raises as `make_word_head` does.
    """
    recipe = Recipe(method=UNTRAINED, head="words", shots=shots, seed=seed)
    loaded = load_base(base)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded.encoder.to(device)
    head = make_word_head(loaded, recipe, dataset.examples)
    classifier = SentimentClassifier(loaded.encoder, loaded.pooling, words=head.logits).eval().to(device)
    shown = {example.text for example in choose_examples(dataset.examples, shots, seed)}
    measured = [example for example in dataset.examples if example.text not in shown]
    model = with_prompt(classifier, head.prompt).to(device)
    logits, _ = embed(model, head.tokens, [example.text for example in measured], device=device)
    return {
        "model": loaded.name,
        "data": dataset.record.name,
        "shots": shots,
        "words": list(head.template.words),
        "seen": False,
        **report(softmax(logits, 1.0), class_indices(measured), resamples=resamples),
    }
