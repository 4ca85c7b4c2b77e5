"""How a headline is cleaned before it is tokenised: the same in training, calibration and serving."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

_URL: Final = re.compile(r"(?:https?://|www\.)\S+", re.IGNORECASE)
_INVISIBLE: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2064\ud800-\udfff\ufeff]")
_SPACE: Final = re.compile(r"\s+")

MAX_CHARACTERS: Final = 2_000
"""Longer texts are cut before anything looks at them: a model reads 96 tokens, and hostile text may be huge."""


def clean(text: str) -> str:
    """NFKC, without URLs, control characters, bidirectional marks and lone surrogates; runs of white space become one blank."""
    text = unicodedata.normalize("NFKC", text[:MAX_CHARACTERS])
    return _SPACE.sub(" ", _INVISIBLE.sub(" ", _URL.sub(" ", text))).strip()
