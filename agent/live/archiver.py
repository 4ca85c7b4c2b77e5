"""Archive finished segments of the journal in a child process.

The running agent only waits for short transactions.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any, Final, Never

import msgspec
import structlog

from agent.config import Config
from agent.core.errors import StoreError
from agent.live.snapshotter import Snapshotter
from agent.store.database import Database
from agent.store.journal import find_segments
from agent.store.journal_segments import boundaries

_LOOK: Final = 1.0  # seconds between two checks for the end of a segment
_RETRY: Final = 600.0  # seconds until the next attempt after a failure
_log: Final = structlog.get_logger(__name__)


async def watch_segments(config: Config, database: Database, run_id: str, snapshots: Snapshotter) -> Never:
    """Archive finished segments until cancelled, beginning with those of earlier lives."""
    seen = -1
    while True:
        if snapshots.boundaries != seen:
            now = snapshots.boundaries
            try:
                done = not await asyncio.to_thread(_pending, database, run_id) or await _move(
                    config, snapshots
                )
            except (StoreError, OSError) as error:  # no memory or descriptors left for a child process
                done = _failed(snapshots, str(error))
            if not done:
                await asyncio.sleep(_RETRY)
                continue
            seen = now
        await asyncio.sleep(_LOOK)


def _pending(database: Database, run_id: str) -> bool:
    ends = boundaries(database, run_id)
    pruned = (
        {segment.last for segment in find_segments(database, run_id) if segment.pruned_at} if ends else set()
    )
    return any(end.seq not in pruned for end in ends)


async def _move(config: Config, snapshots: Snapshotter) -> bool:
    """Archive in a child process; return whether all finished segments are in files now."""
    request = msgspec.json.encode(
        {
            "url": config.store.url,
            "folder": str(config.archive.folder),
            "copies": str(config.live.folder),
        }
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "agent.replay.segment_archiver",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        output, _ = await process.communicate(request)
    except asyncio.CancelledError:
        process.terminate()  # the next run continues where it stopped
        await process.wait()
        raise
    found = _last_line(output)
    if process.returncode or "error" in found:
        return _failed(snapshots, found.get("error", f"exit code {process.returncode}"))
    if found.get("segments"):
        _log.info("segments archived", **found)
    return True


def _failed(snapshots: Snapshotter, reason: str) -> bool:
    snapshots.status.problem = f"a segment was not archived: {reason}"
    _log.error("a segment of the journal stays in the store", reason=snapshots.status.problem)
    return False


def _last_line(output: bytes) -> dict[str, Any]:
    lines = output.splitlines()
    try:
        return msgspec.json.decode(lines[-1], type=dict[str, Any]) if lines else {}
    except msgspec.DecodeError:
        return {}
