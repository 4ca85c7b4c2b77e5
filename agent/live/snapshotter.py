"""Takes snapshots of a running core and restores them at a restart.

A restart loads the newest undamaged snapshot made by this program and configuration, and folds only the
journal after it. Without one it folds the whole journal, and compares each snapshot with the folded state at
the snapshot's event.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from hashlib import blake2b
from pathlib import Path
from typing import Final

import msgspec
import structlog

from agent.config import Config
from agent.core.errors import StoreError
from agent.core.sleeves import engines_of
from agent.core.trading_engine import TradingEngine
from agent.live.interfaces.observer import Observer
from agent.live.interfaces.status import SnapshotStatus
from agent.live.observers import LiveSink
from agent.live.resume import ResumePoint
from agent.replay.engine_state import (
    VERSION_PART,
    capture,
    fingerprint,
    restore,
    state_digest,
    version_part,
)
from agent.replay.object_codec import Spec, StateError, Unencodable, decode_into, encode
from agent.store.chain import DIGEST_SIZE
from agent.store.database import Database
from agent.store.recorder import Recorder, RecorderPosition
from agent.store.state_snapshots import (
    Snapshot,
    SnapshotInfo,
    delete_snapshots_after,
    list_snapshots,
    read_snapshot,
)
from agent.system.clock import iso

MOST_EVENTS: Final = 50_000
"""Number of events after which a snapshot is taken even if `snapshot_every` has not passed."""

_TABLES: Final = ("news", "sentiments", "equity", "sleeve_equity")
_NOTHING: Final = RecorderPosition(bytes(DIGEST_SIZE), 0, dict.fromkeys(_TABLES, 0))
_CORE, _SHELL, _OBSERVER = "core", "rim", "observer "
_log: Final = structlog.get_logger(__name__)


class Snapshotter:
    """Takes and restores the snapshots of one run."""

    def __init__(self, config: Config, database: Database, run_id: str, engine: TradingEngine) -> None:
        self.status = SnapshotStatus()
        self._config = config
        self._database = database
        self._run_id = run_id
        self._every = config.store.snapshot_every / 1000
        self._taken_at = 0.0  # of the event loop's clock
        # computed now, since a source file may change while the program runs
        self._fingerprint = fingerprint(config, *(one.strategy for one in engines_of(engine).values()))
        self._unencodable = False
        self._expected: dict[int, SnapshotInfo] = {}  # compared with the state while folding
        self._segment = config.store.segment
        self._number = 0  # of the current segment: UTC ms divided by its length
        self.boundaries = 0
        """Number of segments that ended in this life."""

    # -- taking ---------------------------------------------------------------------------------------

    @property
    def enabled(self) -> bool:
        """True if snapshots are configured and the state can be saved."""
        return bool(self._every) and not self._unencodable

    def strategy_changed(self) -> None:
        """Try again to save the state, if that of the strategy before could not be saved."""
        if self._unencodable:
            self._unencodable, self.status.problem = False, ""

    def is_due(self, now: float, seq: int) -> bool:
        """Whether to take a snapshot after event `seq`; `now` is the event loop's time."""
        if not self.enabled:
            return False
        self._taken_at = self._taken_at or now
        return now - self._taken_at >= self._every or seq - self.status.event >= MOST_EVENTS

    def start_segment(self, at: int | None) -> None:
        """Set the start of the current segment to `at` (UTC ms); None means the next event."""
        if self._segment and at is not None:
            self._number = at // self._segment

    def ends_segment(self, at: int) -> bool:
        """Whether a segment ends with the events up to `at` (UTC ms), as `store.segment` configures."""
        if not self._segment or not self.enabled:
            return False
        self._number = self._number or at // self._segment
        return at // self._segment > self._number

    def take(
        self,
        now: float,
        seq: int,
        engine: TradingEngine,
        recorder: Recorder,
        sink: LiveSink,
        memory: ResumePoint,
        run_observers: Iterable[Observer],
        *,
        boundary: bool = False,
    ) -> Snapshot | None:
        """Capture the state after event `seq`, of which everything is committed.

        Returns None if the state can't be saved; `status` then has the reason.
        """
        began = time.perf_counter()
        self._taken_at = now
        position = recorder.position
        try:
            core = capture(engine)
            shell = encode([memory, sink.position, list(position)], _SHELL_SPEC)
        except Unencodable as error:
            attribute = error.path
            name = (
                f"strategy attribute {attribute}"
                if _of_strategy(engine, attribute)
                else f"{attribute} of the core"
            )
            self.status.problem = f"a restart folds the whole journal: {name} is {error.what}"
            self._unencodable = True
            _log.warning("no snapshots are taken", reason=self.status.problem)
            return None
        parts = {
            _CORE: core,
            _SHELL: shell,
            VERSION_PART: version_part(engine),
            "chain": msgspec.msgpack.encode((position.digest, position.decisions)),
        }
        for name, observer in _named(run_observers):
            try:
                parts[name] = encode([observer], _OBSERVER_SPEC)
            except Unencodable as error:
                self.status.problem = f"a restart folds the whole journal: {error}"
        state = state_digest(core, position.digest, position.decisions)
        made = Snapshot(seq, time.time_ns() // 1_000_000, self._fingerprint, state, parts, boundary)
        self.status.event = seq
        self.status.took_ms = round((time.perf_counter() - began) * 1000, 3)
        return made

    def note_written(self, info: SnapshotInfo) -> None:
        """Note that the snapshot is committed."""
        if info.boundary:
            self.boundaries += 1
        self._show(info)

    def _show(self, info: SnapshotInfo) -> None:
        self.status.event, self.status.at, self.status.size = info.seq, info.created_at, info.size

    # -- going on -------------------------------------------------------------------------------------

    def resume(
        self,
        fresh: TradingEngine,
        another: Callable[[], TradingEngine],
        recorder: Recorder,
        sink: LiveSink,
        memory: ResumePoint,
        run_observers: Iterable[Observer],
        last_seq: int,
    ) -> tuple[int, TradingEngine]:
        """Restore the newest usable snapshot into `fresh`, or into a new engine by `another` after a failed
        attempt.

        Returns the event after which the fold continues (0: from the first) and the engine to use.
        """
        named = list(_named(run_observers))
        for info in list_snapshots(self._database, self._run_id):
            problem = ""
            if info.seq > last_seq:
                problem = "the journal ends before it"
            elif info.fingerprint != self._fingerprint:
                problem = "it belongs to another version of the program, the strategy or the configuration"
            else:
                self._expected[info.seq] = info
                try:
                    parts = read_snapshot(self._database, self._run_id, info)
                    if any(name not in parts for name, _ in named):
                        problem = "it lacks the state of an observer that is attached now"
                    else:
                        self._load(parts, info, fresh, recorder, sink, memory, named)
                        self._show(info)
                        self.status.resumed_from = info.seq
                        _log.info(
                            "snapshot loaded",
                            after_event=info.seq,
                            events_to_fold=last_seq - info.seq,
                            taken_at=iso(info.created_at),
                        )
                        return info.seq, fresh
                except (StateError, StoreError) as error:
                    problem = str(error)
                    recorder.seek(_NOTHING)
                    fresh = another()
            self.status.problem = f"the snapshot after event {info.seq} is not used: {problem}"
            if info.seq > last_seq:
                delete_snapshots_after(self._database, self._run_id, last_seq)
            _log.warning("a snapshot is not used", after_event=info.seq, reason=problem)
        return 0, fresh

    def _load(
        self,
        parts: dict[str, bytes],
        info: SnapshotInfo,
        engine: TradingEngine,
        recorder: Recorder,
        sink: LiveSink,
        memory: ResumePoint,
        run_observers: list[tuple[str, Observer]],
    ) -> None:
        blank = [encode([one], _OBSERVER_SPEC) for _, one in run_observers]
        initial, position_before = ResumePoint(), sink.position
        try:
            restore(engine, parts[_CORE], parts.get(VERSION_PART, b""))
            _, sink_position, position = decode_into(parts[_SHELL], [memory, None, None], _SHELL_SPEC)
            digest, decisions, rows = position
            if state_digest(parts[_CORE], digest, decisions) != info.state:
                raise StateError("its parts are of different states")
            sink.position = sink_position
            for name, observer in run_observers:
                decode_into(parts[name], [observer], _OBSERVER_SPEC)
            recorder.seek(RecorderPosition(digest, decisions, rows))
        except (StateError, StoreError, LookupError, TypeError, ValueError) as error:
            for (_, observer), state in zip(run_observers, blank, strict=True):
                decode_into(state, [observer], _OBSERVER_SPEC)
            vars(memory).update(vars(initial))
            sink.position = position_before
            raise StateError(str(error)) from error

    def check_fold(self, seq: int, engine: TradingEngine, recorder: Recorder) -> None:
        """While the whole journal is folded: compare the state after event `seq` with the snapshot taken
        there.
        """
        info = self._expected.get(seq)
        if info is None:
            return
        position = recorder.position
        if state_digest(capture(engine), position.digest, position.decisions) != info.state:
            self.status.problem = f"the snapshot after event {seq} is not the state that the journal leads to"
            _log.error("a snapshot differs from the fold of the journal", after_event=seq)


def _of_strategy(engine: TradingEngine, path: str) -> bool:
    first = path.partition(".")[0]
    return any(hasattr(one.strategy, first) for one in engines_of(engine).values())


def _named(run_observers: Iterable[Observer]) -> Iterable[tuple[str, Observer]]:
    """Name each observer by its class and source, so that a changed class has another name."""
    for observer in run_observers:
        kind = type(observer)
        source = Path(getattr(sys.modules[kind.__module__], "__file__", "") or "")
        text = source.read_bytes() if source.is_file() else b""
        yield (
            f"{_OBSERVER}{kind.__module__}:{kind.__qualname__} {blake2b(text, digest_size=8).hexdigest()}",
            observer,
        )


_SHELL_SPEC: Final = Spec(("agent.live.resume",), wiring={}, first={}, rebuild={}, blank={})
_DASHBOARD: Final[dict[str, tuple[str, ...]]] = {
    "agent.dashboard.dashboard_state:DashboardState": ("header", "_mapper", "_bar_limit"),
    "agent.dashboard.page_rows:VersionedRows": ("_limit",),
}
_DRIFT: Final[dict[str, tuple[str, ...]]] = {
    "agent.live.model_drift:ModelDrift": (*("_model", "_floor", "_size", "_judged", "_unknown"),),
    "agent.live.model_drift:PriceFollower": ("_horizon", "_patience"),
    "agent.analysis.realised_moves:MoveTally": ("_horizon", "_size"),
    "models.sentiment.serve.drift:SentimentWindow": ("_size",),
}
_OBSERVER_SPEC: Final = Spec(
    (
        *("agent.dashboard.", "agent.analysis.thinning", "agent.core.portfolio", "agent.core.events"),
        *("agent.live.model_drift", "agent.analysis.realised_moves", "models.sentiment.serve.drift"),
    ),
    wiring=_DASHBOARD | _DRIFT,
    first={
        "agent.core.portfolio:Portfolio": ("positions",),
        "agent.live.model_drift:ModelDrift": ("_tally",),
    },
    rebuild={},
    blank={},
)
