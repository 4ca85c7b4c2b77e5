"""`tapewire mcp` over standard input and output, as an assistant's program uses it."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from contextlib import suppress
from math import e, sqrt
from pathlib import Path
from statistics import NormalDist, variance
from typing import Any

import jsonschema
import psutil
import pytest

from agent.store.database import Database
from agent.store.tries import read_tries
from tests.cli.conftest import Outcome
from tests.mcp.assistant import NAME, answer, assistant, environment, refusal
from tests.support.effort import usual
from tests.support.live import PATIENCE, until

Tapewire = Callable[..., Outcome]
READING = {
    "list_runs",
    "run_figures",
    "list_tries",
    "list_strategies",
    "strategy_template",
    "list_data",
    "search_docs",
    "read_doc",
}
RESEARCH = {"score", "backtest", "walkforward", "sweep", "tune", "explain_order", "twin", "diff_runs"}
CHECKS = {f"check_{name}" for name in ("lookahead", "startup", "placebo", "masked", "costs")}
SHORT: dict[str, Any] = {"strategy": "sma_cross", "symbols": ["BTCUSDT"], "end": "2025-03-03T16:00Z"}

WRONG = [
    ("no_such_tool", {}, "there is no tool 'no_such_tool' (one of list_runs,"),
    ("run_figures", {"run": "nosuchrun"}, "no run 'nosuchrun'"),
    ("run_figures", {"run": "../secret"}, "matching regex"),
    ("run_figures", {"rum": "x"}, "contains unknown field `rum` (arguments: run)"),
    ("backtest", {"strategy": "sma_cros"}, "unknown strategy 'sma_cros' (did you mean sma_cross?"),
    ("backtest", {"strategy": "/tmp/evil.py"}, "unknown strategy '/tmp/evil.py'"),
    ("backtest", {"strategy": "os:system"}, "unknown strategy 'os:system'"),
    ("backtest", {"klines": ["../../etc/passwd"]}, "is no data file that jobs may read"),
    ("backtest", {"klines": ["sample/../../x.csv"]}, "is no data file that jobs may read"),
    ("backtest", {"klines": ["--config=x"]}, "is no data file that jobs may read"),
    ("backtest", {"kind": "import"}, "there is no argument 'kind'"),
    ("sweep", {"points": 0}, "Expected `int` >= 1"),
    ("diff_runs", {"a": "latest"}, "missing required field `b`"),
    ("read_doc", {"page": "evidnce"}, "there is no page 'evidnce' (did you mean evidence?"),
    ("read_doc", {"page": "../README"}, "there is no page"),
    ("read_doc", {"page": "evidence", "section": "The verdct"}, "did you mean The verdict?"),
    ("list_tries", {"study": "abc"}, "there is no study 'abc'"),
    ("command_agent", {"action": "kill"}, "commands of assistants are refused"),
]


@pytest.mark.slow
async def test_what_an_assistant_reads_and_what_it_is_refused(tapewire: Tapewire, tmp_path: Path) -> None:
    made = tapewire("backtest", "--strategy", "sma_cross", "--symbol", "BTCUSDT", "--json")
    run = json.loads(made.out)["run"]
    async with assistant(tmp_path) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert tools.keys() == READING | RESEARCH | CHECKS  # no command
        for tool in tools.values():
            assert tool.input_schema["type"] == tool.output_schema["type"] == "object"  # type: ignore[index]
            for schema in (tool.input_schema, tool.output_schema):
                jsonschema.Draft202012Validator.check_schema(schema)
            assert "kind" not in tool.input_schema["properties"] or tool.name == "list_runs"
            assert tool.description
            assert tool.annotations is not None
            assert bool(tool.annotations.read_only_hint) == (tool.name in READING)
        (listed,) = answer(await client.call_tool("list_runs", {}))["items"]
        assert (listed["id"], listed["strategy"]) == (run, "sma_cross")
        figures = answer(await client.call_tool("run_figures", {"run": run[:15]}))
        assert figures["metrics"]["trades"]["trades"] == json.loads(made.out)["trades"]
        (study,) = answer(await client.call_tool("list_tries", {}))["studies"]
        tries = answer(await client.call_tool("list_tries", {"run": run}))
        assert (tries["study"]["id"], tries["count"]) == (study["study"], 1)
        assert tries["tries"][0]["by"] == "cli"
        async with asyncio.timeout(PATIENCE):
            while (data := answer(await client.call_tool("list_data", {})))["reading"]:
                await asyncio.sleep(0.2)
        facts = {one["name"]: one["facts"] for one in data["items"]}
        bars = facts["sample/BTCUSDT-1m.csv"]
        assert (bars["kind"], bars["symbol"], bars["interval"]) == ("klines", "BTCUSDT", 60_000)
        assert bars["end"] - bars["first"] == bars["rows"] * 60_000  # and so there are no gaps
        assert facts["sample/headlines.csv"]["kind"] == "news"
        strategies = answer(await client.call_tool("list_strategies", {}))["strategies"]
        assert [one["name"] for one in strategies] == ["buy_and_hold", "fusion", "sentiment", "sma_cross"]
        template = answer(await client.call_tool("strategy_template", {"name": "mine", "template": "news"}))
        compile(template["source"], template["file"], "exec")
        assert not (tmp_path / "mine.py").exists()
        (hit, *_) = answer(await client.call_tool("search_docs", {"query": "deflated by N tries"}))["hits"]
        text = answer(await client.call_tool("read_doc", {"page": hit["page"], "section": hit["section"]}))
        assert "tries" in text["text"]
        for name, arguments, why in WRONG:
            assert why in refusal(await client.call_tool(name, arguments)), name
        resources = {one.uri: one for one in (await client.list_resources()).resources}
        assert {"tapewire://docs/evidence", f"tapewire://runs/{run}"} <= resources.keys()
        (page,) = (await client.read_resource("tapewire://docs/evidence")).contents
        assert page.text.startswith("# Evidence")  # type: ignore[union-attr]
        (detail,) = (await client.read_resource(f"tapewire://runs/{run}")).contents
        assert json.loads(detail.text)["metrics"]["metrics"] == figures["metrics"]  # type: ignore[union-attr]
        for wrong in ("tapewire://docs/nothing", "tapewire://runs/nothing", "file:///etc/passwd"):
            with pytest.raises(Exception, match=r"there is no|no run"):
                await client.read_resource(wrong)


@pytest.mark.slow
async def test_the_more_an_assistant_tries_the_less_its_first_result_is_worth(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """50 backtests in a long run (`make test-long`)."""
    count = usual(4, long=50)
    (tmp_path / "config.toml").write_text(f'[store]\nurl = "{database.name}"\n')
    steps: list[tuple[float, str | None]] = []

    async def note(share: float, total: float | None, line: str | None) -> None:
        assert total == 1.0
        steps.append((share, line))

    async with assistant(tmp_path) as client:
        studies = []
        for number in range(count):
            arguments = {**SHORT, "params": {"fast": 5 + number, "slow": 100}}
            found = answer(await client.call_tool("backtest", arguments, progress_callback=note))
            studies.append(found["study"])
        assert [one["tries"] for one in studies] == list(range(1, count + 1))
        again = answer(await client.call_tool("backtest", {**SHORT, "params": {"fast": 5, "slow": 100}}))
        last = again["study"]
        assert (last["tries"], last["sharpe"]) == (count, studies[0]["sharpe"])  # the same variant
        assert last["deflated_sharpe"] < studies[0]["deflated_sharpe"]
        tries = answer(await client.call_tool("list_tries", {"run": again["run"]}))
    assert tries["tries"][0]["deflated_sharpe"] == last["deflated_sharpe"]
    assert tries["tries"][0]["evaluations"] == 2
    # by hand, from the ratios that were answered
    ratios, quantile, gamma = [one["sharpe"] for one in studies], NormalDist().inv_cdf, 0.5772156649015329
    luck = (1 - gamma) * quantile(1 - 1 / count) + gamma * quantile(1 - 1 / (count * e))
    best = sqrt(variance(ratios)) * luck
    first = read_tries(database)[0]
    assert first.skewness is not None
    assert first.kurtosis is not None
    spread = 1 - first.skewness * ratios[0] + (first.kurtosis - 1) / 4 * ratios[0] ** 2
    z = (ratios[0] - best) * sqrt(first.periods - 1) / sqrt(spread)
    assert last["expected_best"] == pytest.approx(best)
    assert last["deflated_sharpe"] == pytest.approx(NormalDist().cdf(z))
    assert {one.by for one in read_tries(database)} == {f"mcp {NAME}"}
    assert {"starting", "replaying"} <= {(line or "").partition(" 20")[0] for _, line in steps}


@pytest.mark.slow
async def test_a_cancelled_call_leaves_no_process(tmp_path: Path) -> None:
    began = asyncio.Event()

    async def note(_: float, __: float | None, line: str | None) -> None:
        if "replaying" in (line or ""):
            began.set()

    def workers() -> list[psutil.Process]:
        found = []
        for one in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # also a zombie, which has ended
                found += [one] if "agent.cli.job_worker" in " ".join(one.cmdline()) else []
        return found

    async with assistant(tmp_path) as client:
        ranges = ["fast=2:60", "slow=61:160", "weight=0.1,0.2,0.3"]
        arguments = {"strategy": "sma_cross", "ranges": ranges, "points": 10, "limit": 2000}
        call = asyncio.create_task(client.call_tool("sweep", arguments, progress_callback=note))
        async with asyncio.timeout(PATIENCE):
            await began.wait()
        assert workers()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await until(lambda: not workers())
        assert answer(await client.call_tool("list_data", {}))["items"]  # the server lives
        (record,) = tmp_path.rglob("jobs/*.json")
        await until(lambda: json.loads(record.read_bytes())["state"] == "cancelled")


@pytest.mark.slow
async def test_standard_output_has_nothing_but_the_protocol(tmp_path: Path) -> None:
    """Also if the client sends nonsense, and while a job runs and logs."""
    (tmp_path / "mine.py").write_text(
        "import tapewire as tw\n\nprint('imported')\n\n"
        "class Mine(tw.Strategy[tw.StrategyParams]):\n"
        "    def on_start(self, market: tw.Market) -> None:\n        print('started')\n"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tapewire", "mcp"),
        cwd=tmp_path,
        env=environment(),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=1 << 22,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    hello = {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "raw", "version": "1"},
    }
    call = {"name": "backtest", "arguments": {"strategy": "mine.py", "symbols": ["BTCUSDT"]}}
    for message in (
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        "nonsense {",
        {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": call},
    ):
        text = message if isinstance(message, str) else json.dumps(message)
        process.stdin.write(f"{text}\n".encode())
    answered: dict[Any, Any] = {}
    async with asyncio.timeout(PATIENCE):
        while 2 not in answered:
            found = json.loads(await process.stdout.readline())
            assert found["jsonrpc"] == "2.0"
            answered[found.get("id")] = found
    assert answered[1]["result"]["serverInfo"]["name"] == "tapewire"
    assert answered[2]["result"]["isError"] is False, answered[2]
    rest, complaints = await process.communicate(b"")  # which closes its input
    assert rest == b""
    assert b"job started" in complaints
    assert process.returncode == 0


def test_without_the_sdk_the_verb_says_what_is_missing(
    tapewire: Tapewire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mcp", None)
    done = tapewire("mcp")
    assert done.code == 2
    assert "pip install 'tapewire[mcp]'" in done.err
