"""What the page shows of the twin, of stories and of jobs."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from agent.analysis.story_table import StoryTable
from agent.analysis.twin_parts import LABELS
from agent.analysis.waterfall import Waterfall, lay_out
from agent.dashboard.replay_jobs import ReplayJob
from agent.data.text import one_line
from agent.live.interfaces.status import TwinStatus

_TITLE: Final = 200  # characters


def view_of_job(job: ReplayJob) -> dict[str, Any]:
    """Return the progress of a job, in the end with its result or its error."""
    view = {"job": job.id, "done": job.done, "waiting": job.waiting, "share": job.share}
    if job.error is not None:
        return view | {"error": job.error.message, "hint": job.error.hint}
    if job.result is None:
        return view
    return view | {"result": _result(job)}


def _result(job: ReplayJob) -> Any:
    if job.work == "stories":
        table: StoryTable = job.result
        rows = [row._asdict() | {"title": one_line(row.title, _TITLE)} for row in table.rows]
        return {"rows": rows, "gap": table.gap, "moved": table.moved, "summary": table.summary}
    return job.result


class LiveTwinRow(msgspec.Struct, frozen=True):
    """The twin of the running agent. The waterfall leads from paper to the venue, in basis points."""

    status: TwinStatus
    waterfall: Waterfall | None  # None before an order has been compared


def live_twin_row(status: TwinStatus) -> LiveTwinRow:
    """Return what the page shows of the twin of a running agent."""
    if status.mean_bps is None:
        return LiveTwinRow(status, None)
    causes = status.causes_bps
    parts = [(label, causes[cause]) for cause, label in LABELS.items() if causes.get(cause)]
    return LiveTwinRow(status, lay_out(("on paper", 0.0), parts, ("at the venue", status.mean_bps)))
