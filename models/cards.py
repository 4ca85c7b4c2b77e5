"""`card.json`: provenance and quality of a trained model, and the end of the period that its training
data cover.
"""

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
_RESTORE: Final = "copy the whole folder again, or make it again with `tapewire train` or `tapewire export`"
THRESHOLD: Final = 0.7
"""Least calibrated confidence of an actionable score, unless training sets another."""
CONFIDENCE_BINS: Final = 10
"""Number of bins of confidence in `ReferenceShares`."""
LABELS_OF: Final = {"sentiment": LABELS, "fusion": CLASSES}
"""Classes of each kind of model, in the order of its probability vectors."""


class DatasetRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One data set that the weights or their calibration were fitted on."""

    name: str
    format: str
    sha256: str
    rows: int
    latest: int | None = None
    """UTC ms after which the set holds no information: the end of its last row or of its year of publication.

    None for an eventless set.
    """
    basis: str = ""
    """Source of `latest`, such as "dated rows", "published 2018", "declared", "eventless (checked)"."""


class Estimate(msgspec.Struct, frozen=True):
    """A metric with its 95 % bootstrap confidence interval."""

    value: float
    low: float
    high: float


class CoverageRow(msgspec.Struct, frozen=True):
    """Effect of acting only at confidence ≥ threshold: share of texts acted on, and share of those that
    are right.
    """

    threshold: float
    coverage: float
    precision: float | None
    """None if no text reaches the threshold."""


class ReferenceShares(msgspec.Struct, frozen=True, kw_only=True):
    """A sentiment model's scores of texts like those that it was trained on: the reference for drift.

    `models.sentiment.serve.drift.reference_shares` measures it. Raises ValueError if the shares are not
    distributions.
    """

    texts: int
    """Number of texts."""
    classes: tuple[float, ...]
    """Share of each class among the texts without abstentions, in the order of `LABELS`."""
    confidence: tuple[float, ...]
    """Share of each of the `CONFIDENCE_BINS` equal bins of confidence from 1/3 to 1 among the same texts."""
    mean_confidence: float
    abstained: float
    """Share of the texts on which the model abstained."""
    unknown_tokens: float | None = None
    """Mean share of a text's tokens that the vocabulary lacks; None if it was not measured."""

    def __post_init__(self) -> None:
        counts = len(self.classes), len(self.confidence)
        if counts != (len(LABELS), CONFIDENCE_BINS) or self.texts < 1:
            raise ValueError(f"reference shares of {counts} bins and {self.texts} texts")
        rates = self.abstained, self.mean_confidence, self.unknown_tokens or 0.0
        if not all(0.0 <= share <= 1.0 for share in (*self.classes, *self.confidence, *rates)):
            raise ValueError("reference shares outside of 0 to 1")
        if any(abs(sum(shares) - 1.0) > 1e-6 for shares in (self.classes, self.confidence)):
            raise ValueError("reference shares that don't sum to 1")


class PromptTemplate(msgspec.Struct, frozen=True, kw_only=True):
    """How a language model classifies a headline: by its logits of three words at the end of a prompt.

    The prompt is `prefix`, a blank, the headline, `suffix`. Special tokens are written as text in both; in
    the headline they are plain text.
    """

    prefix: str
    suffix: str
    words: tuple[str, str, str]
    """Words of one token each that follow the suffix, in the order of `LABELS`."""
    bias: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Added to the logits: contextual calibration (Zhao et al. 2021)."""


class Card(msgspec.Struct, kw_only=True):
    """The contents of `card.json`."""

    format: int = CARD_FORMAT
    kind: str = "sentiment"
    base: str
    """Base model: "embedded", a hub id, or a folder."""
    base_sha256: str = ""
    """SHA-256 of the base's shape and input embeddings."""
    base_weights_sha256: str = ""
    """SHA-256 of all weights of the base; an adapter is refused on any other. Empty in cards of earlier
    versions.
    """
    base_released: str = ""
    """ISO date of the base's release, if known. Its pre-training may cover everything before."""
    method: str
    pooling: str = "mean"
    max_length: int = 96
    """Tokens of a text, special tokens included; longer texts are truncated. The tokens of a template don't
    count.
    """
    template: PromptTemplate | None = None
    """Prompt and label words of a language model; None for a classifier with a head."""
    hyper: dict[str, str | int | float | bool | None] = {}
    datasets: tuple[DatasetRecord, ...] = ()
    labels: tuple[str, ...] = LABELS
    temperature: float = 1.0
    """probabilities = softmax(logits / temperature)."""
    kinds: tuple[str, ...] = ()
    """Kinds of news that the model tells apart, in the order of its logits; empty if it doesn't."""
    asset_temperature: float = 1.0
    """Temperature of the answers for single assets."""
    kind_temperature: float = 1.0
    threshold: float = THRESHOLD
    """Least calibrated confidence of an actionable score."""
    coverage: tuple[CoverageRow, ...] = ()
    reference: ReferenceShares | None = None
    """Reference for the drift of live headlines. None in cards of earlier versions: drift is then unknown."""
    metrics: dict[str, dict[str, Estimate]] = {}
    """Metric name → estimate, for each evaluated set ("test", "calibration", …)."""
    versions: dict[str, str] = {}
    trained_until: int = 0
    """UTC ms. The model may know any event before, so a valid backtest starts here. 0: it was trained on
    no event.
    """
    fingerprint: str = ""
    """SHA-256 over weights, tokenizer and temperature; the key of the score cache."""
    files: dict[str, str] = {}
    """SHA-256 of each file of the folder, by name. Empty in cards of earlier versions."""
    notes: dict[str, str | int | float | bool | None] = {}
    """Other facts: seconds of training, check for forgetting, agreement of an export with its reference."""

    @property
    def trained_until_iso(self) -> str:
        """`trained_until` as text."""
        return iso(self.trained_until) if self.trained_until else "never (no dated event seen)"


def latest_of(datasets: Iterable[DatasetRecord]) -> int:
    """Return `trained_until` of a model that is trained on `datasets`. Eventless sets don't count."""
    return max((record.latest for record in datasets if record.latest is not None), default=0)


def read_card(folder: Path, *, kind: str = "sentiment") -> Card:
    """Read the card of a model folder.

    Raises ModelError if the card is missing, damaged, of a newer format, or of another kind of model, or if
    its labels or its temperature are unusable.
    """
    path = settled(folder) / CARD_NAME
    try:
        card = msgspec.json.decode(path.read_bytes(), type=Card)
    except FileNotFoundError:
        what = "holds no card.json" if folder.is_dir() else "does not exist"
        hint = "name a folder written by `tapewire train` or `tapewire export`"
        raise ModelError(f"{folder} {what}", hint=hint) from None
    except (msgspec.DecodeError, OSError, ValueError) as error:  # ValueError: not UTF-8, or a NUL in the path
        raise ModelError(
            f"{str(path)!r}: {error}", hint="the card is damaged: train or export again"
        ) from None
    if card.format > CARD_FORMAT:
        newer = f"card format {card.format} is newer than this version reads ({CARD_FORMAT})"
        raise ModelError(f"{path}: {newer}", hint="update tapewire")
    if card.kind != kind:
        hint = f"name one made by `tapewire train {kind}`"
        raise ModelError(f"{folder} holds a model of {card.kind}, not of {kind}", hint=hint)
    labels = LABELS_OF[kind]
    if card.labels != labels:
        raise ModelError(f"{path}: labels {card.labels}", hint=f"this version reads {labels} in that order")
    for temperature in (card.temperature, card.asset_temperature, card.kind_temperature):
        if not (math.isfinite(temperature) and temperature > 0):
            hint = "it must be above 0: train or export again"
            raise ModelError(f"{path}: temperature {temperature}", hint=hint)
    return card


def write_card(card: Card, folder: Path) -> Path:
    """Write `card.json` into `folder` and return its path."""
    path = folder / CARD_NAME
    write_bytes(path, msgspec.json.format(msgspec.json.encode(card), indent=2) + b"\n")
    return path


def write_card_with_hashes(card: Card, folder: Path, names: Iterable[str]) -> None:
    """Record the SHA-256 of the files `names` of `folder` in `card`, and write the card into `folder`."""
    card.files = {name: _sha256(folder / name) for name in sorted(names)}
    write_card(card, folder)


def check_files(card: Card, folder: Path, names: Iterable[str] = ()) -> None:
    """Raise ModelError unless the card lists all of `names`, and each listed file has the recorded content.

    A card without a list of files, as earlier versions wrote it, passes.
    """
    if not card.files:
        return
    for name in sorted({*card.files, *names}):
        if name not in card.files or Path(name).name != name:
            raise _mismatch(folder / name, "isn't listed in")
        try:
            same = _sha256(folder / name) == card.files[name]
        except (OSError, ValueError) as error:
            raise ModelError(f"{folder / name} can't be read: {error}", hint=_RESTORE) from None
        if not same:
            raise _mismatch(folder / name, "differs from the file that was recorded in")


def _mismatch(path: Path, what: str) -> ModelError:
    return ModelError(f"{path} {what} {CARD_NAME}", hint=_RESTORE)


def _sha256(path: Path) -> str:
    if not path.is_file():  # opening a pipe would block
        raise FileNotFoundError("it is missing or not a regular file")
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_files(paths: Iterable[Path], salt: str = "") -> str:
    """Return the SHA-256 over names and contents of files, sorted by name."""
    digest = hashlib.sha256(salt.encode())
    for path in sorted(paths, key=lambda path: path.name):
        digest.update(b"\0" + path.name.encode() + b"\0")
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def fingerprint(files: Iterable[Path], temperature: float, template: PromptTemplate | None = None) -> str:
    """Return `Card.fingerprint` of the weight and tokenizer `files` at `temperature`, in a prompt."""
    return sha256_files(files, salt=f"temperature={temperature!r}{prompt_salt(template)}")


def prompt_salt(template: PromptTemplate | None) -> str:
    """Return the part of a fingerprint's salt that stands for a prompt; empty without one."""
    if template is None:
        return ""
    return f" prompt={template.prefix!r} {template.suffix!r} {template.words!r} {template.bias!r}"
