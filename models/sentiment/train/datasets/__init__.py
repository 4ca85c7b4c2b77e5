"""Labelled text by its official format: one module a format, one `register` call each. Labels are mapped by name.

>>> load(Path("Sentences_50Agree.txt"), "phrasebank").examples[0].label
'neutral'
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from agent.core.errors import DataError, UsageError, did_you_mean
from models.cards import DatasetRecord
from models.labels import SCORE_CUT
from models.sentiment.serve.headline_text import clean


class Example(msgspec.Struct, frozen=True):
    """One labelled text. `ts` is UTC ms where the set is dated; `where` names file and row for people."""

    text: str
    label: str
    ts: int | None = None
    where: str = ""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a person may say about a file. Loaders with a fixed official format ignore the column names."""

    text_column: str = "text"
    label_column: str = "label"
    date_column: str = ""
    """Empty: the format's own ("date" for cryptolin), else undated."""
    encoding: str = "utf-8"
    score_cut: float = SCORE_CUT
    per_target: bool = False
    """FiQA, SemEval: one row a target, the target named before the text; else one row a sentence with its mean score."""
    skip_empty: bool = False
    latest: int | None = None
    """UTC ms: the person's word for when an undated set ends. Overrides the publication year of a known set."""
    eventless: bool = False
    """The texts name no real event, price or date: checked, and then they don't move `trained_until`."""


Loader = Callable[[Path, Options], Iterator[Example]]


class Format(msgspec.Struct, frozen=True):
    """A registered format. `published` is the year an undated official set came out."""

    name: str
    read: Loader
    published: int | None = None


class Dataset(msgspec.Struct, frozen=True):
    """A loaded file: cleaned texts with labels, and its record for the card."""

    examples: tuple[Example, ...]
    record: DatasetRecord

    @property
    def dated(self) -> bool:
        """Every row has a time."""
        return all(example.ts is not None for example in self.examples)


_FORMATS: Final[dict[str, Format]] = {}
_MODULES: Final = ("phrasebank", "fiqa", "semeval", "tfns", "tabular", "cryptolin")


def register(name: str, *, published: int | None = None) -> Callable[[Loader], Loader]:
    """Makes a loader known as `--format name`."""

    def keep(read: Loader) -> Loader:
        _FORMATS[name] = Format(name, read, published)
        return read

    return keep


def formats() -> tuple[str, ...]:
    """Names of all formats."""
    for module in _MODULES:
        importlib.import_module(f"{__name__}.{module}")
    return tuple(_FORMATS)


def load(path: Path, format: str, options: Options | None = None) -> Dataset:
    """Reads, cleans and checks one labelled file.

    Raises UsageError for an unknown format, DataError (with file and row) for a missing file or column, another
    encoding, an unknown label, an empty text, or no rows at all.
    """
    options = options or Options()
    if format not in formats():
        hint = did_you_mean(format, _FORMATS, f"known: {', '.join(_FORMATS)}")
        raise UsageError(f"unknown data format {format!r}", hint=hint)
    if not path.is_file():
        raise DataError(
            f"{path} does not exist" if not path.exists() else f"{path} is not a file",
            hint="name a file of labelled text",
        )
    chosen = _FORMATS[format]
    try:
        rows = [_cleaned(example, options) for example in chosen.read(path, options)]
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: byte {error.start} is not {error.encoding}",
            hint="name the file's encoding: --encoding cp1252, latin-1, utf-16 …",
        ) from None
    except LookupError:
        raise UsageError(
            f"unknown encoding {options.encoding!r}", hint="utf-8, cp1252, latin-1, utf-16 …"
        ) from None
    examples = tuple(example for example in rows if example.text)
    if not examples:
        raise DataError(
            f"{path}: no labelled text in it",
            hint=f"is it really of format {format!r}? known: {', '.join(_FORMATS)}",
        )
    return Dataset(examples, _record(path, chosen, examples, options))


def _cleaned(example: Example, options: Options) -> Example:
    """Texts that are nothing but a URL become empty, and are left out; a text that was empty from the start is an error."""
    text = clean(example.text)
    if not example.text.strip() and not options.skip_empty:
        raise DataError(f"{example.where}: empty text", hint="remove the row, or pass --skip-empty")
    return msgspec.structs.replace(example, text=text)


def _record(path: Path, format: Format, examples: tuple[Example, ...], options: Options) -> DatasetRecord:
    latest, basis = _latest(path, format, examples, options)
    return DatasetRecord(
        name=path.name,
        format=format.name,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        rows=len(examples),
        latest=latest,
        basis=basis,
    )


def _latest(
    path: Path, format: Format, examples: tuple[Example, ...], options: Options
) -> tuple[int | None, str]:
    """Until when a set has seen the world, and how we know."""
    stamps = [example.ts for example in examples if example.ts is not None]
    if options.eventless:
        from models.sentiment.train.datasets.timeless_corpus import check

        check(path.name, [example.text for example in examples])
        return None, "eventless (checked)"
    if len(stamps) == len(examples):
        return max(stamps) + 1, "dated rows"
    if options.latest is not None:
        return options.latest, "declared"
    if format.published:
        return year_end(format.published), f"published {format.published}"
    return int(datetime.now(UTC).timestamp() * 1000), "undated: day of training"


def year_end(year: int) -> int:
    """UTC ms of the first moment after `year`."""
    return int(datetime(year + 1, 1, 1, tzinfo=UTC).timestamp() * 1000)
