"""The strategy of the running agent is replaced without a restart, and the run is decided again alike."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from agent.analysis.report.html import write_report
from agent.analysis.report.report_loader import load_report_data
from agent.core.errors import ConfigError, SafetyError, StrategyError, TapewireError, UsageError
from agent.core.events import MINUTE_MS, Command, Notice, Order, RiskState, StrategyChange
from agent.core.risk import STRATEGY
from agent.live import strategy_switch
from agent.live.app import make_agent
from agent.live.control_socket import ControlRequest, send_request
from agent.replay.verify import verify
from agent.sandbox import Sandbox
from agent.store.database import Database
from agent.store.journal import Journal, find_segments
from agent.store.queries import find_run, list_runs, read_decisions, read_rows
from agent.store.strategy_sources import save_source, trust_source
from tests.support.command_line import run_command
from tests.support.live import (
    SYMBOLS,
    assert_sound,
    handled,
    journal,
    living,
    load_words,
    of,
    settings,
    until,
)

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


@pytest.mark.slow
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
        ("mine.py", False),
        ("mine.py", False),
        ("third.py", True),
    ]
    assert changes[0].sha256 == changes[1].sha256 != ""
    assert {"first", "second", "strategy replaced", "third"} <= reasons_of(database)
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


REFUSED: tuple[tuple[str, dict[str, str], type[TapewireError], str], ...] = (
    ("def on_kline(:\n", {}, ConfigError, r"mine\.py, line 1: SyntaxError: invalid syntax"),
    (f"{FIRST}\n1 // 0\n", {}, ConfigError, r"mine\.py, line 20: ZeroDivisionError"),
    (f"{FIRST}\nraise SystemExit(3)\n", {}, ConfigError, r"it ends the program: SystemExit\(3\)"),
    (FIRST, {"strategy": "FILE:Yours"}, ConfigError, r"Yours does not exist in .*mine\.py"),
    ("import tapewire\n", {}, ConfigError, "defines no strategies"),
    (FIRST, {"params": '{"wait": "5"}'}, ConfigError, "unknown parameter wait"),
    (FIRST, {"params": '{"weight": "much"}'}, ConfigError, "weight: Input should be a valid number"),
    (FIRST, {"params": "weight=5"}, UsageError, "params is not a JSON object"),
    (FIRST, {"sleeve": "slow"}, UsageError, "no sleeve 'slow'"),
    (f"from helper import x\n{FIRST}", {}, ConfigError, r"mine\.py, line 1: helper is in the strategy's"),
    (f"from .helper import x\n{FIRST}", {}, ConfigError, r"line 1: \.helper is in the strategy's folder"),
    (f"import nowhere_at_all\n{FIRST}", {}, ConfigError, "needs 'nowhere_at_all', which is not installed"),
    (FIRST.replace("on_kline", "on_signal"), {}, ConfigError, "reads headlines"),
    (FIRST.replace("on_kline", "on_prediction"), {}, ConfigError, "reads predictions"),
    (f"{FIRST}    intervals = ('90s',)\n", {}, ConfigError, "declares bars of 90s"),
    (f"{FIRST}    def on_start(self, market):\n        1 // 0\n", {}, StrategyError, r"mine\.py, line 20:"),
    (FIRST, {"strategy": "FILE.py"}, ConfigError, "can't be read: No such file"),
    (FIRST, {"strategy": "nowhere.mine:Mine"}, ConfigError, "no module 'nowhere'"),
    (FIRST, {"strategy": ""}, UsageError, "use-strategy needs a strategy"),
)
"""Source of the file, arguments of the command, and the error that it is answered with."""


async def test_a_strategy_that_does_not_load_leaves_the_old_one_in_place(
    sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    file = tmp_path / "mine.py"
    (tmp_path / "helper.py").write_text("x = 1\n")
    config = settings(sandbox.rest_url, tmp_path)
    daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
    reasons = []
    async with living(daemon):
        await until(lambda: handled(daemon) >= 1)
        before = daemon.pipeline.engine.strategy
        for source, args, error, match in REFUSED:
            file.write_text(source)
            named = {name: text.replace("FILE", str(file)) for name, text in args.items()}
            with pytest.raises(error, match=match) as raised:
                await daemon.command("use-strategy", {"strategy": str(file)} | named, "test")
            reason, _, rest = raised.value.message.partition("; the old strategy")
            assert rest == " stays"
            reasons.append(reason)
        with pytest.raises(UsageError, match="needs params"):
            await daemon.command("set-strategy", {}, "test")
        assert daemon.pipeline.engine.strategy is before
    refused = [one for one in of(Command, journal(database)) if one.action == "strategy-refused"]
    assert [one.args["reason"] for one in refused[:-1]] == reasons
    assert {one.by for one in refused} == {"test"}
    assert not list(read_rows(database, find_run(database).id, StrategyChange))
    assert_sound(database, "latest", config)


async def test_a_source_that_hangs_is_given_up(
    sandbox: Sandbox, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strategy_switch, "_LONGEST", 0.2)
    file = tmp_path / "hangs.py"
    file.write_text(f"import threading\nthreading.Event().wait()\n{FIRST}")
    daemon = make_agent(
        settings(sandbox.rest_url, tmp_path), database, load_model=load_words, clock=sandbox.clock
    )
    async with living(daemon):
        await until(lambda: handled(daemon) >= 1)
        with pytest.raises(
            ConfigError, match=r"hangs\.py was not loaded within 0\.2 s; the old strategy stays"
        ):
            await daemon.command("use-strategy", {"strategy": str(file)}, "test")
        before = handled(daemon)
        await until(lambda: handled(daemon) >= before + 5)


async def test_a_command_that_was_journalled_before_the_process_died_is_carried_out_by_the_next(
    sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    config = settings(sandbox.rest_url, tmp_path)
    daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
    async with living(daemon):
        await until(lambda: handled(daemon) >= 5)
    file = tmp_path / "mine.py"
    sha256 = save_source(database, FIRST.encode())
    trust_source(tmp_path, FIRST.encode())
    run = find_run(database)
    at = journal(database)[-1].available_at
    args = {"strategy": str(file), "class": "Mine", "sha256": sha256, "params": '{"weight": 0.1}'}
    Journal(database, run.id).append([Command("use-strategy", at, at, args, "uid 0")])
    daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
    async with living(daemon):
        assert daemon.status().strategy == "mine.py:Mine"
        await until(lambda: handled(daemon) >= 10)
    assert verify(database, find_run(database), folder=tmp_path).identical


@pytest.mark.slow
async def test_segments_before_and_after_a_change_are_archived_by_another_process(
    sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(FIRST)
    sections = {"store": {"segment": "15m"}, "archive": {"folder": str(tmp_path / "archive")}}
    config = settings(sandbox.rest_url, tmp_path, strategy={"name": str(file), "params": {}}, **sections)
    daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)

    def archived() -> int:
        return sum(one.pruned_at is not None for one in find_segments(database, daemon.pipeline.run.id))

    async with living(daemon):
        await until(lambda: handled(daemon) >= 5)
        file.write_text(SECOND)
        await daemon.command("use-strategy", {"strategy": str(file)}, "test")
        file.unlink()  # the other process has the store and the copy alone
        boundaries = daemon.pipeline.snapshots.boundaries
        await until(lambda: daemon.pipeline.snapshots.boundaries >= boundaries + 2 and archived() >= 3)
    proof = verify(database, find_run(database), folder=tmp_path)
    assert proof.identical
    assert proof.snapshots >= 3


async def test_an_edited_file_waits_for_the_command(
    sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    file = tmp_path / "edited.py"
    file.write_text(FIRST)
    config = settings(sandbox.rest_url, tmp_path, strategy={"name": str(file), "params": {}})
    daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
    async with living(daemon):
        await until(lambda: "first" in reasons_of(database))
    file.write_text(SECOND)
    daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
    async with living(daemon):
        await until(lambda: handled(daemon) >= 20)
        assert "second" not in reasons_of(database)
        await daemon.command("use-strategy", {"strategy": str(file)}, "test")
        await until(lambda: "second" in reasons_of(database))
    assert verify(database, find_run(database), folder=tmp_path).identical
    assert len(list_runs(database)) == 1
    for name in [name for name in sys.modules if name.startswith("edited")]:
        del sys.modules[name]  # as in a process of its own
    daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock, new=True)
    async with living(daemon):
        await until(lambda: "second" in reasons_of(database))
    assert len(list_runs(database)) == 2
    assert reasons_of(database) == {"second"}


async def test_a_source_that_never_ran_on_this_machine_runs_only_if_it_is_trusted(
    sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(FIRST)
    config = settings(sandbox.rest_url, tmp_path, store={"snapshot_every": 0})
    daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
    async with living(daemon):
        await until(lambda: handled(daemon) >= 5)
        reply = await daemon.command("use-strategy", {"strategy": str(file)}, "test")
        await until(lambda: handled(daemon) >= 10)
    run, sha256 = find_run(database), reply["source"]
    assert verify(database, run).identical  # the file is still there
    file.write_text(SECOND)
    with pytest.raises(SafetyError, match=f"source {sha256[:12]} of {file} has never run on this machine"):
        verify(database, run, folder=tmp_path / "elsewhere")
    assert verify(database, run, folder=tmp_path / "elsewhere", trust_strategy=True).identical
    assert verify(database, run, folder=tmp_path).identical
    copy = tmp_path / "strategies" / f"{sha256}.py"
    assert (copy.read_text(), copy.stat().st_mode & 0o777) == (FIRST, 0o600)
    copy.unlink()
    daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
    with pytest.raises(SafetyError, match="--trust") as error:
        await daemon.run(asyncio.Event())
    hint = f"tapewire strategy show --run {run.id} {sha256[:12]}"
    assert hint in error.value.hint


@pytest.mark.parametrize("changed", [False, True])
async def test_an_installed_module_is_compared_by_its_hash(
    sandbox: Sandbox, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: bool
) -> None:
    package = f"installed_{'changed' if changed else 'same'}"
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").touch()
    module = tmp_path / package / "mine.py"
    module.write_text(FIRST)
    monkeypatch.syspath_prepend(str(tmp_path))
    config = settings(sandbox.rest_url, tmp_path)
    daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
    async with living(daemon):
        await until(lambda: handled(daemon) >= 5)
        name = f"{package}.mine:Mine"
        reply = await daemon.command("use-strategy", {"strategy": name}, "test")
        assert (reply["strategy"], len(reply["source"])) == (name, 64)
        await until(lambda: handled(daemon) >= 10)
        if changed:
            module.write_text(SECOND)
            with pytest.raises(ConfigError, match="has changed since it was imported"):
                await daemon.command("use-strategy", {"strategy": name}, "test")
    run = find_run(database)
    if changed:
        with pytest.raises(SafetyError, match="has changed since the run"):
            verify(database, run, folder=tmp_path)
    else:
        assert verify(database, run, folder=tmp_path).identical


async def test_an_error_of_the_strategy_is_mended_by_another_source_and_a_resume(
    sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(FIRST.replace("self.bars += 1", "self.bars += 1 // (self.bars != 150)"))
    config = settings(sandbox.rest_url, tmp_path, strategy={"name": str(file), "params": {}})
    daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
    async with living(daemon):
        await until(lambda: daemon.pipeline.engine.risk.rule == STRATEGY)
        file.write_text(SECOND)
        reply = await daemon.command("use-strategy", {"strategy": str(file)}, "test")
        assert reply["risk"] == "HALTED"
        await daemon.command("resume", {}, "test")
        assert daemon.status().risk is RiskState.ACTIVE
        await until(lambda: "second" in reasons_of(database))
    assert verify(database, find_run(database), folder=tmp_path).identical


def reasons_of(database: Database) -> set[str]:
    rows = read_decisions(database, find_run(database).id)
    return {one.decision.reason for one in rows if isinstance(one.decision, Order)}


HOURS = '''
from tapewire import Strategy


class Hours(Strategy):
    """Notes the hours that it finds at its start."""

    intervals = ("1m", "1h")
    warm_up = {"1h": 5, "1m": 90}

    def on_start(self, market):
        self.found = {
            symbol: [list(map(float, (bar.start[at], bar.open[at], bar.high[at], bar.low[at], bar.close[at],
                                      bar.missing[at]))) for at in range(len(bar))]
            for symbol in market.symbols
            for bar in [market.bars(symbol, "1h", 5)]
        }
        self.minutes = {symbol: market.bars(symbol, "1m", 90).start.tolist() for symbol in market.symbols}

    def on_bar(self, bar, market):
        if bar.interval == "1h":
            self.notify(f"{bar.symbol} {bar.start} {bar.open} {bar.close} {bar.missing:g}")
'''


@pytest.mark.slow
async def test_bars_that_a_strategy_needs_are_read_from_the_venue_before_it_is_used(
    sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    file = tmp_path / "hours.py"
    file.write_text(HOURS)
    config = settings(sandbox.rest_url, tmp_path)
    daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
    async with living(daemon):
        await until(lambda: handled(daemon) >= 10)
        reply = await daemon.command("use-strategy", {"strategy": str(file)}, "test")
        assert reply["short"] == []
        found, minutes = (getattr(daemon.pipeline.engine.strategy, name) for name in ("found", "minutes"))
        await until(lambda: len(list(read_rows(database, find_run(database).id, Notice))) >= 4)
    assert_sound(database, "latest", config)
    for symbol in SYMBOLS:
        series = sandbox.market.quotes[symbol].series
        assert len(minutes[symbol]) == 90
        assert {after - before for before, after in itertools.pairwise(minutes[symbol])} == {MINUTE_MS}
        assert len(found[symbol]) == 5
        for start, *prices, missing in found[symbol]:
            bars = [series.bar(series.index_at(int(start) + minute * MINUTE_MS)) for minute in range(60)]
            truth = (bars[0].open, max(b.high for b in bars), min(b.low for b in bars), bars[-1].close)
            assert (tuple(prices), missing) == (truth, 0.0)
    notes = [one.text.split() for one in read_rows(database, find_run(database).id, Notice)]
    assert {missing for *_, missing in notes} == {"0"}


async def test_the_command_line_changes_lists_and_shows_strategies(
    sandbox: Sandbox, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("agent.toml").write_text(
        f'[live]\nfolder = "{tmp_path}"\n[store]\nurl = "sqlite:///{tmp_path / "store.db"}"\n'
    )
    Path("mine.py").write_text(FIRST)

    async def tapewire(*arguments: str) -> tuple[int, str]:
        given = [*arguments, "-c", "agent.toml"]
        result = await asyncio.to_thread(run_command, given, env={"COLUMNS": "400"})
        error = result.exception if isinstance(result.exception, TapewireError) else None
        return result.exit_code, str(error) if error else result.stdout

    config = settings(sandbox.rest_url, tmp_path)
    daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
    async with living(daemon):
        await until(lambda: handled(daemon) >= 5)
        code, text = await tapewire("strategy", "use", "mine.py", "--set", "weight=0.3", "--flatten")
        version = daemon.pipeline.engine.version
        sha256 = version["sha256"]
        assert (version["strategy"], version["flatten"]) == ("mine.py", "true")
        assert version["file"] == str(tmp_path / "mine.py")
        assert (code, text) == (0, f"mine.py:Mine {sha256[:12]} decides with weight=0.3\n")
        code, text = await tapewire("strategy", "set", "weight=0.15", "--json")
        assert (json.loads(text)["strategy"], json.loads(text)["params"]) == (
            "mine.py:Mine",
            {"weight": 0.15},
        )
        code, text = await tapewire("status")
        assert f"strategy mine.py:Mine {sha256[:12]} with weight=0.15 since 20" in text
        await tapewire("halt")
        code, text = await tapewire("strategy", "use", "sma_cross")
        assert "risk is HALTED: it opens nothing until tapewire resume" in text
        code, text = await tapewire("strategy", "set", "fast")
        assert "'fast' sets nothing" in text
        code, text = await tapewire("strategy", "set", "fast=999")
        assert "the old strategy stays" in text
    Path("mine.py").unlink()
    code, text = await tapewire("strategy", "list", "--run", "latest")
    lines = text.splitlines()
    assert [line.split("  ")[1:] for line in lines[::2]] == [
        ["sma_cross", "built in"],
        [
            "mine.py:Mine",
            f"{sha256[:12]}, event {row(database, 0):,} by uid {os.geteuid()}, positions closed",
        ],
        ["mine.py:Mine", f"{sha256[:12]}, event {row(database, 1):,} by uid {os.geteuid()}"],
        ["sma_cross", f"built in, event {row(database, 2):,} by uid {os.geteuid()}"],
    ]
    assert lines[1::2][1:3] == ["  weight=0.3", "  weight=0.15"]
    assert await tapewire("strategy", "show", sha256[:6], "--run", "latest") == (0, FIRST)
    code, text = await tapewire("strategy", "show", "5e5e", "--run", "latest")
    assert f"the run has no source 5e5e (its sources: {sha256[:12]})" in text
    assert (await tapewire("verify"))[1].startswith("identical: ")
    copy = tmp_path / "strategies" / f"{sha256}.py"
    copy.unlink()
    code, text = await tapewire("verify")
    assert "has never run on this machine" in text
    code, text = await tapewire("strategy", "show", sha256[:6], "--run", "latest", "--trust")
    assert copy.read_text() == FIRST
    assert (await tapewire("verify"))[1].startswith("identical: ")


def row(database: Database, number: int) -> int:
    """Return the event of a change of the strategy."""
    rows = read_decisions(database, find_run(database).id)
    return [one.event_seq for one in rows if isinstance(one.decision, StrategyChange)][number]
