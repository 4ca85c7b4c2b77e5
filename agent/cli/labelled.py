"""Options by which `train`, `evaluate` and `compare` are told of a labelled file."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent.core.errors import UsageError

if TYPE_CHECKING:
    from models.sentiment.train.datasets import Dataset, Options

FORMATS = "phrasebank, fiqa, semeval, tfns, cryptolin, csv, jsonl or parquet."

DataFiles = Annotated[
    list[Path], typer.Option("--data", help="Labelled text; may be given again.", show_default=False)
]
DataFormats = Annotated[
    list[str],
    typer.Option("--format", help=f"{FORMATS} One for all files, or one a file.", show_default=False),
]
TextColumn = Annotated[str, typer.Option(help="Column of the text (csv, jsonl, parquet).")]
LabelColumn = Annotated[str, typer.Option(help="Column of the label.")]
DateColumn = Annotated[
    str, typer.Option(help="Column of the date; without it the file is undated.", show_default=False)
]
Encoding = Annotated[str, typer.Option(help="Of text files.")]
PerTarget = Annotated[bool, typer.Option("--per-target", help="FiQA, SemEval: one row a target, not a text.")]
SkipEmpty = Annotated[bool, typer.Option("--skip-empty", help="Leave out rows without text.")]
Latest = Annotated[
    str, typer.Option(help="Date (UTC) until which undated files may know the world.", show_default=False)
]
Eventless = Annotated[
    list[Path] | None,
    typer.Option(
        help="This --data file names no real event, price or date: it is checked.", show_default=False
    ),
]


def load_all(
    files: Sequence[Path], formats: Sequence[str], options: Options, eventless: Sequence[Path] = ()
) -> list[Dataset]:
    """Each file by its format. Raises UsageError where their numbers don't match, DataError as the loaders do."""
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


def to_ms(date: str) -> int | None:
    """UTC ms of the end of an ISO date; None where it is empty."""
    if not date:
        return None
    try:
        moment = datetime.fromisoformat(date)
    except ValueError:
        raise UsageError(f"--latest {date!r} is no date", hint="ISO 8601, such as 2022-12-31") from None
    ms = int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
    return ms + 86_400_000 if len(date) == len("2022-12-31") else ms
