"""The strategy of the running agent is replaced without a restart, and the run is decided again alike."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from agent.analysis.report.html import write_report
from agent.analysis.report.report_loader import load_report_data
from agent.core.errors import ConfigError, SafetyError, TapewireError
from agent.core.events import Command, Order, StrategyChange
from agent.live.app import make_agent
from agent.live.control_socket import ControlRequest, send_request
from agent.replay.verify import verify
from agent.sandbox import Sandbox
from agent.store.database import Database
from agent.store.queries import find_run, list_runs, read_decisions, read_rows
from tests.support.live import handled, journal, living, load_words, of, settings, until

FIRST = '''
from tapewire import Strategy, StrategyParams


class Params(StrategyParams):
    weight: float = 0.2


class Mine(Strategy[Params]):
    """Holds more and less in turn."""

    def __init__(self, params=None):
        super().__init__(params)
        self.bars = 0

    def on_kline(self, kline, market):
        self.bars += 1
        self.target(kline.symbol, weight=self.params.weight * (1 + self.bars // 4 % 2), reason="first")
'''
SECOND = FIRST.replace('"first"', '"second"').replace("// 4", "// 6")


async def send(folder: Path, do: str, **args: str) -> Any:
    return await asyncio.to_thread(send_request, folder, ControlRequest(do, args), timeout=30)


async def test_three_changes_of_the_strategy_and_a_restart_are_decided_again_alike(
    sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(FIRST)
    config = settings(sandbox.rest_url, tmp_path, strategy={"name": str(file), "params": {}})
    daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
    async with living(daemon):
        await until(lambda: handled(daemon) >= 10)
        file.write_text(SECOND)
        reply = await send(tmp_path, "use-strategy", strategy=str(file))
        assert (reply["strategy"], reply["params"]) == ("mine.py:Mine", {"weight": 0.2})
        await until(lambda: handled(daemon) >= 30)
        await send(tmp_path, "set-strategy", params=json.dumps({"weight": "0.1"}))
        await until(lambda: handled(daemon) >= 45)
        status = daemon.status()
        assert status.strategy == "mine.py:Mine"
        assert status.strategy_params == {"weight": 0.1}
    file.unlink()
    daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
    async with living(daemon):
        await until(lambda: handled(daemon) >= 15)
        assert daemon.status().strategy_params == {"weight": 0.1}
        third = tmp_path / "third.py"
        third.write_text(FIRST.replace('"first"', '"third"'))
        reply = await send(tmp_path, "use-strategy", strategy=f"{third}:Mine", flatten="true")
        assert reply["strategy"] == "third.py:Mine"
        await until(lambda: handled(daemon) >= 35)
    run = find_run(database)
    assert len(list_runs(database)) == 1
    changes = list(read_rows(database, run.id, StrategyChange))
    assert [(one.strategy, one.flatten) for one in changes] == [
        (str(file), False),
        (str(file), False),
        (str(third), True),
    ]
    assert changes[0].sha256 == changes[1].sha256 != ""
    orders = [one.decision for one in read_decisions(database, run.id) if isinstance(one.decision, Order)]
    reasons = {one.reason for one in orders}
    assert {"first", "second", "strategy replaced", "third"} <= reasons
    proof = verify(database, run, folder=tmp_path)
    assert proof.identical
    assert proof.snapshots
    data = load_report_data(database, run.id)
    assert [(one.strategy, one.stored, one.params) for one in data.strategies] == [
        (str(file), True, {"weight": 0.2}),
        ("mine.py:Mine", True, {"weight": 0.2}),
        ("mine.py:Mine", True, {"weight": 0.1}),
        ("third.py:Mine", True, {"weight": 0.2}),
    ]
    page, _ = write_report(data, tmp_path / "report.html")
    text = page.read_text()
    assert "strategy changed 3 ×, last to third.py:Mine" in text
    assert f"<code>sha256 {changes[2].sha256}</code>" in text
