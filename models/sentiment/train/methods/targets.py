"""Choice of the layers that get an adapter."""

from __future__ import annotations

from typing import Any, Final

from torch import nn
from transformers.pytorch_utils import Conv1D

from agent.core.errors import UsageError, did_you_mean

_QUERY_VALUE: Final = (
    ("query", "value"),  # BERT, RoBERTa, MiniLM, ELECTRA
    ("q_proj", "v_proj"),  # Llama, Qwen, Mistral, OPT
    ("q_lin", "v_lin"),  # DistilBERT
    ("query_proj", "value_proj"),  # DeBERTa
    ("q", "v"),  # MPNet
    ("Wqkv",),  # ModernBERT
    ("query_key_value",),  # Falcon, BLOOM, NeoX
    ("c_attn",),  # GPT-2
)


def linear_names(encoder: Any) -> list[str]:
    """Return the last parts of the names of the body's linear layers (Conv1D in GPT-2), without poolers."""
    return sorted(
        {
            name.rpartition(".")[2]
            for name, module in encoder.named_modules()
            if isinstance(module, nn.Linear | Conv1D) and "pooler" not in name
        }
    )


def target_modules(encoder: Any, wanted: str) -> list[str] | str:
    """Return a value for peft's `target_modules`.

    `wanted` is "auto" for query and value, "all" for every linear layer of the blocks, or comma-separated
    names. Raises UsageError for a name that the body doesn't have.
    """
    names = linear_names(encoder)
    if wanted == "all":
        # A pattern, because layers of poolers are called "dense" too
        return rf"(?!.*\bpooler\b)encoder\..*\.(?:{'|'.join(names)})"
    if wanted == "auto":
        every = {name.rpartition(".")[2] for name, _ in encoder.named_modules()}
        found = next((pair for pair in _QUERY_VALUE if set(pair) <= every), None)
        return list(found) if found else target_modules(encoder, "all")
    chosen = [name.strip() for name in wanted.split(",")]
    for name in chosen:
        if name not in names:
            hint = did_you_mean(name, names, f"known: auto, all, {', '.join(names)}")
            raise UsageError(f"target module {name!r} is not a linear layer of this base", hint=hint)
    return chosen
