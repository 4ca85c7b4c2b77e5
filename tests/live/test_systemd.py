"""Notifications to a service manager on a datagram socket; units and images in deploy/ are valid."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent.live import pipeline as core_module
from agent.live.interfaces.probes import why_dead
from agent.live.pipeline import Pipeline
from agent.live.systemd import ServiceManager, notify_service_manager
from agent.sandbox import Sandbox
from agent.store.database import open_database
from agent.store.journal import Journal
from agent.store.queries import find_run
from agent.store.recorder import Recorder
from tests.conftest import ROOT
from tests.live.test_commands import MAIN, write_config
from tests.live.test_snapshots import a_run
from tests.support.live import PATIENCE, options, until
from tests.support.stories import Story

DEPLOY = ROOT / "deploy"


class Manager:
    """Receives notifications as systemd does."""

    def __init__(self, path: Path) -> None:
        self.heard: list[dict[str, str]] = []
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.setblocking(False)

    def listen(self) -> list[dict[str, str]]:
        with suppress(BlockingIOError):
            while True:
                text = self.socket.recv(4_096).decode()
                self.heard.append(dict(line.split("=", 1) for line in text.splitlines()))
        return self.heard

    def said(self, key: str) -> list[str]:
        return [words[key] for words in self.listen() if key in words]


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    listening = Manager(tmp_path / "notify")
    yield listening
    listening.socket.close()


async def test_a_long_fold_extends_the_start_timeout(
    tmp_path: Path, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setattr(core_module, "_EXTEND_EVERY", 100)
    story = Story(4, tmp_path, minutes=120)
    with closing(open_database(f"sqlite:///{tmp_path / 'store.db'}")) as database:
        Recorder(database, a_run(story.config))
        Journal(database, "run-1").append(story.events[:350])
        with Pipeline(story.config, database, find_run(database), resume=True):
            assert manager.said("EXTEND_TIMEOUT_USEC") == ["60000000"] * 3


@pytest.mark.slow
async def test_start_watchdog_status_and_stop_are_notified(tmp_path: Path, manager: Manager) -> None:
    async with Sandbox(options(speed=60)) as sandbox:
        config = write_config(sandbox, tmp_path)
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "NOTIFY_SOCKET": str(tmp_path / "notify"),
            "WATCHDOG_USEC": "900000",
        }
        agent = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            MAIN,
            "run",
            "--config",
            str(config),
            env=environment,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            await until(lambda: manager.said("READY"))
            fed = len(manager.said("WATCHDOG"))
            await until(lambda: len(manager.said("WATCHDOG")) > fed + 3)
        finally:
            agent.send_signal(signal.SIGTERM)
            async with asyncio.timeout(PATIENCE):
                assert await agent.wait() == 0
        assert manager.said("READY") == ["1"]
        assert "equity 10,000.00" in " ".join(manager.said("STATUS"))
        assert manager.said("STOPPING") == ["1"]


class Stuck:
    """An agent whose core no longer takes events; if `failing`, because the store can't be written."""

    def __init__(self, *, failing: bool = False) -> None:
        self.started = True
        self.stuck_for = 0.0 if failing else 60.0

    def status(self) -> Any:
        storage = SimpleNamespace(writable=True, error="")
        risk = SimpleNamespace(value="ACTIVE")
        return SimpleNamespace(storage=storage, warming_up=False, strategy="s", equity=1.0, risk=risk)


async def test_a_hanging_core_sends_no_watchdog_notification(tmp_path: Path, manager: Manager) -> None:
    told = ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "30000"})
    telling = asyncio.create_task(notify_service_manager(told, Stuck()))  # type: ignore[arg-type]
    await until(lambda: manager.said("STATUS"))
    telling.cancel()
    await asyncio.gather(telling, return_exceptions=True)
    assert manager.said("WATCHDOG") == []


async def test_waiting_for_the_store_does_not_count_as_dead() -> None:
    assert why_dead(Stuck(), 10_000)  # type: ignore[arg-type]
    assert why_dead(Stuck(failing=True), 10_000) == []  # type: ignore[arg-type]


def test_without_a_manager_no_notification_is_sent() -> None:
    nobody = ServiceManager({})
    assert (nobody.present, nobody.watchdog) == (False, 0.0)
    nobody.notify(READY="1")


def test_a_missing_manager_socket_is_ignored(tmp_path: Path) -> None:
    ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "gone")}).notify(READY="1")


def test_an_abstract_socket_is_supported(tmp_path: Path) -> None:
    name = f"\0tapewire-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(name)
        ServiceManager({"NOTIFY_SOCKET": f"@{name[1:]}"}).notify(READY="1", STATUS="x")
        assert listening.recv(100) == b"READY=1\nSTATUS=x"


def test_a_watchdog_of_another_process_is_ignored() -> None:
    assert (
        ServiceManager({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}).watchdog
        == 0.0
    )


# -- deploy/ -------------------------------------------------------------------------------------------------


def unit() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in (DEPLOY / "systemd" / "tapewire.service").read_text().splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


def test_the_unit_matches_the_agents_behaviour() -> None:
    keys = unit()
    assert keys["Type"] == ["notify"]
    assert float(keys["WatchdogSec"][0]) >= 10
    assert keys["RestartPreventExitStatus"] == ["2 3"]
    assert keys["ExecStart"][0].split()[1:3] == ["run", "--config"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize(
    "name", ["tapewire.service", "tapewire-maintenance.service", "tapewire-maintenance.timer"]
)
def test_systemd_accepts_the_units(tmp_path: Path, name: str) -> None:
    for file in (DEPLOY / "systemd").iterdir():
        (tmp_path / file.name).write_text(file.read_text().replace("/opt/tapewire/bin/tapewire", "/bin/true"))
    path = tmp_path / name
    done = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True, timeout=60)
    complaints = [line for line in done.stderr.splitlines() if "tapewire" in line]
    assert complaints == []


def test_the_image_uses_existing_extras_and_files() -> None:
    text = (DEPLOY / "docker" / "Dockerfile").read_text()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    installed = next(line for line in text.splitlines() if line.startswith("ARG EXTRAS=")).partition("=")[2]
    assert {"postgres", "notify"} <= set(installed.split(",")) <= set(extras)
    assert '".[$EXTRAS]"' in text
    assert (ROOT / "constraints.txt").is_file()
    assert "USER tapewire" in text
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".git", ".venv", "var"} <= set(ignored)


def test_the_compose_file_is_hardened() -> None:
    text = (DEPLOY / "docker" / "compose.yml").read_text()
    assert all(
        words in text
        for words in (
            "read_only: true",
            "cap_drop: [ALL]",
            "no-new-privileges:true",
            "dockerfile: deploy/docker/Dockerfile",
        )
    )
    assert "127.0.0.1:8610:8610" in text
