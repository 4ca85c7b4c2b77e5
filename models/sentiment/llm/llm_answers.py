"""From completions to log-probabilities of the three classes: pure functions.

With log-probabilities, only those of the label words at the first token of the answer count; what the model
writes is for people. With JSON, only an object that fits the schema counts. So a headline that persuades the
model can change an answer about itself, never the form of it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np

from agent.data.text import one_line
from agent.system.untrusted import JSON_DECODE_ERRORS
from models.classification_metrics import Floats
from models.labels import LABELS
from models.sentiment.llm.llm_prompt import LABEL_WORDS, MAX_REASON

LEAST_MASS: Final = 0.5
"""Least probability of all label words together. Below it the model is about to write something else."""

LEAST_PROBABILITY: Final = 1e-6
"""Probability of a label word that isn't among the alternatives of the token."""

MAX_ANSWER: Final = 1_000
"""Characters that are kept of a verbatim answer."""

_LEAST_PREFIX: Final = 2
_TOLERANCE: Final = 1e-3  # by which rounded probabilities may sum to more than 1
_PUNCTUATION: Final = " \t\r\n\"'`*:,.;-–—"
_FIELDS: Final = ("sentiment", "reason")


class InvalidAnswer(Exception):
    """An answer that isn't of the requested form. The message is one short line."""


class LowMass(InvalidAnswer):
    """The label words have less than `LEAST_MASS` of the probability."""


class Sample(msgspec.Struct, frozen=True):
    """A valid answer by schema."""

    label: str
    reason: str = ""


class _Alternative(msgspec.Struct):
    token: str
    logprob: float


class _Token(msgspec.Struct):
    token: str
    top_logprobs: list[_Alternative]


class _Logprobs(msgspec.Struct):
    content: list[_Token]


def label_of(token: str) -> str:
    """Return the label whose word the token begins, or "" if it begins none or more than one.

    Case and leading white space don't matter. A token that holds the whole word and more doesn't count.
    """
    start = token.strip().lower()
    if len(start) < _LEAST_PREFIX:
        return ""
    found = [label for label, word in zip(LABELS, LABEL_WORDS, strict=True) if word.startswith(start)]
    return found[0] if len(found) == 1 else ""


def label_log_probabilities(logprobs: bytes) -> Floats:
    """Return the log-probabilities (3,) of the labels at the first token of the answer that isn't white
    space.

    They are renormalised over the labels: log(p / sum of p). Alternatives that begin the same label's word
    ("bull", " Bullish") are added up. Raises LowMass, or InvalidAnswer if the log-probabilities have
    another shape, or stand for probabilities whose sum is above 1.
    """
    try:
        tokens = msgspec.json.decode(logprobs, type=_Logprobs).content
    except JSON_DECODE_ERRORS:
        raise InvalidAnswer("log-probabilities of another shape") from None
    first = next((token for token in tokens if token.token.strip()), None)
    if first is None:
        raise InvalidAnswer("log-probabilities of no token")
    total, masses = 0.0, np.zeros(len(LABELS))
    for alternative in first.top_logprobs:
        probability = math.exp(min(alternative.logprob, 1.0))
        total += probability
        if label := label_of(alternative.token):
            masses[LABELS.index(label)] += probability
    if total > 1 + _TOLERANCE:
        raise InvalidAnswer("log-probabilities that make no sense")
    mass = float(masses.sum())
    if mass < LEAST_MASS:
        raise LowMass(f"label words have {mass:.0%} of the probability")
    masses = np.maximum(masses, LEAST_PROBABILITY)
    return np.asarray(np.log(masses / masses.sum()))


def read_sample(text: str, reasons: bool) -> Sample:
    """Return the answer of a JSON object that fits the schema exactly.

    Raises InvalidAnswer for any other text: no object, text around it, a key that is unknown or occurs
    twice, an unknown label, a reason that isn't requested or is longer than `MAX_REASON`.
    """
    try:
        found = json.loads(text, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError):
        raise InvalidAnswer("the answer is not JSON") from None
    allowed = _FIELDS if reasons else _FIELDS[:1]
    if not isinstance(found, dict) or "sentiment" not in found or not found.keys() <= set(allowed):
        raise InvalidAnswer("the answer doesn't fit the schema")
    word, reason = found["sentiment"], found.get("reason", "")
    if word not in LABEL_WORDS:
        raise InvalidAnswer("the answer names no label")
    if not isinstance(reason, str) or len(reason) > MAX_REASON:
        raise InvalidAnswer("the reason is no text, or too long")
    return Sample(LABELS[LABEL_WORDS.index(word)], clean_reason(reason))


def shares(labels: Sequence[str]) -> Floats:
    """Return the log-probabilities (3,) of the labels in n valid samples: log((count + 1) / (n + 3)).

    This is Laplace's rule of succession. Five equal samples give 6/8, so few samples are never certain.
    """
    counts = np.array([labels.count(label) for label in LABELS], float)
    return np.asarray(np.log((counts + 1) / (len(labels) + len(LABELS))))


def calibrated(log_probabilities: Floats, temperature: float) -> tuple[float, float, float]:
    """Return the probabilities in the order of `LABELS`: softmax(log-probabilities / temperature)."""
    scaled = np.exp((log_probabilities - log_probabilities.max()) / temperature)
    bearish, neutral, bullish = (scaled / scaled.sum()).tolist()
    return bearish, neutral, bullish


def reason_after_word(text: str) -> str:
    """Return what follows the label word of an answer such as "bullish: inflows rise"; "" without a word."""
    answer = text.lstrip(_PUNCTUATION)
    for word in LABEL_WORDS:
        if answer.lower().startswith(word):
            return clean_reason(answer[len(word) :].lstrip(_PUNCTUATION))
    return ""


def clean_reason(text: str) -> str:
    """Return a reason on one printable line of at most `MAX_REASON` characters."""
    printable = "".join(letter if letter.isprintable() else " " for letter in text)
    return one_line(printable, MAX_REASON)


def verbatim(text: str) -> str:
    """Return an answer as it is stored: at most `MAX_ANSWER` characters, without what a store can't hold."""
    encodable = text[:MAX_ANSWER].encode("utf-8", "replace").decode()
    return encodable.replace("\0", "\ufffd")


def log_probabilities_text(log_probabilities: Floats) -> str:
    """Return log-probabilities by label as JSON, as the verbatim answer of a model that was
    queried for them.
    """
    named = {label: round(float(value), 6) for label, value in zip(LABELS, log_probabilities, strict=True)}
    return json.dumps(named)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found
