"""What fine-tuning must beat: the majority class, words with a linear model, the frozen base with a linear head."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import StandardScaler

from models.calibration import fit_temperature, softmax
from models.cards import Estimate
from models.classification_metrics import Floats, Ints, estimates
from models.labels import LABELS
from models.sentiment.train.bases import load_base
from models.sentiment.train.classifier import SentimentClassifier
from models.sentiment.train.evaluation import truth_of
from models.sentiment.train.methods.recipe import Recipe
from models.sentiment.train.splits import Split
from models.sentiment.train.trained_model import Served, embed


class Baseline(msgspec.Struct, frozen=True):
    """A measured baseline: trainable numbers, processor seconds to fit, processor ms a headline (batched), metrics on the test part."""

    name: str
    trainable: int
    cpu_seconds: float
    ms: float
    metrics: dict[str, Estimate]


Scores = Callable[[Sequence[str]], Floats]
"""Texts → log-probabilities (n, 3)."""


def majority(split: Split, _base: str) -> tuple[Scores, int]:
    """The class frequencies of the training part, for every text."""
    frequencies = np.bincount(truth_of(split.train), minlength=len(LABELS)) / len(split.train)
    return lambda texts: np.log(np.tile(frequencies, (len(texts), 1))), 0


def tfidf(split: Split, _base: str) -> tuple[Scores, int]:
    """TF-IDF of words (1–2) and characters (2–5) with logistic regression."""
    features = make_union(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, min_df=3),
    )
    model = make_pipeline(features, LogisticRegression(C=10.0, max_iter=1000))
    model.fit([example.text for example in split.train], truth_of(split.train))
    return model.predict_log_proba, int(model[-1].coef_.size)


def frozen(split: Split, base: str) -> tuple[Scores, int]:
    """The base as it came, its mean embedding read by logistic regression."""
    loaded = load_base(base)
    served = Served(SentimentClassifier(loaded.encoder, loaded.pooling)).eval()

    def embedded(texts: Sequence[str]) -> Any:
        return embed(served, loaded.tokenizer, texts, max_length=Recipe().max_length)[1]

    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    model.fit(embedded([example.text for example in split.train]), truth_of(split.train))
    return lambda texts: model.predict_log_proba(embedded(texts)), int(model[-1].coef_.size)


BASELINES: Final[dict[str, Callable[[Split, str], tuple[Scores, int]]]] = {
    "majority": majority,
    "tf-idf + logistic": tfidf,
    "frozen + linear": frozen,
}


def measure(name: str, split: Split, base: str) -> Baseline:
    """Fits one of `BASELINES` on the training part, its temperature on the calibration part, and measures on the test part."""
    began = time.process_time()
    scores, trainable = BASELINES[name](split, base)
    cpu_seconds = time.process_time() - began
    temperature = fit_temperature(*_answers(scores, split.calibration)) if split.calibration else 1.0
    began = time.process_time()
    logits, truth = _answers(scores, split.test)
    ms = (time.process_time() - began) * 1000 / len(truth)
    return Baseline(name, trainable, cpu_seconds, ms, estimates(softmax(logits, temperature), truth))


def _answers(scores: Scores, examples: Sequence[Any]) -> tuple[Floats, Ints]:
    return np.asarray(scores([example.text for example in examples]), dtype=np.float64), truth_of(examples)
