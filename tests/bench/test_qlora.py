"""The benchmark of QLoRA runs on a tiny decoder, in every mode."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from bench.qlora import MODES, measure, random_decoder

pytestmark = pytest.mark.train


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    random_decoder("tiny", folder)
    return folder


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_trains_and_reports_memory_and_speed(mode: str, tiny: Path) -> None:
    found = measure(str(tiny), mode, steps=1, batch=2, tokens=8)
    assert found["tokens_per_s"] > 0
    assert 0 < found["trainable"] < 0.1 * found["parameters"]
    # 3.2 M weights in the layers, and 0.5 M of the embeddings, which stay in 32 bits
    assert found["weights_mb"] == pytest.approx(14.6 if mode.startswith("lora") else 3.8, rel=0.25)
