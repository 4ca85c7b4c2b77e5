"""From members and labelled text to `ensemble.json`: split, scores, weights, figures."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from agent.core.errors import DataError, ModelError, UsageError
from agent.core.events import DAY_MS
from agent.system.clock import iso
from models.cards import DatasetRecord, ReferenceShares, latest_of
from models.classification_metrics import Floats, Ints
from models.sentiment import SERVER, STARTER
from models.sentiment.ensemble.ensemble_file import (
    ENSEMBLE_NAME,
    Ensemble,
    Measured,
    Member,
    write_ensemble,
)
from models.sentiment.ensemble.pooling import answered, members_differ
from models.sentiment.serve.drift import reference_shares
from models.sentiment.serve.headline_score import HeadlineScore, abstention
from models.sentiment.train.ensembles.member_scores import (
    CachedMember,
    MemberScores,
    OpenedMember,
    Progress,
    member_names,
    score_member,
)
from models.sentiment.train.ensembles.member_worth import figures_of, fit_all, worth_of
from models.sentiment.train.ensembles.weight_fit import ALWAYS, PoolFit, decide
from models.sentiment.train.evaluation import class_indices
from models.sentiment.train.splits import Split

LEAST_FIT: Final = 20
"""Fewest texts that each member must score before weights are fitted."""


def open_members(paths: Sequence[str], open_member: Callable[[str], CachedMember]) -> list[OpenedMember]:
    """Open the models that `--member` names; `open_member` puts each behind a cache.

    Raises UsageError for a model that is named twice, and the errors of `open_member`.
    """
    opened = [
        OpenedMember(name, path, open_member(path))
        for name, path in zip(member_names(paths), paths, strict=True)
    ]
    if not opened:
        hint = "name each one: --member starter --member FOLDER"
        raise UsageError("an ensemble without members", hint=hint)
    for number, one in enumerate(opened):
        for other in opened[:number]:
            if one.scorer.fingerprint == other.scorer.fingerprint:
                what = f"--member {one.path} is the same model as {other.path}"
                raise UsageError(what, hint="name each model once")
    return opened


def train_ensemble(
    members: Sequence[OpenedMember],
    split: Split,
    datasets: Sequence[DatasetRecord],
    output: Path,
    *,
    precision: float | None = None,
    progress: Progress | None = None,
) -> Ensemble:
    """Fit an ensemble on `split.train`, measure it on `split.test`, write it into `output` and return it.

    With `precision`, the ensemble abstains if its members differ, below the confidence from which such texts
    were right that often. Raises UsageError if `output` holds something else, DataError if a part is empty,
    ModelError if a member scores too few texts.
    """
    _check_output(output)
    if not split.test:
        raise DataError("no text is held out to measure on", hint="choose a larger --test")
    parts = [example.text for example in (*split.train, *split.test)]
    scores = [score_member(member, parts, progress) for member in members]
    every = np.stack([one.probabilities for one in scores])
    border = len(split.train)
    fit = every[:, :border], class_indices(split.train)
    test = every[:, border:], class_indices(split.test)
    for member, own in zip(members, fit[0], strict=True):
        if (rows := int(answered(own).sum())) < LEAST_FIT:
            what = f"{member.name} answers {rows} of {border} texts, too few to fit its weight"
            hint = f"at least {LEAST_FIT} are needed: is its server running, are the texts English?"
            raise ModelError(what, hint=hint)
    fitted = fit_all(*fit, precision)
    ensemble = Ensemble(
        members=tuple(
            _member(member, weight, output)
            for member, weight in zip(members, fitted.weights.tolist(), strict=True)
        ),
        temperature=fitted.temperature,
        agree_above=fitted.agree_above,
        trained_until=max(latest_of(datasets), *(member.trained_until for member in members)),
        datasets=tuple(datasets),
        measured=_measured(members, scores, fit, test, fitted, split, precision),
        reference=_reference(decide(fit[0], fitted)),
        notes=tuple(_notes(members, scores, fitted, split, datasets, precision)),
    )
    write_ensemble(ensemble, output)
    return ensemble


def _check_output(output: Path) -> None:
    if output.exists() and (
        not output.is_dir() or (any(output.iterdir()) and not (output / ENSEMBLE_NAME).is_file())
    ):
        raise UsageError(f"--output {output} holds something else", hint="name a new or empty folder")


def _member(member: OpenedMember, weight: float, output: Path) -> Member:
    path = member.path
    if path != STARTER and not path.startswith((SERVER, "~")) and not Path(path).is_absolute():
        path = os.path.relpath(path, output)  # both folders can be moved together
    cutoff = member.knowledge_cutoff
    return Member(
        name=member.name,
        path=path,
        fingerprint=member.scorer.fingerprint,
        weight=weight,
        trained_until=member.trained_until,
        knowledge_cutoff="" if cutoff is None else cutoff.isoformat(),
    )


def _measured(
    members: Sequence[OpenedMember],
    scores: Sequence[MemberScores],
    fit: tuple[Floats, Ints],
    test: tuple[Floats, Ints],
    fitted: PoolFit,
    split: Split,
    precision: float | None,
) -> Measured:
    answers, truth = decide(test[0], fitted), test[1]
    blocks = _blocks(split)
    asked = [one for one, weight in zip(scores, fitted.weights, strict=True) if weight > 0]
    times = [one.ms for one in asked if one.ms is not None]
    return Measured(
        rows_fit=len(fit[1]),
        rows_test=len(truth),
        by_time=split.by_time,
        ensemble=figures_of(answers, truth, max(times, default=None), sum(one.cost for one in asked)),
        members={
            member.name: figures_of(own, truth, score.ms, score.cost)
            for member, own, score in zip(members, test[0], scores, strict=True)
        },
        worth={
            member.name: worth_of(number, fit, test, answers, precision, blocks)
            for number, member in enumerate(members)
            if len(members) > 1
        },
        disagreement=float(members_differ(test[0], fitted.weights).mean()),
    )


def _blocks(split: Split) -> Ints:
    """Return the day of each held-out text, since texts of a day are drawn together, or else its number."""
    days = [None if example.ts is None else example.ts // DAY_MS for example in split.test]
    return np.array([-1 - at if day is None else day for at, day in enumerate(days)], np.int64)


def _reference(answers: Floats) -> ReferenceShares | None:
    scores = [abstention("") if np.isnan(row).any() else HeadlineScore(*row.tolist()) for row in answers]
    return None if all(score.abstained for score in scores) else reference_shares(scores)


def _notes(
    members: Sequence[OpenedMember],
    scores: Sequence[MemberScores],
    fitted: PoolFit,
    split: Split,
    datasets: Sequence[DatasetRecord],
    precision: float | None,
) -> list[str]:
    """Return what to know about the fitting, as sentences."""
    notes = []
    for member, score, weight in zip(members, scores, fitted.weights, strict=True):
        if seen := member.has_seen(datasets):
            until = f" (until {iso(member.trained_until)[:10]})" if member.trained_until else ""
            notes.append(
                f"{member.name} was trained or calibrated on {', '.join(seen)}{until}, so its weight and "
                "figures may be too good; --since leaves out what it has read."
            )
        if member.is_remote and member.knowledge_cutoff is None:
            notes.append(
                f"{member.name} has no known knowledge cutoff: backtests refuse the ensemble unless "
                "llm.cutoffs states one."
            )
        if score.fell_back:
            notes.append(
                f"{member.name} gave no answer of its own for {score.fell_back:,} of "
                f"{len(score.probabilities):,} texts; they count as abstentions."
            )
        if not weight:
            notes.append(f"{member.name} adds nothing: its weight is 0, and the agent doesn't load it.")
    if split.embargoed:
        notes.append(
            f"{split.embargoed:,} texts in the embargo before the cut or of a story on both sides of it are "
            "left out."
        )
    if precision is not None and fitted.agree_above == ALWAYS:
        notes.append(
            f"No confidence makes texts on which members differ right in {precision:.0%} of at least 20 "
            "cases, so the ensemble abstains from all of them."
        )
    return notes
