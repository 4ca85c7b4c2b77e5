"""One run as one file: its record, journal, scores, strategy, inputs and report, to be verified anywhere.

The record is a store of its own with this run alone. Paths of this machine are replaced by names inside the
bundle.
"""

from __future__ import annotations

import gzip
import io
import os
import re
from collections.abc import Callable, Mapping
from contextlib import closing
from itertools import islice
from pathlib import Path, PurePath, PureWindowsPath
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import Table, select, update

from agent.core.errors import DataError, SafetyError, UsageError
from agent.core.events import Command, Sentiment, StrategyChange
from agent.data.columns import content_hash
from agent.replay.strategy_versions import recorded_strategies
from agent.replay.verify import check_unchanged
from agent.store import tables
from agent.store.bundle_file import Bundle, Manifest, safe_name, write_bundle
from agent.store.chain import BLOCK, JournalDigest
from agent.store.database import Database, open_database, upgrade
from agent.store.journal import encode, read_journal, read_journal_rows
from agent.store.prompts import read_prompts, save_prompts
from agent.store.queries import find_run, read_rows
from agent.store.runs import Run, RunKind, RunStatus
from agent.store.strategy_sources import read_source, save_source
from strategies import SOURCE_FILE, SOURCE_SHA256
from strategies.source_files import source_files

STORE: Final = "run.db.gz"
REPORT: Final = "report.html"
BUNDLED: Final[tuple[Table, ...]] = (
    tables.news,
    tables.sentiments,
    tables.equity,
    tables.sleeve_equity,
    *tables.DECISIONS.values(),
)
"""Tables whose rows are copied as they are; run, journal, its digests, prompts and sources are copied too."""
LEFT_OUT: Final[tuple[Table, ...]] = (
    tables.archives,  # the journal is in the bundle, wherever it was
    tables.segments,
    tables.snapshots,  # serve a restart, not verifying
    tables.feed_health,  # of this machine's connections
    tables.run_tags,  # the user's own
    tables.run_notes,
    tables.studies,  # what was tried with this store; a bundle is one run
    tables.tries,
)

_ROWS: Final = 5_000
_CODE: Final = "strategy"  # beginning of the folders with code
_LARGEST_STORE: Final = 4_000_000_000
"""Bytes of the largest store that is unpacked, so that a small file can't fill the disk."""

Render = Callable[[Database, str], str]
"""Renders the report of a run in a store."""


class WrittenBundle(NamedTuple):
    """A bundle that was written."""

    path: Path
    sha256: str
    size: int  # bytes
    manifest: Manifest


def bundle_run(
    database: Database, run: Run, target: Path, *, render: Render, inputs: bool = True
) -> WrittenBundle:
    """Write the bundle of `run`; without `inputs`, only the hashes of its input files are inside.

    Raises UsageError if `target` exists, the run goes on or an input is missing, DataError if a file has
    changed since the run, StoreError if the record is damaged, and SafetyError if a path or a key of this
    machine would be inside.
    """
    if run.status is RunStatus.RUNNING:
        raise UsageError(
            f"run {run.id} has not ended",
            hint="stop the agent; a run that was killed ends with the next `tapewire run`",
        )
    if target.exists():
        raise UsageError(f"{target} exists", hint="name a new file; a bundle replaces nothing")
    notes: list[str] = []
    files = _files_of(run, notes)
    places = {str(path): name for name, path in files.items()} | _strategy_places(run, files)
    members: dict[str, bytes] = {}
    left_out: list[str] = []
    for name, path in files.items():
        if name.startswith("inputs/") and not inputs:
            left_out.append(name)
        elif path.is_dir():
            members |= {f"{name}/{safe_name(one.name)}": one.read_bytes() for one in sorted(path.iterdir())}
        else:
            members[name] = path.read_bytes()
    with TemporaryDirectory(prefix="tapewire-bundle-") as folder:
        store = Path(folder) / "run.db"
        with closing(open_database(f"sqlite:///{store}")) as copy:
            _copy(database, copy, _relocated(run, places), notes)
            members[REPORT] = render(copy, run.id).encode()
        members[STORE] = gzip.compress(record := store.read_bytes(), mtime=0)
    _check_private({STORE: record, **{name: members[name] for name in members if name != STORE}}, run)
    manifest = Manifest(
        *(run.id, run.kind.value, run.version, run.events, run.decisions, run.chain_head),
        left_out=tuple(left_out),
        notes=tuple(notes),
    )
    digest = write_bundle(target, manifest, members)
    return WrittenBundle(target, digest, target.stat().st_size, manifest)


def open_bundle(
    bundle: Bundle, folder: Path, *, inputs: Path | None = None, trust_strategy: bool = False
) -> tuple[Database, Run]:
    """Unpack a bundle into the empty `folder`; return its store, to be closed by the caller, and its run.

    The run's paths lead to the unpacked files; inputs that the bundle lacks are searched in the folder
    `inputs` by their hashes. Raises UsageError if one isn't there, DataError if the record contradicts the
    manifest, and SafetyError if the bundle brings its own strategy and `trust_strategy` is not set.
    """
    code = [name for name in bundle.members if name.startswith(_CODE)]
    if code and not trust_strategy:
        raise SafetyError(
            f"the bundle brings its own strategy, which this would run: {', '.join(code)}",
            hint="unzip the file and read that code; if you trust it: --trust-strategy",
        )
    for name, body in bundle.members.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(body)
    store, manifest = folder / "run.db", bundle.manifest
    store.write_bytes(_unpacked(bundle.members.get(STORE, b"")))
    upgrade(f"sqlite:///{store}")
    database = open_database(f"sqlite:///{store}", create=False)
    try:
        run = find_run(database, manifest.run)
        known = (run.kind.value, run.version, run.events, run.decisions, run.chain_head)
        if known != (
            *(manifest.kind, manifest.version, manifest.events),
            *(manifest.decisions, manifest.chain_head),
        ):
            raise DataError("the bundle is damaged: its record is not the one that its manifest describes")
        names = {*bundle.members, *manifest.left_out, "fusion"}
        places = {name: str(folder / name) for name in names}
        lacking = {item.path: item.sha256 for item in run.inputs if item.path in manifest.left_out}
        run = _relocated(run, places | _found_inputs(lacking, inputs))
        _store_run(database, run)
    except BaseException:
        database.close()
        raise
    return database, run


def _files_of(run: Run, notes: list[str]) -> dict[str, Path]:
    """Return the files of a run by their names in the bundle. Raises UsageError and DataError."""
    found: dict[str, Path] = {}
    for number, item in enumerate(run.inputs, 1):
        check_unchanged(item)
        path = Path(item.path)
        found[f"inputs/{number}-{safe_name(path.name)}"] = path
    for sleeve, (name, recorded) in recorded_strategies(run).items():
        sources = source_files(name, recorded)
        found |= {f"{_folder_of(sleeve)}/{safe_name(path.name)}": path for path in sources}
        if recorded.get(SOURCE_FILE) and not sources:
            notes.append(f"without the code of strategy {name}, which is part of a package")
    if fusion := run.config.get("fusion", {}).get("path"):
        folder = Path(fusion).expanduser()
        if not folder.is_dir():
            raise UsageError(f"{folder}, the fusion model of this run, does not exist", hint="put it back")
        found["fusion"] = folder
    return found


def _folder_of(sleeve: str) -> str:
    """Return the folder of a strategy's files; its files may import those beside them."""
    return f"strategy-{sleeve}" if sleeve else "strategy"


def _strategy_places(run: Run, files: Mapping[str, Path]) -> dict[str, str]:
    """Return new names of strategies that are named by their module: `mine:Mine` is in `strategy/mine.py`."""
    found: dict[str, str] = {}
    for sleeve, (name, recorded) in recorded_strategies(run).items():
        module, _, class_name = name.partition(":")
        source, folder = recorded.get(SOURCE_FILE, ""), f"{_folder_of(sleeve)}/"
        places = (place for place, path in files.items() if place.startswith(folder) and str(path) == source)
        if not module.endswith(".py") and (place := next(places, "")):
            found[name] = f"{place}:{class_name}"
    return found


def _relocated(run: Run, places: Mapping[str, str]) -> Run:
    """Return `run` with the paths in `places` replaced; other absolute paths lose their folders."""

    def moved(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: moved(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [moved(inner) for inner in value]
        if not isinstance(value, str):
            return value
        file, colon, name = value.partition(".py:")
        if colon and (place := _place(file + ".py", places)):
            return f"{place}:{name}"
        return _place(value, places) or _without_folders(value)

    strategy = moved(run.strategy)
    if run.config.get("sleeves"):  # `Run.strategy` is "sleeve: strategy, sleeve: strategy"
        pairs = (part.partition(": ") for part in run.strategy.split(", "))
        strategy = ", ".join(f"{sleeve}{colon}{moved(name)}" for sleeve, colon, name in pairs)
    return msgspec.structs.replace(
        run,
        strategy=strategy,
        config=moved(run.config),
        versions=moved(run.versions),
        inputs=tuple(msgspec.structs.replace(item, path=moved(item.path)) for item in run.inputs),
        error=_without_home(run.error),
    )


def _place(value: str, places: Mapping[str, str]) -> str | None:
    if value in places or not value:
        return places.get(value)
    if "/" not in value and not value.endswith(".py"):
        return None
    return places.get(str(Path(value).expanduser().resolve()))


def _without_folders(value: str) -> str:
    """Return the last part of an absolute path, or of one that leaves its folder; other text as it is."""
    if "\n" in value or "://" in value:
        return value
    path: PurePath = PureWindowsPath(value) if re.match(r"[A-Za-z]:\\", value) else PurePath(value)
    leaves = path.is_absolute() or value.startswith("~") or ".." in path.parts
    return path.name if leaves and path.name else value


def _without_home(text: str) -> str:
    return text.replace(str(Path.home()), "~")


def _copy(source: Database, target: Database, run: Run, notes: list[str]) -> None:
    """Copy the rows of `run` into an empty store; its paths are already those of the bundle."""
    with target.write() as connection:
        tables.insert_rows(connection, tables.runs, [tuple(getattr(run, c.name) for c in tables.runs.c)])
    for table in BUNDLED:
        with source.read() as reader:
            query = select(table).where(table.c.run_id == run.id).execution_options(yield_per=_ROWS)
            for part in reader.execute(query).partitions(_ROWS):
                with target.write() as connection:
                    tables.insert_rows(connection, table, [tuple(row) for row in part])
    if run.kind is RunKind.LIVE:
        _copy_journal(source, target, run.id, notes)
    changes = read_rows(source, run.id, StrategyChange)
    for sha256 in {run.versions.get(SOURCE_SHA256, ""), *(change.sha256 for change in changes)}:
        if (code := read_source(source, sha256)) is not None:
            save_source(target, code)
    answers = read_rows(source, run.id, Sentiment)
    hashes = {answer.provenance.prompt for answer in answers if answer.provenance is not None}
    save_prompts(target, read_prompts(source, hashes))


def _copy_journal(source: Database, target: Database, run_id: str, notes: list[str]) -> None:
    """Copy the journal, from files too, and chain its digests; `notes` has the commands that were changed."""
    digest, changed = JournalDigest(), 0
    pairs = zip(read_journal(source, run_id), read_journal_rows(source, run_id), strict=True)
    while block := list(islice(pairs, BLOCK)):
        rows: list[tuple[Any, ...]] = []
        for (_, event), row in block:
            payload = row.payload
            if isinstance(event, Command):
                args = {key: _without_folders(value) for key, value in event.args.items()}
                if args != event.args:
                    changed += 1
                    payload = encode(msgspec.structs.replace(event, args=args))
            digest.add(payload)
            rows.append((run_id, row.seq, row.kind, row.available_at, payload))
        with target.write() as connection:
            tables.insert_rows(connection, tables.journal, rows)
            tables.insert_rows(connection, tables.journal_digests, [(run_id, digest.seq, digest.digest)])
    if changed:
        notes.append(f"commands whose paths are shortened: {changed}")


def _check_private(members: Mapping[str, bytes], run: Run) -> None:
    """Raise SafetyError if a member has a folder of this machine, or a key from its environment, in it."""
    folders = {Path.home(), Path.cwd(), *(Path(item.path).parent for item in run.inputs)}
    private = {f"{folder}/": f"the path {folder}" for folder in folders if len(folder.parts) > 1}
    for name, value in os.environ.items():
        if re.search(r"KEY|SECRET|TOKEN|PASSWORD", name) and len(value) >= 8:
            private[value] = f"the value of {name}"
    for member, body in members.items():
        if member.startswith("inputs/"):
            continue  # data of the user, as they are
        for text, what in private.items():
            if text.encode() in body:
                raise SafetyError(
                    f"{member} of the bundle would have {what} in it",
                    hint="keep paths and keys out of a strategy's file, its reasons and its notices",
                )


def _found_inputs(lacking: Mapping[str, str], folder: Path | None) -> dict[str, str]:
    """Return the paths of the files in `folder` that have the hashes in `lacking`, by name in the bundle."""
    if not lacking:
        return {}
    if folder is None:
        raise UsageError(
            f"the bundle lacks inputs of its run: {', '.join(lacking)}",
            hint="name a folder that has them: --inputs FOLDER",
        )
    known = {content_hash(path): str(path) for path in sorted(folder.iterdir()) if path.is_file()}
    for name, sha256 in lacking.items():
        if sha256 not in known:
            raise UsageError(f"{folder} has no file with the SHA-256 of {name}: {sha256}")
    return {name: known[sha256] for name, sha256 in lacking.items()}


def _unpacked(packed: bytes) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(packed)) as file:
            body = file.read(_LARGEST_STORE + 1)
    except (OSError, EOFError) as error:
        raise DataError(f"the bundle is damaged: {STORE} can't be unpacked: {error}") from None
    if len(body) > _LARGEST_STORE:
        raise DataError(f"{STORE} of the bundle is larger than {_LARGEST_STORE:,} bytes")
    return body


def _store_run(database: Database, run: Run) -> None:
    values = {"strategy": run.strategy, "config": run.config, "versions": run.versions, "inputs": run.inputs}
    with database.write() as connection:
        connection.execute(update(tables.runs).where(tables.runs.c.id == run.id).values(values))
