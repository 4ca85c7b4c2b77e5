"""Results of the tools, as structs: their JSON Schemas are the output schemas."""

from __future__ import annotations

from typing import Any

import msgspec

from agent.analysis.deflation import StudyStanding
from agent.analysis.overfitting import Overfitting
from agent.analysis.report.verdict import Verdict
from agent.analysis.run_metrics import Metrics
from agent.analysis.study_list import StudyLine, TryLine
from agent.jobs.known_strategies import KnownStrategy
from agent.mcp.documents import DocHit
from agent.research.assessment import OutOfSampleEvidence
from agent.research.walk_forward import FoldRecord
from agent.store.tries import Study


class BacktestAnswer(msgspec.Struct, frozen=True):
    """A recorded run. `study` deflates its Sharpe ratio by all tries on the same data."""

    run: str
    trades: int
    final_equity: float
    metrics: Metrics
    study: StudyStanding
    stamps: tuple[str, ...]
    notes: tuple[str, ...]


class SweepLine(msgspec.Struct, frozen=True):
    """One variant. `run` is the recorded run, if it was to be recorded; `error` ended the variant early."""

    params: dict[str, Any]
    total_return: float
    sharpe: float | None
    max_drawdown: float
    trades: int
    final_equity: float
    study: StudyStanding
    run: str = ""
    error: str = ""


class SweepAnswer(msgspec.Struct, frozen=True):
    """All variants, in the order of the grid. The best of many is mostly luck: see `study`."""

    variants: list[SweepLine]


class WalkForwardAnswer(msgspec.Struct, frozen=True):
    """A judgement on time after the data that each fold was fitted on. `stamps` must be shown."""

    id: str
    strategy: str
    symbols: tuple[str, ...]
    fit: str
    stamps: tuple[str, ...]
    folds: list[FoldRecord]
    evidence: OutOfSampleEvidence
    verdict: Verdict


class TuneAnswer(msgspec.Struct, frozen=True):
    """The best parameters in sample, and what they were worth on held-out time, which is judged once."""

    study: str
    trials: int
    pruned: int
    invalid: int
    tries: int
    params: dict[str, Any]
    value: float
    in_sample: tuple[int, int]
    deflated_sharpe: float | None
    overfitting: Overfitting | None
    held_out: WalkForwardAnswer


class CheckAnswer(msgspec.Struct, frozen=True):
    """Whether a strategy passed, and the details of the check, as `tapewire check --json` prints them."""

    passed: bool
    strategy: str
    details: dict[str, Any]


class ReportAnswer(msgspec.Struct, frozen=True):
    """What a command printed with --json."""

    report: dict[str, Any]


class ScoreAnswer(msgspec.Struct, frozen=True):
    """Calibrated probabilities of each text."""

    scores: list[dict[str, Any]]


class FiguresAnswer(msgspec.Struct, frozen=True):
    """The figures of a run's report, those of `tapewire report --json`."""

    run: str
    verdict: Verdict
    metrics: Metrics
    notes: list[str]


class TriesAnswer(msgspec.Struct, frozen=True):
    """The studies, or the `tries` on the data of one. `count` tries deflate."""

    studies: list[StudyLine] = []
    study: Study | None = None
    count: int = 0
    tries: list[TryLine] = []


class StrategiesAnswer(msgspec.Struct, frozen=True):
    """The strategies that may be run."""

    strategies: list[KnownStrategy]


class TemplateAnswer(msgspec.Struct, frozen=True):
    """The source of a new strategy file. A person saves it; this server writes no code."""

    file: str
    source: str


class DocsAnswer(msgspec.Struct, frozen=True):
    """Sections of the documentation, best first; read_doc returns their text."""

    hits: list[DocHit]


class CommandAnswer(msgspec.Struct, frozen=True):
    """The agent's reply to a command that was journalled."""

    reply: dict[str, Any]
