"""`bench/decoders.py`: latency and throughput of two models side by side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.decoders import compare
from bench.qlora import scoring_speed
from tests.models.tiny_model import write_tiny


class Counting:
    """A scorer that remembers the sizes of its batches."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def score(self, texts: list[str]) -> None:
        self.sizes.append(len(texts))


def test_every_text_is_scored_once_in_batches() -> None:
    scorer = Counting()
    found = scoring_speed(scorer, ["a"] * 35, 16)
    assert scorer.sizes == [16, 16, 3]
    assert found["per_s"] > 0
    assert found["p50_ms"] <= found["p99_ms"]


def test_both_models_are_measured_and_the_ratio_is_that_of_their_speeds(
    tmp_path: Path, write_reader: Callable[..., Path]
) -> None:
    first, second = write_tiny(tmp_path / "tiny"), write_reader(tmp_path / "reader")
    found = compare(str(first), str(second), ["bitcoin soars"] * 40, rounds=2, threads=1)
    for size in ("1", "16"):
        own, other = (found[name][size] for name in ("starter", "decoder"))
        assert min(own["p50_ms"], other["p50_ms"]) > 0
        assert found["ratio"][size] == pytest.approx(own["per_s"] / other["per_s"], abs=0.06)
