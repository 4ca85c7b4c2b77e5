"""Errors of training and loading: one line with the cause and the remedy."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import pytest

pytest.importorskip("torch")

import torch
from huggingface_hub import constants

from agent.core.errors import ConfigError, ModelError, TapewireError, UsageError
from models.cards import DatasetRecord, read_card, write_card
from models.sentiment.train.bases import EMBEDDED, load_base, locate
from models.sentiment.train.datasets import Example
from models.sentiment.train.methods import get_method
from models.sentiment.train.methods.recipe import Recipe, parse
from models.sentiment.train.splits import Fractions, Split, make_split
from models.sentiment.train.trained_model import load_trained
from models.sentiment.train.training import train

pytestmark = pytest.mark.train

RECORD = DatasetRecord(name="own.csv", format="csv", sha256="0" * 64, rows=144)
ONE_STEP = Recipe(epochs=0.1, rank=2)


@pytest.fixture(scope="module")
def split(headlines: tuple[Example, ...]) -> Split:
    whole = make_split(headlines, Fractions(0.1, 0.1, 0.1))
    return msgspec.structs.replace(whole, train=whole.train[:16], validation=())


def test_a_missing_base_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no such folder.*ProsusAI/finbert"):
        load_base(str(tmp_path / "nothing"))
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_base(str(tmp_path))


def test_a_damaged_base_is_refused(tiny_bases: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(tiny_bases["mean"], tmp_path / "base")
    (tmp_path / "base" / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_base(str(tmp_path / "base"))
    (tmp_path / "base" / "config.json").write_text(json.dumps({"model_type": "abacus"}))
    with pytest.raises(ModelError, match=r"cannot be loaded.*abacus"):
        load_base(str(tmp_path / "base"))


def test_an_unreachable_hub_raises_an_error_with_alternatives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        ConfigError, match=r"hub cannot be reached and no copy is cached.*HF_HUB_OFFLINE.*--base embedded"
    ):
        load_base("tapewire/no-such-model-anywhere")


def test_the_embedded_base_is_located_in_a_local_folder() -> None:
    assert (Path(locate(EMBEDDED)) / "config.json").is_file()


@pytest.mark.slow
def test_an_adapter_is_refused_on_another_base(
    split: Split, tiny_bases: dict[str, Path], tmp_path: Path
) -> None:
    train(ONE_STEP, split, [RECORD], tmp_path, base=str(tiny_bases["mean"]))
    with pytest.raises(ModelError, match=r"was trained on another base than .*llama"):
        load_trained(tmp_path, base=str(tiny_bases["llama"]))


@pytest.mark.slow
def test_a_damaged_or_incomplete_adapter_is_refused(
    split: Split, tiny_bases: dict[str, Path], tmp_path: Path
) -> None:
    train(ONE_STEP, split, [RECORD], tmp_path, base=str(tiny_bases["mean"]))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"cut short")
    with pytest.raises(
        ModelError, match=r"adapter_model\.safetensors differs from the file .*tapewire train"
    ):
        load_trained(tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"adapter_model\.safetensors can't be read.*tapewire train"):
        load_trained(tmp_path)
    card = read_card(tmp_path)
    card.files, card.fingerprint = {}, ""  # a student's card of earlier versions has neither
    write_card(card, tmp_path)
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(ModelError, match="neither an adapter nor full weights"):
        load_trained(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "memory",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: 99 bytes"),
        MemoryError(),
    ],
)
def test_running_out_of_memory_raises_an_error_with_smaller_settings(
    memory: BaseException, split: Split, tiny_bases: dict[str, Path], tmp_path: Path
) -> None:
    def exhaust(*_: object) -> None:
        raise memory

    with pytest.raises(ModelError, match=r"out of memory.*--batch-size 8 --accumulation 2.*qlora"):
        train(ONE_STEP, split, [RECORD], tmp_path, base=str(tiny_bases["mean"]), progress=exhaust)


def test_a_folder_with_other_files_is_not_overwritten(split: Split, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="holds something else"):
        train(ONE_STEP, split, [RECORD], tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_resuming_without_a_checkpoint_is_refused(split: Split, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no checkpoint to resume from"):
        train(ONE_STEP, split, [RECORD], tmp_path / "new", resume=True)


@pytest.mark.slow
def test_resuming_with_another_recipe_is_refused(
    split: Split, tiny_bases: dict[str, Path], tmp_path: Path
) -> None:
    def cut(step: int, *_: object) -> None:
        if step == 2:
            raise KeyboardInterrupt

    base, plan = str(tiny_bases["mean"]), Recipe(epochs=3, rank=2)
    with pytest.raises(KeyboardInterrupt):
        train(plan, split, [RECORD], tmp_path, base=base, progress=cut)
    with pytest.raises(UsageError, match="of another recipe or other data"):
        train(msgspec.structs.replace(plan, rank=4), split, [RECORD], tmp_path, base=base, resume=True)


@pytest.mark.parametrize(
    ("choices", "complaint"),
    [
        ({"rank": 0}, "rank is 0"),
        ({"dropout": 1.5}, "dropout is 1.5"),
        ({"max_length": 5000}, "max_length is 5000"),
        ({"optimizer": "sgd"}, "optimizer is 'sgd'.*adamw, adamw_8bit, paged_adamw_8bit"),
        ({"imbalance": "wish"}, "imbalance is 'wish'.*none, weights, focal, oversample"),
    ],
)
def test_an_invalid_setting_is_refused(choices: dict[str, object], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        parse(**choices)


def test_an_unknown_method_or_layer_is_refused_with_a_suggestion(
    split: Split, tiny_bases: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"unknown method 'lorra'.*did you mean lora"):
        get_method("lorra")
    with pytest.raises(UsageError, match=r"target module 'querry'.*did you mean query"):
        train(
            msgspec.structs.replace(ONE_STEP, targets="querry"),
            split,
            [RECORD],
            tmp_path,
            base=str(tiny_bases["mean"]),
        )


def test_an_error_message_is_a_single_line(tmp_path: Path) -> None:
    with pytest.raises(TapewireError) as found:
        load_base(str(tmp_path))
    assert "\n" not in str(found.value)
