"""Scoring of headlines with a trained folder in torch, for workers with a GPU or with a model too large for
ONNX.

Weights are in bfloat16 where the machine multiplies it natively, or in 4 bits. The keys and values of a
prompt's prefix are computed once. Texts of similar length share a batch of bounded size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch

from agent.core.errors import ModelError, UsageError
from models.calibration import softmax
from models.cards import Card, ReferenceShares, read_card
from models.classification_metrics import Floats
from models.labels import NOT_FINITE
from models.sentiment.serve.headline_score import HeadlineScore, abstention
from models.sentiment.serve.headline_text import abstention_reason, clean
from models.sentiment.serve.scorer import Scorer
from models.sentiment.train.onnx_export import EXPORTED_FROM, reference_texts
from models.sentiment.train.trained_model import TrainedClassifier, load_trained
from models.sentiment.train.trainer import bf16_supported

Precision = Literal["auto", "fp32", "bf16", "4bit"]
PRECISIONS: Final[tuple[Precision, ...]] = ("auto", "fp32", "bf16", "4bit")
TOKENS_PER_BATCH: Final = 4096
"""Most tokens of a batch, padding included."""
LEAST_AGREEMENT: Final = 0.95
"""Least share of the reference headlines to which a stand-in must give the same label as the export."""


class TorchScorer:
    """A trained folder as a scorer. Its scores depend on the machine and the batch within rounding."""

    def __init__(self, trained: TrainedClassifier, precision: str) -> None:
        self.card: Card = trained.card
        self.precision = precision
        self.fingerprint = f"{trained.card.fingerprint}-{precision}"
        """Of the trained folder, and the precision."""
        self._trained = trained

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        base: str | None = None,
        precision: Precision = "auto",
        device: str | None = None,
    ) -> TorchScorer:
        """Open a folder written by `tapewire train sentiment`; `device` is by default a GPU if there is one.

        With "4bit" the base is loaded in 4 bits and the adapter stays beside it. Raises ModelError as
        `load_trained` does, UsageError for an unknown precision or one that the machine or the method doesn't
        support.
        """
        if precision not in PRECISIONS:
            raise UsageError(f"unknown precision {precision!r}", hint=f"one of {', '.join(PRECISIONS)}")
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if precision == "bf16" and not bf16_supported():
            raise UsageError("bf16 is not supported by this processor", hint="--precision fp32")
        chosen = precision
        if precision == "auto":
            chosen = "bf16" if bf16_supported() else "fp32"
        trained = load_trained(folder, device, base=base, four_bit=chosen == "4bit")
        if chosen == "bf16":
            _to_bfloat16(trained)
        return cls(trained, chosen)

    @property
    def reference(self) -> ReferenceShares | None:
        """The reference for drift, of the card."""
        return self.card.reference

    def score(self, texts: Sequence[str]) -> list[HeadlineScore]:
        """Return one score for each text, in the same order. The model may abstain."""
        cleaned = [clean(text) for text in texts]
        reasons = {text: abstention_reason(text) for text in cleaned}
        readable = [text for text, reason in reasons.items() if not reason]
        found: dict[str, HeadlineScore] = {}
        for text, logits in zip(readable, self._logits(readable), strict=True):
            if np.isfinite(logits).all():
                found[text] = HeadlineScore(*softmax(logits[None], self.card.temperature)[0].tolist())
            else:
                reasons[text] = NOT_FINITE
        return [found.get(text) or abstention(reasons[text]) for text in cleaned]

    def _logits(self, texts: Sequence[str]) -> Floats:
        """Return logits (n, 3) of clean texts."""
        model, tokens, device = self._trained.model, self._trained.tokens, self._trained.device
        if tokens is None:
            raise ModelError("the model has no tokens", hint="load it with TorchScorer.load")
        encoded = tokens.after_prefix(texts)
        logits = np.zeros((len(texts), 3))
        with torch.inference_mode():
            for rows in batches([len(ids) for ids in encoded], TOKENS_PER_BATCH):
                ids = {"input_ids": [encoded[row] for row in rows]}
                padded = tokens.tokenizer.pad(ids, return_tensors="pt").to(device)
                logits[rows] = model(padded["input_ids"], padded["attention_mask"])[0].double().cpu().numpy()
        return logits


def _to_bfloat16(trained: TrainedClassifier) -> None:
    words = trained.model.classifier.words
    bias = None if words is None else words.bias
    trained.model.to(torch.bfloat16)
    if words is not None:
        words.bias = bias  # a constant, whose rounding would move every score


def batches(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Yield the row numbers of batches of similar lengths, of at most `tokens` tokens with their padding.

    A longer text is a batch of its own.
    """
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: lengths[row]):
        if batch and lengths[row] * (len(batch) + 1) > tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


class StandIn:
    """A scorer that answers in the name of an export of the same training, which an agent runs.

    Raises ModelError if the export is of another training, or if the two disagree on more of the packaged
    headlines than `LEAST_AGREEMENT` allows.
    """

    def __init__(self, scorer: TorchScorer, export: Path) -> None:
        card = read_card(export)
        if card.notes.get(EXPORTED_FROM) != scorer.card.fingerprint:
            what = f"{export} was not exported from this model"
            raise ModelError(what, hint="export it again with `tapewire export model`")
        texts = reference_texts()[:100]
        pairs = zip(scorer.score(texts), Scorer.load(export).score(texts), strict=True)
        same = [ours.label == theirs.label for ours, theirs in pairs if not theirs.abstained]
        self.agreement = sum(same) / max(len(same), 1)
        """Share of the headlines with the same label."""
        if self.agreement < LEAST_AGREEMENT:
            what = f"the model gives {self.agreement:.0%} of the reference headlines the export's label"
            raise ModelError(what, hint="--precision fp32, or serve the export itself")
        self.fingerprint = card.fingerprint
        self._scorer = scorer

    def score(self, texts: Sequence[str]) -> list[HeadlineScore]:
        """Return one score for each text, in the same order."""
        return self._scorer.score(texts)
