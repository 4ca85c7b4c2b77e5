"""The agent keeps running if its log fails: full disk, closed pipe, blocked reader, and floods of lines."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog
from aiohttp import web

from agent.config.live import LogConfig
from agent.core.errors import TapewireError
from agent.live.control_socket import ControlRequest, send_request
from agent.live.log import configure
from agent.live.log_limit import ALL_KINDS, REPEATS, WINDOW, RepeatLimit
from agent.live.output import OutputWriter
from agent.sandbox import Sandbox
from tests.conftest import ROOT
from tests.live.test_commands import MAIN
from tests.support.live import PATIENCE, options, until


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    text = io.StringIO()
    configure(LogConfig(format="json", level="info"), text)
    yield text
    logging.basicConfig(force=True)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line) for line in stream.getvalue().splitlines()]


async def test_a_full_pipe_does_not_block_and_lost_lines_are_reported() -> None:
    reader, writer = os.pipe()
    output = OutputWriter(writer, capacity=200_000)
    try:
        for number in range(10_000):
            # five times the pipe's capacity; a blocking write hangs here
            output.write(f"line {number:04}".ljust(99) + "\n")
        lost = output.status().dropped
        assert lost > 5_000
        assert output.status().last_error == "its reader is too slow"
        got = bytearray()
        while lost + got.count(b"line ") < 10_000:
            got += await asyncio.to_thread(os.read, reader, 1 << 16)
        output.write("after\n")
        while not got.endswith(b"after\n"):
            got += await asyncio.to_thread(os.read, reader, 1 << 16)
        text = got.decode()
        assert text.startswith("line 0000")
        assert sum(int(n) for n in re.findall(r"tapewire: (\d+) lines of output were lost", text)) == lost
        await until(lambda: output.status().error == "")
    finally:
        output.close()
        os.close(reader)
        os.close(writer)


def test_a_full_disk_is_counted_and_its_error_is_kept() -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    output = OutputWriter(descriptor)
    output.write("one\ntwo\n")
    output.close()
    assert (output.status().dropped, output.status().error) == (2, "No space left on device")
    os.close(descriptor)


def agent_config(sandbox: Sandbox, folder: Path) -> Path:
    path = folder / "config.toml"
    path.write_text(
        f'strategy = {{ name = "sma_cross", params = {{ fast = 2, slow = 5 }} }}\n'
        f'bybit = {{ endpoint = "{sandbox.rest_url}", warmup_bars = 20, settle = "40s" }}\n'
        f'live.folder = "{folder}"\nstore.url = "sqlite:///{folder / "store.db"}"\n'
        "dashboard.enabled = false\n"
        f'log = {{ format = "json", level = "debug" }}\nrisk.stale_after = "8h"\n'
    )
    return path


async def status(folder: Path, **known: object) -> dict[str, Any]:
    with suppress(TapewireError):
        found = await asyncio.to_thread(send_request, folder, ControlRequest("status"), timeout=2.0)
        assert isinstance(found, dict)
        return found
    return {"events": 0, "log": {"last_error": ""}} | known


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shell", "reason"),
    [
        ("{run} 2>/dev/full", "No space left on device"),
        ("{run} 2>&1 | head -3 >/dev/null", "Broken pipe"),
        ("{run} 2>&1 | sleep 600", "its reader does not read"),
    ],
    ids=["full", "head", "sleep"],
)
async def test_the_agent_keeps_running_if_its_log_fails(shell: str, reason: str, tmp_path: Path) -> None:
    async with Sandbox(options(speed=1200)) as sandbox:
        run = f"{sys.executable} -c '{MAIN}' run --config {agent_config(sandbox, tmp_path)}"
        process = await asyncio.create_subprocess_shell(
            shell.format(run=run),
            cwd=ROOT,
            stdout=PIPE,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(2 * PATIENCE):
                while (shown := await status(tmp_path))["log"]["last_error"] != reason:
                    await asyncio.sleep(0.1)
                before = shown["events"]
                while (shown := await status(tmp_path))["events"] < before + 50:
                    await asyncio.sleep(0.1)
                answer = await asyncio.to_thread(send_request, tmp_path, ControlRequest("kill"))
                assert answer["risk"] == "HALTED"
                os.kill(shown["pid"], signal.SIGTERM)
                while Path(f"/proc/{shown['pid']}").exists() and "Z" not in proc_state(shown["pid"]):
                    await asyncio.sleep(0.1)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


def proc_state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2]
    except OSError:
        return "Z"


def test_repeated_lines_are_limited(stream: io.StringIO) -> None:
    for number in range(1_000):
        structlog.get_logger().warning("request refused", reason=number)
        logging.getLogger("asyncio").error("socket.accept() out of system resource\nsocket: fd=%d", number)
    said = [line["event"].splitlines()[0] for line in lines(stream)]
    assert said.count("request refused") == REPEATS
    assert said.count("socket.accept() out of system resource") == REPEATS


def test_the_next_line_of_a_kind_reports_how_many_were_suppressed() -> None:
    now = 0.0
    limit = RepeatLimit(lambda: now)
    assert [limit.admit("a", logging.ERROR) for _ in range(REPEATS + 5)] == [0] * REPEATS + [-1] * 5
    assert limit.admit("b", logging.ERROR) == 0
    now = WINDOW
    assert [limit.admit("a", logging.ERROR) for _ in range(2)] == [5, 0]
    assert limit.suppressed == 5


def test_the_total_of_distinct_lines_is_limited() -> None:
    limit = RepeatLimit(lambda: 0.0)
    assert sum(limit.admit(f"kind {number}", logging.WARNING) == 0 for number in range(10_000)) == ALL_KINDS
    assert limit.admit("fill", logging.INFO) == 0  # lines below warning level are not limited


def deep(n: int) -> None:
    if n:
        deep(n - 1)
    raise ConnectionError("x" * 10_000)


def test_tracebacks_are_truncated(stream: io.StringIO) -> None:
    try:
        deep(300)
    except ConnectionError:
        structlog.get_logger().exception("producer failed")
        logging.getLogger("a.library").exception("it says")
    for line in lines(stream):
        assert "ConnectionError" in line["exception"] or "deep" in line["exception"]
        assert len(line["exception"]) < 5_000


async def test_malformed_http_logs_one_line_without_a_traceback(stream: io.StringIO) -> None:
    runner = web.AppRunner(web.Application())
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        reader, writer = await asyncio.open_connection(*runner.addresses[0][:2])
        writer.write(b"GET / HTTP/1.1\r\nno header\r\n\r\n")
        await reader.read()
        writer.close()
        await until(lambda: stream.getvalue())
    finally:
        await runner.cleanup()
    (line,) = lines(stream)
    assert line["level"] == "warning"
    assert line["event"].startswith("a request that is not HTTP: ")
    assert "exception" not in line
