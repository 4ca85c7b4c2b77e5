"""Scoring of headlines with an exported folder (model.onnx, tokenizer.json, card.json).

Needs only onnxruntime, tokenizers and numpy. Texts are cleaned, tokenised once and scored in runs of equal
length, without padding. A language model's graph holds the prefix of its prompt; the tokens of the suffix are
appended to a text's. An int8 graph scales its activations by the largest of a run, so it gets one text a
run, and runs are spread over threads: a score then doesn't depend on other texts, to the last bit. A graph in
floating point gets up to `ROWS_PER_RUN` texts a run, and its results agree with a run of one text within
`BATCH_TOLERANCE`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime
from tokenizers import Encoding, Tokenizer

from agent.core.errors import ModelError, UsageError
from agent.core.news_kinds import NEWS_KINDS
from agent.core.symbols import AssetFinder
from agent.system.atomic import settled
from agent.system.latency_histogram import LatencyHistogram
from models.calibration import softmax
from models.cards import CARD_NAME, Card, ReferenceShares, check_files, prompt_salt, read_card, sha256_files
from models.labels import LABELS, NOT_FINITE, NOT_READABLE
from models.sentiment.serve.headline_score import AssetScore, HeadlineScore, abstention
from models.sentiment.serve.headline_text import VERSION, abstention_reason, clean
from models.sentiment.serve.prompt_tokens import PromptTokens
from models.sentiment.serve.token_runs import Floats, TokenisedText, equal_runs, span_weights, tokens_of

MODEL_NAME: Final = "model.onnx"
TOKENIZER_NAME: Final = "tokenizer.json"
INPUTS: Final = ("input_ids", "attention_mask")
OUTPUTS: Final = ("logits", "pooled")
READER_INPUTS: Final = (*INPUTS, "spans")
READER_OUTPUTS: Final = (*OUTPUTS, "kind_logits", "asset_logits", "asset_pooled")
"""Inputs and outputs of a model that also reads single assets and the kind of news.

`spans` (texts, assets, tokens) holds for each asset the weights, which sum to 1, of the tokens that name it.
"""
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

_SLOWER: Final = ["SkipLayerNormFusion"]
"""Optimisations of onnxruntime that cost time: the node that they fuse takes longer than its parts."""

_PANIC: Final = "PanicException"
"""Class of the exceptions by which Rust code panics; no module exports it."""

_WARM_UP: Final = (
    "Markets are open",
    "Exchange lists a token, says its chief, and the wire carries the news to everybody who reads it",
)


def providers_of(device: str) -> tuple[str, ...]:
    """Return onnxruntime's providers for "cpu" or "cuda". Raises UsageError for any other name."""
    if device not in _PROVIDERS:
        raise UsageError(f"unknown device {device!r}", hint=f"one of {', '.join(_PROVIDERS)}")
    return _PROVIDERS[device]


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fingerprint(folder: Path, card: Card) -> str:
    """Return the SHA-256 of everything that a score depends on: weights, tokenizer, temperature, version
    of cleaning.
    """
    files = [folder / MODEL_NAME, folder / TOKENIZER_NAME]
    salt = f"temperature={card.temperature!r} length={card.max_length} text={VERSION}"
    salt += prompt_salt(card.template)
    if card.kinds:
        salt += f" assets={card.asset_temperature!r} kinds={card.kind_temperature!r} {' '.join(card.kinds)}"
    return sha256_files(files, salt=salt)


@contextmanager
def _as_model_error(what: str, hint: str) -> Iterator[None]:
    """Convert any error of onnxruntime and tokenizers into a ModelError of one line.

    If the Rust code of tokenizers panics, it raises a BaseException that isn't an Exception.
    """
    try:
        yield
    except ModelError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != _PANIC:
            raise  # an interruption, or the end of a task
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


class _Answer(NamedTuple):
    """What the model returns for one text."""

    tokens: TokenisedText
    logits: Floats  # (3,)
    pooled: Floats  # (dimensions,)
    kinds: Floats  # (9,), or (0,) if the model has none
    asset_logits: Floats  # (assets, 3)
    asset_pooled: Floats  # (assets, dimensions)


class Scorer:
    """A loaded model. Thread-safe; deterministic on one machine."""

    def __init__(
        self, card: Card, session: Any, tokenizer: Any, threads: int, finder: AssetFinder | None = None
    ) -> None:
        self.card = card
        self.fingerprint = card.fingerprint
        self.latency = LatencyHistogram()
        """Model time of each text since `load`, ms."""
        self.reads_assets = len(session.get_inputs()) == len(READER_INPUTS)
        """True if the model answers for single assets, and for the kind of news."""
        self.finder = finder or AssetFinder()
        self._session = session
        self._tokenizer = tokenizer
        self._prompt = PromptTokens(tokenizer, card.template, card.max_length) if card.template else None
        self._added = 0 if self._prompt else tokenizer.num_special_tokens_to_add(is_pair=False)
        unknown = getattr(tokenizer.model, "unk_token", None)
        self._unknown = tokenizer.token_to_id(unknown) if unknown else -1
        self._outputs = list(READER_OUTPUTS if self.reads_assets else OUTPUTS)
        self._rows = 1 if card.notes.get(PRECISION) == "int8" else ROWS_PER_RUN
        self._pool = ThreadPoolExecutor(threads, "scorer") if threads > 1 else None
        self.at_once = threads if self._rows == 1 else None
        """Number of texts that are worked on at the same time; None if several go in one run of the graph."""
        self.dimensions = int(session.get_outputs()[1].shape[-1])

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        threads: int | None = None,
        providers: Sequence[str] = CPU,
        finder: AssetFinder | None = None,
    ) -> Scorer:
        """Open an exported folder and score two texts with it.

        `threads` is the number of texts scored at once on the CPU; default: all cores that this process may
        use. `providers` are onnxruntime's, in order of preference (`CUDA` for a GPU). `finder` finds the
        assets that a text names; by default it knows the coins of `agent.core.coin_names`. Raises ModelError
        if the folder is incomplete, damaged or not an export, or if the model's output is not finite or has a
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
                str(folder / MODEL_NAME),
                options,
                providers=list(providers),
                disabled_optimizers=_SLOWER,
            )
        with _as_model_error(f"{folder / TOKENIZER_NAME} cannot be opened", "export it again"):
            tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_NAME))
            tokenizer.no_padding()
            tokenizer.enable_truncation(card.max_length)
        names = tuple(x.name for x in session.get_inputs()), tuple(x.name for x in session.get_outputs())
        if names not in ((INPUTS, OUTPUTS), (READER_INPUTS, READER_OUTPUTS)):
            what = f"{folder / MODEL_NAME} maps {names[0]} to {names[1]}"
            raise ModelError(what, hint=f"expected {INPUTS} to {OUTPUTS}")
        if (names[0] == READER_INPUTS) != bool(card.kinds) or not set(card.kinds) <= set(NEWS_KINDS):
            what = f"{folder / MODEL_NAME} and its card don't agree on the kinds of news"
            raise ModelError(what, hint="export it again")
        on_cpu = session.get_providers()[0] == CPU[0]
        with _as_model_error(f"{folder} can't score a text", "export it again"):
            scorer = cls(card, session, tokenizer, (threads or cores()) if on_cpu else 1, finder)
            scorer._check_output(folder)
        scorer.latency = LatencyHistogram()
        return scorer

    @property
    def reference(self) -> ReferenceShares | None:
        """The reference for drift, of the card."""
        return self.card.reference

    @property
    def names(self) -> str:
        """Hash of the names of assets, on which the scores for assets depend; empty without any."""
        return self.finder.digest if self.reads_assets else ""

    def _check_output(self, folder: Path) -> None:
        """Raise ModelError unless the model returns three probabilities that sum to 1 and a finite
        embedding.
        """
        if not all(map(self._is_valid, self._run(_WARM_UP))):
            what = f"{folder}: the model's output is not finite numbers"
            raise ModelError(what, hint="train it again, at a lower learning rate")

    def score(self, texts: Sequence[str]) -> list[HeadlineScore]:
        """Return one score for each text, in the same order. No text raises an error; the model may
        abstain.
        """
        return self.score_and_embed(texts)[0]

    def embed(self, texts: Sequence[str]) -> Floats:
        """Return pooled hidden states, float32 (texts, dimensions), with zeros for abstentions."""
        rows = [states[0] for states in self.score_and_embed(texts)[1]]
        return np.array(rows, np.float32).reshape(-1, self.dimensions)

    def score_and_embed(self, texts: Sequence[str]) -> tuple[list[HeadlineScore], list[Floats]]:
        """Return scores, and for each text the hidden states float32 (1 + assets, dimensions).

        The first row is the mean over the text, zeros if the model abstained; the others are those of the
        assets, in the order of `HeadlineScore.assets`.
        """
        cleaned = [clean(text) for text in texts]
        reasons = {text: abstention_reason(text) for text in cleaned}
        readable = [text for text, reason in reasons.items() if not reason]
        judged: dict[str, tuple[HeadlineScore, Floats]] = {}
        for text, answer in zip(readable, self._run_tolerant(readable, reasons), strict=True):
            if answer is not None and self._is_valid(answer):
                judged[text] = self._score(answer), np.vstack((answer.pooled, answer.asset_pooled))
            else:
                reasons[text] = reasons[text] or NOT_FINITE
        nothing = np.zeros((1, self.dimensions), np.float32)
        found = [judged.get(text) or (abstention(reasons[text]), nothing) for text in cleaned]
        return [score for score, _ in found], [states for _, states in found]

    def _score(self, answer: _Answer) -> HeadlineScore:
        bearish, neutral, bullish = self._probabilities(answer.logits, self.card.temperature).tolist()
        if not self.card.kinds:
            return HeadlineScore(bearish, neutral, bullish, unknown=answer.tokens.unknown)
        own = softmax(answer.asset_logits.astype(np.float64), self.card.asset_temperature).tolist()
        kinds = self._probabilities(answer.kinds, self.card.kind_temperature)
        best = int(kinds.argmax())
        return HeadlineScore(
            bearish,
            neutral,
            bullish,
            assets=tuple(map(AssetScore, answer.tokens.assets, *zip(*own, strict=True))) if own else (),
            kind=self.card.kinds[best],
            kind_confidence=float(kinds[best]),
            unknown=answer.tokens.unknown,
        )

    @staticmethod
    def _probabilities(logits: Floats, temperature: float) -> npt.NDArray[np.float64]:
        return np.asarray(softmax(logits.astype(np.float64)[None], temperature)[0])

    def _run_tolerant(self, texts: Sequence[str], reasons: dict[str, str]) -> Sequence[_Answer | None]:
        """Call `_run`. A text on which the model fails gets None and an entry in `reasons`.

        Raises ModelError if the model fails on every text.
        """
        with suppress(ModelError), _as_model_error("the model fails", ""):
            return self._run(texts)
        with _as_model_error("the model fails", "use another one: tapewire model use"):
            self._run(_WARM_UP)  # raises if the model itself is broken
        answers: list[_Answer | None] = []
        for text in texts:
            try:
                with _as_model_error(NOT_READABLE, ""):
                    answers += self._run([text])
            except ModelError:
                answers.append(None)
                reasons[text] = NOT_READABLE
        return answers

    def _tokenise(self, texts: Sequence[str]) -> list[TokenisedText]:
        """Tokenise clean texts. An asset that is only named after `max_length` tokens is left out."""
        if self._prompt:
            encodings, suffix = self._prompt.headlines(texts), self._prompt.suffix
            return [self._tokens(encoding, suffix=suffix) for encoding in encodings]
        if not self.reads_assets:
            return [self._tokens(encoding) for encoding in self._tokenizer.encode_batch_fast(texts)]
        tokens = []
        for text, encoding in zip(texts, self._tokenizer.encode_batch(texts), strict=True):
            named = {
                asset: tokens_of(spans, encoding.offsets) for asset, spans in self.finder.find(text).items()
            }
            tokens.append(self._tokens(encoding, {asset: rows for asset, rows in named.items() if rows}))
        return tokens

    def _tokens(
        self, encoding: Encoding, assets: dict[str, list[int]] | None = None, suffix: Sequence[int] = ()
    ) -> TokenisedText:
        words = len(encoding.ids) - self._added
        unknown = encoding.ids.count(self._unknown) / max(words, 1)
        return TokenisedText([*encoding.ids, *suffix], assets or {}, unknown)

    def _run(self, texts: Sequence[str]) -> list[_Answer]:
        """Return the scores of distinct clean texts, in the same order."""
        tokens = self._tokenise(texts)
        runs = list(equal_runs(tokens, self._rows))
        side_by_side = self._pool.map if self._pool and len(runs) > 1 else map
        results: Iterable[tuple[float, list[Floats]]] = side_by_side(
            self._time, [[tokens[row] for row in rows] for rows in runs]
        )
        answers: dict[int, _Answer] = {}
        for rows, (milliseconds, outputs) in zip(runs, results, strict=True):
            expected = (len(rows), len(LABELS)), (len(rows), self.dimensions)
            if (outputs[0].shape, outputs[1].shape) != expected:
                shapes = f"{outputs[0].shape} and {outputs[1].shape}"
                raise ModelError(f"the model returns shapes {shapes}", hint=f"expected {expected}")
            kinds = outputs[2] if self.reads_assets else np.zeros((len(rows), 0), np.float32)
            for number, row in enumerate(rows):
                count = len(tokens[row].assets)
                answers[row] = _Answer(
                    tokens[row],
                    outputs[0][number],
                    outputs[1][number],
                    kinds[number],
                    outputs[3][number, :count] if count else _NO_LOGITS,
                    outputs[4][number, :count] if count else np.zeros((0, self.dimensions), np.float32),
                )
                self.latency.add(milliseconds / len(rows))
        return [answers[row] for row in range(len(tokens))]

    def _time(self, run: Sequence[TokenisedText]) -> tuple[float, list[Floats]]:
        began = time.perf_counter()
        ids = np.array([one.ids for one in run], np.int64)
        given: dict[str, Any] = {INPUTS[0]: ids, INPUTS[1]: np.ones_like(ids)}
        if self.reads_assets:
            given[READER_INPUTS[2]] = span_weights(run)
        outputs = self._session.run(self._outputs, given)
        return (time.perf_counter() - began) * 1e3, outputs

    def _is_valid(self, answer: _Answer) -> bool:
        """True if the score holds probabilities, and embeddings that half precision can represent."""
        with np.errstate(over="ignore", invalid="ignore"):
            states = (answer.pooled.astype(np.float16), answer.asset_pooled.astype(np.float16))
            return all(
                np.isfinite(part).all() for part in (*states, answer.kinds, answer.asset_logits)
            ) and bool(abs(self._probabilities(answer.logits, self.card.temperature).sum() - 1.0) < 1e-6)


_NO_LOGITS: Final = np.zeros((0, len(LABELS)), np.float32)
