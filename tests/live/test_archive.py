"""`tapewire db archive`: finished runs move from the store to files and still pass verification."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from agent.core.errors import SafetyError, StoreError, UsageError
from agent.live.app import make_agent
from agent.sandbox import Sandbox
from agent.store.database import Database, open_database
from agent.store.lock import LOCK, instance_lock
from agent.store.queries import find_run, list_runs
from tests.live.test_commands import write_config
from tests.support.command_line import run_command
from tests.support.live import assert_sound, handled, journal, living, load_words, settings, until

Verb = Callable[..., Any]


@pytest.fixture
def verb(sandbox: Sandbox, tmp_path: Path) -> Verb:
    """Invoke a CLI command on the test's store; return its JSON output or raise its exception."""
    config = str(write_config(sandbox, tmp_path))

    def run(*arguments: object) -> Any:
        done = run_command([*arguments, "--config", config, "--json"])
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        return json.loads(done.stdout)

    return run


async def live(sandbox: Sandbox, database: Database, folder: Path, *, complete: bool) -> str:
    daemon = make_agent(
        settings(sandbox.rest_url, folder), database, load_model=load_words, clock=sandbox.clock
    )
    async with living(daemon, complete=complete):
        await until(lambda: handled(daemon) >= 30)
    return find_run(database).id


async def test_verify_and_report_work_from_the_archive(
    sandbox: Sandbox, database: Database, tmp_path: Path, verb: Verb
) -> None:
    run = await live(sandbox, database, tmp_path, complete=True)
    before, events = verb("verify"), journal(database)
    assert before["identical"]
    assert verb("db", "archive", "--keep", "1h")["archived"] == []
    (made,) = verb("db", "archive", "--keep", "0s", "--to", tmp_path / "past", "--prune")["archived"]
    assert (made["run"], made["events"], made["pruned"]) == (run, len(events), len(events))
    assert verb("db", "archive", "--keep", "0s", "--to", tmp_path / "past", "--prune")["archived"] == []
    assert verb("verify") == before
    assert_sound(database, run, settings(sandbox.rest_url, tmp_path))
    assert Path(verb("report", "--output", tmp_path / "page.html")["html"]).is_file()
    holding = verb("db", "backup", tmp_path / "copy.db")["holds"]
    assert (holding["events"], holding["archived"]) == (0, 1)
    archive = Path(made["path"])
    archive.write_bytes(archive.read_bytes()[:-5] + b"wrong")
    with pytest.raises(StoreError, match="has changed"):
        verb("verify")


async def test_an_archived_unfinished_run_is_not_resumed(
    sandbox: Sandbox, database: Database, tmp_path: Path, verb: Verb
) -> None:
    first = await live(sandbox, database, tmp_path, complete=False)
    options = ("db", "archive", "--before", "2100-01-01", "--to", tmp_path / "past", "--prune")
    assert verb(*options)["archived"] == []
    with instance_lock(tmp_path / LOCK):
        with pytest.raises(SafetyError, match="an agent is running"):
            verb(*options, "--unfinished")
        assert verb(*options)["archived"] == []
    assert [made["run"] for made in verb(*options, "--unfinished")["archived"]] == [first]
    assert verb("verify", first)["identical"]
    second = await live(sandbox, database, tmp_path, complete=False)
    assert {run.id for run in list_runs(database)} == {first, second}
    assert second != first


def test_the_age_limit_is_checked(tmp_path: Path, verb: Verb) -> None:
    with closing(open_database(f"sqlite:///{tmp_path / 'store.db'}")):
        pass
    for options, said in (
        (("--before", "2025-01-01", "--keep", "1d"), "both set the limit"),
        (("--before", "yesterday"), "is no date"),
        (("--keep", "a month"), "is not a duration"),
    ):
        with pytest.raises(UsageError, match=said):
            verb("db", "archive", *options)
