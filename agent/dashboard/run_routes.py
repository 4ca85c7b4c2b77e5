"""Routes of recorded runs: the list, playback, report, comparison, and the jobs that fold a run again."""

from __future__ import annotations

from html import escape
from typing import Any, Final
from urllib.parse import quote

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from agent.core.errors import DataError, TapewireError, UsageError
from agent.dashboard.agent_adapter import AgentAdapter
from agent.dashboard.json_handler import json_handler, status_of
from agent.dashboard.page_files import PageFiles
from agent.dashboard.replay_jobs import ReplayJobs
from agent.dashboard.replay_views import view_of_job
from agent.dashboard.replay_worker import Work
from agent.dashboard.run_archive import RunArchive, failure
from agent.replay.what_if_request import WhatIfRequest
from agent.system.untrusted import JSON_DECODE_ERRORS

_REPORT_POLICY: Final = (
    "sandbox allow-scripts allow-popups allow-downloads; default-src 'none'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; img-src data: blob:; font-src data:; frame-ancestors 'none'"
)
"""The report contains its scripts and loads nothing. The sandbox denies it access to this server."""
_MAX_SEARCH: Final = 200  # characters of the words that are searched


class _ReplayRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body that starts a job. It has no strategy: a page can't choose what code runs."""

    work: Work
    begins: str = ""
    change: dict[str, str] = {}
    params: dict[str, str] = {}
    remove: tuple[str, ...] = ()
    flip: tuple[str, ...] = ()
    sleeve: str = ""  # whose parameters change


class RunRoutes:
    """Handlers of these routes. `agent` is the one that runs beside them, if any."""

    def __init__(
        self, archive: RunArchive, jobs: ReplayJobs, files: PageFiles, agent: AgentAdapter | None
    ) -> None:
        self._archive = archive
        self._jobs = jobs
        self._files = files
        self._agent = agent

    def routes(self) -> list[tuple[str, str, Handler]]:
        """Return method, path and handler of each route."""
        return [
            ("GET", "/runs/{id}/report", self._report),
            ("GET", "/runs/{id}/compare/{other}", self._compare),
            ("GET", "/api/runs", json_handler(self._runs)),
            ("GET", "/api/runs/{id}", json_handler(self._open)),
            ("GET", "/api/runs/{id}/at", json_handler(self._page_at)),
            ("GET", "/api/runs/{id}/changeable", json_handler(self._changeable)),
            ("GET", "/api/runs/{id}/headlines", json_handler(self._headlines)),
            ("POST", "/api/runs/{id}/replay", json_handler(self._start_replay)),
            ("GET", "/api/replays/{job}", json_handler(self._replay)),
            ("POST", "/api/replays/{job}/cancel", json_handler(self._cancel_replay)),
        ]

    async def _runs(self, request: web.Request) -> Any:
        state = self._agent.state if self._agent else None
        return {
            "live": self._agent is not None,
            "run": state.header.run if state else None,
            "runs": await self._archive.runs(),
        }

    async def _open(self, request: web.Request) -> Any:
        opened = await self._archive.open(request.match_info["id"], again="again" in request.query)
        return {"live": self._agent is not None, **opened}

    async def _page_at(self, request: web.Request) -> Any:
        moment = _milliseconds(request, "ts")
        return await self._archive.page_at(request.match_info["id"], moment, request.query.get("symbol", ""))

    async def _changeable(self, request: web.Request) -> Any:
        return await self._archive.changeable(request.match_info["id"])

    async def _headlines(self, request: web.Request) -> Any:
        after = _milliseconds(request, "after") if "after" in request.query else 0
        words = request.query.get("search", "")[:_MAX_SEARCH]
        return await self._archive.headlines(request.match_info["id"], words, after)

    async def _start_replay(self, request: web.Request) -> Any:
        try:
            wanted = msgspec.json.decode(await request.read(), type=_ReplayRequest)
        except JSON_DECODE_ERRORS as error:
            raise UsageError(f"malformed request: {error}") from None
        what_if = WhatIfRequest(
            begins=wanted.begins,
            change=wanted.change,
            params=wanted.params,
            remove=wanted.remove,
            flip=wanted.flip,
            sleeve=wanted.sleeve,
        )
        run = await self._archive.run(request.match_info["id"])
        return view_of_job(self._jobs.start(wanted.work, run, what_if))

    async def _replay(self, request: web.Request) -> Any:
        return view_of_job(self._jobs.find(request.match_info["job"]))

    async def _cancel_replay(self, request: web.Request) -> Any:
        await self._jobs.cancel(request.match_info["job"])
        return view_of_job(self._jobs.find(request.match_info["job"]))

    async def _report(self, request: web.Request) -> web.StreamResponse:
        try:
            page = await self._archive.report(request.match_info["id"])
        except TapewireError as error:
            return await self._no_report(request, error)
        headers = {"Content-Security-Policy": _REPORT_POLICY}
        return web.Response(body=page, content_type="text/html", charset="utf-8", headers=headers)

    async def _compare(self, request: web.Request) -> web.StreamResponse:
        a, b = request.match_info["id"], request.match_info["other"]
        try:
            page = await self._archive.comparison(a, b)
        except TapewireError as error:
            markup = {
                "<!-- title -->": "These runs can't be compared",
                "<!-- run -->": f"{escape(a)} and {escape(b)}",
                "<!-- link -->": "See",
                "<!-- why -->": escape(str(error)),
            }
            return self._files.render(request, "no-report.html", markup, status=status_of(error))
        headers = {"Content-Security-Policy": _REPORT_POLICY}
        return web.Response(body=page, content_type="text/html", charset="utf-8", headers=headers)

    async def _no_report(self, request: web.Request, error: TapewireError) -> web.Response:
        requested = request.match_info["id"]
        run = await self._archive.find(requested)
        why = str(error)
        if run is not None and isinstance(error, DataError) and (ended := failure(run)):
            reason = error.message.removesuffix(" yet")
            why = f"{ended} {reason[0].upper()}{reason[1:]}."
        link = f'<a href="{{root}}runs/{quote(run.id)}">Open the run</a>, or see' if run else "See"
        markup = {
            "<!-- title -->": "This run has no report",
            "<!-- run -->": escape(run.id if run else requested),
            "<!-- link -->": link,
            "<!-- why -->": escape(why),
        }
        return self._files.render(request, "no-report.html", markup, status=status_of(error))


def _milliseconds(request: web.Request, name: str) -> int:
    text = request.query.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise UsageError(f"{name} must be a time in UTC milliseconds")
    return int(text)
