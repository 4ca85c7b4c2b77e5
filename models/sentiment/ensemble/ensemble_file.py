"""`ensemble.json`: the members of an ensemble, their weights, and how well it did on held-out text."""

from __future__ import annotations

import hashlib
import math
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final

import msgspec

from agent.core.errors import ModelError
from agent.core.events import DAY_MS
from agent.system.atomic import write_bytes
from models.cards import DatasetRecord, ReferenceShares
from models.sentiment.serve.model_paths import ENSEMBLE, SERVER, STARTER

ENSEMBLE_NAME: Final = "ensemble.json"
ENSEMBLE_FORMAT: Final = 1
_AGAIN: Final = "fit it again: tapewire train ensemble"


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A model of an ensemble."""

    name: str
    """Short name, unique in the ensemble."""
    path: str
    """`starter`, a model folder (if relative, from the ensemble's folder), or `openai:URL#MODEL`."""
    fingerprint: str
    """Fingerprint at the fitting. A model with another one is refused."""
    weight: float
    """Share in the pool. A member of weight 0 is not loaded."""
    trained_until: int = 0
    """UTC ms. The weights may know any event before."""
    knowledge_cutoff: str = ""
    """ISO date of the last day that a model at a server can know; empty for a local model or if unknown."""

    @property
    def is_remote(self) -> bool:
        """True for a model at a server."""
        return self.path.startswith(SERVER)


class MemberFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Metrics on the held-out texts. An abstention counts as wrong in accuracy and macro-F1."""

    accuracy: float
    macro_f1: float
    ece: float
    nll: float
    """Mean negative log-likelihood in nats; an abstention counts as three equal probabilities."""
    coverage: float
    """Share of the texts without abstention."""
    precision_at: dict[str, float | None] = {}
    """Share of right predictions among the surest 25, 50, 75 and 100 % of the texts, by "0.25", "0.5" ….

    None if more texts are abstentions.
    """
    ms: float | None = None
    """Milliseconds a text; None if it wasn't measured."""
    cost: float = 0.0
    """Cost of a score in the currency of `llm.budget`; 0 for local models."""


class WorthInterval(msgspec.Struct, frozen=True):
    """A difference with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    @property
    def is_distinguishable(self) -> bool:
        """True if the interval excludes zero."""
        return self.low > 0 or self.high < 0


class Worth(msgspec.Struct, frozen=True):
    """The ensemble minus one that is fitted without the member, on the same held-out texts."""

    accuracy: WorthInterval
    nll: WorthInterval
    """Negative if the member helps."""


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What the fitting measured on held-out text."""

    rows_fit: int
    rows_test: int
    by_time: bool
    ensemble: MemberFigures
    members: dict[str, MemberFigures]
    worth: dict[str, Worth] = {}
    """Empty for a single member."""
    disagreement: float = 0.0
    """Share of the held-out texts on which the members' likeliest classes differ."""


class Ensemble(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of `ensemble.json`."""

    format: int = ENSEMBLE_FORMAT
    members: tuple[Member, ...]
    temperature: float = 1.0
    agree_above: float = 0.0
    """If the members' likeliest classes differ, the ensemble abstains below this pooled confidence."""
    trained_until: int = 0
    """UTC ms: the latest of the members', and of the texts that the weights were fitted on."""
    datasets: tuple[DatasetRecord, ...] = ()
    measured: Measured | None = None
    reference: ReferenceShares | None = None
    """Scores of the fitted texts: the reference for drift."""
    notes: tuple[str, ...] = ()
    """What to know about the fitting, as sentences."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that a score depends on. The order of the members doesn't matter."""
        asked = sorted([one.fingerprint, repr(one.weight)] for one in self.members if one.weight > 0)
        parts = ["ensemble", self.format, asked, repr(self.temperature), repr(self.agree_above)]
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()


def read_ensemble(folder: Path) -> Ensemble:
    """Read `ensemble.json` of a folder.

    Raises ModelError if it is missing, damaged, of a newer format, or has unusable weights.
    """
    path = folder / ENSEMBLE_NAME
    try:
        ensemble = msgspec.json.decode(path.read_bytes(), type=Ensemble)
    except FileNotFoundError:
        what = f"holds no {ENSEMBLE_NAME}" if folder.is_dir() else "does not exist"
        hint = "name a folder written by `tapewire train ensemble`"
        raise ModelError(f"{folder} {what}", hint=hint) from None
    except (msgspec.DecodeError, OSError, ValueError) as error:
        raise ModelError(f"{str(path)!r}: {error}", hint=f"the file is damaged; {_AGAIN}") from None
    if ensemble.format > ENSEMBLE_FORMAT:
        newer = f"format {ensemble.format} is newer than this version reads ({ENSEMBLE_FORMAT})"
        raise ModelError(f"{path}: {newer}", hint="update tapewire")
    if problem := _problem(ensemble):
        raise ModelError(f"{path}: {problem}", hint=_AGAIN)
    return ensemble


def write_ensemble(ensemble: Ensemble, folder: Path) -> Path:
    """Write `ensemble.json` into `folder`, which is made if it is missing; return the file's path."""
    path = folder / ENSEMBLE_NAME
    write_bytes(path, msgspec.json.format(msgspec.json.encode(ensemble), indent=2) + b"\n")
    return path


def member_path(folder: Path, path: str) -> str:
    """Return a member's path as `model.path` takes it; a relative folder is looked up from `folder`."""
    if path == STARTER or path.startswith((SERVER, "~")) or Path(path).is_absolute():
        return path
    return str((folder / path).resolve())


def end_of_day(day: date) -> int:
    """Return the UTC ms of the end of a day."""
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1000) + DAY_MS


def _problem(ensemble: Ensemble) -> str:
    weights = [member.weight for member in ensemble.members]
    names = [member.name for member in ensemble.members]
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or abs(sum(weights) - 1) > 1e-6:
        return f"the weights {weights} are not shares that sum to 1"
    if len(set(names)) < len(names):
        return f"two members have the same name: {', '.join(names)}"
    if not (math.isfinite(ensemble.temperature) and ensemble.temperature > 0):
        return f"temperature {ensemble.temperature} is not above 0"
    if not 0 <= ensemble.agree_above <= 1:
        return f"agree_above {ensemble.agree_above} is no confidence from 0 to 1"
    nested = [member.name for member in ensemble.members if member.path.startswith(ENSEMBLE)]
    return f"{nested[0]} is an ensemble itself" if nested else ""
