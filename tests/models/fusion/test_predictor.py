"""FusionPredictor: single rows equal blocks, numpy equals torch, and invalid folders are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.errors import ModelError
from agent.core.events import AssetSentiment, Sentiment
from agent.core.features import Features
from models.cards import Card, read_card, write_card
from models.fusion.serve.predictor import FusionPredictor, fingerprint
from tests.models.fusion.fusion_harness import write_fusion

ABLATIONS = ("full", "price", "text", "probabilities")


def questions(predictor: FusionPredictor, n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    width = 3 if predictor.ablation == "probabilities" else 2
    return (
        random.normal(0, 2, (n, len(Features._fields))),
        random.normal(0, 2, (n, width)),
        random.exponential(2, n),
    )


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_a_row_gets_the_same_prediction_alone_and_in_a_block(tmp_path: Path, ablation: str) -> None:
    predictor = write_fusion(tmp_path, ablation=ablation)
    features, means, mass = questions(predictor, 500, 1)
    block = predictor.predict_block(features, predictor.read_block(means), mass)
    for row, mean, weight, expected in zip(features, means, mass, block, strict=True):
        forecast = predictor.predict(Features(*row), predictor.read(mean), weight)
        assert (forecast.down, forecast.flat, forecast.up) == tuple(expected)


@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(0, 1e6), mass=st.floats(0, 1e6))
@settings(max_examples=100, deadline=None)
def test_probabilities_are_between_0_and_1_and_sum_to_1(
    tmp_path_factory: pytest.TempPathFactory, seed: int, scale: float, mass: float
) -> None:
    predictor = write_fusion(tmp_path_factory.mktemp("m"), seed=seed % 7)
    row = np.random.default_rng(seed).normal(0, 1, len(Features._fields)) * scale
    forecast = predictor.predict(Features(*row), predictor.read(np.array((scale, -scale))), mass)
    chances = (forecast.down, forecast.flat, forecast.up)
    assert all(0 <= chance <= 1 for chance in chances)
    assert sum(chances) == pytest.approx(1, abs=2e-6)


def test_numpy_and_torch_predict_the_same_probabilities(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from models.fusion.train.fusion_recipe import FusionRecipe
    from models.fusion.train.network import FusionNetwork

    torch.manual_seed(3)
    network = FusionNetwork(FusionRecipe(hidden=8), len(Features._fields), 2).eval()
    with torch.no_grad():
        network.nothing.normal_()
    predictor = write_fusion(tmp_path)
    norms = {
        f"{name}.{part}": value
        for name, n in (("price", 10), ("text", 2))
        for part, value in (("mean", np.zeros(n)), ("scale", np.ones(n)))
    }
    twin = FusionPredictor(predictor.card, {**norms, **network.weights()})
    features, means, mass = questions(twin, 200, 5)
    # the predictor clips standardised inputs at CLIP, the network does not
    features, means = np.clip(features, -5, 5), np.clip(means, -5, 5)
    gate = (mass / (1 + mass))[:, None]
    with torch.inference_mode():
        tensors = (torch.from_numpy(np.asarray(values, np.float32)) for values in (features, means, gate))
        expected = network(*tensors).softmax(1).numpy()
    assert np.abs(twin.predict_block(features, twin.read_block(means), mass) - expected).max() < 1e-5


def test_fully_decayed_news_gives_the_prediction_without_news(tmp_path: Path) -> None:
    predictor = write_fusion(tmp_path)
    features = Features(*np.linspace(-1, 1, len(Features._fields)))
    never = predictor.predict(features, None, 0.0)
    assert predictor.predict(features, predictor.read(np.array((3.0, -3.0))), 0.0) == never
    assert predictor.predict(features, predictor.read(np.array((3.0, -3.0))), 2.0) != never


def test_vector_ignores_scores_of_other_sentiment_models_and_scores_without_embedding(tmp_path: Path) -> None:
    embedding = np.array((1.5, -2.0), "<f2").tobytes()
    said = Sentiment("n", 1, 1, 0.2, 0.3, 0.5, "words", embedding=embedding)
    foreign = Sentiment("n", 1, 1, 0.2, 0.3, 0.5, "others", embedding=embedding)
    bare = Sentiment("n", 1, 1, 0.2, 0.3, 0.5, "words")
    full, chances, price = (
        write_fusion(tmp_path / name, ablation=name) for name in ("full", "probabilities", "price")
    )
    assert full.vector(said, "BTC").tolist() == [1.5, -2.0]
    assert chances.vector(bare, "BTC").tolist() == [0.2, 0.3, 0.5]
    unread = full.vector(foreign, "BTC"), full.vector(bare, "BTC"), price.vector(said, "BTC")
    assert all(vector is None for vector in unread)


def test_vector_is_that_of_the_asset_or_of_the_headline_without_one(tmp_path: Path) -> None:
    own, btc = np.array((1.5, -2.0), "<f2").tobytes(), np.array((0.25, 3.0), "<f2").tobytes()
    answers = (AssetSentiment("BTC", 0.7, 0.2, 0.1, btc), AssetSentiment("ETH", 0.1, 0.1, 0.8))
    said = Sentiment("n", 1, 1, 0.2, 0.3, 0.5, "words", embedding=own, assets=answers)
    full, chances = (write_fusion(tmp_path / name, ablation=name) for name in ("full", "probabilities"))
    assert full.vector(said, "BTC").tolist() == [0.25, 3.0]
    assert full.vector(said, "SOL").tolist() == [1.5, -2.0]
    assert full.vector(said, "ETH") is None, "its answer lacks an embedding: the headline's is not about it"
    assert [chances.vector(said, asset).tolist() for asset in ("BTC", "ETH", "SOL")] == [
        [0.7, 0.2, 0.1],
        [0.1, 0.1, 0.8],
        [0.2, 0.3, 0.5],
    ]


class TestInvalidFolders:
    """Folders without a complete and valid fusion model."""

    def test_an_empty_folder_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError):
            FusionPredictor.load(tmp_path)

    def test_a_folder_without_weights_is_refused(self, tmp_path: Path) -> None:
        write_fusion(tmp_path)
        (tmp_path / "weights.npz").unlink()
        with pytest.raises(ModelError, match="holds no weights"):
            FusionPredictor.load(tmp_path)

    def test_damaged_weights_are_refused(self, tmp_path: Path) -> None:
        write_fusion(tmp_path)
        (tmp_path / "weights.npz").write_bytes(b"nothing of the kind")
        with pytest.raises(ModelError, match="damaged"):
            FusionPredictor.load(tmp_path)

    def test_weights_of_another_model_are_refused(self, tmp_path: Path) -> None:
        write_fusion(tmp_path / "one", seed=1)
        write_fusion(tmp_path / "two", seed=2)
        (tmp_path / "two" / "weights.npz").replace(tmp_path / "one" / "weights.npz")
        with pytest.raises(ModelError, match="not those that its card was written for"):
            FusionPredictor.load(tmp_path / "one")

    def test_a_model_of_another_kind_is_refused(self, tmp_path: Path) -> None:
        write_card(Card(base="tiny", method="none"), tmp_path)
        with pytest.raises(ModelError, match="holds a model of sentiment, not of fusion"):
            FusionPredictor.load(tmp_path)

    @pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
    def test_weights_that_are_not_finite_are_refused(self, value: float, tmp_path: Path) -> None:
        self.spoil(tmp_path, "out.bias", lambda weight: np.full_like(weight, value))
        with pytest.raises(
            ModelError, match=r"out\.bias holds values that are not finite numbers.*train it again"
        ):
            FusionPredictor.load(tmp_path)

    def test_weights_of_the_wrong_shape_are_refused(self, tmp_path: Path) -> None:
        self.spoil(tmp_path, "out.weight", lambda weight: weight[:-1])
        with pytest.raises(ModelError, match="don't fit together"):
            FusionPredictor.load(tmp_path)

    def test_weights_for_two_classes_are_refused(self, tmp_path: Path) -> None:
        self.spoil(tmp_path, "out.weight", lambda weight: weight[:, :2])
        with pytest.raises(ModelError):
            FusionPredictor.load(tmp_path)

    @pytest.mark.parametrize("temperature", [0.0, -1.0])
    def test_a_temperature_that_is_not_positive_is_refused(self, temperature: float, tmp_path: Path) -> None:
        write_fusion(tmp_path)
        card = read_card(tmp_path, kind="fusion")
        card.temperature = temperature
        write_card(card, tmp_path)
        with pytest.raises(ModelError, match="temperature"):
            FusionPredictor.load(tmp_path)

    @staticmethod
    def spoil(folder: Path, name: str, change: Callable[[Any], Any]) -> None:
        """Change one weight and update the card's fingerprint to match."""
        write_fusion(folder)
        with np.load(folder / "weights.npz") as stored:
            weights = {key: stored[key] for key in stored.files}
        weights[name] = change(weights[name])
        np.savez(folder / "weights.npz", **weights)
        card = read_card(folder, kind="fusion")
        card.fingerprint = fingerprint(folder, card)
        write_card(card, folder)


def test_vector_ignores_embeddings_that_are_not_finite_or_of_the_wrong_size(tmp_path: Path) -> None:
    model = write_fusion(tmp_path, dimensions=2)
    for embedding in ([1.5, np.inf], [np.nan, 0.0], [1.0], [1.0, 2.0, 3.0]):
        said = Sentiment(
            "n", 1, 1, 0.2, 0.3, 0.5, model.scorer, embedding=np.array(embedding, "<f2").tobytes()
        )
        assert model.vector(said, "BTC") is None
