"""Records of a run: its row in the store, its input files, and the files its journal was moved to."""

from __future__ import annotations

from decimal import Decimal
from enum import Enum
from typing import Any, Final, Literal, NamedTuple

import msgspec

FUSION_VERSION: Final = "fusion"
"""Key of `Run.versions` under which the fusion model's fingerprint is recorded."""
REVISING_MODEL: Final = "revising model"
"""Key of `Run.versions` under which the fingerprint of the model that revises answers is recorded."""
LANGUAGE_MODEL: Final = "language model"
"""Key of `Run.versions` under which language models and their knowledge cutoffs are recorded."""
UNKNOWN_CUTOFF: Final = "KNOWLEDGE CUTOFF UNKNOWN"
"""Stamp of a run whose language model may have known the window."""


class RunKind(str, Enum):
    """Source of a run's events."""

    BACKTEST = "backtest"
    LIVE = "live"


class RunStatus(str, Enum):
    """State of a run. If the process was killed, it stays RUNNING; COMPLETE means fully recorded."""

    RUNNING = "running"
    COMPLETE = "complete"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


class InputFile(msgspec.Struct, frozen=True):
    """A file that a backtest replayed, identified by its hash, so that the journal needs no copy."""

    role: Literal["klines", "news", "sentiment", "funding"]
    path: str
    sha256: str
    symbol: str = ""
    rows: int = 0


class Run(msgspec.Struct, frozen=True):
    """A row of `runs`: one backtest or live run. The fields from `status` on are set at its end."""

    id: str
    kind: RunKind
    started_at: int  # UTC ms, system clock
    strategy: str
    params: dict[str, Any] = {}  # of the strategy, including defaults
    config: dict[str, Any] = {}  # as it was at the start
    version: str = ""  # of Tapewire
    versions: dict[str, str] = {}  # python, numpy, onnxruntime, the model's fingerprint …
    inputs: tuple[InputFile, ...] = ()
    stamps: tuple[str, ...] = ()  # warnings that every report must show, e.g. LEAKED
    status: RunStatus = RunStatus.RUNNING
    finished_at: int | None = None  # UTC ms, system clock
    first_event_at: int | None = None  # `available_at` of the first and last handled event
    last_event_at: int | None = None
    events: int = 0
    decisions: int = 0
    chain_head: str = ""  # hex
    final_equity: Decimal | None = None
    metrics: dict[str, Any] = {}
    error: str = ""


class JournalArchive(msgspec.Struct, frozen=True):
    """The file that a run's journal was copied to. Once the journal is pruned, this file is the only copy."""

    path: str
    sha256: str
    events: int
    size: int  # bytes
    archived_at: int  # UTC ms, system clock
    pruned_at: int | None = None


class JournalSegment(msgspec.Struct, frozen=True):
    """A file that holds the events `first` to `last` of a continuing run's journal."""

    last: int
    first: int
    path: str
    sha256: str
    size: int  # bytes
    archived_at: int  # UTC ms, system clock
    pruned_at: int | None = None  # when the store deleted the rows


class JournalRow(NamedTuple):
    """A row of the journal: one encoded event."""

    seq: int
    kind: str
    available_at: int  # UTC ms
    payload: bytes
