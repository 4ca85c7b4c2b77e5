"""Fitting of a language model's temperature on labelled text, and its effect on held-out text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, cast

import msgspec
import numpy as np

from agent.config.llm import LlmConfig
from agent.data.sentiment import NamedScorer
from models.calibration import softmax
from models.classification_metrics import Floats, Ints, measure
from models.labels import LABELS
from models.sentiment.llm.llm_calibration import Calibration, fit_calibration
from models.sentiment.llm.llm_client import LlmClient
from models.sentiment.llm.llm_scorer import LlmScorer
from models.sentiment.llm.llm_spec import read_key
from models.sentiment.serve.headline_score import HeadlineScore
from models.sentiment.train.datasets import Example
from models.sentiment.train.splits import Fractions, Split, make_split

FIGURES: Final = ("accuracy", "macro_f1", "ece", "nll")
"""Figures of the held-out part, by the names of `models.classification_metrics.measure`."""

Progress = Callable[[int], None]
"""Called with the number of texts that were asked so far."""


class RequestEstimate(msgspec.Struct, frozen=True):
    """What the questions take at most, if none is repeated. `cost` is 0 without prices in `llm.budget`."""

    requests: int
    tokens_in: int
    tokens_out: int
    cost: float


class CalibrationReport(msgspec.Struct, frozen=True):
    """A fitted calibration, and its effect on the part that it wasn't fitted on.

    `before` and `after` are at temperature 1 and at the fitted one, by `FIGURES`. Headlines without an answer
    count as wrong.
    """

    calibration: Calibration
    fitted_on: int
    held_out: int
    unanswered: int
    before: dict[str, float]
    after: dict[str, float]


def split_labelled(examples: Sequence[Example], test: float, limit: int, seed: int) -> Split:
    """Choose `limit` rows (0: all) and split off the share `test`, as `make_split` does; the rest is the part
    to fit on.
    """
    chosen = list(examples)
    if limit and limit < len(chosen):
        rows = np.random.default_rng(seed).choice(len(chosen), limit, replace=False)
        chosen = [chosen[row] for row in sorted(rows.tolist())]
    return make_split(chosen, Fractions(validation=0.0, calibration=0.0, test=test), seed=seed)


def estimate(scorer: LlmScorer, texts: Sequence[str]) -> RequestEstimate:
    """Estimate requests, tokens and cost of asking for each text, by the method that takes the most."""
    config, client = (
        scorer.config,
        LlmClient(scorer.spec, scorer.config, read_key(scorer.spec, scorer.config)),
    )
    try:
        found = []
        for prompt in scorer.prompts:
            times = config.samples if prompt.form == "json" else 1
            tokens = [client.estimate(prompt, text) for text in texts]
            found.append((times * len(texts), *(times * sum(part) for part in zip(*tokens, strict=True))))
    finally:
        client.close()
    requests, tokens_in, tokens_out = max(found)
    budget = config.budget
    cost = (tokens_in * budget.price_in + tokens_out * budget.price_out) / 1e6
    return RequestEstimate(requests, tokens_in, tokens_out, cost)


def ask_all(
    scorer: NamedScorer, texts: Sequence[str], block: int, progress: Progress | None = None
) -> list[HeadlineScore]:
    """Score all texts, `block` at a time."""
    scores: list[HeadlineScore] = []
    for begin in range(0, len(texts), block):
        scores += cast(Sequence[HeadlineScore], scorer.score(texts[begin : begin + block]))
        if progress:
            progress(len(scores))
    return scores


def fit_and_measure(
    scorer: LlmScorer,
    fitted: tuple[Sequence[HeadlineScore], Sequence[str]],
    held_out: tuple[Sequence[HeadlineScore], Sequence[str]],
    config: LlmConfig,
    trained_until: int,
) -> CalibrationReport:
    """Fit on scores and labels, and measure on the held-out ones. Raises ModelError as `fit_calibration`."""
    scores, labels = fitted
    calibration = fit_calibration(scores, labels, scorer.prompts, scorer.spec.model, config, trained_until)
    others, truth = held_out
    classes = np.array([LABELS.index(label) for label in truth], np.int64)
    before, after = (_probabilities(others, calibration, t) for t in (1.0, calibration.temperature))
    return CalibrationReport(
        calibration=calibration,
        fitted_on=len(scores),
        held_out=len(others),
        unanswered=int(np.isnan(before).any(axis=1).sum()),
        before=_figures(before, classes),
        after=_figures(after, classes),
    )


def _probabilities(scores: Sequence[HeadlineScore], calibration: Calibration, temperature: float) -> Floats:
    """Return probabilities (n, 3) at `temperature` if the calibration fits the answer; NaN without one."""
    rows = np.full((len(scores), len(LABELS)), np.nan)
    for number, score in enumerate(scores):
        provenance = score.provenance
        if score.abstained or provenance is None or provenance.fallback:
            continue
        logits = np.log(np.maximum(np.array([score.probabilities]), 1e-12))
        fits = provenance.prompt == calibration.prompt
        rows[number] = softmax(logits, temperature if fits else 1.0)[0]
    return rows


def _figures(probabilities: Floats, truth: Ints) -> dict[str, float]:
    found = measure(probabilities, truth)
    return {name: found[name] for name in FIGURES}
