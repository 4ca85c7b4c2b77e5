"""What the commands that train and measure sentiment models share: options, loading of labelled text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from agent.cli.typer_setup import option
from agent.core.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from models.sentiment.train.datasets import Dataset, Options

FORMATS = "phrasebank, fiqa, semeval, tfns, cryptolin, wire, sentfin, csv, jsonl or parquet"

BaseModel = Annotated[
    str, option("--base", "embedded, smollm2, a hub id such as ProsusAI/finbert, or a folder.", "NAME")
]


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnOptions:
    """How to read the rows of a labelled file."""

    PANEL: ClassVar = "Labelled text"

    text_column: Annotated[
        str, option("--text-column", "Column of the text (csv, jsonl, parquet).", "COLUMN")
    ] = "text"
    label_column: Annotated[str, option("--label-column", "Column of the label.", "COLUMN")] = "label"
    date_column: Annotated[
        str, option("--date-column", "Column of the date.", "COLUMN", "the format's own, else undated")
    ] = ""
    encoding: Annotated[str, option("--encoding", "Encoding of text files.", "NAME")] = "utf-8"
    per_target: Annotated[
        bool, option("--per-target", "FiQA, SemEval: one row per target instead of one per text.")
    ] = False
    skip_empty: Annotated[bool, option("--skip-empty", "Leave out rows without text.")] = False

    def loader_options(self, latest: int | None = None) -> Options:
        """Return the loaders' options; `latest`: UTC ms of the latest events that undated texts may know."""
        from models.sentiment.train.datasets import Options

        return Options(
            text_column=self.text_column,
            label_column=self.label_column,
            date_column=self.date_column,
            encoding=self.encoding,
            per_target=self.per_target,
            skip_empty=self.skip_empty,
            latest=latest,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetOptions(ColumnOptions):
    """Labelled files and how to read them."""

    data: Annotated[list[Path], option("--data", "File of labelled text; may be repeated.", "FILE")]
    format: Annotated[
        list[str],
        option("--format", f"{FORMATS}. One for all files, or one per file, in the same order.", "NAME"),
    ]

    def load(self) -> list[Dataset]:
        """Load each file. Raises UsageError if files and formats don't match, DataError for bad files."""
        return load_datasets(self.data, self.format, self.loader_options())


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingDataOptions(DatasetOptions):
    """Labelled files to train on, and how recent their texts are."""

    latest: Annotated[
        str,
        option(
            "--latest", "Latest date that undated files may know of.", "DATE", "year of publication, if known"
        ),
    ] = ""
    eventless: Annotated[
        list[Path] | None,
        option(
            "--eventless", "A --data file that names no real event, price or date (it is checked).", "FILE"
        ),
    ] = None

    def load(self) -> list[Dataset]:
        return load_datasets(
            self.data, self.format, self.loader_options(end_of(self.latest)), self.eventless or ()
        )


@contextmanager
def needs_training_libraries() -> Iterator[None]:
    """Turn a missing library such as torch or peft into a ConfigError with the command that installs it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"training needs {error.name}, which is not installed", hint='pip install "tapewire[train]"'
        ) from error


def load_datasets(
    files: Sequence[Path], formats: Sequence[str], options: Options, eventless: Sequence[Path] = ()
) -> list[Dataset]:
    """Load each file by its format.

    Raises UsageError if the number of formats doesn't fit or an eventless file isn't in `files`; DataError as
    the loaders do.
    """
    import msgspec

    from models.sentiment.train.datasets import load

    if len(formats) not in (1, len(files)):
        raise UsageError(
            f"{len(files)} --data but {len(formats)} --format",
            hint="give one format, or one for each file in order",
        )
    for path in set(eventless) - set(files):
        raise UsageError(
            f"--eventless {path} is not among the --data files",
            hint="name a file that is also given by --data",
        )
    wanted = list(formats) * (len(files) if len(formats) == 1 else 1)
    return [
        load(path, format, msgspec.structs.replace(options, eventless=path in eventless))
        for path, format in zip(files, wanted, strict=True)
    ]


def end_of(date: str) -> int | None:
    """Return the UTC ms of an ISO 8601 time, or of the end of a date; None for ""."""
    if not date:
        return None
    try:
        time = datetime.fromisoformat(date)
    except ValueError:
        raise UsageError(f"--latest {date!r} is no date", hint="ISO 8601, such as 2022-12-31") from None
    ms = int((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000)
    return ms + 86_400_000 if len(date) == len("2022-12-31") else ms
