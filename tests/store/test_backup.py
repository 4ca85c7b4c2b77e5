"""Backups are consistent, checked and restorable, and a failed backup or restore loses nothing."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import Result

from agent.core.errors import SafetyError, StoreError, UsageError
from agent.store.backup import back_up, inspect_backup, restore_backup
from agent.store.database import Database, open_database
from agent.store.journal import Journal
from agent.store.lock import LOCK, instance_lock
from agent.store.queries import list_runs
from agent.store.recorder import Recorder
from agent.store.runs import RunKind
from tests.store.store_samples import a_run, pause_commands
from tests.support.command_line import run_command


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Database]:
    """An open store of some megabytes, as in a running agent."""
    with closing(open_database(f"sqlite:///{tmp_path / 'store.db'}")) as database:
        Recorder(database, a_run(kind=RunKind.LIVE))
        Journal(database, "run-1").append(pause_commands(30_000, padding=200))
        yield database


def damage(file: Path) -> None:
    """Overwrite a page in the middle of the file."""
    with file.open("r+b") as raw:
        raw.seek(file.stat().st_size // 2 // 4096 * 4096)
        raw.write(os.urandom(4096))


def test_a_backup_is_a_snapshot_of_one_moment_while_the_store_is_written(
    store: Database, tmp_path: Path
) -> None:
    journal, reports = Journal(store, "run-1"), []

    def write(done: int, total: int) -> None:
        reports.append((done, total))
        journal.append(pause_commands(10))

    assert store.file is not None
    contents = back_up(store.file, tmp_path / "deep" / "copy.db", write)
    assert len(reports) > 1
    assert reports[-1][0] == reports[-1][1]
    assert journal.last_seq == 30_000 + 10 * len(reports)
    assert (contents.events, contents.runs, contents.unfinished, contents.newest) == (30_000, 1, 1, "run-1")
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["copy.db"]


def test_a_backup_can_be_read_on_a_read_only_file_system(store: Database, tmp_path: Path) -> None:
    assert store.file is not None
    back_up(store.file, tmp_path / "copy.db")
    with closing(sqlite3.connect(f"file:{tmp_path}/copy.db?immutable=1", uri=True)) as copy:
        assert copy.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        assert copy.execute("SELECT count(*) FROM journal").fetchone() == (30_000,)


def test_a_backup_replaces_nothing(store: Database, tmp_path: Path) -> None:
    (tmp_path / "copy.db").write_text("precious")
    assert store.file is not None
    with pytest.raises(UsageError, match="a backup replaces nothing"):
        back_up(store.file, tmp_path / "copy.db")
    assert (tmp_path / "copy.db").read_text() == "precious"


def test_backing_up_a_damaged_store_fails_and_leaves_no_file(store: Database, tmp_path: Path) -> None:
    store.close()
    assert store.file is not None
    damage(store.file)
    with pytest.raises(StoreError, match=r"damaged|malformed"):
        back_up(store.file, tmp_path / "copy.db")
    assert sorted(file.name for file in tmp_path.iterdir() if file.name.startswith((".", "copy"))) == []


def test_a_restored_store_has_the_contents_of_the_backup(store: Database, tmp_path: Path) -> None:
    file, copy = tmp_path / "store.db", tmp_path / "copy.db"
    back_up(file, copy)
    Recorder(store, a_run("run-2"))
    store.close()
    contents, kept = restore_backup(copy, file)
    assert contents == inspect_backup(file)
    with closing(open_database(f"sqlite:///{file}")) as restored:
        assert [run.id for run in list_runs(restored)] == ["run-1"]
    assert kept is not None
    with closing(open_database(f"sqlite:///{kept}")) as before:
        assert {run.id for run in list_runs(before)} == {"run-1", "run-2"}
    assert restore_backup(kept, file)[0].runs == 2  # the replaced store can be restored too


def test_a_restore_keeps_a_damaged_store_unchanged(store: Database, tmp_path: Path) -> None:
    file, copy = tmp_path / "store.db", tmp_path / "copy.db"
    back_up(file, copy)
    store.close()
    file.write_bytes(b"not a database at all" * 1_000)
    _, kept = restore_backup(copy, file)
    assert inspect_backup(file).events == 30_000
    assert kept is not None
    assert kept.read_bytes() == b"not a database at all" * 1_000


@pytest.mark.parametrize(
    ("damage_copy", "message"),
    [
        (damage, "damaged|malformed"),
        (lambda file: file.write_text("a letter " * 999), "not a database"),
        (lambda file: file.write_bytes(file.read_bytes()[: 4096 * 20]), "malformed|damaged"),
        (
            lambda file: sqlite3.connect(file, isolation_level=None).execute(
                "UPDATE alembic_version SET version_num = '9'"
            ),
            "newer",
        ),
        (
            lambda file: sqlite3.connect(file, isolation_level=None).execute("DELETE FROM runs"),
            "belongs to no row of runs",
        ),
    ],
)
def test_a_damaged_backup_is_not_restored(
    store: Database, tmp_path: Path, damage_copy: object, message: str
) -> None:
    file, copy = tmp_path / "store.db", tmp_path / "copy.db"
    back_up(file, copy)
    store.close()
    before = file.read_bytes()
    assert callable(damage_copy)
    damage_copy(copy)
    with pytest.raises(StoreError, match=message):
        restore_backup(copy, file)
    assert file.read_bytes() == before
    assert not list(tmp_path.glob("*before-restore*"))


def test_a_restore_refuses_to_replace_an_open_store(store: Database, tmp_path: Path) -> None:
    file, copy = tmp_path / "store.db", tmp_path / "copy.db"
    back_up(file, copy)
    with store.read(), pytest.raises(SafetyError, match="open in another process"):
        restore_backup(copy, file)
    assert inspect_backup(file).events == 30_000


# -- commands ------------------------------------------------------------------------------------------------


def tapewire(*arguments: object) -> Result:
    return run_command(arguments)


@pytest.fixture
def home(store: Database, tmp_path: Path) -> Path:
    """Folder with the store and a configuration for it."""
    config = tmp_path / "config.toml"
    config.write_text(f'[live]\nfolder = "{tmp_path}"\n[store]\nurl = "sqlite:///{tmp_path / "store.db"}"\n')
    return tmp_path


def test_the_commands_back_up_while_an_agent_runs_and_restore_only_without_one(
    home: Path, store: Database
) -> None:
    options = ("--config", home / "config.toml")
    with instance_lock(home / LOCK):
        said = tapewire("db", "backup", home / "copy.db", *options).stdout
        assert "sound; schema" in said
        assert "1 run (newest run-1), 1 of them live and unfinished; 30,000 events in journals" in said
        for verb in (("restore", home / "copy.db"), ("upgrade",)):
            refused = tapewire("db", *verb, *options)
            assert isinstance(refused.exception, SafetyError)
            assert refused.exception.exit_code == 3
            assert f"process {os.getpid()}" in str(refused.exception)
    store.close()
    answer = json.loads(tapewire("db", "restore", home / "copy.db", *options, "--json").stdout)
    assert answer["holds"]["events"] == 30_000
    assert Path(answer["kept"]).is_file()


def test_a_backup_of_a_server_is_refused_with_a_hint_to_pg_dump(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[store]\nurl = "postgresql://nobody@127.0.0.1/x"\n')
    refused = tapewire("db", "backup", tmp_path / "copy.db", "--config", config)
    assert isinstance(refused.exception, UsageError)
    assert "pg_dump" in str(refused.exception)
