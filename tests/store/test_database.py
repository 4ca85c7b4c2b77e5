"""A database opens ready to use, or raises an error that states the cause and the remedy."""

from __future__ import annotations

import os
import sqlite3
import sys
from contextlib import closing, suppress
from pathlib import Path

import pytest
from sqlalchemy import inspect

from agent.core.errors import ConfigError, StoreError
from agent.store.database import Database, open_database
from agent.store.queries import find_run, list_runs
from agent.store.recorder import Recorder
from agent.store.tables import metadata
from tests.store.store_samples import a_run


def test_a_new_store_gets_its_tables(database: Database) -> None:
    with database.read() as connection:
        assert set(inspect(connection).get_table_names()) >= {*metadata.tables, "alembic_version"}


def test_a_reopened_store_holds_its_runs(database: Database, database_url: str) -> None:
    Recorder(database, a_run())
    with closing(open_database(database_url, create=False)) as again:
        assert find_run(again).id == "run-1"


def test_missing_folders_are_created(tmp_path: Path) -> None:
    with closing(open_database(f"sqlite:///{tmp_path / 'a' / 'b' / 'store.db'}")):
        assert (tmp_path / "a" / "b" / "store.db").is_file()


def test_sqlite_uses_wal_and_checks_foreign_keys(sqlite_database: Database) -> None:
    with sqlite_database.read() as connection:
        settings = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    assert settings == ["wal", 1, 1]


def test_a_failed_transaction_is_rolled_back(database: Database) -> None:
    with suppress(ZeroDivisionError), database.write() as connection:
        connection.exec_driver_sql("CREATE TABLE scratch (x INTEGER)")
        raise ZeroDivisionError
    with database.read() as connection:
        assert "scratch" not in inspect(connection).get_table_names()


def test_a_reader_does_not_create_a_missing_store(database_url: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no such store yet"):
        open_database(database_url, create=False)
    assert not (tmp_path / "store.db").exists()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("var/tapewire.db", "'var/tapewire.db' is not a database URL .write sqlite:///FILE"),
        ("oracel://x", "there is no database called 'oracel'"),
    ],
)
def test_an_invalid_url_is_a_configuration_error(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_database(url)


def test_the_error_for_an_unreachable_server_omits_the_password() -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(StoreError, match=r"127\.0\.0\.1") as caught:
        open_database("postgresql://trader:hunter2@127.0.0.1:1/tapewire")
    assert "hunter2" not in str(caught.value)


def test_opening_a_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="the file can't be opened"):
        open_database(f"sqlite:///{tmp_path}")


def test_a_folder_that_cannot_be_created_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="its folder can't be created"):
        open_database(f"sqlite:///{tmp_path / 'file' / 'store.db'}")


def test_opening_a_file_that_is_not_sqlite_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "store.db").write_text("time,price\n" * 1000)
    with pytest.raises(StoreError, match="not an SQLite database"):
        open_database(f"sqlite:///{tmp_path / 'store.db'}")


def test_a_database_of_another_program_is_refused(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "store.db")) as other:
        other.execute("CREATE TABLE songs (title TEXT)")
    with pytest.raises(StoreError, match="tables that are not Tapewire's"):
        open_database(f"sqlite:///{tmp_path / 'store.db'}")


def test_a_damaged_file_is_reported_as_damaged(sqlite_database: Database, tmp_path: Path) -> None:
    for number in range(50):
        Recorder(sqlite_database, a_run(f"run-{number}"))
    sqlite_database.close()
    file = tmp_path / "store.db"
    content = bytearray(file.read_bytes())
    content[4096:] = b"\xab" * (len(content) - 4096)
    file.write_bytes(content)
    with pytest.raises(StoreError, match="the file is damaged"):
        list_runs(open_database(f"sqlite:///{file}"))


def test_a_read_only_file_can_be_read_but_not_written(sqlite_database: Database) -> None:
    Recorder(sqlite_database, a_run())
    with closing(open_database(f"sqlite:///file:{sqlite_database.file}?mode=ro&uri=true")) as reader:
        assert find_run(reader).id == "run-1"
        with pytest.raises(StoreError, match="it is read-only"):
            Recorder(reader, a_run("run-2"))


def test_a_write_protected_file_cannot_be_written(tmp_path: Path) -> None:
    with closing(open_database(f"sqlite:///{tmp_path / 'store.db'}")):
        pass
    (tmp_path / "store.db").chmod(0o444)
    if os.access(tmp_path / "store.db", os.W_OK):
        pytest.skip("this user may write everywhere")
    with (
        closing(open_database(f"sqlite:///{tmp_path / 'store.db'}")) as database,
        pytest.raises(StoreError, match="read-only"),
    ):
        Recorder(database, a_run())


def test_the_error_for_a_missing_driver_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StoreError, match=r"pip install 'tapewire\[postgres\]'"):
        open_database("postgresql://localhost/tapewire")


def test_a_store_in_memory_works(tmp_path: Path) -> None:
    with closing(open_database("sqlite://")) as database:
        Recorder(database, a_run())
        assert find_run(database).id == "run-1"
    assert list(tmp_path.iterdir()) == []
