"""Fusion test helpers: a market whose headlines move the price, a configuration, random fusion models."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from agent.core.events import HOUR_MS
from agent.core.features import Features
from agent.core.fusion_inputs import Predictor
from agent.system.clock import iso
from models.cards import Card, write_card
from models.fusion import CLASSES
from models.fusion.serve.predictor import WEIGHTS_NAME, FusionPredictor, fingerprint
from tests.research.market_files import START, headlines, write_klines

DAYS = 120
DIMENSIONS = 2  # embedding size of the tiny sentiment model


def write_market(
    folder: Path, *, days: int = DAYS, seed: int = 1, changed_after: int | None = None
) -> tuple[Path, Path]:
    """Write hourly klines and headlines, each of which moves the next hour's price by 1 %.

    If `changed_after` is given, all bars from that day on are replaced by a constant price.
    """
    folder.mkdir(parents=True, exist_ok=True)
    said = headlines(days=days, seed=seed, every=6)
    klines = write_klines(folder / "BTCUSDT.csv", days=days, seed=seed, news=said, volatility=0.002)
    if changed_after is not None:
        lines = klines.read_text().splitlines()
        begin = 1 + 24 * changed_after
        lines[begin:] = [
            ",".join([line.split(",")[0], "50", "51", "49", "50", "1"]) for line in lines[begin:]
        ]
        klines.write_text("\n".join(lines) + "\n")
    return klines, write_news(folder / "news.csv", said)


def write_news(path: Path, said: dict[int, int]) -> Path:
    """Write distinct headlines without scores, each published two minutes before its hour ends."""
    rows = ["published_at,title"]
    for hour, sign in sorted(said.items()):
        words = " ".join(hashlib.sha256(f"{hour} {n}".encode()).hexdigest()[:6] for n in range(5))
        published_at = iso(START + (hour + 1) * HOUR_MS - 120_000)
        rows.append(f"{published_at},Bitcoin {'soars' if sign > 0 else 'crashes'} {words}")
    path.write_text("\n".join(rows) + "\n")
    return path


def write_config(folder: Path, model: Path, **fusion: str) -> Path:
    """Write a configuration with its store in `folder`, the given sentiment model and fusion settings."""
    path = folder / "config.toml"
    lines = [
        f'[store]\nurl = "sqlite:///{folder}/store.db"',
        f'[model]\npath = "{model}"\nthreads = 1',
        "[fusion]",
    ]
    path.write_text("\n".join([*lines, *(f'{key} = "{value}"' for key, value in fusion.items())]) + "\n")
    return path


def write_fusion(
    folder: Path,
    *,
    ablation: str = "full",
    scorer: str = "words",
    interval: int = HOUR_MS,
    dimensions: int = DIMENSIONS,
    hidden: int = 8,
    seed: int = 0,
    trained_until: int = 0,
) -> FusionPredictor:
    """Write a fusion model with random weights and load it."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    price, text = ablation != "text", ablation != "price"
    dimensions = 3 if ablation == "probabilities" else dimensions
    shapes: dict[str, tuple[int, ...]] = {"out.weight": (hidden, len(CLASSES)), "out.bias": (len(CLASSES),)}

    def layer(name: str, inputs: int) -> None:
        shapes.update(
            {
                f"{name}.weight": (inputs, hidden),
                **{f"{name}.{part}": (hidden,) for part in ("bias", "gain", "shift")},
            }
        )

    for name, there, inputs in (("price", price, len(Features._fields)), ("text", text, dimensions)):
        if there:
            layer(name, inputs)
            shapes.update({f"{name}.mean": (inputs,), f"{name}.scale": (inputs,)})
    layer("join", hidden * price + (hidden + 1) * text)
    if text:
        shapes["nothing"] = (hidden,)
    weights = {name: random.normal(0.0, 1.0, shape).astype(np.float32) for name, shape in shapes.items()}
    hyper: dict[str, Any] = {
        "ablation": ablation,
        "interval": interval,
        "horizon": 4 * interval,
        "half_life": 2 * interval,
        "move": 1.2,
        "scorer": scorer if text else "",
    }
    card = Card(
        kind="fusion",
        base="",
        method=ablation,
        labels=CLASSES,
        pooling="",
        max_length=0,
        hyper=hyper,
        trained_until=trained_until,
    )
    np.savez(folder / WEIGHTS_NAME, **weights)
    card.fingerprint = fingerprint(folder, card)
    write_card(card, folder)
    return FusionPredictor.load(folder)


class RecordingPredictor:
    """Predictor that records the inputs of each call and delegates to `inner`."""

    def __init__(self, inner: Predictor) -> None:
        self._inner = inner
        self.fingerprint = inner.fingerprint
        self.interval = inner.interval
        self.half_life = inner.half_life
        self.asked: list[tuple[Features, Any, float]] = []
        self.vector = inner.vector

    def read(self, mean: Any) -> Any:
        return mean

    def predict(self, features: Features, reading: Any, mass: float) -> Any:
        self.asked.append((features, reading, mass))
        return self._inner.predict(features, None if reading is None else self._inner.read(reading), mass)
