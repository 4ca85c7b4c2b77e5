"""Nothing that reaches a terminal contains control characters or secrets."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from rich.live import Live
from rich.table import Table
from rich.text import Text

from agent.cli.console import SafeConsole
from tests.conftest import ROOT

DIRTY = "up \x1b[2J\x1b]0;owned\x07 \x9b31m \u202egnp.exe\u2066 \x00\x08\r down"


def test_the_console_removes_control_characters() -> None:
    stream = io.StringIO()
    console = SafeConsole(file=stream, force_terminal=True, width=200)
    table = Table("title", box=None)
    table.add_row(Text(DIRTY, "bold red"))
    with Live(table, console=console, auto_refresh=False):
        pass
    console.print(DIRTY, markup=False)
    console.print(DIRTY, style="green")
    text = stream.getvalue()
    assert "down" in text
    assert "\x1b[1;31m" in text, "colours of the console itself stay"
    for evil in ("\x1b[2J", "\x1b]0;", "\x9b", "\u202e", "\u2066", "\x00", "\x08", "\r down"):
        assert evil not in text, repr(evil)


def run(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "agent.cli.main", *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("as_json", [True, False])
def test_scored_texts_are_printed_without_control_characters(as_json: bool, tmp_path: Path) -> None:
    text = DIRTY.replace("\x00", "")
    done = run("score", text, *(["--json"] if as_json else []), cwd=tmp_path, COLUMNS="200")
    assert done.returncode == 0, done.stderr
    assert "down" in done.stdout
    assert not [c for c in done.stdout if not c.isprintable() and c != "\n"]


@pytest.mark.slow
def test_an_error_about_the_configuration_contains_no_secret(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(
        """
        [store]
        url = "postgresql+nothing://anna:canary-1@h/x?sslpassword=canary-2"
        [mqtt]
        broker = "mqtt://anna:canary-3@h"
        [[news.feeds]]
        url = "gopher://anna:canary-4@h/?apikey=canary-5"
        """
    )
    for command in (["config", "check"], ["config", "show"], ["status"], ["run"], ["doctor"]):
        done = run(*command, cwd=tmp_path)
        assert done.returncode == 2, command
        assert "canary" not in done.stdout + done.stderr, command


def test_the_configuration_is_printed_without_secrets(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(
        """
        [store]
        url = "postgresql://anna:canary-1@h/x?sslpassword=canary-2"
        [strategy.params]
        api_key = "canary-3"
        [[news.feeds]]
        url = "https://anna:canary-4@h.test/bot12:canary-5/rss?sig=canary-6"
        """
    )
    done = run("config", "show", cwd=tmp_path)
    assert done.returncode == 0
    assert "canary" not in done.stdout + done.stderr
    assert "https://***@h.test/bot***/rss?sig=***" in done.stdout


def test_a_traceback_contains_no_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code = (
        "import sys; from agent.cli import main as m\n"
        "def build(*_): raise RuntimeError('https://anna:canary@h/ \\x1b[2J')\n"
        "m.build = m.build_listing = build; m.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "RuntimeError: https://***@h/" in done.stderr
    assert "canary" not in done.stderr
    assert "\x1b" not in done.stderr


@pytest.mark.slow
def test_files_that_a_command_makes_are_readable_by_their_user_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        done = run("config", "check", cwd=tmp_path)
        report = run("backtest", "--report", "out/page.html", "--json", cwd=tmp_path)
    finally:
        os.umask(before)
    assert done.returncode == 0, done.stderr
    assert report.returncode == 0, report.stderr
    made = list(tmp_path.rglob("*"))
    assert any(path.suffix == ".html" for path in made)
    loose = {
        str(path): oct(stat.S_IMODE(path.stat().st_mode)) for path in made if path.stat().st_mode & 0o077
    }
    assert loose == {}


def test_a_path_with_brackets_is_printed_in_full(tmp_path: Path) -> None:
    path = tmp_path / "mine[draft].toml"
    path.write_text("")
    done = run("config", "check", str(path), cwd=tmp_path)
    assert done.returncode == 0
    assert "mine[draft].toml" in done.stdout
