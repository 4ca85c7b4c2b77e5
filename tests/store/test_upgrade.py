"""Migrations produce exactly the tables of the code, and an upgrade never loses data."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from msgspec.structs import replace
from sqlalchemy import create_engine, inspect

from agent.core.errors import StoreError
from agent.core.events import Provenance, Sentiment, Signal
from agent.store import schema_revision
from agent.store.database import Database, open_database, upgrade
from agent.store.prompts import read_prompts, save_prompts
from agent.store.queries import find_run, read_rows
from agent.store.recorder import Recorder
from agent.store.tables import metadata
from agent.system.resources import resource
from models.sentiment.serve.headline_score import HeadlineScore
from models.sentiment.serve.score_cache import METADATA as SCORES_METADATA
from models.sentiment.serve.score_cache import CachedScore, SqlScoreCache
from tests.conftest import ROOT
from tests.store.store_samples import ONE_OF_EACH, T0, a_run
from tests.support.command_line import run_command
from tests.support.new_schema import make_tables

TABLES = {**metadata.tables, **SCORES_METADATA.tables}
HEAD = str(ScriptDirectory.from_config(schema_revision.alembic_config()).get_current_head())
"""The newest revision of this program."""

NEXT = """
import sqlalchemy as sa
from alembic import op

revision = "next"
down_revision = "{head}"


def upgrade() -> None:
    op.create_table("notes", sa.Column("id", sa.Text(), primary_key=True))
    {more}
"""


@pytest.fixture
def next_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Add a migration to the program; return its file."""
    folder = tmp_path / "migrations"
    shutil.copytree(resource("migrations"), folder)
    (folder / "versions" / "next_notes.py").write_text(NEXT.format(head=HEAD, more=""))
    monkeypatch.setattr(schema_revision, "resource", lambda _: folder)
    return folder / "versions" / "next_notes.py"


@pytest.fixture
def older(database_url: str, request: pytest.FixtureRequest) -> str:
    """URL of a store with a run, whose schema is one migration behind."""
    with closing(open_database(database_url)) as database:
        Recorder(database, a_run())
    request.getfixturevalue("next_release")
    return database_url


def tables_of(database: Database) -> set[str]:
    with database.read() as connection:
        return set(inspect(connection).get_table_names())


def test_migrations_produce_the_tables_of_the_code(database: Database) -> None:
    with database.read() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, [metadata, SCORES_METADATA]) == []
        primary = {
            name: inspect(connection).get_pk_constraint(name)["constrained_columns"] for name in TABLES
        }
    assert primary == {name: [column.name for column in table.primary_key] for name, table in TABLES.items()}


def test_other_tests_get_the_tables_that_migrations_make() -> None:
    found = []
    for make in (schema_revision.migrate, make_tables):
        engine = create_engine("sqlite://")
        with engine.begin() as connection:
            make(connection)
            found.append(
                (
                    set(connection.exec_driver_sql("SELECT type, name, tbl_name, sql FROM sqlite_master")),
                    connection.exec_driver_sql("SELECT * FROM alembic_version").all(),
                )
            )
        engine.dispose()
    assert found[0] == found[1]


def test_the_revision_that_is_needed_is_alembics_head(database: Database) -> None:
    with database.read() as connection:
        assert schema_revision.schema_state(connection, "store") == (HEAD, HEAD)
        assert MigrationContext.configure(connection).get_current_revision() == HEAD


def test_a_start_does_without_alembic(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    open_database(url).close()
    code = (
        "import sys; from agent.store.database import open_database; "
        f"open_database({url!r}).close(); print('alembic' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_the_error_for_an_older_schema_names_the_upgrade_command(older: str) -> None:
    with pytest.raises(
        StoreError, match=rf"schema {HEAD} is older than this program's next \(run: tapewire db upgrade\)"
    ):
        open_database(older)
    with pytest.raises(StoreError, match="run: tapewire db upgrade"):
        open_database(older, create=False)


def test_an_upgrade_keeps_the_data(older: str) -> None:
    done = upgrade(older)
    assert (done.before, done.after) == (HEAD, "next")
    with closing(open_database(older)) as database:
        assert "notes" in tables_of(database)
        assert find_run(database).id == "run-1"
    assert upgrade(older) == ("next", "next", None)


def test_an_sqlite_file_is_backed_up_first(
    tmp_path: Path, sqlite_database: Database, next_release: Path
) -> None:
    Recorder(sqlite_database, a_run())  # still in the write-ahead log, since the database is open
    backup = upgrade(f"sqlite:///{sqlite_database.file}").backup
    assert backup is not None
    assert re.fullmatch(rf"store\.db\.{HEAD}-\d{{8}}T\d{{6}}Z\.backup", backup.name)
    with closing(sqlite3.connect(backup)) as copy:
        assert copy.execute("SELECT id FROM runs").fetchall() == [("run-1",)]
        assert copy.execute("SELECT version_num FROM alembic_version").fetchall() == [(HEAD,)]


def test_a_failed_upgrade_changes_nothing(older: str, next_release: Path) -> None:
    next_release.write_text(NEXT.format(head=HEAD, more='op.execute("INSERT INTO nowhere VALUES (1)")'))
    with pytest.raises(StoreError, match="nowhere"):
        upgrade(older)
    next_release.unlink()
    with closing(open_database(older)) as database:
        assert tables_of(database) == {*TABLES, "alembic_version"}
        assert find_run(database).id == "run-1"


def test_a_newer_schema_is_refused(database: Database, database_url: str) -> None:
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    for use in (open_database, upgrade):
        with pytest.raises(
            StoreError, match=rf"schema 9999 is newer than this program's {HEAD} \(update Tapewire"
        ):
            use(database_url)


def test_all_migrations_can_be_reverted(database: Database) -> None:
    with database.write() as connection:
        config = schema_revision.alembic_config(connection)
        command.downgrade(config, "base")
    assert tables_of(database) == {"alembic_version"}


def test_rows_of_0008_have_empty_answers_for_assets_and_no_kind(
    database: Database, database_url: str
) -> None:
    signal = next(one for one in ONE_OF_EACH if isinstance(one, Signal))
    sentiment = Sentiment("n1", T0, T0, 0.1, 0.2, 0.7, "m1", embedding=b"\x00<")
    with Recorder(database, a_run()) as recorder:
        recorder.decision(signal)
        recorder.sentiment(sentiment)
        recorder.flush()
        score = HeadlineScore(0.1, 0.2, 0.7)
        SqlScoreCache(database).put("m1", {b"1" * 16: CachedScore(score, np.ones((1, 2), np.float32))})
        with database.write() as connection:
            command.downgrade(schema_revision.alembic_config(connection), "0008")
            names = {c["name"] for c in inspect(connection).get_columns("sentiments")}
        assert not names & {"assets", "kind", "kind_confidence"}
        assert (upgrade(database_url).before, upgrade(database_url).before) == ("0008", HEAD)
        assert list(read_rows(database, "run-1", Signal)) == [signal]
        assert list(read_rows(database, "run-1", Sentiment)) == [sentiment]
        (entry,) = SqlScoreCache(database).get("m1", [b"1" * 16]).values()
    assert (entry.score, entry.score.assets, entry.score.kind) == (score, (), "")
    assert entry.embeddings is not None
    assert entry.embeddings.tolist() == [[1.0, 1.0]]


def test_sentiments_of_0009_are_final_and_of_local_models(database: Database, database_url: str) -> None:
    """The cached score of a language model, which 0009 can't read, is removed by the downgrade."""
    told = Provenance("m1", "5" * 64, 42, ("bullish",), "", "it says so")
    sentiments = [
        Sentiment("n1", T0, T0, 0.1, 0.2, 0.7, "m1"),
        Sentiment("n2", T0, T0, 0.1, 0.2, 0.7, "m2", provisional=True, provenance=told),
    ]
    cache = SqlScoreCache(database)
    with Recorder(database, a_run()) as recorder:
        for sentiment in sentiments:
            recorder.sentiment(sentiment)
        recorder.flush()
        save_prompts(database, {"5" * 64: "the prompt"})
        cache.put("m1", {b"1" * 16: CachedScore(HeadlineScore(0.1, 0.2, 0.7))})
        cache.put("m2", {b"2" * 16: CachedScore(HeadlineScore(0.1, 0.2, 0.7, provenance=told))})
        assert list(read_rows(database, "run-1", Sentiment)) == sentiments
        assert cache.get("m2", [b"2" * 16])[b"2" * 16].score.provenance == told
        with database.write() as connection:
            command.downgrade(schema_revision.alembic_config(connection), "0009")
        assert upgrade(database_url).before == "0009"
        bare = [replace(one, provisional=False, provenance=None) for one in sentiments]
        assert list(read_rows(database, "run-1", Sentiment)) == bare
        assert len(cache.get("m1", [b"1" * 16])) == 1
        assert cache.get("m2", [b"2" * 16]) == {}
        assert read_prompts(database, ["5" * 64]) == {}


def test_the_command_upgrades_the_configured_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.toml").write_text('[store]\nurl = "sqlite:///here/store.db"\n')
    verb = run_command(["db", "upgrade", "--json"])
    assert json.loads(verb.stdout) == {"before": None, "after": HEAD, "backup": None}
    assert (tmp_path / "here" / "store.db").is_file()
    assert f"already {HEAD}" in run_command(["db", "upgrade"]).stdout


def test_the_command_prints_the_path_of_the_backup(
    tmp_path: Path, sqlite_database: Database, next_release: Path
) -> None:
    url = f"sqlite:///{sqlite_database.file}"
    printed = run_command(["db", "upgrade", "--url", url]).stdout
    (backup,) = tmp_path.glob("*.backup")
    assert f"from {HEAD} to next" in printed
    assert str(backup) in printed


def test_an_upgrade_that_damages_the_store_is_rolled_back(
    tmp_path: Path, sqlite_database: Database, next_release: Path
) -> None:
    Recorder(sqlite_database, a_run())
    orphan = (
        'op.execute("CREATE TABLE lost (id TEXT REFERENCES runs(id) DEFERRABLE INITIALLY DEFERRED)")\n    '
        + ('op.execute("PRAGMA defer_foreign_keys=ON")\n    op.execute("INSERT INTO lost VALUES (\'none\')")')
    )
    next_release.write_text(NEXT.format(head=HEAD, more=orphan))
    with pytest.raises(StoreError, match="a row of lost belongs to no row of runs"):
        upgrade(f"sqlite:///{sqlite_database.file}")
    next_release.unlink()
    with closing(open_database(f"sqlite:///{sqlite_database.file}")) as database:
        assert tables_of(database) == {*TABLES, "alembic_version"}
