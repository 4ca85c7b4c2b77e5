"""Keys come from the environment or a private file, and appear nowhere afterwards."""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

from agent.config.live import LogConfig
from agent.core.errors import ConfigError, SafetyError, VenueError
from agent.live.app import make_agent
from agent.live.gateway.credentials import Credentials, load_credentials
from agent.live.log import configure
from agent.sandbox import Sandbox
from agent.store.database import open_database
from agent.system.secret import Secret
from tests.conftest import ROOT
from tests.live.gateway.churning_strategy import churn, venue_settings
from tests.support.live import living, load_words, options, settings, until

KEY, SECRET = "kkkkKEYkkkk1234567", "ssssSECRETssss7654321"


@pytest.mark.parametrize("text", [f"{Secret(SECRET)}", f"{Secret(SECRET)!r}", str([Secret(SECRET)])])
def test_a_secret_does_not_print_itself(text: str) -> None:
    assert SECRET not in text


def test_a_secret_can_be_neither_pickled_nor_copied() -> None:
    for take in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="can't be pickled"):
            take(Secret(SECRET))
    with pytest.raises(TypeError):
        json.dumps(Secret(SECRET))
    assert Secret(SECRET).reveal() == SECRET


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "TAPEWIRE_API_KEY and TAPEWIRE_API_SECRET is not set"),
        ({"TAPEWIRE_API_KEY": KEY}, "TAPEWIRE_API_SECRET is not set"),
        ({"TAPEWIRE_API_KEY": KEY, "TAPEWIRE_API_SECRET": "  "}, "TAPEWIRE_API_SECRET is not set"),
    ],
)
def test_missing_keys_are_named(environment: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_credentials(None, environment)


def test_a_key_file_takes_precedence_over_the_environment(tmp_path: Path) -> None:
    file = key_file(tmp_path, 0o600)
    keys = load_credentials(file, {"TAPEWIRE_API_KEY": "x", "TAPEWIRE_API_SECRET": "y"})
    assert (keys.key.reveal(), keys.secret.reveal()) == (KEY, SECRET)


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o644, 0o660, 0o666, 0o601, 0o777])
def test_a_file_that_others_can_read_is_refused(mode: int, tmp_path: Path) -> None:
    with pytest.raises(SafetyError, match=f"can be read by others .mode {mode:04o}") as refused:
        load_credentials(key_file(tmp_path, mode))
    assert refused.value.exit_code == 3


def test_a_symbolic_link_is_as_private_as_its_target(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(key_file(tmp_path, 0o600))
    assert load_credentials(tmp_path / "link").key.reveal() == KEY
    key_file(tmp_path, 0o644)
    with pytest.raises(SafetyError, match="can be read by others"):
        load_credentials(tmp_path / "link")


def test_incomplete_files_and_special_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "half").write_text(KEY)
    os.chmod(tmp_path / "half", 0o600)
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(ConfigError, match="holds no API key and secret"):
        load_credentials(tmp_path / "half")
    for name in (".", "pipe"):
        with pytest.raises(SafetyError, match="is not a regular file"):
            load_credentials(tmp_path / name)
    with pytest.raises(ConfigError, match="No such file"):
        load_credentials(tmp_path / "none")


def key_file(folder: Path, mode: int) -> Path:
    file = folder / "keys"
    file.write_text(f"{KEY}\n{SECRET}\n")
    file.chmod(mode)
    return file


def assert_hidden(text: str | bytes, where: str) -> None:
    raw = text.encode() if isinstance(text, str) else text
    for secret in (KEY, SECRET):
        assert secret.encode() not in raw, where


@pytest.mark.slow
@pytest.mark.parametrize("right", [True, False])
async def test_keys_appear_in_no_log_store_report_and_status(
    right: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Valid keys, and invalid ones, for which the exchange repeats the request in its error."""
    log = io.StringIO()
    configure(LogConfig(level="debug", format="json"), log)
    database = open_database(f"sqlite:///{tmp_path / 'store.db'}")
    monkeypatch.setenv("TAPEWIRE_API_KEY", KEY)
    monkeypatch.setenv("TAPEWIRE_API_SECRET", SECRET)
    async with Sandbox(options(speed=240, api_key=KEY, api_secret=SECRET if right else "another")) as sandbox:
        config = settings(sandbox.rest_url, tmp_path, **venue_settings(sandbox.rest_url, strategy=churn()))
        daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
        if right:
            async with living(daemon, complete=True):
                await until(lambda: daemon.gateway is not None and daemon.gateway.health.fills > 4)
                assert_hidden(str(daemon.status()), "status")
                assert_hidden(repr(vars(daemon.gateway)), "gateway")
        else:
            with pytest.raises(VenueError, match=r"error sign! origin_string\[[0-9]+\*\*\*") as failure:
                async with living(daemon) as life:
                    await until(life.done)
            assert_hidden("".join(traceback.format_exception(failure.value)), "traceback")
    database.close()
    assert '"event"' in log.getvalue()
    assert_hidden(log.getvalue(), "log")
    for file in tmp_path.rglob("*"):
        if file.is_file():
            assert_hidden(file.read_bytes(), file.name)
    if right:
        store = f'[store]\nurl = "{config.store.url}"\n'
        (tmp_path / "config.toml").write_text(store)
        for words in (
            ["report", "latest", "--output", "report.html"],
            ["config", "show"],
            ["verify", "latest"],
        ):
            command = [sys.executable, "-m", "agent.cli.main", *words]
            env = os.environ | {"PYTHONPATH": str(ROOT)}
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, env=env, check=False)
            assert_hidden(done.stdout + done.stderr, " ".join(words))
            assert done.returncode == 0, done.stderr
        assert_hidden((tmp_path / "report.html").read_bytes(), "report")


def test_an_error_with_keys_in_its_variables_does_not_print_them() -> None:
    keys = Credentials(Secret(KEY), Secret(SECRET))

    def sign(keys: Credentials) -> None:
        raise ValueError(f"can't sign with {keys}")

    with pytest.raises(ValueError, match="can't sign") as failure:
        sign(keys)
    shown = "".join(traceback.TracebackException.from_exception(failure.value, capture_locals=True).format())
    assert "keys" in shown
    assert_hidden(shown, "traceback with locals")
