"""Loaders of labelled text, one `register` call for each format. Labels are mapped by name.

>>> load(Path("Sentences_50Agree.txt"), "phrasebank").examples[0].label
'neutral'
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

import msgspec

from agent.core.errors import DataError, UsageError, did_you_mean
from models.cards import DatasetRecord
from models.labels import SCORE_CUT
from models.sentiment.serve.headline_text import clean


class Example(msgspec.Struct, frozen=True):
    """One labelled text. `ts` is UTC ms if the set is dated; `where` names file and row in errors."""

    text: str
    label: str
    ts: int | None = None
    where: str = ""


class Labelled(Protocol):
    """What a record needs of a row."""

    @property
    def text(self) -> str:
        """The cleaned text."""

    @property
    def ts(self) -> int | None:
        """UTC ms if the set is dated."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How to read a file. Formats with fixed columns ignore the column names."""

    text_column: str = "text"
    label_column: str = "label"
    date_column: str = ""
    """If empty: "date" for cryptolin, else the rows are undated."""
    encoding: str = "utf-8"
    score_cut: float = SCORE_CUT
    per_target: bool = False
    """FiQA, SemEval: one row for each target, with the target before the text, instead of one with the
    mean score.
    """
    skip_empty: bool = False
    latest: int | None = None
    """UTC ms: declared end of an undated set. Overrides the publication year of a known set."""
    eventless: bool = False
    """Check that the texts name no price, date or real event; such a set doesn't change `trained_until`."""


Loader = Callable[[Path, Options], Iterator[Example]]


class Format(msgspec.Struct, frozen=True):
    """A registered format. `published` is the year of publication of an undated official set."""

    name: str
    read: Loader
    published: int | None = None


class Dataset(msgspec.Struct, frozen=True):
    """A loaded file: cleaned texts with labels, and the record for the card."""

    examples: tuple[Example, ...]
    record: DatasetRecord

    @property
    def dated(self) -> bool:
        """True if every row has a time."""
        return all(example.ts is not None for example in self.examples)


_FORMATS: Final[dict[str, Format]] = {}
_MODULES: Final = ("phrasebank", "target_scores", "tabular", "asset_labels")


def register(name: str, *, published: int | None = None) -> Callable[[Loader], Loader]:
    """Make a loader available as `--format name`."""

    def decorate(read: Loader) -> Loader:
        _FORMATS[name] = Format(name, read, published)
        return read

    return decorate


def formats() -> tuple[str, ...]:
    """Return the names of all formats."""
    for module in _MODULES:
        importlib.import_module(f"{__name__}.{module}")
    return tuple(_FORMATS)


def load(path: Path, format: str, options: Options | None = None) -> Dataset:
    """Read, clean and check one labelled file.

    Raises UsageError for an unknown format or encoding, DataError (with file and row) for a missing file or
    column, a byte outside the encoding, an unknown label, an empty text, or a file without rows.
    """
    options = options or Options()
    if format not in formats():
        hint = did_you_mean(format, _FORMATS, f"known: {', '.join(_FORMATS)}")
        raise UsageError(f"unknown data format {format!r}", hint=hint)
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"
        raise DataError(f"{path} {what}", hint="name a file of labelled text")
    chosen = _FORMATS[format]
    try:
        rows = [_cleaned(example, options) for example in chosen.read(path, options)]
    except UnicodeDecodeError as error:
        hint = "name the file's encoding: --encoding cp1252, latin-1, utf-16 …"
        raise DataError(f"{path}: byte {error.start} is not {error.encoding}", hint=hint) from None
    except LookupError:
        hint = "utf-8, cp1252, latin-1, utf-16 …"
        raise UsageError(f"unknown encoding {options.encoding!r}", hint=hint) from None
    examples = tuple(example for example in rows if example.text)  # a text of only a URL is now empty
    if not examples:
        hint = f"is it really of format {format!r}? known: {', '.join(_FORMATS)}"
        raise DataError(f"{path}: no labelled text in it", hint=hint)
    return Dataset(examples, record_of(path, chosen.name, chosen.published, examples, options))


def _cleaned(example: Example, options: Options) -> Example:
    text = clean(example.text)
    if not example.text.strip() and not options.skip_empty:
        raise DataError(f"{example.where}: empty text", hint="remove the row, or pass --skip-empty")
    return msgspec.structs.replace(example, text=text)


def record_of(
    path: Path,
    format: str,
    published: int | None,
    examples: Sequence[Labelled],
    options: Options | None = None,
) -> DatasetRecord:
    """Return the record of a loaded file, for a card. `published` is the year of an undated set."""
    latest, basis = _latest(path, published, examples, options or Options())
    return DatasetRecord(
        name=path.name,
        format=format,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        rows=len(examples),
        latest=latest,
        basis=basis,
    )


def _latest(
    path: Path, published: int | None, examples: Sequence[Labelled], options: Options
) -> tuple[int | None, str]:
    """Return `latest` and `basis` of a set's record."""
    stamps = [example.ts for example in examples if example.ts is not None]
    if options.eventless:
        from models.sentiment.train.datasets.timeless_corpus import require_timeless

        require_timeless(path.name, [example.text for example in examples])
        return None, "eventless (checked)"
    if len(stamps) == len(examples):
        return max(stamps) + 1, "dated rows"
    if options.latest is not None:
        return options.latest, "declared"
    if published:
        return year_end(published), f"published {published}"
    return int(datetime.now(UTC).timestamp() * 1000), "undated: day of training"


def year_end(year: int) -> int:
    """Return the UTC ms of the first moment after `year`."""
    return int(datetime(year + 1, 1, 1, tzinfo=UTC).timestamp() * 1000)
