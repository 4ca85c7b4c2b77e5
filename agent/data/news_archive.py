"""Archive of headlines as they were first seen: a JSON-lines file for each UTC day, which `NewsFile` reads.

The hash of a record is SHA-256 of the hash before it and of its own text. A record that was changed, inserted
or removed later breaks the chain; only records missing at the very end leave no trace.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec
import pyarrow as pa

from agent.core.errors import DataError, StoreError
from agent.core.events import News
from agent.data.news import with_own_id
from agent.system.atomic import write_parquet
from agent.system.clock import iso
from agent.system.untrusted import JSON_DECODE_ERRORS

FORMAT: Final = "news-{day}.jsonl"
_FILES: Final = FORMAT.format(day="????-??-??")
_MARK, _END = b',"hash":"', b'"}\n'
_BEGINNING: Final = "0" * 64  # hash before the first record
_BLOCK: Final = 4_096

SCHEMA: Final = pa.schema(
    [
        ("first_seen", pa.timestamp("ms", tz="UTC")),
        ("published_at", pa.timestamp("ms", tz="UTC")),
        ("trusted_time", pa.string()),
        *((name, pa.string()) for name in ("id", "title", "summary", "publisher", "url", "currencies")),
        *((name, pa.string()) for name in ("feed", "published_raw", "hash")),
    ]
)
"""Columns of an exported file. `published_at` is when the headline was seen if `trusted_time` is "no"."""


class ArchivedHeadline(msgspec.Struct, frozen=True):
    """One line of an archive, without its hash; times are UTC in ISO 8601."""

    first_seen: str
    published_at: str
    trusted_time: str  # yes or no
    id: str
    title: str
    summary: str
    publisher: str
    url: str
    currencies: str  # tickers of the feed, separated by commas
    feed: str
    published_raw: str  # as the feed writes it


class NewsArchive:
    """Writer of an archive, used as a context manager. An archive has one writer at a time.

    `known` is the number of headlines that it holds at the start; `was_cut` states whether a line that a
    killed recorder left unfinished was removed. Raises StoreError if `folder` can't be written or another
    process writes to it, DataError if a line is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = (folder / ".lock").open("wb")
        except OSError as error:
            raise _not_written(folder, error) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise StoreError(f"another process records to {folder}", hint="name another folder") from None
        self._titles: dict[str, str] = {}  # id -> title of all files, since some feeds list entries of months
        self._hash, self._day = _BEGINNING, ""
        try:
            self.was_cut = self._load()
        except BaseException:
            self._lock.close()
            raise
        self.known = len(self._titles)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.close()

    def append(self, news: News) -> bool:
        """Write a headline to the disk; return False if it is in the archive already.

        A headline whose id belongs to another title gets an id of its own. Raises StoreError.
        """
        news = with_own_id(news, self._titles)
        if news.id in self._titles:
            return False
        body = msgspec.json.encode(_archived(news))
        chained = _chained(self._hash, body)
        # a clock that was set back must not write behind later headlines
        day = max(self._day, iso(news.available_at)[:10])
        path = self.folder / FORMAT.format(day=day)
        try:
            with path.open("ab") as file:
                file.write(body[:-1] + _MARK + chained.encode() + _END)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise _not_written(path, error) from None
        self._day, self._hash, self._titles[news.id] = day, chained, news.title
        return True

    def _load(self) -> bool:
        files = sorted(self.folder.glob(_FILES))
        was_cut = bool(files) and _cut_unfinished_line(files[-1])
        for path in files:
            self._day = path.stem.removeprefix("news-")
            for headline, chained in _records(path):
                self._titles[headline.id], self._hash = headline.title, chained
        return was_cut


def read_archive(folder: Path) -> Iterator[tuple[ArchivedHeadline, str]]:
    """Yield the records of an archive with their hashes, in the order of recording.

    An unfinished last line, which a running recorder may be writing, is left out. Raises DataError if the
    archive is empty, or if a record doesn't continue the chain (the error names its file and line).
    """
    before = _BEGINNING
    for path in sorted(folder.glob(_FILES)):
        for headline, chained in _records(path, before):
            before = chained
            yield headline, chained
    if before == _BEGINNING:
        raise DataError(f"{folder} holds no recorded headline", hint="record some: tapewire record news")


def export_archive(folder: Path, output: Path) -> int:
    """Write the checked archive in `folder` to the parquet file `output`; return the number of headlines.

    Raises DataError as `read_archive`, StoreError if `output` can't be written.
    """
    records = read_archive(folder)
    return _write(output, (msgspec.structs.asdict(record) | {"hash": chained} for record, chained in records))


def export_recorded(news: Iterable[News], output: Path) -> int:
    """Write the headlines that a live run recorded, as `export_archive`."""
    # the run's journal has its own chain
    return _write(output, (msgspec.structs.asdict(_archived(item)) | {"hash": ""} for item in news))


def _archived(news: News) -> ArchivedHeadline:
    return ArchivedHeadline(
        first_seen=iso(news.available_at),
        published_at=iso(news.ts),
        trusted_time="yes" if news.trusted_time else "no",
        id=news.id,
        title=news.title,
        summary=news.summary,
        publisher=news.publisher,
        url=news.url,
        currencies=",".join(news.currencies),
        feed=news.feed,
        published_raw=news.published_raw,
    )


def _write(output: Path, rows: Iterable[dict[str, Any]]) -> int:
    count = 0

    def tables() -> Iterator[pa.Table]:
        nonlocal count
        block: list[dict[str, Any]] = []
        for row in rows:
            block.append(row)
            count += 1
            if len(block) == _BLOCK:
                yield _table(block)
                block = []
        if block or not count:
            yield _table(block)

    write_parquet(output, SCHEMA, tables())
    return count


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    columns = []
    for field in SCHEMA:
        values = pa.array([row[field.name] for row in rows], pa.string())
        columns.append(values.cast(field.type))
    return pa.table(columns, schema=SCHEMA)


def _records(path: Path, before: str | None = None) -> Iterator[tuple[ArchivedHeadline, str]]:
    """Yield the records of a file with their hashes; `before` is the hash of the record before the first.

    Without `before` the first record's hash is believed.
    """
    decode = msgspec.json.Decoder(ArchivedHeadline).decode
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                return
            text, mark, rest = line.rpartition(_MARK)
            chained = rest[:64].decode("ascii", "replace")
            body = text + b"}"
            if not mark or rest[64:] != _END or (before is not None and chained != _chained(before, body)):
                raise DataError(
                    f"{path}: line {number} does not continue the record before it",
                    hint="it, the one before it or a whole file was changed or removed; restore a copy",
                )
            try:
                yield decode(body), chained
            except JSON_DECODE_ERRORS as error:
                raise DataError(f"{path}: line {number} is not an archived headline: {error}") from None
            before = chained


def _cut_unfinished_line(path: Path) -> bool:
    """Remove what a killed recorder wrote of a line, whose headline is then recorded again; return whether
    there was any.
    """
    try:
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with path.open("r+b") as file:
                file.truncate(whole)
    except OSError as error:
        raise _not_written(path, error) from None
    return whole < len(content)


def _chained(before: str, body: bytes) -> str:
    return hashlib.sha256(before.encode() + b"\n" + body).hexdigest()


def _not_written(path: Path, error: OSError) -> StoreError:
    return StoreError(f"{path} can't be written: {error.strerror}", hint="make room or fix its permissions")
