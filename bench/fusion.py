"""Measures the cost of a prediction: with and without the model, against torch, memory, training.

    python bench/fusion.py [--days 30] [--questions 20000]

Prints one JSON object. The market is a random walk of one-minute bars, with a headline every five minutes and
embeddings of 384 dimensions. The model has random weights, which cost the same. All figures are CPU time in
this process, as medians over alternating rounds.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from agent.config import parse
from agent.core.engine import Engine
from agent.core.events import HOUR_MS, MINUTE_MS, Event, Kline, News, Sentiment
from agent.core.fusion_inputs import Predictor
from agent.core.sinks import ListSink
from agent.data.merge import merge
from strategies import load_strategy
from tests.models.fusion.fusion_harness import write_fusion

T0 = 1_735_689_600_000
DIMENSIONS = 384
ROUNDS = 5


class DiscardSink(ListSink):
    """Sink that discards all decisions."""

    def decision(self, decision: Any) -> None:
        """Discard the decision."""


def market(days: int) -> list[Event]:
    """Return bars and headlines in order."""
    random = np.random.default_rng(1)
    n = days * 1440
    closes = 50_000 * np.exp(np.cumsum(random.normal(0, 0.0005, n)))
    bars: list[Event] = []
    for minute, close in enumerate(closes.tolist()):
        start = T0 + minute * MINUTE_MS
        end = start + MINUTE_MS
        bars.append(
            Kline("BTCUSDT", MINUTE_MS, start, end, end, close, close * 1.0002, close * 0.9998, close, 10.0)
        )
    events: list[Event] = []
    for number in range(0, n, 5):
        at = T0 + number * MINUTE_MS + 30_000
        words = " ".join(f"w{word:x}" for word in random.integers(0, 2**30, 5))
        embedding = random.normal(0, 1, DIMENSIONS).astype("<f2").tobytes()
        events.append(News(f"n{number}", at, at, f"Bitcoin {words}"))
        events.append(
            Sentiment(f"n{number}", at + 250, at + 250, 0.1, 0.2, 0.7, "words", embedding=embedding)
        )
    return list(merge([bars, events]))


def replay(events: Iterable[Event], predictor: Predictor | None) -> float:
    """Return the CPU seconds of the engine over all events, with a strategy that does nothing."""
    config = parse({"market": {"symbols": ["BTCUSDT"]}}, where="bench")
    strategy = load_strategy("buy_and_hold", {})
    engine = Engine(config, strategy, DiscardSink(), run_id="bench", predictor=predictor)
    began = time.process_time()
    for event in events:
        engine.handle(event)
    return time.process_time() - began


def median(work: Callable[[], float]) -> float:
    """Return the median of `ROUNDS` measurements."""
    return statistics.median(work() for _ in range(ROUNDS))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--questions", type=int, default=20_000)
    options = parser.parse_args()
    import torch

    from agent.core.features import Features
    from models.fusion.train.fusion_recipe import FusionRecipe
    from models.fusion.train.network import FusionNetwork

    torch.set_num_threads(1)
    events = market(options.days)
    bars = options.days * 1440
    with tempfile.TemporaryDirectory() as folder:
        hourly = write_fusion(Path(folder) / "1h", interval=HOUR_MS, dimensions=DIMENSIONS, hidden=32)
        minutely = write_fusion(Path(folder) / "1m", interval=MINUTE_MS, dimensions=DIMENSIONS, hidden=32)
    without, with_hourly, with_minutely = [], [], []
    for _ in range(ROUNDS):
        without.append(replay(events, None))
        with_hourly.append(replay(events, hourly))
        with_minutely.append(replay(events, minutely))
    random = np.random.default_rng(2)
    rows = random.normal(0, 1, (options.questions, len(Features._fields)))
    reading = hourly.read(random.normal(0, 1, DIMENSIONS))
    questions = [Features(*row) for row in rows.tolist()]
    network = FusionNetwork(FusionRecipe(hidden=32), len(Features._fields), DIMENSIONS).eval()
    means, gate = torch.randn(1, DIMENSIONS), torch.full((1, 1), 0.5)

    def ours() -> float:
        began = time.process_time()
        for question in questions:
            hourly.predict(question, reading, 1.0)
        return (time.process_time() - began) / len(questions)

    @torch.inference_mode()
    def theirs() -> float:
        began = time.process_time()
        for row in rows[: options.questions // 10]:
            network(torch.from_numpy(row.astype(np.float32))[None], means, gate).softmax(1).tolist()
        return (time.process_time() - began) / (options.questions // 10)

    mine, torchs = median(ours), median(theirs)
    print(
        json.dumps(
            {
                "benchmark": "fusion",
                "bars": bars,
                "headlines": bars // 5,
                "us_a_bar": {
                    "without": round(statistics.median(without) / bars * 1e6, 2),
                    "model_of_1h": round(statistics.median(with_hourly) / bars * 1e6, 2),
                    "model_of_1m": round(statistics.median(with_minutely) / bars * 1e6, 2),
                },
                "us_a_prediction": round(mine * 1e6, 1),
                "us_a_torch_forward": round(torchs * 1e6, 1),
                "ratio_torch_to_ours": round(torchs / mine, 2),
                "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
