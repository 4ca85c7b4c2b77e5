"""The three sentiment classes, and the mapping of other data sets' and models' labels to them by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from agent.core.errors import DataError, ModelError, did_you_mean

NOT_FINITE: Final = "the model's answer is not finite"
NOT_READABLE: Final = "the model fails on this text"
UNKNOWN_KIND: Final = "the model names no known kind of news"
UNSOUND: Final = frozenset({NOT_FINITE, NOT_READABLE})
"""Reasons of abstentions that the model causes, not the text."""

LABELS: Final = ("bearish", "neutral", "bullish")
"""Order of every probability vector, logit row and confusion matrix of sentiment."""

TFNS_NAMES: Final = {"0": "bearish", "1": "bullish", "2": "neutral"}
"""Codes of Twitter Financial News Sentiment. Digits mean nothing in other sets, so only that set's loader
uses them.
"""

SCORE_CUT: Final = 0.1
"""Scores in [-1, 1] (FiQA, SemEval-2017 task 5) are bearish below -0.1, bullish above 0.1, else neutral."""

_ALIASES: Final = {
    **dict.fromkeys(("bearish", "negative", "neg", "sell", "-1"), "bearish"),
    **dict.fromkeys(("neutral", "neu", "hold"), "neutral"),
    **dict.fromkeys(("bullish", "positive", "pos", "buy", "+1"), "bullish"),
}


def canonical(name: str, *, where: str = "") -> str:
    """Return the class that a label of another set stands for ("positive" → "bullish"), in any case.

    Raises DataError for an unknown label, with `where` (file and row) and the closest known label.
    """
    key = name.strip().casefold()
    if key in _ALIASES:
        return _ALIASES[key]
    hint = did_you_mean(key, _ALIASES, "known: bearish/negative, neutral, bullish/positive")
    raise DataError(f"{where + ': ' if where else ''}unknown label {name!r}", hint=hint)


def from_score(score: float, cut: float = SCORE_CUT) -> str:
    """Return the class of a sentiment score in [-1, 1]: bearish below -cut, bullish above cut, else
    neutral.
    """
    return "bearish" if score < -cut else "bullish" if score > cut else "neutral"


def head_order(id2label: Mapping[int, str]) -> tuple[int, ...]:
    """Return the rows of a base model's classification head, so that `logits[:, rows]` follows `LABELS`.

    Raises ModelError if the head doesn't name the three classes once each. `LABEL_0` names none of them.
    """
    try:
        names = {canonical(name): int(row) for row, name in id2label.items()}
    except DataError as error:
        what = f"the base model's head has labels of no sentiment: {dict(id2label)}"
        raise ModelError(what, hint=error.message) from None
    if len(id2label) != len(LABELS) or set(names) != set(LABELS):
        raise ModelError(
            f"the base model's head does not name each class once: {dict(id2label)}",
            hint="its id2label must name bearish/negative, neutral and bullish/positive",
        )
    return tuple(names[label] for label in LABELS)
