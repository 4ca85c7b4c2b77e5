"""Calibration of a reader, and measurement of its export on labelled headlines."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from agent.analysis.realised_moves import wilson
from models.calibration import fit_temperature, softmax
from models.cards import Card, Estimate, write_card
from models.classification_metrics import coverage, estimates
from models.labels import LABELS
from models.sentiment.serve.drift import reference_shares
from models.sentiment.serve.headline_score import HeadlineScore
from models.sentiment.serve.scorer import Scorer
from models.sentiment.train.datasets.asset_labels import AssetExample
from models.sentiment.train.reader.reader_batches import UNLABELLED, TokenisedHeadline
from models.sentiment.train.reader.reader_training import ReaderAnswers


def calibrate(card: Card, answers: ReaderAnswers, rows: Sequence[TokenisedHeadline]) -> None:
    """Fit the three temperatures of `card` to the labels of `rows`, and its table of coverage.

    What no row has a label for keeps the temperature 1.
    """
    truth = np.array([row.label for row in rows], np.int64)
    known = truth != UNLABELLED
    if known.any():
        card.temperature = fit_temperature(answers.logits[known], truth[known])
        overall = softmax(answers.logits[known], card.temperature)
        card.coverage = coverage(overall, truth[known])
        card.metrics["calibration"] = estimates(overall, truth[known])
    kinds = np.array([row.kind for row in rows], np.int64)
    told = kinds != UNLABELLED
    card.kind_temperature = fit_temperature(answers.kind_logits[told], kinds[told])
    assets = np.concatenate(answers.asset_logits)
    own = np.array([label for row in rows for label in row.asset_labels], np.int64)
    if (own != UNLABELLED).any():
        card.asset_temperature = fit_temperature(assets[own != UNLABELLED], own[own != UNLABELLED])
        found = softmax(assets[own != UNLABELLED], card.asset_temperature)
        card.metrics["calibration_assets"] = estimates(found, own[own != UNLABELLED])


def measure_export(card: Card, folder: Path, sets: Mapping[str, Sequence[AssetExample]]) -> None:
    """Measure the export in `folder` on sets that nothing was fitted on, and write the figures to its card.

    They are, for each set: the headlines' own scores, those for assets, for assets of headlines whose assets
    differ, and the kinds of news. An asset that the scorer doesn't find gets the headline's own score, as in
    the agent.
    """
    scorer = Scorer.load(folder)
    for name, examples in sets.items():
        scores = dict(zip(examples, scorer.score([example.text for example in examples]), strict=True))
        labelled = [example for example in examples if example.label]
        if labelled:
            truth = np.array([LABELS.index(example.label or "") for example in labelled])
            card.metrics[name] = estimates(np.array([_known(scores[example]) for example in labelled]), truth)
        for part, wanted in (("assets", examples), ("mixed_assets", [row for row in examples if row.mixed])):
            targets = [(scores[example], target) for example in wanted for target in example.targets]
            if targets:
                answers = np.array([answer_for(score, target.asset) for score, target in targets])
                own = np.array([LABELS.index(target.label) for _, target in targets])
                card.metrics[f"{name}_{part}"] = estimates(answers, own)
        kinds = [scores[example].kind == example.kind for example in examples if example.kind]
        if kinds:
            share = sum(kinds) / len(kinds)
            card.metrics[f"{name}_kinds"] = {"accuracy": Estimate(share, *wilson(share, len(kinds)))}
    write_card(card, folder)


def measure_reference(card: Card, folder: Path, texts: Sequence[str]) -> None:
    """Write the reference for drift to the card of the export in `folder`; without texts it has none.

    The texts must not be learned ones, in which the model's confidence is higher.
    """
    if texts:
        scores = Scorer.load(folder).score(texts)
        card.reference = reference_shares(scores, [score.unknown for score in scores])
    write_card(card, folder)


def answer_for(score: HeadlineScore, asset: str) -> tuple[float, float, float]:
    """Return the probabilities that the agent uses for an asset; NaN if the model abstained."""
    for answer in score.assets:
        if answer.asset == asset:
            return answer.bearish, answer.neutral, answer.bullish
    return _known(score)


def _known(score: HeadlineScore) -> tuple[float, float, float]:
    return (math.nan, math.nan, math.nan) if score.abstained else score.probabilities
