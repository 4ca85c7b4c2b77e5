"""The deflated Sharpe ratio of an evaluation over all tries on the same data, from the ledger of tries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
import numpy as np

from agent.analysis.significance import MIN_PERIODS, Moments, expected_best_sharpe
from agent.core.events import DAY_MS, HOUR_MS
from agent.store.tries import Try, distinct

DAYS: Final = MIN_PERIODS
"""Windows of at least as many days are judged by daily returns, shorter ones by hourly returns."""


class StudyStanding(msgspec.Struct, frozen=True):
    """What an evaluation is worth after all tries on the same data. Ratios are per `period` (ms).

    - `tries`: different evaluations on the data, with this one.
    - `expected_best`: the Sharpe ratio that the best of so many tries without skill reaches by luck.
    - `deflated_sharpe`: probability that the true ratio is above that; None with a reason in `undefined`.
    """

    study: str
    tries: int
    period: int
    periods: int
    sharpe: float | None
    expected_best: float
    deflated_sharpe: float | None
    undefined: str = ""


def judged_period(start: int, end: int, interval: int) -> int:
    """Return the length (ms) of the periods by which a window from `start` to `end` is judged.

    A day, or an hour if the window has fewer than `DAYS` days; then a bar of `interval` ms if that is longer.
    """
    return DAY_MS if end - start >= DAYS * DAY_MS else max(HOUR_MS, min(interval, DAY_MS))


def sharpes(tries: Iterable[Try], periods: int) -> list[float]:
    """Return the Sharpe ratio of each different try as one of `periods` periods; 0 if equity never moved.

    Without skill, the standard error of a ratio of n periods is 1/√n. Windows of other lengths, and periods
    of another length, are therefore compared in standard errors: a ratio of n periods is multiplied by
    √(n/`periods`).
    """
    return [(one.sharpe or 0.0) * (one.periods / periods) ** 0.5 for one in distinct(tries)]


def expected_best(ratios: Sequence[float]) -> float:
    """Return the Sharpe ratio that luck gives the best of tries with these ratios; 0 for one try."""
    return expected_best_sharpe(len(ratios), float(np.var(ratios, ddof=1))) if len(ratios) > 1 else 0.0


def standing(own: Moments, period: int, study: str, tries: Iterable[Try]) -> StudyStanding:
    """Return what an evaluation with the moments `own` is worth; `tries` are all on the data, with itself."""
    ratios = sharpes(tries, max(own.n, 1))
    count, threshold = len(ratios), expected_best(ratios)
    unit = "days" if period == DAY_MS else "hours" if period == HOUR_MS else "bars"
    undefined = ""
    if own.n < MIN_PERIODS:
        undefined = f"fewer than {MIN_PERIODS} {unit}"
    elif own.sharpe is None:
        undefined = "equity never moved"
    return StudyStanding(
        study, count, period, own.n, own.sharpe, threshold, own.confidence(threshold), undefined
    )
