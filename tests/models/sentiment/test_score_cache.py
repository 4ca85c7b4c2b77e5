"""Score cache: a model scores each text once, and cached scores equal new ones."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from agent.store.database import open_database
from models.sentiment.serve.score_cache import CachedScorer, SqlScoreCache
from models.sentiment.serve.scorer import Scorer

TEXTS = ["bitcoin soars", "the token crashes", "", "bitcoin soars", "\ud800 odd", "record outflows"]


@pytest.fixture
def scorer(tmp_path: Path, write_model: Callable[..., Path]) -> Scorer:
    return Scorer.load(write_model(tmp_path / "model"))


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[SqlScoreCache]:
    with contextlib.closing(open_database(f"sqlite:///{tmp_path / 'tapewire.db'}")) as database:
        yield SqlScoreCache(database)


def test_a_second_scorer_takes_every_score_from_the_cache(scorer: Scorer, cache: SqlScoreCache) -> None:
    first = CachedScorer(scorer, cache)
    scores = first.score(TEXTS)
    assert scores == scorer.score(TEXTS)
    assert (first.hits, first.misses) == (0, 5)  # one of the six texts occurs twice
    second = CachedScorer(scorer, cache)
    assert second.score(TEXTS) == scores
    assert (second.hits, second.misses) == (5, 0)


def test_embeddings_are_cached_after_they_are_computed_once(scorer: Scorer, cache: SqlScoreCache) -> None:
    CachedScorer(scorer, cache).score(TEXTS)
    fresh = CachedScorer(scorer, cache)
    scores, embeddings = fresh.score_and_embed(TEXTS)
    assert fresh.misses == 5
    again = CachedScorer(scorer, cache)
    assert again.score_and_embed(TEXTS)[0] == scores
    assert np.array_equal(again.score_and_embed(TEXTS)[1], embeddings)
    assert again.misses == 0
    assert embeddings == pytest.approx(scorer.embed(TEXTS), rel=1e-3)


def test_models_do_not_share_cached_scores(
    scorer: Scorer, cache: SqlScoreCache, tmp_path: Path, write_model: Callable[..., Path]
) -> None:
    CachedScorer(scorer, cache).score(TEXTS)
    warmer = CachedScorer(Scorer.load(write_model(tmp_path / "warm", temperature=5.0)), cache)
    assert warmer.score(TEXTS)[0].confidence < scorer.score(TEXTS)[0].confidence
    assert warmer.misses == 5


def test_the_cache_holds_more_texts_than_one_sql_statement_can_bind(
    scorer: Scorer, cache: SqlScoreCache
) -> None:
    many = [f"token {'soars ' * (n % 5)}{n}" for n in range(1_203)]
    CachedScorer(scorer, cache).score(many)
    again = CachedScorer(scorer, cache)
    assert again.score(many) == scorer.score(many)
    assert again.misses == 0
