"""The scores of an ensemble's members as `Provenance.answers` has them: one JSON object for each member."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

import msgspec

from agent.core.events import Provenance

ENSEMBLE: Final = "ensemble"
"""`Provenance.model` of an ensemble's score."""
DIGITS: Final = 5
"""Decimals of a recorded probability."""
SHORT: Final = 16
"""Hexadecimal digits of a member's fingerprint that are recorded."""

State = Literal["", "abstained", "fell back", "failed"]
"""Why a member has no weight for a text; empty if it scored.

"fell back": a model at a server gave no score, but its fallback did, or nothing. "failed": it raised an
error, or returned no probabilities.
"""
Triple = tuple[float, float, float]


class MemberAnswer(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The score of one member for one headline. Probabilities are in the order of `LABELS`."""

    name: str
    model: str
    """First `SHORT` digits of the fingerprint."""
    state: State = ""
    p: Triple | None = None
    """None if the member has no weight."""
    assets: dict[str, Triple] = {}
    kind: str = ""
    why: str = ""
    """Why the member has no weight."""
    provenance: Provenance | None = None
    """How a language model at a server came to its score."""

    def of(self, asset: str) -> Triple | None:
        """Return the probabilities for `asset`, or the headline's own; None without a score."""
        return self.assets.get(asset, self.p)


def encode_answers(answers: Iterable[MemberAnswer]) -> tuple[str, ...]:
    """Return one JSON text for each score."""
    return tuple(msgspec.json.encode(answer).decode() for answer in answers)


def answers_of(provenance: Provenance | None) -> list[MemberAnswer] | None:
    """Return the members' scores; None if no ensemble scored, or if the record isn't readable."""
    if provenance is None or provenance.model != ENSEMBLE:
        return None
    try:
        return [msgspec.json.decode(answer, type=MemberAnswer) for answer in provenance.answers]
    except (msgspec.DecodeError, ValueError):
        return None


def rounded(row: Iterable[float]) -> Triple:
    """Return three probabilities with `DIGITS` decimals."""
    bearish, neutral, bullish = (round(float(value), DIGITS) for value in row)
    return bearish, neutral, bullish
