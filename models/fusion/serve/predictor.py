"""Inference of the fusion model in numpy alone, for one row or a block of rows.

    features  -> standardise -> dense block                                  ─┐
    text mean -> standardise -> dense block -> g · code + (1 - g) · nothing  ─┤-> dense block -> linear ->
    softmax(· / T) g = weight of the text / (1 + weight of the text)                        ─┘

A dense block is linear, LayerNorm, GELU. As the headlines fade (weight -> 0), their code moves towards a
learned code that stands for no news. Sums are computed in double precision and probabilities are rounded to
`ROUNDING` decimals, far above what the order of summation changes, so a row has the same result alone, in a
block, and on another machine.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from math import isfinite, pi, sqrt
from pathlib import Path
from typing import Any, Final, NamedTuple
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from agent.core.errors import ModelError
from agent.core.events import Sentiment
from agent.core.features import Features
from agent.core.fusion_inputs import Forecast
from agent.core.text_embedding import Vector
from agent.system.atomic import settled
from models.cards import Card, check_files, read_card, sha256_files
from models.fusion import CLASSES

WEIGHTS_NAME: Final = "weights.npz"
ROUNDING: Final = 6
"""Decimals of a probability that is returned."""
CLIP: Final = 6.0
"""Standardised inputs are clipped to ± this."""
EPSILON: Final = 1e-5
"""Epsilon of LayerNorm."""

_LARGEST: Final = 1e12
"""Larger weights are the result of a training that diverged."""
_RETRAIN: Final = "train it again: tapewire train fusion"
_GELU: Final = sqrt(2.0 / pi)
_HYPER: Final = ("ablation", "half_life", "horizon", "interval", "move", "scorer")

Floats = NDArray[np.float64]


def fingerprint(folder: Path, card: Card) -> str:
    """Return the SHA-256 of everything that a prediction depends on."""
    hyper = " ".join(f"{key}={card.hyper.get(key)}" for key in _HYPER)
    return sha256_files([folder / WEIGHTS_NAME], salt=f"temperature={card.temperature!r} {hyper}")


class FusionPredictor:
    """Predictor of `agent.core.fusion_inputs` from a folder written by `tapewire train fusion`."""

    def __init__(self, card: Card, weights: Mapping[str, NDArray[Any]]) -> None:
        self.card = card
        self.fingerprint = card.fingerprint
        self.ablation = str(card.hyper["ablation"])
        self.interval = int(card.hyper["interval"] or 0)
        self.horizon = int(card.hyper["horizon"] or 0)
        self.half_life = int(card.hyper["half_life"] or 0)
        self.scorer = str(card.hyper["scorer"] or "")
        """Fingerprint of the sentiment model whose output this model was trained on; empty if it reads no
        text.
        """
        self._move = float(card.hyper["move"] or 0.0) * sqrt(self.horizon / self.interval)
        exact = {name: np.ascontiguousarray(value, np.float64) for name, value in weights.items()}
        self._price = _InputEncoder.from_weights("price", exact)
        self._text = _InputEncoder.from_weights("text", exact)
        self._nothing = exact.get("nothing", np.zeros(0))
        self._join = _DenseBlock.from_weights("join", exact)
        self._out, self._bias = exact["out.weight"], exact["out.bias"]

    @classmethod
    def load(cls, folder: Path) -> FusionPredictor:
        """Open a model folder.

        Raises ModelError if the folder is missing, incomplete, damaged or holds another kind of model, and if
        a prediction could be anything but probabilities.
        """
        folder = settled(folder)
        card = read_card(folder, kind="fusion")
        path = folder / WEIGHTS_NAME
        if not path.is_file():
            raise ModelError(f"{folder} holds no {WEIGHTS_NAME}", hint=_RETRAIN)
        check_files(card, folder, (WEIGHTS_NAME,))
        try:
            with np.load(path, allow_pickle=False) as stored:
                weights = {name: stored[name] for name in stored.files}
        except (OSError, ValueError, EOFError, BadZipFile, zlib.error) as error:
            raise ModelError(f"{path}: {error}", hint="the file is damaged: train it again") from None
        if card.fingerprint != fingerprint(folder, card):
            what = f"{folder}: the weights are not those that its card was written for"
            raise ModelError(what, hint="copy the whole folder")
        for name, value in weights.items():
            if not (value.dtype.kind == "f" and (np.abs(value) <= _LARGEST).all()):
                raise ModelError(f"{path}: {name} holds values that are not finite numbers", hint=_RETRAIN)
        try:
            predictor = cls(card, weights)
            valid = predictor._predicts_probabilities()
        except (KeyError, TypeError, ValueError, IndexError, ZeroDivisionError) as error:
            raise ModelError(
                f"{folder}: weights and card don't fit together: {error}", hint=_RETRAIN
            ) from None
        if not valid:
            raise ModelError(f"{folder}: its predictions are not probabilities", hint=_RETRAIN)
        return predictor

    def _predicts_probabilities(self) -> bool:
        """True if predictions at the bounds of the standardised inputs are probabilities.

        The weights are finite and bounded, so no sum of the network overflows for inputs between the bounds.
        """
        if self.interval <= 0 or self.horizon <= 0 or self.half_life <= 0 or not isfinite(self._move):
            return False
        readings = None
        bounds = np.repeat([[-1e30], [0.0], [1e30]], len(Features._fields), axis=1)
        if self._text is not None:
            readings = self.read_block(np.repeat([[-1e30], [0.0], [1e30]], len(self._text.mean), axis=1))
        masses = np.array((0.0, 1.0, 1e6))
        found = [self.predict_block(bounds, reading, masses) for reading in (None, readings)]
        return all(
            rows.shape == (3, len(CLASSES))
            and (rows >= 0.0).all()
            and (np.abs(rows.sum(axis=1) - 1.0) < 1e-5).all()
            for rows in found
        )

    @property
    def reads_text(self) -> bool:
        """True if headlines are an input."""
        return self._text is not None

    @property
    def reads_embeddings(self) -> bool:
        """True if the embeddings of sentiments are an input."""
        return self.reads_text and self.ablation != "probabilities"

    def vector(self, sentiment: Sentiment, asset: str) -> Vector | None:
        """Return the embedding of a sentiment for `asset`, or its three probabilities if the ablation is
        "probabilities". If the sentiment has none for the asset, they are those of the whole headline.

        None if the sentiment comes from another model, if the embedding is missing or has another size, or if
        it isn't finite.
        """
        if self._text is None or sentiment.model != self.scorer:
            return None
        answer = sentiment.of(asset)
        if self.ablation == "probabilities":
            found = np.array((answer.bearish, answer.neutral, answer.bullish), np.float64)
        elif len(answer.embedding) == 2 * len(self._text.mean):
            found = np.frombuffer(answer.embedding, "<f2").astype(np.float64)
        else:
            return None
        return found if np.isfinite(found).all() else None

    def read(self, mean: Vector) -> Floats:
        """Return the code (1, hidden) of a mean embedding."""
        return self.read_block(mean[None])

    def predict(self, features: Features, reading: Floats | None, mass: float) -> Forecast:
        """Return the forecast for one row; see `predict_block`."""
        rows = np.array((features,), np.float64)
        ((down, flat, up),) = self.predict_block(rows, reading, np.array((mass,))).tolist()
        return Forecast(down, flat, up, self._move * features.volatility)

    def read_block(self, means: Floats) -> Floats:
        """Return codes (n, hidden) of mean embeddings (n, dimensions), or (n, 0) if no text is read."""
        return np.zeros((len(means), 0)) if self._text is None else self._text.encode(means)

    def predict_block(self, features: Floats, readings: Floats | None, mass: Floats) -> Floats:
        """Return probabilities (n, 3).

        `features` is (n, 10); `readings` (n, hidden) are codes from `read_block`, None for no headline yet;
        `mass` (n,) is the weight of the headlines.
        """
        parts = []
        if self._price is not None:
            parts.append(self._price.encode(features))
        if self._text is not None:
            gate = (mass / (1.0 + mass))[:, None]
            code = self._nothing if readings is None else self._nothing + gate * (readings - self._nothing)
            parts += [np.broadcast_to(code, (len(gate), len(self._nothing))), gate]
        hidden = self._join.apply(np.concatenate(parts, axis=1))
        logits = (hidden @ self._out + self._bias) / self.card.temperature
        raised = np.exp(logits - logits.max(axis=1, keepdims=True))
        rounded: Floats = np.round(raised / raised.sum(axis=1, keepdims=True), ROUNDING)
        rounded[:, 1] = np.round(1.0 - rounded[:, 0] - rounded[:, 2], ROUNDING)
        return rounded


class _DenseBlock(NamedTuple):
    """Linear layer, LayerNorm (Ba, Kiros and Hinton 2016), GELU in its tanh form (Hendrycks and Gimpel
    2016).
    """

    weight: Floats
    bias: Floats
    gain: Floats
    shift: Floats

    @classmethod
    def from_weights(cls, name: str, weights: Mapping[str, Floats]) -> _DenseBlock:
        return cls(*(weights[f"{name}.{field}"] for field in cls._fields))

    def apply(self, values: Floats) -> Floats:
        """(n, inputs) -> (n, hidden)."""
        linear = values @ self.weight + self.bias
        centred = linear - linear.mean(axis=1, keepdims=True)
        variance = (centred * centred).mean(axis=1, keepdims=True)
        x = centred / np.sqrt(variance + EPSILON) * self.gain + self.shift
        return np.asarray(0.5 * x * (1.0 + np.tanh(_GELU * (x + 0.044715 * x * x * x))))


class _InputEncoder(NamedTuple):
    """Standardisation of inputs, and the dense block behind it."""

    mean: Floats
    scale: Floats
    layer: _DenseBlock

    @classmethod
    def from_weights(cls, name: str, weights: Mapping[str, Floats]) -> _InputEncoder | None:
        if f"{name}.weight" not in weights:
            return None
        return cls(weights[f"{name}.mean"], weights[f"{name}.scale"], _DenseBlock.from_weights(name, weights))

    def encode(self, values: Floats) -> Floats:
        """(n, inputs) -> (n, hidden)."""
        return self.layer.apply(standardise(values, self.mean, self.scale))


def standardise(values: Floats, mean: Floats, scale: Floats) -> Floats:
    """Return (values - mean) · scale, clipped to ± `CLIP`."""
    return np.clip((values - mean) * scale, -CLIP, CLIP)
