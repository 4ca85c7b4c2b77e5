"""Training data equals the engine's inputs: timestamps, features and decayed headline embeddings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from agent.config import FusionConfig, StrategyConfig
from agent.core.engine import Engine
from agent.core.events import HOUR_MS, Prediction
from agent.core.sinks import ListSink
from agent.data.merge import merge
from agent.replay.backtest import backtest
from agent.replay.history import History
from agent.store.database import open_database
from models.fusion.train.fusion_sources import PreparedDataset
from models.sentiment.serve.score_cache import CachedScorer, SqlScoreCache
from models.sentiment.serve.scorer import Scorer
from strategies import load_strategy
from tests.models.fusion.conftest import MarketFiles
from tests.models.fusion.fusion_harness import RecordingPredictor, write_fusion


@pytest.mark.slow
def test_the_engine_gives_the_predictor_the_rows_of_the_training_data(
    place: MarketFiles, prepared: PreparedDataset, tmp_path: Path
) -> None:
    data = prepared.data
    predictor = write_fusion(tmp_path / "model", scorer=data.meta.scorer)
    recorder = RecordingPredictor(predictor)
    config = place.config().model_copy(
        update={
            "fusion": FusionConfig(path=str(tmp_path / "model")),
            "strategy": StrategyConfig(name="fusion"),
        }
    )
    history = History(place.plan(), config)
    database = open_database(config.store.url)
    scorer = CachedScorer(Scorer.load(place.model, threads=1), SqlScoreCache(database))
    sink = ListSink()
    strategy = load_strategy("fusion", {})
    engine = Engine(history.config, strategy, sink, run_id="r", predictor=recorder)  # type: ignore[arg-type]
    for event in merge(history.sources(scorer=scorer)):
        engine.handle(event)
    database.close()
    rows = data.rows
    assert len(recorder.asked) == len(rows) > 2_500
    assert np.array_equal(np.array([features for features, _, _ in recorder.asked]), rows["features"])
    predictions = [item for item in sink.decisions if isinstance(item, Prediction)]
    assert [item.ts for item in predictions] == rows["ts"].tolist()
    means, mass = data.decayed_means(predictor.half_life, "embedding")
    assert [weight for _, _, weight in recorder.asked] == pytest.approx(mass.tolist(), rel=1e-12)
    heard = [
        (row, reading) for row, (_, reading, _) in zip(rows, recorder.asked, strict=True) if row["vote"] >= 0
    ]
    assert len(heard) > 1_000
    expected = np.array([means[row["vote"]] for row, _ in heard])
    assert np.abs(np.array([reading for _, reading in heard]) - expected).max() < 1e-6


def test_labels_look_ahead_by_the_horizon_and_no_further(prepared: PreparedDataset) -> None:
    data = prepared.data
    labels = data.labels(2 * HOUR_MS, 0.5)
    known = labels.kind >= 0
    assert known.mean() > 0.99
    assert not known[data.rows["ts"] + 2 * HOUR_MS > data.meta.end].any()
    up, down = labels.forward[labels.kind == 2], labels.forward[labels.kind == 0]
    assert (up > 0).all()
    assert (down < 0).all()


@pytest.mark.slow
def test_a_backtest_records_the_predictions_and_the_model(
    place: MarketFiles, prepared: PreparedDataset, tmp_path: Path
) -> None:
    write_fusion(tmp_path / "model", scorer=prepared.data.meta.scorer)
    config = place.config().model_copy(
        update={
            "fusion": FusionConfig(path=str(tmp_path / "model")),
            "strategy": StrategyConfig(name="fusion"),
        }
    )
    database = open_database(config.store.url)
    scorer = CachedScorer(Scorer.load(place.model, threads=1), SqlScoreCache(database))
    result = backtest(History(place.plan(), config), database, scorer=scorer)
    database.close()
    assert result.run.versions["fusion"]
    assert result.run.decisions >= len(prepared.data.rows)
