"""`bench/scoring.py`: the cost of named assets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench.scoring import FirstAssets, cost_of_assets
from models.sentiment.serve.scorer import Scorer

TITLES = [
    "the token meets",
    "bitcoin soars",
    "$BTC crashes",  # counted as the scorer reads it: cleaned
    "bitcoin soars ether crashes",
    "bitcoin and ether and solana",  # three assets: of no group
    "bitcoin, ether, solana and XRP",
    "bitcoin, ether, solana, XRP and DOGE",
]


def test_headlines_are_grouped_by_the_assets_that_they_name(
    tmp_path: Path, write_reader: Callable[..., Path]
) -> None:
    found = cost_of_assets(write_reader(tmp_path / "model"), TITLES)
    assert found["headlines"] == {"0": 1, "1": 2, "2": 1, "4": 2}
    for group in ("own_headlines", "same_headlines"):
        assert set(found[group]["ms"]) == set(found[group]["relative"]) == {"0", "1", "2", "4"}
        assert found[group]["relative"]["1"] == 1.0


def test_the_scorer_is_told_of_the_first_assets_only(
    tmp_path: Path, write_reader: Callable[..., Path]
) -> None:
    scorer = Scorer.load(write_reader(tmp_path / "model"), finder=FirstAssets(2))
    (score,) = scorer.score([TITLES[-1]])
    assert [answer.asset for answer in score.assets] == ["BTC", "ETH"]
