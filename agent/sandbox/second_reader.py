"""The second model of the demo: the starter pooled with a model of words.

The words are learnt at start, in a tenth of a second, from the 1,296 labelled texts that ship with the
program: a naive Bayes classifier of words and pairs of words, calibrated by a temperature. The pool is the
geometric mean of both probabilities, as in an ensemble. It makes other mistakes than the starter
alone; nothing shows that it makes fewer.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from importlib.resources import files
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np

from models.calibration import fit_temperature, softmax
from models.classification_metrics import Floats
from models.labels import LABELS
from models.sentiment import starter_dir
from models.sentiment.ensemble.pooling import pool
from models.sentiment.serve.scorer import Scorer

_WORD: Final = re.compile(r"[a-z']+")
_PRIOR: Final = 0.5  # texts of each class that are added with the word, and without it
_SHOWN: Final = 2  # words in a reason
_WEIGHTS: Final = np.array([0.5, 0.5])


class PooledAnswer(NamedTuple):
    """Probabilities (3,) in the order of `LABELS`, and the reason for the likeliest class."""

    probabilities: Floats
    reason: str


class WordModel:
    """Naive Bayes over which words and pairs of words a text has."""

    def __init__(self, texts: Iterable[tuple[str, str]]) -> None:
        """Learn from texts with their labels."""
        rows = [(sorted(_words(text)), LABELS.index(label)) for text, label in texts]
        self._index: dict[str, int] = {}
        for words, _ in rows:
            for word in words:
                self._index.setdefault(word, len(self._index))
        truth = np.array([label for _, label in rows])
        self._texts = np.bincount(truth, minlength=len(LABELS)).astype(float)
        self._counts = np.zeros((len(self._index), len(LABELS)))
        known = [[self._index[word] for word in words] for words, _ in rows]
        for places, label in zip(known, truth, strict=True):
            self._counts[places, label] += 1
        held_out = np.array(
            [self._left_out(places, label) for places, label in zip(known, truth, strict=True)]
        )
        self.accuracy = float((held_out.argmax(axis=1) == truth).mean())
        """Share of the texts whose label the others predict."""
        self._temperature = fit_temperature(held_out, truth)

    def predict(self, text: str) -> Floats:
        """Return calibrated probabilities (3,)."""
        places = [place for word in _words(text) if (place := self._index.get(word)) is not None]
        logits = _logits(self._counts[places], self._texts)
        return np.asarray(softmax(logits[None], self._temperature)[0])

    def strongest(self, text: str, label: int) -> list[str]:
        """Return the words that make a class likelier, strongest first."""
        shares = (self._counts + _PRIOR) / (self._texts + 2 * _PRIOR)
        others = [column for column in range(len(LABELS)) if column != label]
        weights = {
            word: float(np.log(shares[place, label] / shares[place, others].max()))
            for word in _words(text)
            if (place := self._index.get(word)) is not None
        }
        found = [word for word in weights if weights[word] > 0]
        return sorted(found, key=lambda word: (-weights[word], word))[:_SHOWN]

    def _left_out(self, places: list[int], label: int) -> Floats:
        """Return the logits of a text by the model of all others."""
        counts, texts = self._counts[places], self._texts.copy()
        counts[:, label] -= 1
        texts[label] -= 1
        return _logits(counts, texts)


class SecondReader:
    """The pool of the starter and the words."""

    def __init__(self) -> None:
        self.starter = Scorer.load(starter_dir(), threads=1)
        corpus = files("models.sentiment.train").joinpath("corpus", "headlines.csv")
        with corpus.open(encoding="utf-8") as file:
            self.words = WordModel((row["text"], row["label"]) for row in csv.DictReader(file))

    def read(self, headline: str) -> PooledAnswer:
        """Score a headline. If the starter abstains, the words decide."""
        (score,) = self.starter.score([headline])
        own = np.array([np.nan] * len(LABELS))
        if not score.abstained:
            own = np.array([score.bearish, score.neutral, score.bullish])
        answers = np.array([[own], [self.words.predict(headline)]])
        probabilities = pool(answers, _WEIGHTS, 1.0)[0]
        likeliest = int(probabilities.argmax())
        words = self.words.strongest(headline, likeliest)
        said = ", ".join(f'"{word}"' for word in words)
        reason = f"the words {said} say so" if said else "no single word says so"
        if not score.abstained:
            reason += f"; the starter says {LABELS[int(own.argmax())]} {own.max():.2f}"
        return PooledAnswer(probabilities, reason)


def _words(text: str) -> set[str]:
    words = _WORD.findall(text.lower())
    return {*words, *(f"{first} {second}" for first, second in pairwise(words))}


def _logits(counts: Floats, texts: Floats) -> Floats:
    """Return log P(class) + the sum of log P(word | class), less its largest value."""
    logits = np.log((counts + _PRIOR) / (texts + 2 * _PRIOR)).sum(axis=0) + np.log(texts / texts.sum())
    return np.asarray(logits - logits.max())
