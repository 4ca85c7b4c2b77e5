"""Fusion training: accuracy, isolation from later data, the model card, and refused inputs."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest

from agent.core.errors import DataError, ModelError, UsageError
from agent.store.database import open_database
from models.fusion.train.fusion_recipe import FusionRecipe
from models.fusion.train.fusion_sources import PreparedDataset, prepare_dataset
from models.fusion.train.purged_splits import PARTS, split
from models.sentiment.serve.history_scoring import score_history
from models.sentiment.serve.score_cache import CachedScorer, SqlScoreCache
from models.sentiment.serve.scorer import Scorer
from tests.models.fusion.conftest import CUT, END, RECIPE, MarketFiles
from tests.models.fusion.fusion_harness import write_market
from tests.research.market_files import START

pytest.importorskip("torch")
pytestmark = pytest.mark.train

from models.fusion.train.fusion_training import FusionTrainingResult, train  # noqa: E402


def teach(
    prepared: PreparedDataset, folder: Path, recipe: FusionRecipe = RECIPE, **more: object
) -> FusionTrainingResult:
    settings = {"start": START, "end": CUT, "test_until": END, "compare": False} | more
    return train(prepared.data, recipe, prepared.records, folder, **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def full(prepared: PreparedDataset, tmp_path_factory: pytest.TempPathFactory) -> FusionTrainingResult:
    return teach(prepared, tmp_path_factory.mktemp("full"), compare=True)


def test_the_network_learns_the_effect_of_headlines_on_prices(full: FusionTrainingResult) -> None:
    network, shares = full.table["network"]["nll"], full.table["shares"]["nll"]
    assert network.high < shares.value - 0.02
    assert full.table["network"]["ece"].value < 0.1
    assert set(full.table) == {"network", "boosting", "shares"}


def test_a_network_without_headlines_has_a_higher_loss(
    prepared: PreparedDataset, full: FusionTrainingResult, tmp_path: Path
) -> None:
    alone = teach(prepared, tmp_path, msgspec.structs.replace(RECIPE, ablation="price"))
    assert alone.table["network"]["nll"].value > full.table["network"]["nll"].value + 0.02


@pytest.mark.parametrize("ablation", ["text", "probabilities"])
@pytest.mark.parametrize("balance", ["weights", "focal"])
def test_text_ablations_train_with_each_class_balancing_method(
    prepared: PreparedDataset, tmp_path: Path, ablation: str, balance: str
) -> None:
    recipe = msgspec.structs.replace(RECIPE, ablation=ablation, balance=balance, epochs=2)
    done = teach(prepared, tmp_path, recipe)
    assert done.card.method == ablation
    assert 0 < done.table["network"]["accuracy"].value <= 1


def test_the_card_records_the_training_cut_off_and_the_datasets(
    full: FusionTrainingResult, place: MarketFiles
) -> None:
    card = full.card
    assert (card.kind, card.trained_until) == ("fusion", CUT)
    assert {record.name for record in card.datasets} == {place.klines.name, place.news.name}
    assert card.hyper["scorer"] == json.loads((place.model / "card.json").read_text())["fingerprint"]
    assert full.rows["train"] > 1_000


def test_trained_until_includes_the_cut_off_of_the_sentiment_model(
    prepared: PreparedDataset, tmp_path: Path
) -> None:
    done = teach(prepared, tmp_path, msgspec.structs.replace(RECIPE, epochs=1), seen_until=END)
    assert done.card.trained_until == END


def test_data_after_the_training_end_does_not_change_the_model(
    place: MarketFiles, tmp_path: Path, full: FusionTrainingResult
) -> None:
    """Two markets that differ only after the training end give bit-identical models."""
    klines, news = write_market(tmp_path / "other", changed_after=80)
    other = place._replace(klines=klines, news=news)
    done = teach(prepare_dataset(other.plan(), place.config(), RECIPE, tmp_path / "data"), tmp_path / "model")
    assert done.card.fingerprint == full.card.fingerprint


def test_the_same_seed_gives_the_same_model(prepared: PreparedDataset, tmp_path: Path) -> None:
    recipe = msgspec.structs.replace(RECIPE, epochs=2)
    first, second, other = (
        teach(prepared, tmp_path / name, msgspec.structs.replace(recipe, seed=seed)).card.fingerprint
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first == second != other


def test_headlines_are_scored_once(place: MarketFiles, prepared: PreparedDataset, tmp_path: Path) -> None:
    again = prepare_dataset(place.plan(), place.config(), RECIPE, tmp_path)
    assert np.array_equal(again.data.texts, prepared.data.texts)
    with closing(open_database(place.config().store.url)) as database:
        scorer = CachedScorer(Scorer.load(place.model, threads=1), SqlScoreCache(database))
        titles = [line.split(",")[1] for line in place.news.read_text().splitlines()[1:]]
        assert score_history(scorer, titles) == 0


def test_label_windows_of_different_parts_do_not_overlap(prepared: PreparedDataset) -> None:
    data = prepared.data
    labels = data.labels(RECIPE.horizon, RECIPE.band)
    parts = split(data.rows["ts"], labels.kind, RECIPE, start=START, end=END)
    spans = [data.rows["ts"][getattr(parts, name)] for name in PARTS]
    for before, after in pairwise(spans):
        assert before.max() + RECIPE.horizon + RECIPE.embargo <= after.min() + RECIPE.horizon
        assert before.max() + RECIPE.horizon < after.min()


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"ablation": "weather"}, "ablation"),
        ({"balance": "luck"}, "balance"),
        ({"horizon": 60_000}, "shorter than a bar"),
        ({"validation": 0.5, "calibration": 0.4}, "held-out shares"),
        ({"half_lives": ()}, "half-life"),
    ],
)
def test_an_invalid_recipe_is_refused(choice: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        msgspec.structs.replace(RECIPE, **choice)


def test_a_window_that_is_too_short_is_refused_with_the_class_counts(
    prepared: PreparedDataset, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"part of .* has 0 down"):
        teach(prepared, tmp_path, end=START + 86_400_000)


def test_a_sentiment_model_without_embeddings_is_refused(
    place: MarketFiles, tmp_path: Path, write_model: Callable[..., Path]
) -> None:
    import onnx

    bare = write_model(tmp_path / "bare")
    graph = onnx.load(bare / "model.onnx")
    del graph.graph.output[1]
    onnx.save(graph, bare / "model.onnx")
    from models.cards import read_card, write_card
    from models.sentiment.serve.scorer import fingerprint

    card = read_card(bare)
    card.fingerprint = fingerprint(bare, card)
    write_card(card, bare)
    config = place.config()
    config = config.model_copy(update={"model": config.model.model_copy(update={"path": str(bare)})})
    with pytest.raises(ModelError, match=r"model\.onnx maps .* to \('logits',\)"):
        prepare_dataset(place.plan(), config, RECIPE, tmp_path / "data")
