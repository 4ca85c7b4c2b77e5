"""The benchmark of QLoRA runs on a tiny decoder: its training steps in every mode, and its serving."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

pytest.importorskip("torch")

from bench.qlora import (
    MODES,
    alone,
    computed_weights,
    measure,
    random_decoder,
    ratios,
    serve,
    train_words,
)
from models.cards import read_card

pytestmark = pytest.mark.train


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    random_decoder("tiny", folder)
    return folder


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_trains_and_reports_memory_and_speed(mode: str, tiny: Path) -> None:
    found = measure(str(tiny), mode, steps=1, batch=2, lengths=[8, 16])
    assert list(found["tokens"]) == ["8", "16"]
    assert all(row["tokens_per_s"] > 0 for row in found["tokens"].values())
    assert 0 < found["trainable"] < 0.1 * found["parameters"]
    # 3.2 M weights in the layers, and 0.5 M of the embeddings, which stay in 32 bits
    assert found["weights_mb"] == pytest.approx(14.6 if mode.startswith("lora") else 3.8, rel=0.25)


@pytest.mark.slow
def test_a_trained_decoder_answers_by_words_and_its_speed_is_measured(tiny: Path, tmp_path: Path) -> None:
    done = train_words(str(tiny), str(tmp_path / "trained"), headlines=16)
    template = read_card(tmp_path / "trained").template
    assert template is not None
    assert [word.strip() for word in template.words] == ["negative", "neutral", "positive"]
    assert done["seconds"] > 0
    found = serve(str(tmp_path / "trained"), "4bit")
    for size in ("1", "32"):
        assert 0 < found[size]["p50_ms"] <= found[size]["p99_ms"]


def test_a_measurement_that_fails_or_takes_too_long_is_an_error_in_the_result() -> None:
    assert alone(60, divmod, 7, 0) == {"error": "ZeroDivisionError: integer division or modulo by zero"}
    assert alone(0.5, time.sleep, 600) == {"error": "no answer within 0.5 s"}


@pytest.mark.parametrize(
    ("shape", "millions", "lora", "qlora"),
    [
        # Llama 2 7B has 6,738.4 M weights, of which 131.1 M are the output matrix
        ("7b", 6738.4 - 131.1, 13.21, 3.87),
        # Llama 3.1 8B: 8,030.3 M, of which 525.3 M
        ("8b", 8030.3 - 525.3, 15.01, 5.70),
        # Llama 3.2 1B: 1,235.8 M, whose output matrix is that of the input
        ("1b", 1235.8, 2.47, 1.55),
    ],
)
def test_the_memory_of_weights_is_that_of_the_published_models(
    shape: str, millions: float, lora: float, qlora: float
) -> None:
    found = computed_weights(shape)
    assert found["linear_millions"] + found["rest_millions"] == pytest.approx(millions, abs=0.2)
    assert (found["lora_gb"], found["qlora_gb"]) == (lora, qlora)


def test_ratios_are_to_the_first_mode_and_leave_failures_out() -> None:
    modes = {
        "lora": {"tokens": {"64": {"peak_memory_mb": 200.0, "tokens_per_s": 10.0}}},
        "qlora": {"tokens": {"64": {"peak_memory_mb": 50.0, "tokens_per_s": 8.0}, "512": {"error": "no"}}},
        "full": {"error": "no answer within 1 s"},
    }
    assert ratios(modes) == {
        "lora": {"64": {"peak_memory_mb": 1.0, "tokens_per_s": 1.0}},
        "qlora": {"64": {"peak_memory_mb": 0.25, "tokens_per_s": 0.8}, "512": {}},
    }
