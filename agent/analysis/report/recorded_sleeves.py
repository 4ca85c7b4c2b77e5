"""The sleeves of a recorded run: several strategies in one account."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
from msgspec import UNSET
from msgspec.structs import replace
from sqlalchemy import select

from agent.analysis.sleeve_study import InternalTally, SleeveHistory, SleeveStudy, study_sleeves
from agent.analysis.thinning import ThinnedCurve
from agent.config import Config
from agent.core.events import CashAdjustment, Fill, FundingPayment, RiskEvent
from agent.core.venue import OPENING
from agent.store.database import Database
from agent.store.queries import read_rows
from agent.store.tables import sleeve_equity

CURVE_POINTS = 1_000
"""Points of each sleeve's curve."""


def sleeves_of(database: Database, run_id: str, config: Config) -> SleeveStudy | None:
    """Study the sleeves of a run; None if it has none.

    The last sample of a run that was interrupted may be up to one bar old.
    """
    if not config.sleeves:
        return None
    histories: dict[str, SleeveHistory] = {}
    internal = InternalTally(config)
    columns = sleeve_equity.c.sleeve, sleeve_equity.c.ts, sleeve_equity.c.equity
    query = select(*columns).where(sleeve_equity.c.run_id == run_id).order_by(sleeve_equity.c.seq)
    with database.read() as connection:
        for name, ts, equity in connection.execute(query.execution_options(yield_per=10_000)):
            histories.setdefault(name, SleeveHistory()).extend([ts], [equity])
    for fill in read_rows(database, run_id, Fill):
        internal.add(fill)
        if fill.sleeve is not UNSET:
            histories.setdefault(fill.sleeve, SleeveHistory()).add(fill)
    for payment in read_rows(database, run_id, FundingPayment):
        if payment.sleeve is not UNSET:
            histories.setdefault(payment.sleeve, SleeveHistory()).add(payment)
    opening = Decimal(0)
    for change in read_rows(database, run_id, CashAdjustment):
        if change.reason != OPENING:
            continue
        opening += change.amount
        if change.sleeve is not UNSET and change.sleeve in histories:
            histories[change.sleeve].rebase(change.ts, float(change.amount))
    study = study_sleeves(config, histories, internal.totals, opening)
    return replace(study, curves={name: _thinned(*curve) for name, curve in study.curves.items()})


def sleeve_risk_of(database: Database, run_id: str) -> list[RiskEvent]:
    """Return the changes of the sleeves' risk states."""
    events = read_rows(database, run_id, RiskEvent)
    return [one for one in events if one.sleeve is not UNSET and not one.symbol]


def _thinned(ts: list[int], equity: list[float]) -> tuple[list[int], list[float]]:
    curve = ThinnedCurve(CURVE_POINTS)
    curve.extend(np.array(ts, np.int64), np.array(equity, np.float64))
    return curve.points()
