"""The report of a run with what a replay adds to its record: the twin of a run at a venue."""

from __future__ import annotations

import msgspec

from agent.analysis.report.report_data import ReportData
from agent.analysis.report.report_loader import load_report_data
from agent.analysis.twin_report import attribute_run
from agent.core.errors import TapewireError
from agent.replay.backtest import Progress
from agent.replay.twin import fold_twin
from agent.replay.twin_events import has_twin
from agent.store.database import Database


def load_complete_report(
    database: Database,
    which: str = "latest",
    *,
    trust_strategy: bool = False,
    progress: Progress | None = None,
) -> ReportData:
    """Load a report like `load_report_data`, and compare a run at a venue with its twin.

    If that fails, the report says why.
    """
    data = load_report_data(database, which)
    if not has_twin(data.run):
        return data
    try:
        record = fold_twin(database, data.run, trust_strategy=trust_strategy, progress=progress)
        return msgspec.structs.replace(data, twin=attribute_run(record))
    except TapewireError as error:
        return msgspec.structs.replace(data, absent_twin=str(error))
