"""What a run is: one backtest or one life of the live agent, with everything needed to say where its figures come from."""

from __future__ import annotations

from decimal import Decimal
from enum import Enum
from typing import Any, Final, Literal

import msgspec

FUSION_VERSION: Final = "fusion"
"""Key of `Run.versions` under which the fusion model's fingerprint is recorded."""


class RunKind(str, Enum):
    """Who fed the engine."""

    BACKTEST = "backtest"
    LIVE = "live"


class RunStatus(str, Enum):
    """A process that was killed leaves RUNNING behind; only a run that recorded everything is COMPLETE."""

    RUNNING = "running"
    COMPLETE = "complete"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


class InputFile(msgspec.Struct, frozen=True):
    """A file that a backtest replayed, named by its content, so that the journal need not copy it."""

    role: Literal["klines", "news", "sentiment", "funding"]
    path: str
    sha256: str
    symbol: str = ""
    rows: int = 0


class Run(msgspec.Struct, frozen=True):
    """A row of `runs`. What comes after `stamps` is written when the run ends."""

    id: str
    kind: RunKind
    started_at: int  # UTC ms of the machine's clock
    strategy: str
    params: dict[str, Any] = {}  # of the strategy, defaults included
    config: dict[str, Any] = {}  # as it was when the run began
    version: str = ""  # of Tapewire
    # of what it was computed with: python, numpy, onnxruntime, the model's fingerprint …
    versions: dict[str, str] = {}
    inputs: tuple[InputFile, ...] = ()
    stamps: tuple[str, ...] = ()  # what every report must show, e.g. LEAKED
    status: RunStatus = RunStatus.RUNNING
    finished_at: int | None = None  # UTC ms of the machine's clock
    first_event_at: int | None = None  # `available_at` of the first and last event handled
    last_event_at: int | None = None
    events: int = 0
    decisions: int = 0
    chain_head: str = ""  # hex
    final_equity: Decimal | None = None
    metrics: dict[str, Any] = {}
    error: str = ""


class Archive(msgspec.Struct, frozen=True):
    """Where the journal of a run was copied to; once it is pruned, the file is all there is."""

    path: str
    sha256: str
    events: int
    size: int  # bytes
    archived_at: int  # UTC ms of the machine's clock
    pruned_at: int | None = None


class Segment(msgspec.Struct, frozen=True):
    """A part of the journal of a run that goes on, in a file of its own: events `first` to `last`."""

    last: int
    first: int
    path: str
    sha256: str
    size: int  # bytes
    archived_at: int  # UTC ms of the machine's clock
    pruned_at: int | None = None  # when the store let go of the rows
