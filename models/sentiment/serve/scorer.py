"""The scoring runtime: an exported folder (model.onnx, tokenizer.json, card.json) becomes calibrated scores of headlines.

Needs onnxruntime, tokenizers and numpy, nothing else. Texts are cleaned, tokenised once and scored in runs of equal length, so
nothing is ever padded. An int8 graph scales its activations by the largest of a whole run, hence gets one text a run: a score
then depends on no other text, to the last bit, and rows spread over threads instead of growing. Graphs in floating point (the
GPU's) take `ROWS_PER_RUN` texts a run and agree with a run of one within `BATCH_TOLERANCE`.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import onnxruntime
from tokenizers import Tokenizer

from agent.core.errors import ModelError, UsageError
from agent.system.atomic import settled
from agent.system.latency_histogram import LatencyHistogram
from models.calibration import softmax
from models.cards import CARD_NAME, Card, check_files, read_card, sha256_files
from models.labels import LABELS, NOT_FINITE, NOT_READABLE
from models.sentiment.serve.headline_text import VERSION, clean, why_abstain

MODEL_NAME: Final = "model.onnx"
TOKENIZER_NAME: Final = "tokenizer.json"
INPUTS: Final = ("input_ids", "attention_mask")
OUTPUTS: Final = ("logits", "pooled")
PRECISION: Final = "precision"
"""Key of `Card.notes`: int8 or fp32."""

ROWS_PER_RUN: Final = 64
BATCH_TOLERANCE: Final = 1e-4
"""Largest difference of a probability between a text scored alone and in company: 0 for int8, this for floating point."""

CPU: Final = ("CPUExecutionProvider",)
CUDA: Final = ("CUDAExecutionProvider", "CPUExecutionProvider")
_PROVIDERS: Final = {"cpu": CPU, "cuda": CUDA}

_WARM_UP: Final = (
    "Markets are open",
    "Exchange lists a token, says its chief, and the wire carries the news to everybody who reads it",
)

Floats = npt.NDArray[np.float32]


class Score(msgspec.Struct, frozen=True):
    """Calibrated probabilities of one text; they sum to 1. Where the model abstained they are equal and mean nothing."""

    bearish: float
    neutral: float
    bullish: float
    abstained: bool = False
    reason: str = ""

    @property
    def probabilities(self) -> tuple[float, float, float]:
        """In the order of `LABELS`."""
        return self.bearish, self.neutral, self.bullish

    @property
    def confidence(self) -> float:
        """The largest probability; 0 where the model abstained."""
        return 0.0 if self.abstained else max(self.probabilities)

    @property
    def label(self) -> str:
        """Name of the likeliest class; empty where the model abstained."""
        return "" if self.abstained else LABELS[self.probabilities.index(max(self.probabilities))]


def providers_of(device: str) -> tuple[str, ...]:
    """onnxruntime's providers for `cpu` or `cuda`. Raises UsageError for another name."""
    if device not in _PROVIDERS:
        raise UsageError(f"unknown device {device!r}", hint=f"one of {', '.join(_PROVIDERS)}")
    return _PROVIDERS[device]


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def abstention(reason: str) -> Score:
    """The score of a text that the model does not judge."""
    return Score(1 / 3, 1 / 3, 1 / 3, abstained=True, reason=reason)


def fingerprint(folder: Path, card: Card) -> str:
    """SHA-256 of everything that a score depends on: weights, tokenizer, temperature, and how text is cleaned before."""
    files = [folder / MODEL_NAME, folder / TOKENIZER_NAME]
    return sha256_files(
        files, salt=f"temperature={card.temperature!r} length={card.max_length} text={VERSION}"
    )


@contextmanager
def _native(what: str, hint: str) -> Iterator[None]:
    """Convert whatever onnxruntime and tokenizers raise into a ModelError of one line.

    tokenizers raises a BaseException if its Rust code panics.
    """
    try:
        yield
    except (ModelError, KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError):
        raise
    except BaseException as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(f"{what}: {reason}", hint=hint) from error


def _checked_card(folder: Path) -> Card:
    """The card of an exported folder whose files are those that it was written for. Raises ModelError if they are not."""
    folder = settled(folder)
    card = read_card(folder)
    for name in (MODEL_NAME, TOKENIZER_NAME):
        if not (folder / name).is_file():
            raise ModelError(
                f"{folder} holds no {name}", hint="an adapter is served after `tapewire export ADAPTER OUT`"
            )
    check_files(card, folder, (MODEL_NAME, TOKENIZER_NAME))
    if card.fingerprint != fingerprint(folder, card):
        raise ModelError(
            f"{folder}: model, tokenizer or temperature are not those that {CARD_NAME} was written for",
            hint="copy the whole folder, or export it again with `tapewire export`",
        )
    return card


class Scorer:
    """One loaded model. Safe to share between threads; deterministic on one machine."""

    def __init__(self, card: Card, session: Any, tokenizer: Any, threads: int) -> None:
        self.card = card
        self.fingerprint = card.fingerprint
        self.latency = LatencyHistogram()
        """Milliseconds of model time a text, since `load`."""
        self._session = session
        self._tokenizer = tokenizer
        self._rows = 1 if card.notes.get(PRECISION) == "int8" else ROWS_PER_RUN
        self._pool = ThreadPoolExecutor(threads, "scorer") if threads > 1 else None
        self.dimensions = int(session.get_outputs()[1].shape[-1])

    @classmethod
    def load(cls, folder: Path, *, threads: int | None = None, providers: Sequence[str] = CPU) -> Scorer:
        """Open an exported folder and score two texts with it.

        `threads`: texts scored at once on the CPU, default all cores that this process may use. `providers`: of onnxruntime, in
        order of preference (`CUDA` for a GPU). Raises ModelError if the folder is incomplete, damaged or not an export, or if its
        answers are not finite or of the wrong shape; UsageError if a provider is not installed.
        """
        card, folder = _checked_card(folder), settled(folder)
        if missing := set(providers) - set(onnxruntime.get_available_providers()):
            raise UsageError(
                f"onnxruntime has no {', '.join(sorted(missing))} here",
                hint="for a GPU: pip install onnxruntime-gpu",
            )
        options = onnxruntime.SessionOptions()
        # texts run side by side: no run is split
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        with _native(f"{folder / MODEL_NAME} cannot be opened", "export it again, or update onnxruntime"):
            session = onnxruntime.InferenceSession(
                str(folder / MODEL_NAME), options, providers=list(providers)
            )
        with _native(f"{folder / TOKENIZER_NAME} cannot be opened", "export it again"):
            tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_NAME))
            tokenizer.no_padding()
            tokenizer.enable_truncation(card.max_length)
        names = tuple(x.name for x in session.get_inputs()), tuple(x.name for x in session.get_outputs())
        if names != (INPUTS, OUTPUTS):
            raise ModelError(
                f"{folder / MODEL_NAME} maps {names[0]} to {names[1]}", hint=f"expected {INPUTS} to {OUTPUTS}"
            )
        on_cpu = session.get_providers()[0] == CPU[0]
        with _native(f"{folder} can't score a text", "export it again"):
            scorer = cls(card, session, tokenizer, (threads or cores()) if on_cpu else 1)
            scorer._try_out(folder)
        scorer.latency = LatencyHistogram()
        return scorer

    def _try_out(self, folder: Path) -> None:
        """Raise ModelError if an answer isn't three probabilities that sum to 1, and an embedding."""
        logits, pooled = self._run(_WARM_UP)
        probabilities = softmax(logits.astype(np.float64), self.card.temperature)
        if not _sound(probabilities, pooled).all():
            raise ModelError(
                f"{folder}: the model's answers are not finite numbers",
                hint="train it again, at a lower learning rate",
            )

    def score(self, texts: Sequence[str]) -> list[Score]:
        """One score a text, in their order. Never raises for what a text holds: it is scored, or the model abstains."""
        return self.score_and_embed(texts)[0]

    def embed(self, texts: Sequence[str]) -> Floats:
        """Pooled hidden states, float32 [texts, dimensions]; zeros where the model abstained."""
        return self.score_and_embed(texts)[1]

    def score_and_embed(self, texts: Sequence[str]) -> tuple[list[Score], Floats]:
        """Scores, and the pooled hidden states that they were read from, in one pass."""
        cleaned = [clean(text) for text in texts]
        reasons = {text: why_abstain(text) for text in cleaned}
        readable = [text for text, reason in reasons.items() if not reason]
        logits, pooled = self._run_each(readable, reasons)
        probabilities = softmax(logits.astype(np.float64), self.card.temperature)
        judged: dict[str, tuple[Score, Floats]] = {}
        for text, sound, row, state in zip(
            readable, _sound(probabilities, pooled), probabilities.tolist(), pooled, strict=True
        ):
            if sound:
                judged[text] = Score(*row), state
            else:
                reasons[text] = reasons[text] or NOT_FINITE
        embeddings = np.zeros((len(cleaned), self.dimensions), np.float32)
        scores = []
        for number, text in enumerate(cleaned):
            score, embeddings[number] = judged.get(text) or (abstention(reasons[text]), 0.0)
            scores.append(score)
        return scores, embeddings

    def _run_each(self, texts: Sequence[str], reasons: dict[str, str]) -> tuple[Floats, Floats]:
        """Like `_run`. A text on which the model fails has a row of NaN and its reason in `reasons`.

        Raises ModelError if the model fails on every text.
        """
        with suppress(ModelError), _native("the model fails", ""):
            return self._run(texts)
        with _native("the model fails", "use another one: tapewire model use"):
            self._run(_WARM_UP)  # raises if it isn't a text's fault
        logits = np.full((len(texts), len(LABELS)), np.nan, np.float32)
        pooled = np.full((len(texts), self.dimensions), np.nan, np.float32)
        for row, text in enumerate(texts):
            try:
                with _native(NOT_READABLE, ""):
                    logits[row : row + 1], pooled[row : row + 1] = self._run([text])
            except ModelError:
                reasons[text] = NOT_READABLE
        return logits, pooled

    def _run(self, texts: Sequence[str]) -> tuple[Floats, Floats]:
        """Logits [texts, 3] and pooled states [texts, dimensions] of distinct clean texts."""
        tokens = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts)]
        runs = list(_runs(tokens, self._rows))
        side_by_side = self._pool.map if self._pool and len(runs) > 1 else map
        results: Iterable[tuple[float, list[Floats]]] = side_by_side(self._time, runs)
        logits = np.empty((len(texts), len(LABELS)), np.float32)
        pooled = np.empty((len(texts), self.dimensions), np.float32)
        for (rows, _), (milliseconds, outputs) in zip(runs, results, strict=True):
            expected = (len(rows), len(LABELS)), (len(rows), self.dimensions)
            if (outputs[0].shape, outputs[1].shape) != expected:
                raise ModelError(
                    f"the model answers with shapes {outputs[0].shape} and {outputs[1].shape}",
                    hint=f"expected {expected}",
                )
            logits[rows], pooled[rows] = outputs
            for _ in rows:
                self.latency.add(milliseconds / len(rows))
        return logits, pooled

    def _time(self, run: tuple[list[int], npt.NDArray[np.int64]]) -> tuple[float, list[Floats]]:
        began = time.perf_counter()
        ids = run[1]
        outputs = self._session.run(list(OUTPUTS), {INPUTS[0]: ids, INPUTS[1]: np.ones_like(ids)})
        return (time.perf_counter() - began) * 1e3, outputs


def _sound(probabilities: npt.NDArray[np.float64], pooled: Floats) -> npt.NDArray[np.bool_]:
    """Whether each row holds probabilities, and an embedding that half precision, as it is stored, can represent."""
    with np.errstate(over="ignore", invalid="ignore"):
        finite = np.isfinite(pooled.astype(np.float16)).all(axis=1)
    return np.asarray(finite & (np.abs(probabilities.sum(axis=1) - 1.0) < 1e-6))


def _runs(tokens: Sequence[Sequence[int]], rows: int) -> Iterable[tuple[list[int], npt.NDArray[np.int64]]]:
    """Row numbers and ids [≤ rows, length] of texts with equally many tokens, longest first."""
    by_length = sorted(range(len(tokens)), key=lambda row: (-len(tokens[row]), row))
    for _, equal in groupby(by_length, key=lambda row: len(tokens[row])):
        bucket = list(equal)
        for start in range(0, len(bucket), rows):
            part = bucket[start : start + rows]
            yield part, np.array([tokens[row] for row in part], np.int64)
