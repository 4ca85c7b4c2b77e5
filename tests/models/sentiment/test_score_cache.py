"""Score cache: a model scores each text once, and cached scores equal new ones."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from agent.core.settings import InstrumentConfig
from agent.core.symbols import AssetFinder
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
    assert np.vstack(embeddings) == pytest.approx(scorer.embed(TEXTS), rel=1e-3)


def test_models_do_not_share_cached_scores(
    scorer: Scorer, cache: SqlScoreCache, tmp_path: Path, write_model: Callable[..., Path]
) -> None:
    CachedScorer(scorer, cache).score(TEXTS)
    warmer = CachedScorer(Scorer.load(write_model(tmp_path / "warm", temperature=5.0)), cache)
    assert warmer.score(TEXTS)[0].confidence < scorer.score(TEXTS)[0].confidence
    assert warmer.misses == 5


NAMING = ["bitcoin soars ether crashes", "the token meets", "solana lists", ""]


def test_a_hit_has_the_assets_the_kind_and_all_embeddings_of_a_miss(
    cache: SqlScoreCache, tmp_path: Path, write_reader: Callable[..., Path]
) -> None:
    reader = Scorer.load(write_reader(tmp_path / "reader"))
    missed = CachedScorer(reader, cache).score_and_embed(NAMING)
    second = CachedScorer(reader, cache)
    hit = second.score_and_embed(NAMING)
    assert (second.hits, second.misses) == (4, 0)
    assert hit[0] == missed[0] == reader.score(NAMING)
    assert [[answer.asset for answer in score.assets] for score in hit[0]] == [
        ["BTC", "ETH"],
        [],
        ["SOL"],
        [],
    ]
    assert [score.kind for score in hit[0]] == ["price", "opinion", "access", ""]
    assert [rows.tolist() for rows in hit[1]] == [rows.tolist() for rows in missed[1]]
    assert hit[1][0].tolist() == [[0.0, 4.0], [3.0, 1.0], [-3.0, 1.0]]  # the headline's, bitcoin's, ether's
    assert second.score(NAMING) == hit[0]


def test_a_hit_has_the_share_of_unknown_tokens(scorer: Scorer, cache: SqlScoreCache) -> None:
    for _ in range(2):  # a miss, then a hit
        (score,) = CachedScorer(scorer, cache).score(["bitcoin soars somewhere else"])
        assert score.unknown == 0.5


def test_scores_of_other_names_of_assets_are_other_scores(
    cache: SqlScoreCache, tmp_path: Path, write_reader: Callable[..., Path]
) -> None:
    """An alias of the configuration finds an asset that the first scorer did not find."""
    folder = write_reader(tmp_path / "reader")
    title = "orange coin soars"
    named = {"BTCUSDT": InstrumentConfig(aliases=("orange coin",))}
    plain = CachedScorer(Scorer.load(folder), cache)
    aliased = CachedScorer(Scorer.load(folder, finder=AssetFinder(("BTCUSDT",), named)), cache)
    assert plain.score([title])[0].assets == ()
    assert [answer.asset for answer in aliased.score([title])[0].assets] == ["BTC"]
    assert aliased.misses == 1
    assert plain.score([title])[0].assets == ()
    assert plain.misses == 1


def test_the_names_of_assets_do_not_matter_to_a_model_that_reads_none(
    cache: SqlScoreCache, tmp_path: Path, write_model: Callable[..., Path]
) -> None:
    folder = write_model(tmp_path / "plain")
    CachedScorer(Scorer.load(folder), cache).score(TEXTS)
    again = CachedScorer(Scorer.load(folder, finder=AssetFinder(("TSLAUSDT",))), cache)
    again.score(TEXTS)
    assert again.misses == 0


def test_the_cache_holds_more_texts_than_one_sql_statement_can_bind(
    scorer: Scorer, cache: SqlScoreCache
) -> None:
    many = [f"token {'soars ' * (n % 5)}{n}" for n in range(1_203)]
    CachedScorer(scorer, cache).score(many)
    again = CachedScorer(scorer, cache)
    assert again.score(many) == scorer.score(many)
    assert again.misses == 0
