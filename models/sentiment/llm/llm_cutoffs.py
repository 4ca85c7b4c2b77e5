"""Last day that a model can know.

The table has models whose publishers state a knowledge cutoff, and models of which only the day of release
bounds what they know. Each entry names the page that says so and when it was read; what no source confirms is
not in the table, and a backtest with it is refused. A month stands for its last day. A fine-tuned derivative
isn't matched, since its own data may be newer: its cutoff belongs in `llm.cutoffs`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from typing import Final, Literal, NamedTuple


class KnownCutoff(NamedTuple):
    """Models whose last day is known. `docs/llm.md` lists all of them."""

    publisher: str
    """Owner of the model's id, in lower case."""
    name: str
    """Regular expression of the name without size and format, in lower case."""
    last_day: date
    basis: Literal["stated", "release"]
    """Stated by the publisher, or only bounded by the release."""
    source: str
    """URL of the model card, or of what shows when the model was released."""
    read: date
    """When the source was read."""


_META: Final = "https://github.com/meta-llama/llama-models/blob/main/models"
_READ: Final = date(2026, 11, 27)
KNOWN_CUTOFFS: Final = (
    KnownCutoff(
        "meta-llama",
        r"(?:meta-)?llama-?3",  # 8B: March 2023, 70B: December 2023
        date(2023, 12, 31),
        "stated",
        "https://github.com/meta-llama/llama3/blob/main/MODEL_CARD.md",
        _READ,
    ),
    KnownCutoff(
        "meta-llama",
        r"(?:meta-)?llama-?3\.1",
        date(2023, 12, 31),
        "stated",
        f"{_META}/llama3_1/MODEL_CARD.md",
        _READ,
    ),
    KnownCutoff(
        "meta-llama",
        r"llama-?3\.2",
        date(2023, 12, 31),
        "stated",
        f"{_META}/llama3_2/MODEL_CARD.md",
        _READ,
    ),
    KnownCutoff(
        "meta-llama",
        r"llama-?3\.3",
        date(2023, 12, 31),
        "stated",
        f"{_META}/llama3_3/MODEL_CARD.md",
        _READ,
    ),
    KnownCutoff(
        "google",
        r"gemma-?3",
        date(2024, 8, 31),
        "stated",
        "https://ai.google.dev/gemma/docs/core/model_card_3",
        _READ,
    ),
    KnownCutoff(
        "microsoft",
        r"phi-?3",
        date(2023, 10, 31),
        "stated",
        "https://huggingface.co/microsoft/Phi-3-mini-4k-instruct",
        _READ,
    ),
    KnownCutoff(
        "microsoft",
        r"phi-?3\.5",
        date(2023, 10, 31),
        "stated",
        "https://huggingface.co/microsoft/Phi-3.5-mini-instruct",
        _READ,
    ),
    KnownCutoff(
        "microsoft",
        r"phi-?4",
        date(2024, 6, 30),
        "stated",
        "https://huggingface.co/microsoft/phi-4",
        _READ,
    ),
    KnownCutoff(
        "openai",
        r"gpt-oss",
        date(2024, 6, 30),
        "stated",
        "https://developers.openai.com/api/docs/models/gpt-oss-120b",
        _READ,
    ),
    KnownCutoff(
        "huggingfacetb",
        # training logs of 31 October 2024 (135M), a discussion of the model on 14 November (1.7B); of the
        # 360M model no date was found
        r"smollm2(?![-:_]360m)",
        date(2024, 11, 30),
        "release",
        "https://huggingface.co/HuggingFaceTB/SmolLM2-1.7B-Instruct/discussions/16",
        _READ,
    ),
)
_SIZE_OR_FORMAT: Final = (
    r"(?:[-:_](?:\d+(?:\.\d+)?[bm]|instruct|it|chat|text|mini|small|medium|latest|gguf|ggml|awq|gptq|mlx|onnx|"
    r"(?:fp|bf|int)\d+|\d+bit|128k|4k|8k|qat|q\d\w*))*"
)


def knowledge_cutoff(model: str, stated: Mapping[str, date]) -> date | None:
    """Return the last day that a model can know, by its id; None if it is unknown.

    `stated` is `llm.cutoffs`, which precedes the table of known models.
    """
    if model in stated:
        return stated[model]
    publisher, _, name = model.lower().rpartition("/")
    for known in KNOWN_CUTOFFS:
        if publisher in ("", known.publisher) and re.fullmatch(known.name + _SIZE_OR_FORMAT, name):
            return known.last_day
    return None
