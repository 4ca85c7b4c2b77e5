"""A secret in every address and feeds that fail in every way: no output, page or file shows a secret.

Its umask is 000, so private modes of its files and sockets come from the agent itself.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from agent.core.errors import TapewireError
from agent.live.control_socket import ControlRequest, send_request
from agent.sandbox import Sandbox
from tests.conftest import ROOT
from tests.live.test_commands import MAIN
from tests.support.feed_server import endless, item, rss
from tests.support.live import PATIENCE, options
from tests.support.ports import free_port

CANARY = "CANARY7h8I9j0K1l2M3"
"""Prefix of all secrets; each place has its own suffix."""

FEEDS = {
    "good": rss(
        item(1, link="/relative"), item(2, title=f"see ?apikey={CANARY}goodkey of {CANARY}goodpw now")
    ),
    "error": web.Response(status=500),
    "gone": web.Response(status=410),
    "page": f"<html>{CANARY}page3</html>".encode(),
    "elsewhere": web.Response(
        status=302, headers={"Location": f"http://x:{CANARY}elsewhere4@10.0.0.1/?token={CANARY}elsewhere5"}
    ),
    "moved": web.Response(status=301, headers={"Location": f"/good?apikey={CANARY}moved6"}),
    "ftp": web.Response(status=302, headers={"Location": f"ftp://x:{CANARY}ftp7@h/?token={CANARY}ftp8"}),
    "endless": endless(),
}


@asynccontextmanager
async def feeds_and_hooks() -> AsyncIterator[str]:
    """HOST:PORT of a server of feeds and of a notification receiver that fails."""

    async def answer(request: web.Request) -> web.StreamResponse:
        name = request.path.rpartition("/")[2]
        if name == "echo":
            assert request.transport is not None
            phrase = f"no \x1b[2J access for {request.path_qs} {request.headers.get('Authorization', '')}"
            request.transport.write(  # type: ignore[attr-defined]
                f"HTTP/1.1 403 {phrase}\r\nContent-Length: 0\r\n\r\n".encode()
            )
            request.transport.close()
            return web.Response()
        reply = FEEDS.get(name, web.Response(status=500, text=f"{request.path_qs}"))
        if isinstance(reply, bytes):
            return web.Response(body=reply)
        return web.Response(status=reply.status, body=reply.body, headers=reply.headers)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


def configuration(folder: Path, sandbox: Sandbox, place: str, mqtt: str, page: int, metrics: int) -> str:
    feeds = [
        f'[[news.feeds]]\nname = "{name}"\ninterval = "100ms"\n'
        f'url = "http://u{number}:{CANARY}{name}pw@{place}/bot12345:{CANARY}{name}bot/{name}'
        f'?apikey={CANARY}{name}key&page=2"\n'
        for number, name in enumerate([*FEEDS, "echo"])
    ]
    closed = (
        '[[news.feeds]]\nname = "closed"\n'
        f'url = "http://x:{CANARY}closed@127.0.0.1:1/?token={CANARY}closed"\n'
    )
    proxied = (
        '[[news.feeds]]\nname = "proxied"\n'
        f'url = "http://x:{CANARY}proxied@feeds.invalid/rss?token={CANARY}proxied"\n'
    )
    return f"""
        [bybit]
        endpoint = "{sandbox.rest_url}"
        warmup_bars = 50
        [news]
        spread = 0
        parse_timeout = "700ms"
        retry = {{ first = "100ms", ceiling = "1s" }}
        [live]
        folder = "{folder / "live"}"
        record_health = "200ms"
        [store]
        url = "sqlite:///{folder / "store" / "tapewire.db"}"
        [log]
        level = "debug"
        [control]
        address = "127.0.0.1:0"
        [dashboard]
        port = {page}
        token_file = "{folder / "live" / "dashboard.token"}"
        [metrics]
        enabled = true
        port = {metrics}
        [notify]
        coalesce = "0ms"
        max_per_hour = 1000
        {mqtt}
        {"".join(feeds)}{closed}{proxied}
    """.replace("\n        ", "\n")


class Agent:
    """An agent in its own process, and CLI commands with its configuration."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self._environment = {
            "PYTHONPATH": str(ROOT),
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            **environment,
        }

    async def start(self, *verb: str) -> Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            MAIN,
            *verb,
            cwd=self.folder,
            stdout=PIPE,
            stderr=PIPE,
            env=self._environment,
            umask=0,
            limit=1 << 24,
        )

    async def say(self, *verb: str) -> bytes:
        process = await self.start(*verb)
        out, err = await asyncio.wait_for(process.communicate(), 60)
        return out + err

    async def ready(self, process: Process) -> Any:
        """Return the status once all faulty feeds have failed and headlines were journalled."""
        async with asyncio.timeout(2 * PATIENCE):
            while process.returncode is None:
                with suppress(TapewireError):
                    status = await asyncio.to_thread(
                        send_request, self.folder / "live", ControlRequest("status")
                    )
                    feeds = {feed["name"]: feed for feed in status["feeds"]}
                    bad = set(feeds) - {"good", "moved"}
                    if (
                        not status["warming_up"]
                        and all(feeds[name]["errors"] for name in bad)
                        and feeds["good"]["news"]
                    ):
                        return status
                await asyncio.sleep(0.05)
        raise AssertionError("the agent ended")


@pytest.fixture
def mqtt(tmp_path: Path) -> Iterator[str]:
    """Return the section `[mqtt]` for a broker, if one is installed."""
    from shutil import which

    if which("mosquitto") is None:
        yield ""
        return
    from tests.support.mosquitto import mosquitto

    with mosquitto(tmp_path.parent / f"{tmp_path.name}-broker") as broker:
        yield (
            f'[mqtt]\nbroker = "{broker.url}"\nusername = "u"\nallow_plain_password = true\ncommands = true\n'
        )


@pytest.mark.slow
async def test_no_secret_leaves_the_agent_and_its_files_are_private(tmp_path: Path, mqtt: str) -> None:
    page, metrics = free_port(), free_port()
    async with Sandbox(options(speed=60)) as sandbox, feeds_and_hooks() as place:
        (tmp_path / "config.toml").write_text(configuration(tmp_path, sandbox, place, mqtt, page, metrics))
        agent = Agent(
            tmp_path,
            {
                "TAPEWIRE_NOTIFY_URLS": (
                    f"json://u:{CANARY}notify1@{place}/{CANARY}notify2?+token={CANARY}notify3"
                ),
                "TAPEWIRE_MQTT_PASSWORD": f"{CANARY}mqtt1",
                "TAPEWIRE_MQTT_SECRET": f"{CANARY}mqtt2-long-enough-to-be-a-secret-of-commands",
                "http_proxy": f"http://u:{CANARY}proxy@{place}/",
                "no_proxy": "127.0.0.1",
            },
        )
        process = await agent.start("run", "--json")
        drains = [
            asyncio.create_task(stream.read())
            for stream in (process.stdout, process.stderr)
            if stream is not None
        ]
        try:
            said: dict[str, bytes] = {}
            status = await agent.ready(process)
            said["control socket"] = json.dumps(status).encode()
            verbs: list[tuple[str, ...]] = [
                ("status",),
                ("status", "--json"),
                ("doctor",),
                ("config", "show"),
                ("notify", "test"),
                ("status", "--at", "mqtt", "--json"),
            ]
            for verb in verbs if mqtt else verbs[:-1]:
                said[" ".join(verb)] = await agent.say(*verb)
            said |= await pages(page, metrics, tmp_path / "live" / "dashboard.token")
            said |= {
                f"{path.name} while it runs": path.read_bytes() for path in (tmp_path / "store").iterdir()
            }
            said["workers"] = b"".join(
                Path(f"/proc/{pid}/environ").read_bytes() for pid in children(process.pid)
            )
            assert_private(tmp_path)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(PATIENCE):
                    await process.wait()
            finally:
                with suppress(ProcessLookupError):
                    process.kill()
        said["result"], said["log"] = await asyncio.gather(*drains)
        assert process.returncode == 0, said["log"][-2000:]
        for verb in (
            ("status",),
            ("status", "--json"),
            ("report", "--output", "report.html"),
            ("verify", "latest"),
        ):
            said[f"{' '.join(verb)}, afterwards"] = await agent.say(*verb)
    assert b"identical" in said["verify latest, afterwards"]
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.name != "config.toml":
            said[str(path.relative_to(tmp_path))] = path.read_bytes()
    assert any(name.endswith(".db") for name in said)
    assert any(name.endswith(".html") for name in said)
    leaks = [f"{name}: {around(text)!r}" for name, text in said.items() if CANARY.encode() in text]
    assert not leaks, "\n".join(leaks)
    for name in ("status", "status, afterwards", "log", "doctor"):
        assert b"\x1b" not in said[name], name
        assert b"***" in said[name], name
    assert_private(tmp_path)


def around(text: bytes) -> bytes:
    at = text.index(CANARY.encode())
    return text[max(0, at - 150) : at + 60]


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def assert_private(folder: Path) -> None:
    made = [
        path
        for path in folder.rglob("*")
        if path.name != "config.toml" and not path.name.startswith("tapewire.db")
    ]
    loose = {
        str(path): oct(stat.S_IMODE(path.stat().st_mode)) for path in made if path.stat().st_mode & 0o077
    }
    assert loose == {}
    assert {"live", "store"} <= {path.name for path in made}


async def pages(page: int, metrics: int, token: Path) -> dict[str, bytes]:
    """Return the pages of the dashboard and the metrics."""
    found = {}
    url = f"http://127.0.0.1:{page}"
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as http:
        for path in ("metrics", "healthz", "readyz"):
            async with http.get(f"http://127.0.0.1:{metrics}/{path}") as response:
                found[path] = await response.read()
        if token.exists():
            await http.post(f"{url}/login", data={"token": token.read_text()}, headers={"Origin": url})
        async with http.get(f"{url}/api/runs") as response:
            found["runs"] = await response.read()
        async with http.ws_connect(f"{url}/api/live", headers={"Origin": url}) as live:
            found["page"] = b""
            while b'"health"' not in found["page"]:
                found["page"] += str(await live.receive_json(timeout=PATIENCE)).replace("'", '"').encode()
    assert b"tapewire" in found["metrics"]
    assert b"last_error" in found["page"]
    return found


@pytest.mark.slow
async def test_slow_documents_delay_neither_the_agent_nor_its_shutdown(tmp_path: Path) -> None:
    """Such documents once blocked all feeds, and the agent still ran 45 s after SIGTERM."""
    async with Sandbox(options(speed=60)) as sandbox, feeds_and_hooks() as place:
        names = [*(f"{number}/endless" for number in range(3)), "good"]
        feeds = "".join(
            f'[[news.feeds]]\nname = "{name}"\nurl = "http://{place}/{name}"\ninterval = "200ms"\n'
            for name in names
        )
        (tmp_path / "config.toml").write_text(
            f'[bybit]\nendpoint = "{sandbox.rest_url}"\nwarmup_bars = 50\n[live]\nfolder = "live"\n'
            '[store]\nurl = "sqlite:///store.db"\n[dashboard]\nenabled = false\n'
            f'[news]\nspread = 0\nparse_timeout = "3s"\n{feeds}'
        )
        agent = Agent(tmp_path, {})
        process = await agent.start("run")
        drain = asyncio.create_task(process.communicate())
        async with asyncio.timeout(3 * PATIENCE):
            while True:
                with suppress(TapewireError):
                    status = await asyncio.to_thread(
                        send_request, tmp_path / "live", ControlRequest("status")
                    )
                    *hostile, good = status["feeds"]
                    if good["connects"] > 5 and any(feed["killed"] for feed in hostile):
                        break
                await asyncio.sleep(0.05)
        assert good["errors"] == 0
        assert good["news"] == 2
        assert any("killed; next try in" in feed["last_error"] for feed in hostile)
        workers = children(process.pid)
        assert 1 <= len(workers) <= 2
        assert resident(process.pid) < 600_000_000
        process.send_signal(signal.SIGTERM)
        _, log = await asyncio.wait_for(drain, PATIENCE)
        assert process.returncode == 0, log[-2000:]
        assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
