"""The three classes, and how everybody else's names for them map to ours. Always by name, never by position."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from agent.core.errors import DataError, ModelError, did_you_mean

NOT_FINITE: Final = "the model's answer is not finite"
NOT_READABLE: Final = "the model fails on this text"
UNSOUND: Final = frozenset({NOT_FINITE, NOT_READABLE})
"""Reasons of an abstention that is the model's fault, not the text's."""

LABELS: Final = ("bearish", "neutral", "bullish")
"""Order of every probability vector, logit row and confusion matrix in this project: index 0, 1, 2."""

TFNS_NAMES: Final = {"0": "bearish", "1": "bullish", "2": "neutral"}
"""Codes of Twitter Financial News Sentiment. Only that set's loader may use them: bare digits mean nothing elsewhere."""

SCORE_CUT: Final = 0.1
"""Scores in [-1, 1] (FiQA, SemEval-2017 task 5): below -0.1 bearish, above 0.1 bullish, between them neutral."""

_ALIASES: Final = {
    **dict.fromkeys(("bearish", "negative", "neg", "sell", "-1"), "bearish"),
    **dict.fromkeys(("neutral", "neu", "hold"), "neutral"),
    **dict.fromkeys(("bullish", "positive", "pos", "buy", "+1"), "bullish"),
}


def canonical(name: str, *, where: str = "") -> str:
    """Our name for a label of another set ("positive" → "bullish"), whatever its case.

    Raises DataError naming `where` (file and row) and the closest known name.
    """
    key = name.strip().casefold()
    if key in _ALIASES:
        return _ALIASES[key]
    raise DataError(
        f"{where + ': ' if where else ''}unknown label {name!r}",
        hint=did_you_mean(key, _ALIASES, "known: bearish/negative, neutral, bullish/positive"),
    )


def index(name: str) -> int:
    """Position of one of our names in `LABELS`."""
    return LABELS.index(name)


def from_score(score: float, cut: float = SCORE_CUT) -> str:
    """Class of a sentiment score in [-1, 1]: bearish below -cut, bullish above cut, else neutral."""
    return "bearish" if score < -cut else "bullish" if score > cut else "neutral"


def head_order(id2label: Mapping[int, str]) -> tuple[int, ...]:
    """Rows of a foreign classification head, in our order: `logits[:, head_order(id2label)]` follows `LABELS`.

    Raises ModelError where the head does not name our three classes once each (`LABEL_0` names nothing).
    """
    try:
        names = {canonical(name): int(row) for row, name in id2label.items()}
    except DataError as error:
        raise ModelError(
            f"the base model's head names no sentiment: {dict(id2label)}", hint=error.message
        ) from None
    if len(id2label) != len(LABELS) or set(names) != set(LABELS):
        raise ModelError(
            f"the base model's head does not name each class once: {dict(id2label)}",
            hint="its id2label must name bearish/negative, neutral and bullish/positive",
        )
    return tuple(names[label] for label in LABELS)
