"""Baselines of fine-tuning: the majority class, a linear model on words, and the frozen base with a
linear head.
"""

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
from models.sentiment.train.evaluation import class_indices
from models.sentiment.train.methods.recipe import Recipe
from models.sentiment.train.splits import Split
from models.sentiment.train.text_tokens import TextTokens
from models.sentiment.train.trained_model import MergedModel, embed


class Baseline(msgspec.Struct, frozen=True):
    """A measured baseline. `metrics` are those of the test part."""

    name: str
    trainable: int
    cpu_seconds: float
    """Processor time of fitting."""
    ms: float
    """Processor time of one headline in a batch, ms."""
    metrics: dict[str, Estimate]


Scores = Callable[[Sequence[str]], Floats]
"""Texts → log-probabilities (n, 3)."""


def majority(split: Split, _base: str) -> tuple[Scores, int]:
    """Predict the class frequencies of the training part for every text."""
    frequencies = np.bincount(class_indices(split.train), minlength=len(LABELS)) / len(split.train)
    return lambda texts: np.log(np.tile(frequencies, (len(texts), 1))), 0


def tfidf(split: Split, _base: str) -> tuple[Scores, int]:
    """Fit logistic regression on TF-IDF of words (1–2) and characters (2–5)."""
    features = make_union(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, min_df=3),
    )
    model = make_pipeline(features, LogisticRegression(C=10.0, max_iter=1000))
    model.fit([example.text for example in split.train], class_indices(split.train))
    return model.predict_log_proba, int(model[-1].coef_.size)


def frozen(split: Split, base: str) -> tuple[Scores, int]:
    """Fit logistic regression on the mean embeddings of the base, which is not trained."""
    loaded = load_base(base)
    body = MergedModel(SentimentClassifier(loaded.encoder, loaded.pooling)).eval()
    tokens = TextTokens(loaded.tokenizer, Recipe().max_length)

    def embedded(texts: Sequence[str]) -> Any:
        return embed(body, tokens, texts)[1]

    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    model.fit(embedded([example.text for example in split.train]), class_indices(split.train))
    return lambda texts: model.predict_log_proba(embedded(texts)), int(model[-1].coef_.size)


BASELINES: Final[dict[str, Callable[[Split, str], tuple[Scores, int]]]] = {
    "majority": majority,
    "tf-idf + logistic": tfidf,
    "frozen + linear": frozen,
}


def measure(name: str, split: Split, base: str) -> Baseline:
    """Fit one of `BASELINES` on the training part and its temperature on the calibration part; measure
    the test part.
    """
    began = time.process_time()
    scores, trainable = BASELINES[name](split, base)
    cpu_seconds = time.process_time() - began
    temperature = fit_temperature(*_predict(scores, split.calibration)) if split.calibration else 1.0
    began = time.process_time()
    logits, truth = _predict(scores, split.test)
    ms = (time.process_time() - began) * 1000 / len(truth)
    return Baseline(name, trainable, cpu_seconds, ms, estimates(softmax(logits, temperature), truth))


def _predict(scores: Scores, examples: Sequence[Any]) -> tuple[Floats, Ints]:
    return np.asarray(scores([example.text for example in examples]), dtype=np.float64), class_indices(
        examples
    )
