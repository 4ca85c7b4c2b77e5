"""Folds a recorded run again in a process of its own, for the dashboard: twin, what-if, stories.

Request, messages, limits and end are those of `agent.jobs.worker_side`. Nothing is written to the store.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np

from agent.analysis.report.twin_view import view_of
from agent.analysis.story_table import table_of
from agent.analysis.thinning import ThinnedCurve
from agent.analysis.twin_report import attribute_run
from agent.core.errors import TapewireError
from agent.core.events import Event, News, Sentiment
from agent.data.text import one_line
from agent.jobs.worker_side import (
    MessageWriter,
    WorkerMessage,
    end_with_parent,
    limit_process,
    read_request,
)
from agent.live.formatting import one_line_summary
from agent.replay.recorded_inputs import load_inputs
from agent.replay.twin import fold_twin
from agent.replay.what_if import FoldedLife, WhatIf
from agent.replay.what_if_request import WhatIfRequest, answer, figures, profits_by_sleeve, remarks
from agent.research.story_results import story_results
from agent.store.database import Database, open_database
from agent.store.queries import find_run
from agent.store.runs import Run

Work = Literal["twin", "whatif", "stories"]

SHOWN_ORDERS: Final = 30
"""Orders at the venue and on paper, those with the largest differences."""

SHOWN_STORIES: Final = 25
"""Rows of the table of stories at each end."""

MAX_POINTS: Final = 2_000
"""Points of a curve in the result of a what-if."""

_TITLE: Final = 200  # characters


class ReplayRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What to fold. `url` is of the store, `folder` is live.folder, `memory` is in MiB."""

    work: Work
    url: str
    run: str
    folder: str = ""
    memory: int
    what_if: WhatIfRequest = WhatIfRequest()


def main() -> int:
    """Work at low priority; return the exit code."""
    messages = MessageWriter()
    request = msgspec.json.decode(read_request(), type=ReplayRequest)
    end_with_parent()
    limit_process(memory=request.memory)
    try:
        with closing(open_database(request.url, create=False)) as database:
            run = find_run(database, request.run)
            result = _WORK[request.work](database, run, request, _Reporter(messages, run))
    except TapewireError as error:
        messages.send(WorkerMessage(error=error.message, hint=error.hint))
        return 1
    messages.send_result(result)
    return 0


class _Reporter:
    """Sends the share of a run that is done, at most once for each per cent."""

    def __init__(self, messages: MessageWriter, run: Run) -> None:
        self._messages = messages
        self._first = run.first_event_at or 0
        self._length = max((run.last_event_at or 0) - self._first, 1)
        self._sent = 0.0

    def at(self, available_at: int) -> None:
        """Report the time of the last event, UTC ms."""
        self.count(available_at - self._first, self._length)

    def count(self, done: int, total: int) -> None:
        """Report how much is done."""
        share = min(max(done / total, 0.0), 1.0)
        if share >= self._sent + 0.01:
            self._sent = share
            self._messages.send(WorkerMessage(round(share, 3)))


def _twin(database: Database, run: Run, _: ReplayRequest, reporter: _Reporter) -> Any:
    return view_of(attribute_run(fold_twin(database, run, progress=reporter.at)), orders=SHOWN_ORDERS)


def _stories(database: Database, run: Run, request: ReplayRequest, reporter: _Reporter) -> Any:
    source = load_inputs(database, run, _folder(request))
    return table_of(story_results(source, progress=reporter.count), SHOWN_STORIES)


def _what_if(database: Database, run: Run, request: ReplayRequest, reporter: _Reporter) -> Any:
    source = load_inputs(database, run, _folder(request))
    found = answer(source, request.what_if, progress=reporter.at)
    return page_answer(found, {event.id: event.title for event in source.events if isinstance(event, News)})


def _folder(request: ReplayRequest) -> Path | None:
    return Path(request.folder) if request.folder else None


def page_answer(found: WhatIf, titles: Mapping[str, str]) -> dict[str, Any]:
    """Return what the page shows of a what-if; `titles` are those of the headlines, by id."""
    first = found.difference
    return {
        "run": found.run.id,
        "events": found.run.events,
        "begins": found.begins,
        "begins_at": found.begins_at,
        "difference": found.changed.final_equity - found.as_it_was.final_equity,
        "remarks": remarks(found),
        "figures": [
            {"name": row.name, "values": [_minus(text) for text in row.in_words()]}
            for row in (
                *figures(found),
                *(row._replace(name=f"profit of {row.name}") for row in profits_by_sleeve(found)),
            )
        ],
        "first": None
        if first is None
        else {
            "event": first.event_seq,
            "at": first.event.available_at,
            "input": _input(first.event, titles),
            "as_it_was": "" if first.as_it_was is None else one_line_summary(first.as_it_was),
            "changed": "" if first.changed is None else one_line_summary(first.changed),
        },
        "lives": {"as_it_was": _curve(found.as_it_was), "changed": _curve(found.changed)},
    }


def _input(event: Event, titles: Mapping[str, str]) -> str:
    """Describe an event; a score has the title of its headline."""
    line = one_line_summary(event)
    if isinstance(event, Sentiment) and event.news_id in titles:
        return line.replace(f"news {event.news_id}", f"of “{one_line(titles[event.news_id], _TITLE)}”")
    return line


def _minus(text: str) -> str:
    return text.replace("-", "−")


def _curve(life: FoldedLife) -> tuple[list[int], list[float]]:
    curve = ThinnedCurve(MAX_POINTS)
    curve.extend(np.array(life.times, np.int64), np.array(life.equity, np.float64))
    return curve.points()


_WORK: Final[dict[Work, Callable[[Database, Run, ReplayRequest, _Reporter], Any]]] = {
    "twin": _twin,
    "whatif": _what_if,
    "stories": _stories,
}

if __name__ == "__main__":
    sys.exit(main())
