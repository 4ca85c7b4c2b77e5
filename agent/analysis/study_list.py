"""The ledger of tries in lists: the studies, and the different tries on the data of one."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec

from agent.analysis.deflation import expected_best, sharpes
from agent.analysis.significance import Moments
from agent.store.database import Database
from agent.store.tries import Study, Try, distinct, read_studies, read_tries, tries_on


class StudyLine(msgspec.Struct, frozen=True):
    """A study; times in UTC ms.

    - `tries`: different variants that were evaluated on it; `evaluations`: with repetitions.
    - `tries_on_data`: different tries on the same data, also in overlapping windows. These deflate.
    - `held_out`: variants that were judged on it as held-out time.
    """

    study: str
    symbols: tuple[str, ...]
    start: int
    end: int
    tries: int
    evaluations: int
    tries_on_data: int
    held_out: int
    last_at: int
    last_by: str


class TryLine(msgspec.Struct, frozen=True):
    """A different try: its first evaluation, and the number of its `evaluations`.

    Ratios are per `period` (ms). `deflated_sharpe` is over all tries on the data; None if undefined.
    """

    study: str
    variant: str
    strategy: str
    params: dict[str, Any]
    kind: str
    by: str
    recorded_at: int
    run: str
    held_out: bool
    evaluations: int
    period: int
    periods: int
    sharpe: float | None
    total_return: float | None
    deflated_sharpe: float | None


def list_studies(database: Database) -> list[StudyLine]:
    """Return all studies, the one with the latest try first."""
    studies, by_study = read_studies(database), dict[str, list[Try]]()
    for one in read_tries(database):
        by_study.setdefault(one.study, []).append(one)
    counts = {name: len(distinct(tries)) for name, tries in by_study.items()}
    lines = []
    for study in studies:
        tries = by_study[study.id]
        same = sum(counts[other.id] for other in studies if other.shares_data(study))
        held_out = {one.variant for one in tries if one.held_out}
        last = tries[-1]
        lines.append(
            StudyLine(
                study.id,
                study.symbols,
                study.start,
                study.end,
                counts[study.id],
                len(tries),
                same,
                len(held_out),
                last.recorded_at,
                last.by,
            )
        )
    return sorted(lines, key=lambda line: line.last_at, reverse=True)


def list_tries(database: Database, study: Study) -> list[TryLine]:
    """Return the different tries on the data of `study`, oldest first."""
    known = tries_on(database, study)
    times = Counter((one.study, one.variant) for one in known)
    best = expected_best(sharpes(known, 1))  # in standard errors
    return [
        TryLine(
            one.study,
            one.variant,
            one.strategy,
            one.params,
            one.kind,
            one.by,
            one.recorded_at,
            one.run,
            one.held_out,
            times[one.study, one.variant],
            one.period,
            one.periods,
            one.sharpe,
            one.total_return,
            Moments(one.periods, one.sharpe, one.skewness, one.kurtosis).confidence(
                best / max(one.periods, 1) ** 0.5
            ),
        )
        for one in distinct(known)
    ]
