"""Sentiment training: every method learns, and a saved model reloads with the same predictions."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

pytest.importorskip("torch")

from agent.core.errors import ConfigError
from models.cards import Card, DatasetRecord, read_card
from models.classification_metrics import measure
from models.sentiment.train.bases import load_base
from models.sentiment.train.catastrophic_forgetting import general_pairs, measure_forgetting
from models.sentiment.train.classifier import SentimentClassifier
from models.sentiment.train.datasets import Example
from models.sentiment.train.evaluation import class_indices
from models.sentiment.train.methods import METHODS, get_method
from models.sentiment.train.methods.recipe import Recipe, resolve
from models.sentiment.train.splits import Fractions, Split, make_split
from models.sentiment.train.trained_model import MergedModel, TrainedClassifier, load_trained
from models.sentiment.train.trainer import bf16_supported, oversampled
from models.sentiment.train.training import build_model, train

pytestmark = pytest.mark.train

RECORD = DatasetRecord(
    name="own.csv", format="csv", sha256="0" * 64, rows=144, latest=None, basis="eventless (checked)"
)
QUICK = Recipe(batch_size=16, epochs=6, head_learning_rate=2e-2, rank=4, virtual_tokens=4, patience=0)


@pytest.fixture(scope="module")
def split(headlines: tuple[Example, ...]) -> Split:
    return make_split(headlines, Fractions(0.1, 0.1, 0.2), seed=3)


def recipe(method: str, **changes: object) -> Recipe:
    """Return a recipe with learning rates that train a tiny random base within seconds.

    Full tuning and P-tuning need smaller rates than the other methods.
    """
    rates = {"full": 2e-3, "ptuning": 1e-2}
    return msgspec.structs.replace(
        QUICK, method=method, **{"learning_rate": rates.get(method, 2e-2)} | changes
    )


def once(split: Split) -> Split:
    """Return a split so small that training takes one or two steps; the model learns nothing useful."""
    return msgspec.structs.replace(
        split, train=split.train[:24], validation=split.validation[:6], test=split.test[:6]
    )


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_method_learns_and_reloads_with_the_same_predictions(
    method: str, split: Split, tiny_bases: dict[str, Path], tmp_path: Path
) -> None:
    done = train(recipe(method), split, [RECORD], tmp_path, base=str(tiny_bases["mean"]))
    texts = [example.text for example in split.test]
    truth = class_indices(split.test)
    probabilities = load_trained(tmp_path).probabilities(texts)
    assert np.allclose(probabilities.sum(axis=1), 1)
    measured = done.card.metrics["test"]
    assert measured["accuracy"].value > 0.6, "chance is a third"
    assert (probabilities.argmax(axis=1) == truth).mean() == pytest.approx(measured["accuracy"].value)
    assert measure(probabilities, truth)["nll"] == pytest.approx(measured["nll"].value, abs=1e-3)
    assert 0 < done.trainable <= done.parameters
    assert (done.trainable == done.parameters) == (method == "full")
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("base", "method"),
    [
        *[("bert", "lora"), ("bert", "prefix"), ("finbert", "qlora"), ("finbert", "prompt")],
        *[("llama", "lora"), ("llama", "qlora"), ("qwen", "prefix"), ("qwen", "prompt")],
    ],
)
def test_encoders_with_a_pooler_and_decoders_train_and_reload(
    base: str, method: str, split: Split, tiny_bases: dict[str, Path], tmp_path: Path
) -> None:
    few = once(split)
    done = train(recipe(method, epochs=1), few, [RECORD], tmp_path, base=str(tiny_bases[base]))
    assert done.card.pooling == ("last" if base in ("llama", "qwen") else "pooler")
    probabilities = load_trained(tmp_path).probabilities([example.text for example in few.test])
    assert measure(probabilities, class_indices(few.test))["nll"] == pytest.approx(
        done.card.metrics["test"]["nll"].value, abs=1e-3
    )


def test_a_sentiment_head_of_the_base_is_kept_and_reordered_by_name(tiny_bases: dict[str, Path]) -> None:
    import torch
    import transformers

    base = load_base(str(tiny_bases["finbert"]))
    ours = build_model(
        base, resolve(Recipe(method="full"), get_method("full").defaults, 100), get_method("full"), steps=1
    ).eval()
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tiny_bases["finbert"]).eval()
    ids = torch.arange(4, 12).reshape(2, 4)
    mask = torch.ones_like(ids)
    with torch.inference_mode():
        found = ours(input_ids=ids, attention_mask=mask).logits
        # the order of the base is positive, negative, neutral
        expected = theirs(input_ids=ids, attention_mask=mask).logits[:, [1, 2, 0]]
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("targets", "expected"),
    [("auto", {"query", "value"}), ("all", {"query", "key", "value", "dense"}), ("key", {"key"})],
)
def test_adapter_targets_are_layers_of_the_body_but_not_of_the_head(
    targets: str, expected: set[str], tiny_bases: dict[str, Path]
) -> None:
    base = load_base(str(tiny_bases["bert"]))
    method = get_method("lora")
    model = build_model(base, resolve(Recipe(targets=targets), method.defaults, 100), method, steps=1)
    adapted = [name for name, _ in model.named_modules() if name.endswith("lora_A")]
    assert {name.split(".")[-2] for name in adapted} == expected
    assert not any("pooler" in name or ".classifier." in name for name in adapted)


def test_defaults_depend_on_the_number_of_samples_and_given_values_are_kept() -> None:
    defaults = get_method("lora").defaults
    chosen = {samples: resolve(Recipe(), defaults, samples) for samples in (500, 5_000, 50_000)}
    assert [(r.rank, r.alpha) for r in chosen.values()] == [(8, 16), (16, 32), (32, 64)]
    assert chosen[500].epochs > chosen[5_000].epochs > chosen[50_000].epochs
    given = resolve(Recipe(rank=3, learning_rate=1.0, epochs=1), defaults, 500)
    assert (given.rank, given.alpha, given.learning_rate, given.epochs) == (3, 6, 1.0, 1)
    assert resolve(Recipe(method="prompt"), get_method("prompt").defaults, 500).rank is None


@pytest.mark.slow
@pytest.mark.parametrize("imbalance", ["weights", "focal", "oversample"])
def test_training_with_a_rare_class_works_with_each_balancing_method(
    imbalance: str, split: Split, tiny_bases: dict[str, Path], tmp_path: Path
) -> None:
    rare = [example for example in split.train if example.label == "bearish"][:3]
    uneven = msgspec.structs.replace(split, train=(*(e for e in split.train if e.label != "bearish"), *rare))
    done = train(
        recipe("lora", imbalance=imbalance, epochs=2),
        uneven,
        [RECORD],
        tmp_path,
        base=str(tiny_bases["mean"]),
    )
    assert done.card.notes["labels_bearish"] == 3
    assert done.card.hyper["imbalance"] == imbalance


def test_oversampling_repeats_rare_classes_and_keeps_every_row() -> None:
    labels = np.array([0] * 2 + [1] * 9 + [2] * 5)
    rows = oversampled(labels, seed=0)
    assert set(rows) == set(range(16))
    assert np.bincount(labels[rows]).tolist() == [9, 9, 9]


@pytest.mark.slow
def test_training_stops_early_if_validation_no_longer_improves(
    split: Split, tiny_bases: dict[str, Path], tmp_path: Path
) -> None:
    steps: list[tuple[int, int]] = []
    hopeless = recipe("lora", learning_rate=5.0, head_learning_rate=5.0, epochs=30, patience=1)
    train(
        hopeless,
        split,
        [RECORD],
        tmp_path,
        base=str(tiny_bases["mean"]),
        progress=lambda *now: steps.append(now[:2]),
    )
    assert steps[-1][0] < steps[-1][1] / 2


@pytest.mark.slow
def test_interrupted_training_resumes_after_its_last_complete_epoch(
    split: Split, tiny_bases: dict[str, Path], tmp_path: Path
) -> None:
    class PowerCut(Exception):
        pass

    def cut(step: int, _steps: int, _loss: float) -> None:
        if step == 14:  # in the third epoch; each epoch has six steps
            raise PowerCut

    base = str(tiny_bases["mean"])
    plan = recipe("lora", epochs=4)
    with pytest.raises(PowerCut):
        train(plan, split, [RECORD], tmp_path / "cut", base=base, progress=cut)
    seen: list[int] = []
    resumed = train(
        plan,
        split,
        [RECORD],
        tmp_path / "cut",
        base=base,
        resume=True,
        progress=lambda step, *_: seen.append(step),
    )
    whole = train(plan, split, [RECORD], tmp_path / "whole", base=base)
    assert seen[0] == 13
    assert resumed.card.metrics["test"]["nll"].value == pytest.approx(
        whole.card.metrics["test"]["nll"].value, abs=1e-4
    )


@pytest.mark.slow
def test_the_card_records_data_settings_versions_and_metrics(
    split: Split, tiny_bases: dict[str, Path], tmp_path: Path
) -> None:
    dated = msgspec.structs.replace(RECORD, latest=1_600_000_000_000)
    done = train(
        recipe("lora"), once(split), [RECORD, dated], tmp_path, base=str(tiny_bases["bert"]), forgetting=True
    )
    card = read_card(tmp_path)
    assert card == done.card
    assert card.trained_until == dated.latest
    assert card.datasets == (RECORD, dated)
    assert card.hyper["rank"] == 4
    assert {"torch", "peft", "transformers"} <= card.versions.keys()
    assert card.metrics.keys() == {"validation", "calibration", "test"}
    assert len(card.fingerprint) == 64
    assert card.reference is not None
    assert (card.reference.texts, card.reference.abstained) == (6, 0.0)
    assert card.notes["mlm_loss_before"] > 0
    assert card.notes["mlm_loss_after"] != card.notes["mlm_loss_before"]
    assert (tmp_path / "reliability.png").read_bytes().startswith(b"\x89PNG")
    assert "/" not in json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"]


def test_an_untrained_encoder_shows_no_forgetting(tiny_bases: dict[str, Path]) -> None:
    card = Card(base=str(tiny_bases["mean"]), method="lora")
    base = load_base(card.base)
    untouched = TrainedClassifier(
        MergedModel(SentimentClassifier(base.encoder, base.pooling)).eval(), base.tokenizer, card
    )
    assert measure_forgetting(untouched) == {"similarity_rank_correlation": pytest.approx(1.0)}
    assert len(general_pairs()) == 40


def test_forgetting_of_a_decoder_is_measured_by_perplexity(tiny_bases: dict[str, Path]) -> None:
    card = Card(base=str(tiny_bases["llama"]), method="lora")
    base = load_base(card.base)
    found = measure_forgetting(
        TrainedClassifier(
            MergedModel(SentimentClassifier(base.encoder, base.pooling)).eval(), base.tokenizer, card
        )
    )
    assert found["perplexity_after"] == pytest.approx(found["perplexity_before"], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "choices",
    [
        {"checkpointing": True},
        {"checkpointing": True, "method": "qlora"},
        {"accumulation": 2, "batch_size": 4},
        {"optimizer": "adamw_8bit"},
        {"optimizer": "paged_adamw_8bit", "method": "qlora"},
        {"smoothing": 0.1, "dates_in_text": True},
    ],
    ids=str,
)
def test_training_works_with_each_optional_setting(
    choices: dict[str, object], split: Split, tiny_bases: dict[str, Path], tmp_path: Path
) -> None:
    losses: list[float] = []
    plan = msgspec.structs.replace(recipe("lora", epochs=6), **choices)
    done = train(
        plan,
        split,
        [RECORD],
        tmp_path,
        base=str(tiny_bases["mean"]),
        progress=lambda *now: losses.append(now[2]),
    )
    assert done.card.metrics["test"]["accuracy"].value > 0.6
    assert losses[-1] < 1.0


def test_bfloat16_is_used_if_the_processor_supports_it_and_refused_otherwise(
    split: Split, tiny_bases: dict[str, Path], tmp_path: Path
) -> None:
    plan = recipe("lora", bf16=True, epochs=1)
    if bf16_supported():
        assert train(plan, split, [RECORD], tmp_path, base=str(tiny_bases["mean"])).card.hyper["bf16"] is True
    else:
        with pytest.raises(ConfigError, match="bf16 is not supported by this processor"):
            train(plan, split, [RECORD], tmp_path, base=str(tiny_bases["mean"]))
