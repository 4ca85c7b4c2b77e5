"""Scoring of headlines with an exported folder (model.onnx, tokenizer.json, card.json).

Needs only onnxruntime, tokenizers and numpy. Texts are cleaned, tokenised once and scored in runs of equal
length, without padding. An int8 graph scales its activations by the largest of a run, so it gets one text a
run, and runs are spread over threads: a score then doesn't depend on other texts, to the last bit. A graph in
floating point gets up to `ROWS_PER_RUN` texts a run, and its results agree with a run of one text within
`BATCH_TOLERANCE`.
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
from models.sentiment.serve.headline_text import VERSION, abstention_reason, clean

MODEL_NAME: Final = "model.onnx"
TOKENIZER_NAME: Final = "tokenizer.json"
INPUTS: Final = ("input_ids", "attention_mask")
OUTPUTS: Final = ("logits", "pooled")
PRECISION: Final = "precision"
"""Key of `Card.notes` with the value "int8" or "fp32"."""

ROWS_PER_RUN: Final = 64
BATCH_TOLERANCE: Final = 1e-4
"""Largest difference of a probability between a text scored alone and in a batch, in floating point; 0
for int8.
"""

CPU: Final = ("CPUExecutionProvider",)
CUDA: Final = ("CUDAExecutionProvider", "CPUExecutionProvider")
_PROVIDERS: Final = {"cpu": CPU, "cuda": CUDA}

_WARM_UP: Final = (
    "Markets are open",
    "Exchange lists a token, says its chief, and the wire carries the news to everybody who reads it",
)

Floats = npt.NDArray[np.float32]


class HeadlineScore(msgspec.Struct, frozen=True):
    """Calibrated probabilities of one text, which sum to 1. They are equal and meaningless if the model
    abstained.
    """

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
        """The largest probability; 0 if the model abstained."""
        return 0.0 if self.abstained else max(self.probabilities)

    @property
    def label(self) -> str:
        """Name of the likeliest class; empty if the model abstained."""
        return "" if self.abstained else LABELS[self.probabilities.index(max(self.probabilities))]


def providers_of(device: str) -> tuple[str, ...]:
    """Return onnxruntime's providers for "cpu" or "cuda". Raises UsageError for any other name."""
    if device not in _PROVIDERS:
        raise UsageError(f"unknown device {device!r}", hint=f"one of {', '.join(_PROVIDERS)}")
    return _PROVIDERS[device]


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def abstention(reason: str) -> HeadlineScore:
    """Return the score of a text that the model does not judge."""
    return HeadlineScore(1 / 3, 1 / 3, 1 / 3, abstained=True, reason=reason)


def fingerprint(folder: Path, card: Card) -> str:
    """Return the SHA-256 of everything that a score depends on: weights, tokenizer, temperature, version
    of cleaning.
    """
    files = [folder / MODEL_NAME, folder / TOKENIZER_NAME]
    salt = f"temperature={card.temperature!r} length={card.max_length} text={VERSION}"
    return sha256_files(files, salt=salt)


@contextmanager
def _as_model_error(what: str, hint: str) -> Iterator[None]:
    """Convert any error of onnxruntime and tokenizers into a ModelError of one line.

    It catches BaseException, because tokenizers raises one if its Rust code panics.
    """
    try:
        yield
    except (ModelError, KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError):
        raise
    except BaseException as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(f"{what}: {reason}", hint=hint) from error


def _checked_card(folder: Path) -> Card:
    """Read the card of an exported folder. Raises ModelError if a file is missing or not the one recorded
    in the card.
    """
    folder = settled(folder)
    card = read_card(folder)
    for name in (MODEL_NAME, TOKENIZER_NAME):
        if not (folder / name).is_file():
            hint = "an adapter is served after `tapewire export ADAPTER OUT`"
            raise ModelError(f"{folder} holds no {name}", hint=hint)
    check_files(card, folder, (MODEL_NAME, TOKENIZER_NAME))
    if card.fingerprint != fingerprint(folder, card):
        raise ModelError(
            f"{folder}: model, tokenizer or temperature are not those that {CARD_NAME} was written for",
            hint="copy the whole folder, or export it again with `tapewire export`",
        )
    return card


class Scorer:
    """A loaded model. Thread-safe; deterministic on one machine."""

    def __init__(self, card: Card, session: Any, tokenizer: Any, threads: int) -> None:
        self.card = card
        self.fingerprint = card.fingerprint
        self.latency = LatencyHistogram()
        """Model time of each text since `load`, ms."""
        self._session = session
        self._tokenizer = tokenizer
        self._rows = 1 if card.notes.get(PRECISION) == "int8" else ROWS_PER_RUN
        self._pool = ThreadPoolExecutor(threads, "scorer") if threads > 1 else None
        self.dimensions = int(session.get_outputs()[1].shape[-1])

    @classmethod
    def load(cls, folder: Path, *, threads: int | None = None, providers: Sequence[str] = CPU) -> Scorer:
        """Open an exported folder and score two texts with it.

        `threads` is the number of texts scored at once on the CPU; default: all cores that this process may
        use. `providers` are onnxruntime's, in order of preference (`CUDA` for a GPU). Raises ModelError if
        the folder is incomplete, damaged or not an export, or if the model's output is not finite or has a
        wrong shape; UsageError if a provider is not installed.
        """
        card, folder = _checked_card(folder), settled(folder)
        if missing := set(providers) - set(onnxruntime.get_available_providers()):
            what = f"onnxruntime has no {', '.join(sorted(missing))} here"
            raise UsageError(what, hint="for a GPU: pip install onnxruntime-gpu")
        options = onnxruntime.SessionOptions()
        # Runs are executed in parallel, so each gets one thread
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        with _as_model_error(
            f"{folder / MODEL_NAME} cannot be opened", "export it again, or update onnxruntime"
        ):
            session = onnxruntime.InferenceSession(
                str(folder / MODEL_NAME), options, providers=list(providers)
            )
        with _as_model_error(f"{folder / TOKENIZER_NAME} cannot be opened", "export it again"):
            tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_NAME))
            tokenizer.no_padding()
            tokenizer.enable_truncation(card.max_length)
        names = tuple(x.name for x in session.get_inputs()), tuple(x.name for x in session.get_outputs())
        if names != (INPUTS, OUTPUTS):
            what = f"{folder / MODEL_NAME} maps {names[0]} to {names[1]}"
            raise ModelError(what, hint=f"expected {INPUTS} to {OUTPUTS}")
        on_cpu = session.get_providers()[0] == CPU[0]
        with _as_model_error(f"{folder} can't score a text", "export it again"):
            scorer = cls(card, session, tokenizer, (threads or cores()) if on_cpu else 1)
            scorer._check_output(folder)
        scorer.latency = LatencyHistogram()
        return scorer

    def _check_output(self, folder: Path) -> None:
        """Raise ModelError unless the model returns three probabilities that sum to 1 and a finite
        embedding.
        """
        logits, pooled = self._run(_WARM_UP)
        probabilities = softmax(logits.astype(np.float64), self.card.temperature)
        if not _valid_rows(probabilities, pooled).all():
            what = f"{folder}: the model's output is not finite numbers"
            raise ModelError(what, hint="train it again, at a lower learning rate")

    def score(self, texts: Sequence[str]) -> list[HeadlineScore]:
        """Return one score for each text, in the same order. No text raises an error; the model may
        abstain.
        """
        return self.score_and_embed(texts)[0]

    def embed(self, texts: Sequence[str]) -> Floats:
        """Return pooled hidden states, float32 (texts, dimensions), with zeros for abstentions."""
        return self.score_and_embed(texts)[1]

    def score_and_embed(self, texts: Sequence[str]) -> tuple[list[HeadlineScore], Floats]:
        """Return the results of `score` and `embed` in one pass."""
        cleaned = [clean(text) for text in texts]
        reasons = {text: abstention_reason(text) for text in cleaned}
        readable = [text for text, reason in reasons.items() if not reason]
        logits, pooled = self._run_tolerant(readable, reasons)
        probabilities = softmax(logits.astype(np.float64), self.card.temperature)
        judged: dict[str, tuple[HeadlineScore, Floats]] = {}
        valid = _valid_rows(probabilities, pooled)
        for text, is_valid, row, state in zip(readable, valid, probabilities.tolist(), pooled, strict=True):
            if is_valid:
                judged[text] = HeadlineScore(*row), state
            else:
                reasons[text] = reasons[text] or NOT_FINITE
        embeddings = np.zeros((len(cleaned), self.dimensions), np.float32)
        scores = []
        for number, text in enumerate(cleaned):
            score, embeddings[number] = judged.get(text) or (abstention(reasons[text]), 0.0)
            scores.append(score)
        return scores, embeddings

    def _run_tolerant(self, texts: Sequence[str], reasons: dict[str, str]) -> tuple[Floats, Floats]:
        """Call `_run`. A text on which the model fails gets a row of NaN and an entry in `reasons`.

        Raises ModelError if the model fails on every text.
        """
        with suppress(ModelError), _as_model_error("the model fails", ""):
            return self._run(texts)
        with _as_model_error("the model fails", "use another one: tapewire model use"):
            self._run(_WARM_UP)  # raises if the model itself is broken
        logits = np.full((len(texts), len(LABELS)), np.nan, np.float32)
        pooled = np.full((len(texts), self.dimensions), np.nan, np.float32)
        for row, text in enumerate(texts):
            try:
                with _as_model_error(NOT_READABLE, ""):
                    logits[row : row + 1], pooled[row : row + 1] = self._run([text])
            except ModelError:
                reasons[text] = NOT_READABLE
        return logits, pooled

    def _run(self, texts: Sequence[str]) -> tuple[Floats, Floats]:
        """Return logits (texts, 3) and pooled states (texts, dimensions) of distinct clean texts."""
        tokens = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts)]
        runs = list(_runs(tokens, self._rows))
        side_by_side = self._pool.map if self._pool and len(runs) > 1 else map
        results: Iterable[tuple[float, list[Floats]]] = side_by_side(self._time, runs)
        logits = np.empty((len(texts), len(LABELS)), np.float32)
        pooled = np.empty((len(texts), self.dimensions), np.float32)
        for (rows, _), (milliseconds, outputs) in zip(runs, results, strict=True):
            expected = (len(rows), len(LABELS)), (len(rows), self.dimensions)
            if (outputs[0].shape, outputs[1].shape) != expected:
                shapes = f"{outputs[0].shape} and {outputs[1].shape}"
                raise ModelError(f"the model returns shapes {shapes}", hint=f"expected {expected}")
            logits[rows], pooled[rows] = outputs
            for _ in rows:
                self.latency.add(milliseconds / len(rows))
        return logits, pooled

    def _time(self, run: tuple[list[int], npt.NDArray[np.int64]]) -> tuple[float, list[Floats]]:
        began = time.perf_counter()
        ids = run[1]
        outputs = self._session.run(list(OUTPUTS), {INPUTS[0]: ids, INPUTS[1]: np.ones_like(ids)})
        return (time.perf_counter() - began) * 1e3, outputs


def _valid_rows(probabilities: npt.NDArray[np.float64], pooled: Floats) -> npt.NDArray[np.bool_]:
    """Return for each row whether it holds probabilities, and an embedding that half precision can
    represent.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        finite = np.isfinite(pooled.astype(np.float16)).all(axis=1)
    return np.asarray(finite & (np.abs(probabilities.sum(axis=1) - 1.0) < 1e-6))


def _runs(tokens: Sequence[Sequence[int]], rows: int) -> Iterable[tuple[list[int], npt.NDArray[np.int64]]]:
    """Yield row numbers and ids (≤ rows, length) of texts with equally many tokens, longest first."""
    by_length = sorted(range(len(tokens)), key=lambda row: (-len(tokens[row]), row))
    for _, equal in groupby(by_length, key=lambda row: len(tokens[row])):
        bucket = list(equal)
        for start in range(0, len(bucket), rows):
            part = bucket[start : start + rows]
            yield part, np.array([tokens[row] for row in part], np.int64)
