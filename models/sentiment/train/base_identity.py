"""Identity of a base model: digests of its weights, so that an adapter is refused on another base."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from typing import Any, Final

from safetensors import safe_open
from torch import Tensor
from transformers import AutoModel, PreTrainedModel
from transformers.utils import cached_file

_WEIGHTS: Final = "model.safetensors"
_INDEX: Final = "model.safetensors.index.json"
_THREADS: Final = min(4, os.cpu_count() or 1)
"""Weights that are hashed at the same time. Each may need a copy in float32."""
_ABSENT: Final = {
    "_raise_exceptions_for_missing_entries": False,
    "_raise_exceptions_for_connection_errors": False,
}


def embeddings_sha256(encoder: PreTrainedModel) -> str:
    """Return the digest of a body's shape and input embeddings, which neither training nor quantisation
    changes.
    """
    config = encoder.config
    # On the CPU, because a GPU that holds the model may have no room for a copy
    embeddings = encoder.get_input_embeddings().weight.detach().cpu().float().contiguous()
    shape = (config.model_type, config.num_hidden_layers, config.hidden_size, tuple(embeddings.shape))
    digest = hashlib.sha256(repr(shape).encode())
    digest.update(embeddings.numpy())
    return digest.hexdigest()


def weights_sha256(encoder: PreTrainedModel, place: str, missing: set[str]) -> str:
    """Return the digest of names, shapes and float32 values of every weight that the base provides for this
    body.

    `missing` names weights that the base lacks and that were initialised at random. The weights of a 4-bit
    body are read from the base's files at `place`, because their quantised form may differ between devices.
    """
    names = [name for name, _ in encoder.named_parameters() if name not in missing]
    four_bit = bool(getattr(encoder, "is_loaded_in_4bit", False))
    weights = _stored(place, encoder.base_model_prefix, names) if four_bit else _loaded(encoder, set(names))
    rows: list[tuple[str, tuple[int, ...], str]] = []
    with ThreadPoolExecutor(_THREADS) as pool:
        while some := list(islice(weights, _THREADS)):  # not all at once: they may not fit into memory
            rows += pool.map(_digest, some)
    rows.sort()
    return hashlib.sha256(repr(rows).encode()).hexdigest()


def _digest(named: tuple[str, Tensor]) -> tuple[str, tuple[int, ...], str]:
    name, weight = named
    values = weight.detach().cpu().float().contiguous()
    return name, tuple(values.shape), hashlib.sha256(values.numpy()).hexdigest()


def _loaded(encoder: PreTrainedModel, names: set[str]) -> Iterator[tuple[str, Tensor]]:
    return ((name, weight) for name, weight in encoder.named_parameters() if name in names)


def _stored(place: str, prefix: str, names: list[str]) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights `names` from the base's files, or from a full-precision body if the files use
    other names.
    """
    with ExitStack() as opened:
        stored: dict[str, tuple[Any, str]] = {}
        for path in weight_files(place):
            file = opened.enter_context(safe_open(path, framework="pt"))
            keys = file.keys()
            stored |= {key.removeprefix(f"{prefix}."): (file, key) for key in keys}
        if set(names) <= set(stored):
            for name in names:
                file, key = stored[name]
                yield name, file.get_tensor(key)
            return
    yield from _loaded(AutoModel.from_pretrained(place, dtype="auto", trust_remote_code=False), set(names))


def weight_files(place: str) -> list[str]:
    """Return the paths of a base's safetensors files; empty if it has none."""
    if single := cached_file(place, _WEIGHTS, **_ABSENT):
        return [single]
    index = cached_file(place, _INDEX, **_ABSENT)
    if index is None:
        return []
    with open(index, encoding="utf-8") as stream:
        parts = sorted(set(json.load(stream)["weight_map"].values()))
    return [path for part in parts if (path := cached_file(place, part, **_ABSENT))]
