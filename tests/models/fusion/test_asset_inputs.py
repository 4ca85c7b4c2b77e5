"""A symbol takes the embedding of its own asset: the same numbers in training, replay and live trading."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.config import Config
from agent.core.engine import Engine
from agent.core.errors import ModelError
from agent.core.events import HOUR_MS, AssetSentiment, Event, Kline, News, Prediction, Sentiment
from agent.core.sinks import ListSink
from agent.data.merge import merge
from agent.live.pipeline import Pipeline
from agent.replay.verify import verify
from agent.store.database import open_database
from agent.store.queries import find_run, read_decisions
from agent.store.runs import FUSION_VERSION, Run, RunKind
from models.fusion.train.dataset import FusionData, build_dataset
from strategies import load_strategy
from tests.models.fusion.fusion_harness import RecordingPredictor, write_fusion
from tests.support.market import T0, config

SYMBOLS = ("BTCPERP", "BTCUSDT", "ETHUSDT")
BARS = 60
OWN, BTC, ETH = (1.0, 0.5), (-2.0, 0.25), (3.0, -0.75)
"""Embeddings of a headline, of bitcoin and of ether in it; float16 represents them exactly."""


def packed(embedding: tuple[float, float]) -> bytes:
    return np.array(embedding, "<f2").tobytes()


def of_asset(asset: str, embedding: tuple[float, float]) -> AssetSentiment:
    return AssetSentiment(asset, 0.6, 0.25, 0.15, packed(embedding))


BOTH = of_asset("BTC", BTC), of_asset("ETH", ETH)
TEXTS: dict[str, tuple[AssetSentiment, ...]] = {
    "Money rotates from bitcoin into ether": BOTH,
    "Ether follows bitcoin": BOTH[:1],  # the model has no embedding for ether
    "Fed raises rates": (),
    "Bitcoin and ether leave solana behind": (of_asset("SOL", OWN), *BOTH[::-1]),
}


def klines(symbol: str) -> list[Kline]:
    """Return hourly bars of a random walk."""
    seed = SYMBOLS.index(symbol)
    closes = 100 * np.exp(np.cumsum(np.random.default_rng(seed).normal(0, 0.01, BARS)))
    return [
        Kline(symbol, HOUR_MS, at, at + HOUR_MS, at + HOUR_MS, close, close + 1, close - 1, close, 10.0)
        for at, close in zip(range(T0, T0 + BARS * HOUR_MS, HOUR_MS), closes.tolist(), strict=True)
    ]


def news() -> Iterator[News | Sentiment]:
    """Yield a headline in each hour, all of different stories."""
    for number, (title, assets) in enumerate(islice(cycle(TEXTS.items()), BARS)):
        at = T0 + number * HOUR_MS + 60_000
        yield News(f"n{number}", at, at, f"{title} x{number} y{number} z{number} w{number} v{number}")
        yield Sentiment(
            f"n{number}", at, at + 250, 0.2, 0.3, 0.5, "words", embedding=packed(OWN), assets=assets
        )


def a_config(folder: Path, **fusion: str) -> Config:
    return config(
        market={"symbols": SYMBOLS, "interval": "1h"},
        strategy={"name": "fusion", "params": {}},
        store={"url": f"sqlite:///{folder / 'store.db'}"},
        paper={"funding_rate": 0},
        fusion=fusion,
    )


def train(folder: Path) -> FusionData:
    return build_dataset(
        [klines(symbol) for symbol in SYMBOLS],
        news(),
        folder,
        config=a_config(folder),
        interval=HOUR_MS,
        dimensions=2,
        scorer="words",
    )


def stream() -> list[Event]:
    return list(merge([*map(klines, SYMBOLS), news()]))


def test_each_symbol_votes_with_the_text_of_its_asset(tmp_path: Path) -> None:
    data = train(tmp_path)
    assert data.meta.symbols == SYMBOLS
    first_four = [(number, data.texts["embedding"][text].tolist()) for _, number, text in data.votes[:12]]
    assert first_four == [
        *((0, [*BTC]), (1, [*BTC]), (2, [*ETH])),
        *((0, [*BTC]), (1, [*BTC]), (2, [*OWN])),
        *((0, [*OWN]), (1, [*OWN]), (2, [*OWN])),
        *((0, [*BTC]), (1, [*BTC]), (2, [*ETH])),
    ]
    # two texts for each headline with probabilities of its own for an asset, one for the Fed's
    assert len(data.texts) == 7 * BARS / 4
    assert data.texts["chances"][:4].tolist() == [
        pytest.approx(row)
        for row in ((0.6, 0.25, 0.15), (0.6, 0.25, 0.15), (0.6, 0.25, 0.15), (0.2, 0.3, 0.5))
    ]


async def test_training_replay_and_live_trading_see_the_same_numbers(tmp_path: Path) -> None:
    data = train(tmp_path / "data")
    model = write_fusion(tmp_path / "model")
    replayed, lived = RecordingPredictor(model), RecordingPredictor(model)
    settings = a_config(tmp_path, path=str(tmp_path / "model"))
    sink = ListSink()
    engine = Engine(settings, load_strategy("fusion", {}), sink, run_id="run-1", predictor=replayed)
    for event in stream():
        engine.handle(event)
    engine.finish()
    made = [one for one in sink.decisions if isinstance(one, Prediction)]
    run = Run(
        "run-1",
        RunKind.LIVE,
        T0,
        "fusion",
        config=settings.persisted(),
        versions={FUSION_VERSION: model.fingerprint},
    )
    with closing(open_database(settings.store.url)) as database:
        with Pipeline(settings, database, run, resume=False, predictor=lived) as pipeline:
            await pipeline.feed([(event, 0.0) for event in stream()])
            pipeline.end(complete=True)
        recorded = [item.decision for item in read_decisions(database, "run-1")]
        assert verify(database, find_run(database)).identical
    assert [one for one in recorded if isinstance(one, Prediction)] == made
    assert [plain(ask) for ask in lived.asked] == [plain(ask) for ask in replayed.asked]

    assert [(one.symbol, one.ts) for one in made] == [
        (SYMBOLS[row["symbol"]], row["ts"]) for row in data.rows
    ]
    means, mass = data.decayed_means(model.half_life, "embedding")
    assert len(replayed.asked) == len(data.rows) > 100
    for row, weight, (features, reading, at_ask) in zip(data.rows, mass, replayed.asked, strict=True):
        assert list(features) == row["features"].tolist()
        assert reading.tolist() == pytest.approx(means[row["vote"]].tolist(), abs=1e-6)
        assert at_ask == pytest.approx(weight, rel=1e-12)
    assert engine.counts == {}
    last = {one.symbol: one for one in made}
    texts = [engine.states[symbol].fusion_inputs for symbol in SYMBOLS]
    perp, btc, eth = (one.text.mean.tolist() for one in texts if one is not None)
    assert perp == btc != eth
    assert last["BTCUSDT"] != last["ETHUSDT"]


def plain(ask: tuple[Any, Any, float]) -> tuple[list[float], list[float], float]:
    features, reading, mass = ask
    return list(features), [] if reading is None else reading.tolist(), mass


def test_an_asset_without_an_embedding_can_not_be_trained_on(tmp_path: Path) -> None:
    at = T0 + HOUR_MS
    bare = AssetSentiment("ETH", 0.6, 0.25, 0.15)
    scored = Sentiment("n", at, at, 0.2, 0.3, 0.5, "words", embedding=packed(OWN), assets=(bare,))
    headline = News("n", at, at, "Ether wakes up")
    with pytest.raises(ModelError, match="headline n has an embedding for ETH of 0 dimensions, not 2"):
        build_dataset(
            [klines("ETHUSDT")],
            [headline, scored],
            tmp_path,
            config=config(market={"symbols": ["ETHUSDT"], "interval": "1h"}),
            interval=HOUR_MS,
            dimensions=2,
            scorer="words",
        )
