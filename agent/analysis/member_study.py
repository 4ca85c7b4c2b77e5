"""What each member of an ensemble scored in a run, and its calls beside the price moves after them.

A row is a headline and a traded symbol that it is about. A member's score is that for the symbol's asset, or
without one that for the headline as a whole, so it is the vote that the run would have had of that member
alone. Calls and hit rates are those of `realised_moves`, and their limits apply: hit rates near one half are
expected of a model that reads well. The rows include headlines on which the ensemble abstained.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import fsum
from typing import NamedTuple

import msgspec

from agent.analysis.daily import Closes
from agent.analysis.realised_moves import ALL, DirectionalCall, HitRate, moves_of_run
from agent.core.events import Sentiment
from agent.core.symbols import base_of
from agent.core.votes import leading
from models.labels import LABELS
from models.sentiment.ensemble.member_answers import MemberAnswer, State, Triple


class AnsweredHeadline(NamedTuple):
    """The ensemble's score of a headline for one symbol, and its members' scores."""

    symbol: str
    sentiment: Sentiment
    answers: Sequence[MemberAnswer]


class MemberResult(msgspec.Struct, frozen=True):
    """Scores of one member, or of the ensemble. Means are None without a score.

    `agreement` is the share of headlines with the ensemble's likeliest class, among those that both scored.
    `calls` has the hit rate of bullish and bearish scores; `left_out` of them had no price move in time.
    """

    name: str
    model: str
    """Begin of the fingerprint."""
    answered: int
    abstained: int
    fell_back: int
    failed: int
    classes: dict[str, float]
    """Share of each class among the scores."""
    confidence: float | None
    agreement: float | None
    calls: HitRate
    left_out: int


class MemberStudy(msgspec.Struct, frozen=True):
    """Results of an ensemble and of its members. `horizon` of the price moves in ms.

    `headlines` counts a headline once for each traded symbol that it is about. The members differ on
    `differing` of them. `unreadable` records of members' scores were left out.
    """

    headlines: int
    differing: int
    unreadable: int
    horizon: int
    ensemble: MemberResult
    members: list[MemberResult]


class _Answer(NamedTuple):
    """One score of one row; `row` has its probabilities, if there are any."""

    headline: AnsweredHeadline
    state: State
    row: Triple | None

    @property
    def predicted(self) -> int:
        return -1 if self.row is None else leading(*self.row)


def member_study(
    headlines: Sequence[AnsweredHeadline],
    closes: Mapping[str, Closes],
    interval: int,
    horizon: int,
    unreadable: int = 0,
) -> MemberStudy | None:
    """Compare an ensemble's members; None if no headline has their scores.

    Bars are `interval` ms long, and calls are compared with the price `horizon` ms later. A model that was
    fitted again during the run is a member of its own.
    """
    if not headlines:
        return None
    whole = [_ensembles(one) for one in headlines]
    by_member: dict[tuple[str, str], list[tuple[_Answer, int]]] = {}
    for one, own in zip(headlines, whole, strict=True):
        for answer in one.answers:
            found = _Answer(one, answer.state, answer.of(base_of(one.symbol)))
            by_member.setdefault((answer.name, answer.model), []).append((found, own.predicted))
    return MemberStudy(
        len(headlines),
        sum(_differ(one) for one in headlines),
        unreadable,
        horizon,
        _result("ensemble", "", [(own, own.predicted) for own in whole], closes, interval, horizon),
        [_result(*key, answers, closes, interval, horizon) for key, answers in by_member.items()],
    )


def _ensembles(one: AnsweredHeadline) -> _Answer:
    sentiment = one.sentiment
    if sentiment.abstained:
        return _Answer(one, "abstained", None)
    own = sentiment.of(base_of(one.symbol))
    return _Answer(one, "", (own.bearish, own.neutral, own.bullish))


def _differ(one: AnsweredHeadline) -> bool:
    rows = (answer.of(base_of(one.symbol)) for answer in one.answers)
    return len({leading(*row) for row in rows if row is not None}) > 1


def _result(
    name: str,
    model: str,
    answers: Sequence[tuple[_Answer, int]],
    closes: Mapping[str, Closes],
    interval: int,
    horizon: int,
) -> MemberResult:
    """Return the result of scores, each with the ensemble's class or -1 for the same row."""
    states = [answer.state for answer, _ in answers]
    rows = [answer.row for answer, _ in answers if answer.row is not None]
    predicted = [leading(*row) for row in rows]
    compared = [
        answer.predicted == other for answer, other in answers if answer.row is not None and other >= 0
    ]
    moves = moves_of_run(_calls(answer for answer, _ in answers), closes, interval, horizon)
    return MemberResult(
        name=name,
        model=model,
        answered=len(rows),
        abstained=states.count("abstained"),
        fell_back=states.count("fell back"),
        failed=states.count("failed"),
        classes={label: predicted.count(at) / len(rows) for at, label in enumerate(LABELS) if rows},
        confidence=fsum(map(max, rows)) / len(rows) if rows else None,
        agreement=sum(compared) / len(compared) if compared else None,
        calls=moves.sides[ALL],
        left_out=moves.unmoved + moves.unpriced + moves.pending,
    )


def _calls(answers: Iterable[_Answer]) -> Iterable[DirectionalCall]:
    for answer in answers:
        if answer.row is not None and answer.predicted != 1:
            sentiment = answer.headline.sentiment
            bullish = answer.predicted == 2
            sure = answer.row[2] if bullish else answer.row[0]
            yield DirectionalCall(
                sentiment.news_id, answer.headline.symbol, bullish, sure, sentiment.available_at
            )
