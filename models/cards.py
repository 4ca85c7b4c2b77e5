"""`card.json`: what a trained artifact is made of, how good it is, and until when it has seen the world."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from agent.core.errors import ModelError
from agent.system.atomic import settled, write_bytes
from agent.system.clock import iso
from models.fusion import CLASSES
from models.labels import LABELS

CARD_NAME: Final = "card.json"
CARD_FORMAT: Final = 1
_WHOLE: Final = "copy the whole folder again, or make it again with `tapewire train` or `tapewire export`"
LABELS_OF: Final = {"sentiment": LABELS, "fusion": CLASSES}
"""The classes of each kind of model, in their order."""


class DatasetRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One data set that went into the weights or their calibration."""

    name: str
    format: str
    sha256: str
    rows: int
    latest: int | None = None
    """UTC ms from which on the set knows nothing: after its last row, or its year of publication. None: eventless."""
    basis: str = ""
    """Where `latest` comes from: dated rows, published 2018, declared, eventless (checked), undated: day of training."""


class Estimate(msgspec.Struct, frozen=True):
    """A metric with its 95 % bootstrap confidence interval."""

    value: float
    low: float
    high: float


class CoverageRow(msgspec.Struct, frozen=True):
    """Acting only at confidence ≥ threshold: share of texts acted on, and how often the class is then right."""

    threshold: float
    coverage: float
    precision: float | None
    """None: nothing reaches the threshold."""


class Card(msgspec.Struct, kw_only=True):
    """The contents of `card.json`."""

    format: int = CARD_FORMAT
    kind: str = "sentiment"
    base: str
    """Name of the base model: "embedded", a hub id, or a folder's name."""
    base_sha256: str = ""
    """Of the base's shape and input embeddings."""
    base_weights_sha256: str = ""
    """Of all weights of the base: an adapter is refused on another one. Empty: the card was written by an earlier version."""
    base_released: str = ""
    """ISO date of the base's release, where it is known: its own pre-training may know what came before."""
    method: str
    pooling: str = "mean"
    max_length: int = 96
    """Tokens a text, special tokens included; what is longer is truncated."""
    hyper: dict[str, str | int | float | bool | None] = {}
    datasets: tuple[DatasetRecord, ...] = ()
    labels: tuple[str, ...] = LABELS
    temperature: float = 1.0
    """probabilities = softmax(logits / temperature)."""
    threshold: float = 0.7
    """Calibrated confidence from which a score is actionable."""
    coverage: tuple[CoverageRow, ...] = ()
    metrics: dict[str, dict[str, Estimate]] = {}
    """Per evaluated set ("test", "calibration", …): metric name → estimate."""
    versions: dict[str, str] = {}
    trained_until: int = 0
    """UTC ms: the artifact may know of anything before it, so no honest backtest begins earlier. 0: it saw no dated event."""
    fingerprint: str = ""
    """SHA-256 over weights, tokenizer and temperature: the key of the score cache."""
    files: dict[str, str] = {}
    """SHA-256 of each file that belongs to the card, by name. Empty: the card was written by an earlier version."""
    notes: dict[str, str | int | float | bool | None] = {}
    """Whatever else is worth keeping: seconds trained, forgetting check, agreement of an export with its reference."""

    @property
    def trained_until_iso(self) -> str:
        """`trained_until` for people."""
        return iso(self.trained_until) if self.trained_until else "never (no dated event seen)"


def latest_of(datasets: Iterable[DatasetRecord]) -> int:
    """`trained_until` of an artifact made from `datasets`: the latest of their latest, eventless sets apart."""
    return max((record.latest for record in datasets if record.latest is not None), default=0)


def read_card(folder: Path, *, kind: str = "sentiment") -> Card:
    """The card of a model folder.

    Raises ModelError if it is missing, damaged, of a newer format, another kind, other labels or a temperature that is unusable.
    """
    path = settled(folder) / CARD_NAME
    try:
        card = msgspec.json.decode(path.read_bytes(), type=Card)
    except FileNotFoundError:
        what = "holds no card.json" if folder.is_dir() else "does not exist"
        raise ModelError(
            f"{folder} {what}", hint="name a folder written by `tapewire train` or `tapewire export`"
        ) from None
    except (msgspec.DecodeError, OSError, ValueError) as error:  # ValueError: no UTF-8, or a NUL in the path
        raise ModelError(
            f"{str(path)!r}: {error}", hint="the card is damaged: train or export again"
        ) from None
    if card.format > CARD_FORMAT:
        raise ModelError(
            f"{path}: card format {card.format} is newer than this version reads ({CARD_FORMAT})",
            hint="update tapewire",
        )
    if card.kind != kind:
        raise ModelError(
            f"{folder} holds a model of {card.kind}, not of {kind}",
            hint=f"name one made by `tapewire train {kind}`",
        )
    labels = LABELS_OF[kind]
    if card.labels != labels:
        raise ModelError(f"{path}: labels {card.labels}", hint=f"this version reads {labels} in that order")
    if not (math.isfinite(card.temperature) and card.temperature > 0):
        raise ModelError(
            f"{path}: temperature {card.temperature}", hint="it must be above 0: train or export again"
        )
    return card


def write_card(card: Card, folder: Path) -> Path:
    """Write `card.json` into `folder` and return its path."""
    path = folder / CARD_NAME
    write_bytes(path, msgspec.json.format(msgspec.json.encode(card), indent=2) + b"\n")
    return path


def seal(card: Card, folder: Path, names: Iterable[str]) -> None:
    """Record the SHA-256 of the files `names` of `folder` in `card`, and write it there."""
    card.files = {name: _sha256(folder / name) for name in sorted(names)}
    write_card(card, folder)


def check_files(card: Card, folder: Path, names: Iterable[str] = ()) -> None:
    """Raise ModelError unless each file of `folder` that `card` lists is the one that it was written for.

    `names` must be among those files. Nothing is checked if the card lists none, as cards of earlier versions do.
    """
    if not card.files:
        return
    for name in sorted({*card.files, *names}):
        if name not in card.files or Path(name).name != name:
            raise _foreign(folder / name, "isn't listed in")
        try:
            same = _sha256(folder / name) == card.files[name]
        except (OSError, ValueError) as error:
            raise ModelError(f"{folder / name} can't be read: {error}", hint=_WHOLE) from None
        if not same:
            raise _foreign(folder / name, "differs from the file that was recorded in")


def _foreign(path: Path, what: str) -> ModelError:
    return ModelError(f"{path} {what} {CARD_NAME}", hint=_WHOLE)


def _sha256(path: Path) -> str:
    if not path.is_file():  # opening a pipe would block
        raise FileNotFoundError("it is missing or no file")
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_files(paths: Iterable[Path], salt: str = "") -> str:
    """SHA-256 over names and contents of files, in the order of their names: equal only for equal sets of equal files."""
    digest = hashlib.sha256(salt.encode())
    for path in sorted(paths, key=lambda path: path.name):
        digest.update(b"\0" + path.name.encode() + b"\0")
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def fingerprint(files: Iterable[Path], temperature: float) -> str:
    """`Card.fingerprint` of weights and tokenizer `files` served at `temperature`."""
    return sha256_files(files, salt=f"temperature={temperature!r}")
