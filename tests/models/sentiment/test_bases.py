"""Base models: detection of decoders, pad tokens, and the check that an adapter matches its base."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest

pytest.importorskip("torch")

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

from agent.core.errors import ModelError
from models.cards import DatasetRecord, read_card, write_card
from models.sentiment.serve.scorer import Scorer
from models.sentiment.train.bases import is_decoder, load_base
from models.sentiment.train.catastrophic_forgetting import measure_forgetting
from models.sentiment.train.datasets import Example
from models.sentiment.train.methods import METHODS
from models.sentiment.train.methods.recipe import Recipe
from models.sentiment.train.onnx_export import export_model
from models.sentiment.train.splits import Fractions, Split, make_split
from models.sentiment.train.trained_model import ADAPTER_WEIGHTS, load_trained
from models.sentiment.train.training import train
from tests.support.effort import LONG

pytestmark = pytest.mark.train

RECORD = DatasetRecord(name="own.csv", format="csv", sha256="0" * 64, rows=144)
ONE_STEP = Recipe(epochs=0.1, rank=2, virtual_tokens=2, patience=0)
SIZES = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
CAUSAL = SIZES | {"num_key_value_heads": 1, "max_position_embeddings": 64}
DISTILBERT_SIZES = {"vocab_size": 60, "dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64}


@pytest.fixture(scope="module")
def split(headlines: tuple[Example, ...]) -> Split:
    whole = make_split(headlines, Fractions(0.1, 0.1, 0.1))
    return msgspec.structs.replace(whole, train=whole.train[:16], validation=())


def case_id(value: object) -> str:
    if isinstance(value, transformers.PretrainedConfig):
        return ""
    return getattr(value, "__name__", str(value))


@pytest.mark.parametrize(
    ("config", "body", "causal"),
    [
        (
            transformers.GPT2Config(vocab_size=60, n_embd=32, n_layer=1, n_head=2),
            transformers.GPT2Model,
            True,
        ),
        (transformers.LlamaConfig(**CAUSAL), transformers.LlamaModel, True),
        (transformers.MistralConfig(**CAUSAL), transformers.MistralModel, True),
        (transformers.Qwen2Config(**CAUSAL), transformers.Qwen2Model, True),
        (transformers.GemmaConfig(**CAUSAL, head_dim=16), transformers.GemmaModel, True),
        (transformers.BertConfig(**SIZES), transformers.BertModel, False),
        (transformers.BertConfig(**SIZES, is_decoder=True), transformers.BertModel, True),
        (transformers.RobertaConfig(**SIZES), transformers.RobertaModel, False),
        (transformers.DistilBertConfig(**DISTILBERT_SIZES), transformers.DistilBertModel, False),
        (transformers.MPNetConfig(**SIZES), transformers.MPNetModel, False),
    ],
    ids=case_id,
)
def test_a_base_is_a_decoder_only_if_its_attention_is_causal(
    config: transformers.PretrainedConfig,
    body: type[transformers.PreTrainedModel],
    causal: bool,
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    model = body(config).eval()
    ids = torch.randint(3, 60, (1, 8))
    other = ids.clone()
    other[0, -1] = (ids[0, -1] + 1) % 57 + 3
    with torch.inference_mode():  # causal: the first output ignores the last token
        first, changed = (model(input_ids=one).last_hidden_state[0, 0] for one in (ids, other))
    assert torch.allclose(first, changed) == causal
    model.save_pretrained(tmp_path)
    assert is_decoder(transformers.AutoConfig.from_pretrained(tmp_path)) == causal


def base_without(tokens: set[str], base: Path, folder: Path) -> Path:
    """Copy a base without these special tokens; "unk_token" is removed from the vocabulary as well."""
    shutil.copytree(base, folder)
    inner = json.loads((base / "tokenizer.json").read_text())
    inner["added_tokens"] = []
    if "unk_token" in tokens:
        inner["model"] = {
            "type": "BPE",
            "vocab": {chr(code): code - 32 for code in range(32, 91)},
            "merges": [],
        }
        inner["pre_tokenizer"] = None
        inner["normalizer"] = {"type": "Lowercase"}
    (folder / "tokenizer.json").write_text(json.dumps(inner))
    given = {"unk_token": "<unk>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        **{name: token for name, token in given.items() if name not in tokens},
    ).save_pretrained(folder)
    return folder


EXPORTED = {"[PAD]": "full"} | ({"<unk>": "lora"} if LONG else {})
"""Merged adapters of decoders are exported in test_decoders.py, always."""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full", "qlora"])
@pytest.mark.parametrize(
    ("absent", "pads"), [({"eos_token"}, "<unk>"), ({"eos_token", "unk_token"}, "[PAD]")]
)
def test_a_base_without_a_pad_token_trains_exports_and_scores(
    absent: set[str], pads: str, method: str, split: Split, tiny_bases: dict[str, Path], tmp_path: Path
) -> None:
    base = base_without(absent, tiny_bases["llama"], tmp_path / "base")
    if pads == "[PAD]":  # the embedding gets no row for the added token
        config = transformers.LlamaConfig.from_pretrained(base, vocab_size=59)
        transformers.LlamaForCausalLM(config).save_pretrained(base)
    done = train(
        msgspec.structs.replace(ONE_STEP, method=method),
        split,
        [RECORD],
        tmp_path / "out",
        base=str(base),
        forgetting=True,
    )
    assert done.card.notes["pad_token"] == pads
    texts = [example.text for example in split.test[:4]]
    probabilities = load_trained(tmp_path / "out").probabilities(texts)
    assert np.isfinite(probabilities).all()
    if method != EXPORTED.get(pads):  # an export takes longer than all the rest
        return
    export_model(tmp_path / "out", tmp_path / "served", quantise=False)
    served = [score.probabilities for score in Scorer.load(tmp_path / "served").score(texts)]
    assert served == pytest.approx(probabilities, abs=1e-4)


@pytest.mark.slow
def test_perplexity_is_measured_for_a_gpt2_base(
    split: Split, tiny_bases: dict[str, Path], tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_bases["llama"], base)
    torch.manual_seed(0)
    shape = transformers.GPT2Config(vocab_size=80, n_embd=32, n_layer=1, n_head=2, n_positions=128)
    transformers.GPT2LMHeadModel(shape).save_pretrained(base)
    recipe = msgspec.structs.replace(ONE_STEP, targets="all")
    done = train(recipe, split, [RECORD], tmp_path / "out", base=str(base))
    assert done.card.pooling == "last"
    assert set(measure_forgetting(load_trained(tmp_path / "out"))) == {
        "perplexity_before",
        "perplexity_after",
    }


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "qlora", "prefix"])
def test_an_adapter_is_refused_if_a_layer_of_the_base_has_other_weights(
    method: str, split: Split, tiny_bases: dict[str, Path], tmp_path: Path
) -> None:
    base = tiny_bases["llama"]
    train(msgspec.structs.replace(ONE_STEP, method=method), split, [RECORD], tmp_path / "out", base=str(base))
    moved = tmp_path / "moved"
    shutil.copytree(base, moved)
    load_trained(tmp_path / "out", base=str(moved))
    weights = load_file(moved / "model.safetensors")
    # change one weight of one layer but no embedding
    weights["model.layers.1.mlp.down_proj.weight"][0, 0] += 0.5
    save_file(weights, moved / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"another base than .*moved: its layers have other weights"):
        load_trained(tmp_path / "out", base=str(moved))
    card = read_card(tmp_path / "out")
    card.base_weights_sha256 = ""  # cards of earlier versions lack the digest
    write_card(card, tmp_path / "out")
    load_trained(tmp_path / "out", base=str(moved))


def test_the_digest_of_a_base_does_not_depend_on_how_it_is_loaded(
    tiny_bases: dict[str, Path], tmp_path: Path
) -> None:
    for name in ("llama", "bert", "mean"):
        digest = load_base(str(tiny_bases[name])).weights_sha256
        assert load_base(str(tiny_bases[name]), four_bit=True).weights_sha256 == digest
    model = transformers.AutoModel.from_pretrained(tiny_bases["llama"])
    shutil.copytree(tiny_bases["llama"], tmp_path / "parts")
    (tmp_path / "parts" / "model.safetensors").unlink()
    model.save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    assert (tmp_path / "parts" / "model.safetensors.index.json").is_file()
    llama = load_base(str(tiny_bases["llama"])).weights_sha256
    for four_bit in (False, True):
        assert load_base(str(tmp_path / "parts"), four_bit=four_bit).weights_sha256 == llama


@pytest.mark.slow
@pytest.mark.parametrize("method", [method for method in METHODS if method != "full"])
def test_an_adapter_with_missing_or_extra_weights_is_refused(
    method: str, split: Split, tiny_bases: dict[str, Path], tmp_path: Path
) -> None:
    train(
        msgspec.structs.replace(ONE_STEP, method=method),
        split,
        [RECORD],
        tmp_path,
        base=str(tiny_bases["mean"]),
    )
    card = read_card(tmp_path)
    card.files, card.fingerprint = {}, ""  # skip the hash checks of changed files
    write_card(card, tmp_path)
    whole = load_file(tmp_path / ADAPTER_WEIGHTS)
    load_trained(tmp_path)
    for name in whole:
        save_file({key: value for key, value in whole.items() if key != name}, tmp_path / ADAPTER_WEIGHTS)
        with pytest.raises(
            ModelError, match=r"adapter_model\.safetensors lacks .*not whole|cannot be loaded"
        ):
            load_trained(tmp_path)
    save_file(
        whole | {"base_model.model.encoder.layers.9.lora_A.weight": torch.ones(2, 2)},
        tmp_path / ADAPTER_WEIGHTS,
    )
    with pytest.raises(ModelError, match=r"no place for, .*layers\.9"):
        load_trained(tmp_path)
    (tmp_path / ADAPTER_WEIGHTS).unlink()
    torch.save(whole, tmp_path / "adapter_model.bin")  # the format of earlier peft versions
    load_trained(tmp_path)
    torch.save(dict(list(whole.items())[1:]), tmp_path / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"adapter_model\.bin lacks |cannot be loaded"):
        load_trained(tmp_path)
