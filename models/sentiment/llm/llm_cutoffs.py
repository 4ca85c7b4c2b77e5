"""Last day that a model can know.

The table has models whose publishers state a knowledge cutoff, and models of which only the day of release
bounds what they know. A month stands for its last day. A fine-tuned derivative isn't matched, since its own
data may be newer: its cutoff belongs in `llm.cutoffs`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from typing import Final

_KNOWN: Final = (
    # publisher, name, last day: from the publishers' model cards
    ("meta-llama", r"(?:meta-)?llama-?3", date(2023, 12, 31)),  # 8B: March 2023, 70B: December 2023
    ("meta-llama", r"(?:meta-)?llama-?3\.1", date(2023, 12, 31)),
    ("meta-llama", r"llama-?3\.2", date(2023, 12, 31)),
    ("meta-llama", r"llama-?3\.3", date(2023, 12, 31)),
    ("google", r"gemma-?3", date(2024, 8, 31)),
    ("microsoft", r"phi-?3", date(2023, 10, 31)),
    ("microsoft", r"phi-?3\.5", date(2023, 10, 31)),
    ("microsoft", r"phi-?4", date(2024, 6, 30)),
    ("openai", r"gpt-oss", date(2024, 6, 30)),
    # the day of release, for want of a stated cutoff
    ("huggingfacetb", r"smollm2", date(2024, 11, 30)),
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
    for owner, pattern, cutoff in _KNOWN:
        if publisher in ("", owner) and re.fullmatch(pattern + _SIZE_OR_FORMAT, name):
            return cutoff
    return None
