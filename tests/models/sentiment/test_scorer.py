"""Scorer: calibrated, reproducible, independent of the batch, and robust against any text."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.core.errors import ModelError, UsageError
from models.cards import read_card, write_card
from models.sentiment.serve.scorer import BATCH_TOLERANCE, CUDA, MODEL_NAME, ROWS_PER_RUN, Scorer

UP, DOWN, SO_SO = "bitcoin soars after record inflows", "the token crashes", "bitcoin meets the token"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, write_model: Callable[..., Path]) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def scorer(folder: Path) -> Scorer:
    return Scorer.load(folder, threads=2)


def test_probabilities_follow_the_text_and_sum_to_1(scorer: Scorer) -> None:
    up, down, so_so = scorer.score([UP, DOWN, SO_SO])
    assert (up.label, down.label, so_so.label) == ("bullish", "bearish", "neutral")
    for score in (up, down, so_so):
        assert sum(score.probabilities) == pytest.approx(1)
        assert score.confidence == max(score.probabilities)


def test_a_higher_temperature_lowers_the_confidence_and_keeps_the_label(
    tmp_path: Path, write_model: Callable[..., Path]
) -> None:
    folders = (write_model(tmp_path / str(t), temperature=t) for t in (1.0, 4.0))
    cool, warm = (Scorer.load(folder).score([UP])[0] for folder in folders)
    assert warm.label == cool.label
    assert np.log(warm.bullish / warm.bearish) == pytest.approx(np.log(cool.bullish / cool.bearish) / 4)


@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_a_score_does_not_depend_on_the_rest_of_the_batch(
    tmp_path: Path, precision: str, write_model: Callable[..., Path]
) -> None:
    scorer = Scorer.load(write_model(tmp_path, precision=precision), threads=2)
    crowd = [" ".join([UP, *["token"] * (n % 9)]) for n in range(3 * ROWS_PER_RUN)] + [DOWN, SO_SO, UP]
    together = scorer.score(crowd)
    for number in (0, 5, len(crowd) - 2, len(crowd) - 1):
        alone = scorer.score([crowd[number]])[0]
        assert alone.probabilities == pytest.approx(together[number].probabilities, abs=BATCH_TOLERANCE)


def test_the_number_of_threads_does_not_change_scores(folder: Path) -> None:
    texts = [f"{UP} {'token ' * n}" for n in range(12)]
    one, many = (Scorer.load(folder, threads=threads).score_and_embed(texts) for threads in (1, 4))
    assert one[0] == many[0]
    assert np.array_equal(one[1], many[1])


def test_embeddings_are_in_the_order_of_the_texts(scorer: Scorer) -> None:
    texts = [DOWN, "", UP, DOWN]
    embeddings = scorer.embed(texts)
    assert embeddings.shape == (4, scorer.dimensions)
    assert embeddings.dtype == np.float32
    assert np.array_equal(embeddings[0], embeddings[3])
    assert not embeddings[1].any()
    assert embeddings[2, 0] == pytest.approx(5.5)  # soars, record, inflows


@pytest.mark.parametrize(
    "text",
    [
        *("", " \n", "\x00", "\ud800", "🚀🚀🚀", "Ünïcödé", "Биржа закрыта"),
        *("a" * 1_000_000, "bitcoin " * 100_000, "<" * 5_000, "&#" * 5_000, "ﷺ" * 3_000),
        *("'; DROP TABLE scores; --", "<script>alert(1)</script>", "{{7*7}} %s %n"),
    ],
)
def test_hostile_text_is_scored_or_abstained_on_and_raises_no_error(scorer: Scorer, text: str) -> None:
    score = scorer.score([text])[0]
    assert sum(score.probabilities) == pytest.approx(1)
    assert bool(score.reason) == score.abstained


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=40), max_size=8))
def test_each_text_gets_one_score(scorer: Scorer, texts: list[str]) -> None:
    scores = scorer.score(texts)
    assert len(scores) == len(texts)
    assert all(score.confidence == 0 for score in scores if score.abstained)


def test_latency_counts_each_distinct_text_once_and_excludes_the_warm_up(folder: Path) -> None:
    scorer = Scorer.load(folder)
    assert len(scorer.latency) == 0
    scorer.score([UP, DOWN, UP, ""])  # UP occurs twice, and the empty text is not run
    assert len(scorer.latency) == 2
    assert 0 < scorer.latency.quantile(0.5) <= scorer.latency.quantile(0.99)


def test_the_fingerprint_depends_on_the_temperature_but_not_on_the_folder(
    tmp_path: Path, write_model: Callable[..., Path]
) -> None:
    prints = [
        Scorer.load(write_model(tmp_path / name, temperature=t)).fingerprint
        for name, t in (("a", 1.0), ("b", 1.0), ("c", 2.0))
    ]
    assert prints[0] == prints[1] != prints[2]


def test_a_folder_whose_files_do_not_match_its_fingerprint_is_refused(
    tmp_path: Path, write_model: Callable[..., Path]
) -> None:
    folder = write_model(tmp_path)
    card = read_card(folder)
    card.temperature = 3.0
    write_card(card, folder)
    with pytest.raises(ModelError, match="not those that"):
        Scorer.load(folder)


def test_a_missing_damaged_or_incomplete_folder_is_refused(
    tmp_path: Path, write_model: Callable[..., Path]
) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        Scorer.load(tmp_path / "nowhere")
    folder = write_model(tmp_path / "cut")
    (folder / MODEL_NAME).write_bytes((folder / MODEL_NAME).read_bytes()[:-100])
    with pytest.raises(ModelError, match="not those that"):
        Scorer.load(folder)
    (folder / MODEL_NAME).unlink()
    with pytest.raises(ModelError, match=r"holds no model\.onnx.*tapewire export"):
        Scorer.load(folder)


def test_a_gpu_that_onnxruntime_cannot_use_is_refused(folder: Path) -> None:
    import onnxruntime

    if CUDA[0] in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(UsageError, match=r"CUDAExecutionProvider.*onnxruntime-gpu"):
        Scorer.load(folder, providers=CUDA)


def test_serving_imports_no_training_library() -> None:
    modules = "models.sentiment.serve.generator, models.sentiment.serve.score_cache"
    code = f"import sys, {modules}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"torch", "transformers", "peft", "bitsandbytes", "sklearn", "onnx"} & set(loaded)
