"""Fixtures of stores.

Tests with `database_url` run on SQLite and, if its server is installed, on PostgreSQL.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import create_engine

from agent.store import database as database_module
from agent.store.database import Database, open_database
from agent.store.schema_revision import migrate


@pytest.fixture(scope="module", autouse=True)
def real_migrations() -> Iterator[None]:
    """Make the tables of new stores by the migrations (tests/conftest.py replaces them elsewhere)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database_module, "migrate", migrate)
        yield


@pytest.fixture(scope="session")
def postgres_cluster() -> Iterator[str]:
    """Start a private PostgreSQL server on a Unix socket; yield a template of its URL."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3].split(".")[0])
    )
    initdb = shutil.which("initdb") or (found[-1] if found else None)
    if initdb is None:
        pytest.skip("no PostgreSQL server is installed: tested on SQLite only")
    pytest.importorskip("psycopg", reason="tapewire[postgres] is not installed: tested on SQLite only")
    as_user: dict[str, object] = {}
    folder = Path(tempfile.mkdtemp(prefix="tapewire-pg-"))  # a socket's path has at most 107 characters
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        try:
            owner = pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip(
                "PostgreSQL refuses to run as root, and there is no user postgres: tested on SQLite only"
            )
        os.chown(folder, owner.pw_uid, owner.pw_gid)
        as_user = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}

    def run(program: str, *arguments: str) -> None:
        command = [str(Path(initdb).with_name(program)), *arguments]
        options: Any = {"cwd": folder, "stdout": subprocess.DEVNULL, **as_user}
        subprocess.run(command, check=True, timeout=300, **options)

    try:
        run("initdb", "-D", "data", "-U", "tapewire", "-A", "trust", "-E", "UTF8", "--no-sync")
        run(
            "pg_ctl",
            "-D",
            "data",
            "-w",
            "-t",
            "240",
            "-l",
            "log",
            "-o",
            f"-k {folder} -c listen_addresses= -c fsync=off",
            "start",
        )
        try:
            yield f"postgresql://tapewire@/{{name}}?host={folder}"
        finally:
            run("pg_ctl", "-D", "data", "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of a database without tables."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'store.db'}"
        return
    cluster: str = request.getfixturevalue("postgres_cluster")
    name = f"test_{uuid4().hex}"
    admin = create_engine(
        cluster.format(name="postgres").replace("://", "+psycopg://"), isolation_level="AUTOCOMMIT"
    )
    with admin.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    yield cluster.format(name=name)
    with admin.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    admin.dispose()


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """An open store with its tables."""
    with closing(open_database(database_url)) as opened:
        yield opened


@pytest.fixture
def sqlite_database(tmp_path: Path) -> Iterator[Database]:
    """An open store in an SQLite file, for tests of SQLite's behaviour."""
    with closing(open_database(f"sqlite:///{tmp_path / 'store.db'}", lock_timeout=0.05)) as opened:
        yield opened
