"""CLI commands, each in its own process."""

from __future__ import annotations

import asyncio
import html
import json
import os
import pty
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, CookieJar

from agent.core.errors import TapewireError
from agent.core.events import Command, Sentiment
from agent.data.given_up import causes_of
from agent.live.control_socket import ControlRequest, send_request
from agent.sandbox import Sandbox
from agent.store.database import open_database
from agent.store.journal import read_journal
from agent.store.queries import list_runs, read_rows
from agent.store.runs import RunStatus
from tests.conftest import ROOT
from tests.support.command_line import run_command
from tests.support.live import PATIENCE, options

MAIN = "from agent.cli.main import main; main()"


def write_config(sandbox: Sandbox, folder: Path) -> Path:
    path = folder / "config.toml"
    path.write_text(
        f'[strategy]\nname = "sma_cross"\n[bybit]\nendpoint = "{sandbox.rest_url}"\nwarmup_bars = 50\n'
        f'[live]\nfolder = "{folder}"\n[store]\nurl = "sqlite:///{folder / "store.db"}"\n'
        '[log]\nformat = "json"\n'
    )
    return path


async def start(*arguments: object, cwd: Path = ROOT, **environment: str) -> Process:
    environment = {"PYTHONPATH": str(ROOT)} | environment
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", MAIN, *map(str, arguments), cwd=cwd, stdout=PIPE, stderr=PIPE, env=environment
    )


async def status_of(folder: Path, process: Process) -> Any:
    """Return the agent's status once the warm-up is complete."""
    async with asyncio.timeout(PATIENCE):
        while process.returncode is None:
            with suppress(TapewireError):
                status = await asyncio.to_thread(send_request, folder, ControlRequest("status"))
                if not status["warming_up"]:
                    return status
            await asyncio.sleep(0.01)
    raise AssertionError((await process.communicate())[1].decode())


@pytest.mark.slow
async def test_run_exits_with_0_on_a_signal_and_resumes_on_the_next_start(tmp_path: Path) -> None:
    async with Sandbox(options(speed=1)) as sandbox:
        config = write_config(sandbox, tmp_path)
        seen = []
        for number in (signal.SIGTERM, signal.SIGINT):
            process = await start("run", "--config", config, "--json")
            seen.append((await status_of(tmp_path, process))["run"])
            if number is signal.SIGTERM:
                second = await start("run", "--config", config)
                _, said = await asyncio.wait_for(second.communicate(), PATIENCE)
                assert second.returncode == 3
                assert f"an agent is running already, process {process.pid}" in " ".join(
                    said.decode().split()
                )
            process.send_signal(number)
            result, log = await asyncio.wait_for(process.communicate(), PATIENCE)
            assert process.returncode == 0, log.decode()
            assert json.loads(result)["run"] == seen[-1]
            assert all(
                json.loads(line)["run"] == seen[-1] for line in log.splitlines() if b'"event_id"' in line
            )
    assert len(set(seen)) == 1
    with closing(open_database(f"sqlite:///{tmp_path / 'store.db'}")) as database:
        assert [run.status for run in list_runs(database)] == [RunStatus.INTERRUPTED]


@pytest.mark.parametrize(
    "verb",
    [
        *(["status"], ["pause"], ["resume"], ["halt"], ["kill"], ["flatten"], ["model", "use", "starter"]),
        *(["sleeve", "list"], ["sleeve", "pause", "x"], ["sleeve", "remove", "x"]),
        ["sleeve", "add", "x", "--strategy", "sma_cross", "--share", "0.2"],
    ],
)
def test_commands_fail_with_a_hint_if_no_agent_is_running(tmp_path: Path, verb: list[str]) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'[live]\nfolder = "{tmp_path}"\n')
    result = run_command([*verb, "--config", str(config)])
    assert isinstance(result.exception, TapewireError)
    assert "no agent is running" in str(result.exception)
    assert result.exception.exit_code == 1


async def test_commands_connect_to_the_agent_in_the_configured_folder(tmp_path: Path) -> None:
    from agent.live.app import make_agent
    from tests.support.live import SENTIMENT, handled, living, load_words, settings, until

    async with Sandbox(options(news=True)) as sandbox:
        config = settings(sandbox.rest_url, tmp_path, strategy=SENTIMENT)
        path = tmp_path / "config.toml"
        path.write_text(f'[live]\nfolder = "{tmp_path}"\n')

        async def invoke(*verb: str) -> str:
            result = await asyncio.to_thread(run_command, [*verb, "--config", str(path)])
            assert result.exit_code == 0, result.output
            return result.output

        with closing(open_database(config.store.url)) as database:
            daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
            async with living(daemon):
                await until(lambda: handled(daemon) >= 4)
                status = json.loads(await invoke("status", "--json"))
                assert (status["run"], status["risk"]) == (daemon.pipeline.run.id, "ACTIVE")
                assert {"positions", "queue", "latencies", "producers", "recent", "uptime_s"} <= status.keys()
                assert json.loads(await invoke("pause", "--json"))["risk"] == "REDUCING"
                await invoke("resume")
                one = json.loads(await invoke("flatten", "--symbol", "ETHUSDT", "--json"))
                assert (one["flat"], one["open"]) == (True, {})
                model = json.loads(await invoke("model", "use", str(tmp_path / "other"), "--json"))
                assert model["folder"] == str(tmp_path / "other")


@pytest.mark.slow
async def test_dashboard_command_opens_a_logged_in_browser(tmp_path: Path) -> None:
    browser, seen = tmp_path / "bin" / "xdg-open", tmp_path / "seen"
    browser.parent.mkdir()
    browser.write_text(f'#!/bin/sh\necho "$1" > {seen}.new\nmv {seen}.new {seen}\n')
    browser.chmod(0o755)
    async with Sandbox(options(speed=1)) as sandbox:
        config = write_config(sandbox, tmp_path)
        agent = await start("run", "--config", config)
        await status_of(tmp_path, agent)
        opener = await start(
            "dashboard", "--open", "--json", "--config", config, PATH=f"{browser.parent}:/usr/bin:/bin"
        )
        said, log = await asyncio.wait_for(opener.communicate(), PATIENCE)
        assert opener.returncode == 0, log
        addresses = json.loads(said)
        async with asyncio.timeout(PATIENCE):
            while not seen.exists():
                await asyncio.sleep(0.01)
        opened = seen.read_text().strip()
        assert opened.removeprefix("file://") == str(
            tmp_path / "dashboard.html"
        )  # not the code: other users can read a browser's arguments
        assert (tmp_path / "dashboard.html").stat().st_mode & 0o777 == 0o600
        link = (tmp_path / "dashboard.html").read_text().partition("url=")[2].partition('"')[0]
        for address in (addresses["login"], link):
            async with ClientSession(cookie_jar=CookieJar(unsafe=True)) as http, http.get(address) as answer:
                assert str(answer.url) == addresses["url"]
                assert "<title>Tapewire</title>" in await answer.text()
        agent.send_signal(signal.SIGTERM)
        _, log = await asyncio.wait_for(agent.communicate(), PATIENCE)
        assert agent.returncode == 0, log.decode()
        assert b"login=" not in log


@pytest.mark.slow
async def test_run_prints_a_login_link_on_a_terminal(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    async with Sandbox(options(speed=1)) as sandbox:
        config = write_config(sandbox, tmp_path)
        command = (sys.executable, "-c", MAIN, "run", "--config", str(config))
        process = await asyncio.create_subprocess_exec(
            *command, stdout=theirs, stderr=theirs, env={"PYTHONPATH": str(ROOT)}
        )
        os.close(theirs)
        printed = ""
        async with asyncio.timeout(PATIENCE):
            while (found := re.search(r"dashboard: (\S+\?login=\S+) ", printed)) is None:
                printed += (await asyncio.to_thread(os.read, ours, 1 << 16)).decode()
        async with ClientSession(cookie_jar=CookieJar(unsafe=True)) as http, http.get(found[1]) as answer:
            assert "<title>Tapewire</title>" in await answer.text()
        process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.wait(), PATIENCE)
    os.close(ours)


@pytest.mark.slow
async def test_demo_serves_its_page_trades_on_headlines_reports_and_verifies(tmp_path: Path) -> None:
    process = await start("demo", "--seconds", 14, "--json", cwd=tmp_path)
    assert process.stderr is not None
    line = ""
    while not line.startswith("dashboard: "):
        line = (await asyncio.wait_for(process.stderr.readline(), PATIENCE)).decode()
        assert line, "it ended without naming an address"
    async with ClientSession(cookie_jar=CookieJar(unsafe=True)) as http, http.get(line.split()[1]) as answer:
        assert answer.status == 200
        assert "<title>Tapewire</title>" in await answer.text()
    result, log = await asyncio.wait_for(process.communicate(), 3 * PATIENCE)
    assert process.returncode == 0, log.decode()
    demo = json.loads(result)
    assert demo["identical"]
    assert demo["trades"] >= 1
    assert demo["orders_on_headlines"] >= 1
    revised = demo["revisions"]
    assert revised["revisions"] >= 1
    assert revised["provisional"] == (
        revised["revisions"] + sum(revised["given_up"].values()) + revised["waiting"]
    )
    assert revised["server_exit_code"] is None
    page = (tmp_path / demo["report"]).read_text()
    assert demo["run"] in page
    assert "<h2>Revisions</h2>" in page
    assert all(one["title"] in html.unescape(page) for one in revised["headlines"])
    with closing(open_database(f"sqlite:///{tmp_path / 'var' / 'tapewire.db'}")) as database:
        assert [run.status for run in list_runs(database)] == [RunStatus.COMPLETE]


def child_of(process: Process, module: str) -> int | None:
    """Return the process id of a child that runs `module`."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = folder.joinpath("stat").read_text().rpartition(")")[2].split()[1]
            if int(parent) == process.pid and module in folder.joinpath("cmdline").read_text():
                return int(folder.name)
    return None


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="it finds the server's process in /proc")
async def test_a_demo_whose_second_model_is_killed_goes_on_with_first_scores_and_says_so(
    tmp_path: Path,
) -> None:
    process = await start("demo", "--seconds", 24, cwd=tmp_path)
    url = f"sqlite:///{tmp_path / 'var' / 'tapewire.db'}"

    def revisions() -> int:
        with closing(open_database(url)) as database:
            found = [one for run in list_runs(database) for one in read_rows(database, run.id, Sentiment)]
        return sum(one.provenance is not None for one in found)

    reading = asyncio.create_task(process.communicate())
    async with asyncio.timeout(PATIENCE):
        while not (tmp_path / "var" / "tapewire.db").is_file() or not revisions():
            assert process.returncode is None
            await asyncio.sleep(0.1)
    server = child_of(process, "agent.sandbox.model_server")
    assert server is not None
    os.kill(server, signal.SIGKILL)
    printed, log = await asyncio.wait_for(reading, 3 * PATIENCE)
    assert process.returncode == 0, log.decode()
    text = " ".join(printed.decode().split())
    assert re.search(r"the second model revised \d+ of \d+ scores", text)
    kept = re.search(r"the others keep their first score: (\d+) unanswered", text)
    assert kept is not None
    assert int(kept[1]) >= 1
    assert "its server was killed by signal 9 during the run, and nothing waited for it" in text
    assert "identical: " in text
    with closing(open_database(url)) as database:
        (run,) = list_runs(database)
        answered: dict[str, list[Sentiment]] = {}
        for one in read_rows(database, run.id, Sentiment):
            answered.setdefault(one.news_id, []).append(one)
        commands = (event for _, event in read_journal(database, run.id) if isinstance(event, Command))
        given_up = {id_: cause for command in commands for id_, cause in causes_of(command).items()}
    assert len(given_up) == int(kept[1])
    assert {len(answered[id_]) for id_ in given_up} == {1}, "they keep the first score"


@pytest.mark.slow
async def test_the_demo_refuses_a_second_model_that_may_not_be_asked(tmp_path: Path) -> None:
    process = await start("demo", "--seconds", 5, "--revise-with", "openai:http://x.invalid#m", cwd=tmp_path)
    printed, log = await asyncio.wait_for(process.communicate(), 3 * PATIENCE)
    assert b"llm.allow_hosts" in printed + log
