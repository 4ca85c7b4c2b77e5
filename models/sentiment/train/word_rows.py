"""The rows of a base's output matrix that belong to label words."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM

from agent.core.errors import ModelError
from models.sentiment.serve.prompt_tokens import PromptTokens
from models.sentiment.train.base_identity import weight_files
from models.sentiment.train.bases import Base, locate
from models.sentiment.train.classifier import WordLogits

WORDS_SHA256: Final = "label_words_sha256"
"""Key of `Card.notes`: digest of the rows. Without it they are rows of the input embeddings."""
_OUTPUT: Final = ("lm_head.weight", "embed_out.weight", "output.weight")


def word_logits(base: Base, prompt: PromptTokens) -> WordLogits:
    """Return the base's logits of a prompt's label words.

    Raises ModelError if the base's output matrix can't be found.
    """
    tied = bool(getattr(base.encoder.config, "tie_word_embeddings", False))
    rows = None if tied else _output_rows(locate(base.name), prompt.words)
    return make_word_logits(base.encoder.config, prompt, rows)


def make_word_logits(config: Any, prompt: PromptTokens, rows: Tensor | None) -> WordLogits:
    """Return logits of label words with these output rows (3, hidden); None for the embeddings'."""
    cap = getattr(config, "final_logit_softcapping", None)
    return WordLogits(prompt.words, rows, prompt.template.bias, cap)


def rows_sha256(words: WordLogits) -> str:
    """Return the digest of the rows; empty if they are input embeddings, which the base's digests cover."""
    rows = words.rows
    return "" if rows is None else hashlib.sha256(rows.float().cpu().numpy().tobytes()).hexdigest()


def _output_rows(place: str, ids: Sequence[int]) -> Tensor:
    """Return the rows (3, hidden) of the output matrix; only they are read if the base has safetensors."""
    for path in weight_files(place):
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            name = next((name for name in names if name.endswith(_OUTPUT)), None)
            if name is not None:
                matrix = file.get_slice(name)
                return torch.cat([matrix[row : row + 1] for row in ids]).float()
    model = AutoModelForCausalLM.from_pretrained(place, dtype="auto", trust_remote_code=False)
    output = model.get_output_embeddings()
    if output is None:
        raise ModelError(f"base model {place} has no output matrix of words", hint="use --head linear")
    return output.weight.detach()[list(ids)].float()
