"""`tapewire doctor` finds faults and suggests fixes."""

from __future__ import annotations

import random
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from agent.live.system_check import CheckResult, run_checks
from agent.sandbox import Sandbox
from agent.sandbox.faults import parse_fault
from agent.store.database import open_database
from agent.store.journal import Journal
from agent.store.recorder import Recorder
from agent.store.runs import RunKind
from tests.store.store_damage import flip_bytes
from tests.store.store_samples import a_run, pause_commands
from tests.support.live import SENTIMENT, options, settings


async def examined(tmp_path: Path, fault: str = "", **sections: Any) -> dict[str, CheckResult]:
    """Run the checks against a sandbox in real time."""
    faults = (parse_fault(fault),) if fault else ()
    async with Sandbox(options(speed=1, news=True, faults=faults)) as sandbox:
        config = settings(sandbox.rest_url, tmp_path, **sections)
        return {check.name: check for check in await run_checks(config, sandbox.clock)}


async def test_all_checks_pass(tmp_path: Path, write_model: Any) -> None:
    model = {"path": str(write_model(tmp_path / "model"))}
    checks = await examined(tmp_path, strategy=SENTIMENT, model=model)
    assert list(checks) == ["strategy", "store", "model", "feed 127.0.0.1", "clock", "history", "websocket"]
    assert [check for check in checks.values() if not check.ok or check.hint] == []
    assert "scores a headline in" in checks["model"].found
    assert "accepts 2 topics" in checks["websocket"].found
    assert "entries, the newest of" in checks["feed 127.0.0.1"].found


async def test_checks_depend_on_what_the_strategy_needs(tmp_path: Path) -> None:
    checks = await examined(tmp_path)
    assert list(checks) == ["strategy", "store", "clock", "history", "websocket"]
    assert all(check.ok for check in checks.values())


ROWS: list[tuple[str, dict[str, Any], str, str]] = [
    ("skew,ms=5000", {}, "clock", "ms behind the exchange's (synchronise it by NTP)"),
    ("skew,ms=-5000", {}, "clock", "ms ahead of the exchange's"),
    ("status,on=rest/v5/market/time,code=403", {}, "clock", "answered HTTP 403"),
    ("retcode,on=rest/v5/market/kline,code=10016", {}, "history", "could not fetch"),
    ("status,on=ws/public/connect,code=500", {}, "websocket", "answered HTTP 500"),
    ("drop,on=ws/public/ack", {}, "websocket", "no answer to a subscription"),
    ("status,on=feeds/*,code=500", {}, "feed 127.0.0.1", "500"),
    ("truncate,on=feeds/*", {"news": {"max_bytes": 10}}, "feed 127.0.0.1", "10"),
    ("", {"market": {"symbols": ["BTCUSDT", "NONEUSDT"]}}, "websocket", "rejects kline.1.NONEUSDT"),
    ("", {"market": {"symbols": ["BTCUSDT", "NONEUSDT"]}}, "history", "NONEUSDT"),
    ("", {"model": {"path": "/nowhere"}}, "model", "/nowhere"),
    ("", {"store": {"url": "sqlite:////proc/none/store.db"}}, "store", "can't be created"),
    ("", {"strategy": {"name": "sentimnt", "params": {}}}, "strategy", "did you mean sentiment"),
]


@pytest.mark.parametrize(
    ("fault", "sections", "name", "said"), ROWS, ids=[f"{row[2]}: {row[3]}" for row in ROWS]
)
async def test_each_fault_is_named(
    tmp_path: Path, write_model: Any, fault: str, sections: dict[str, Any], name: str, said: str
) -> None:
    model = {"path": str(write_model(tmp_path / "model"))}
    checks = await examined(tmp_path, fault, **({"strategy": SENTIMENT, "model": model} | sections))
    check = checks[name]
    assert not check.ok
    assert said in f"{check.found} ({check.hint})"


async def test_an_unreachable_exchange_fails_only_its_own_checks(tmp_path: Path) -> None:
    checks = {check.name: check.ok for check in await run_checks(settings("http://127.0.0.1:9", tmp_path))}
    assert checks == {"strategy": True, "store": True, "clock": False, "history": False, "websocket": False}


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAPEWIRE_API_KEY", "sandbox-key")
    monkeypatch.setenv("TAPEWIRE_API_SECRET", "sandbox-secret")


async def examined_venue(
    tmp_path: Path, fault: str = "", data: str = "", **execution: Any
) -> dict[str, CheckResult]:
    """Run the checks in testnet mode."""
    faults = (parse_fault(fault),) if fault else ()
    async with Sandbox(options(speed=1, faults=faults)) as sandbox:
        venue = {"venue": sandbox.rest_url, **execution}
        bybit = {"bybit": {"endpoint": data}} if data else {}
        config = settings(
            sandbox.rest_url, tmp_path, execution={"mode": "testnet", "testnet": venue}, **bybit
        )
        return {check.name: check for check in await run_checks(config, sandbox.clock)}


@pytest.mark.usefixtures("keys")
async def test_all_checks_of_a_venue_pass(tmp_path: Path) -> None:
    checks = await examined_venue(tmp_path)
    assert [check for check in checks.values() if not check.ok] == []
    assert "answers, " in checks["venue"].found
    assert checks["keys"].found == "accepted; 10,000.00 USDT in the account"
    assert checks["account"].found == "rules fit, one-way mode; 0 positions and 0 open orders in the account"


VENUE_ROWS: list[tuple[str, dict[str, Any], str, str]] = [
    ("skew,ms=20000", {}, "venue", "ms behind the venue's: more than the agent corrects"),
    ("retcode,on=rest/v5/account/*,code=10003", {}, "keys", "retCode 10003"),
    ("status,on=rest/v5/account/*,code=403", {}, "keys", "has banned this address"),
    ("", {"key_file": "/nowhere/keys"}, "keys", "can't be read"),
    ("", {"data": "mainnet"}, "keys", "their prices are not the same"),
]


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize(
    ("fault", "execution", "name", "said"), VENUE_ROWS, ids=[f"{row[2]}: {row[3]}" for row in VENUE_ROWS]
)
async def test_each_fault_at_a_venue_is_named(
    tmp_path: Path, fault: str, execution: dict[str, Any], name: str, said: str
) -> None:
    check = (await examined_venue(tmp_path, fault, **execution))[name]
    assert not check.ok
    assert said in check.found


async def test_missing_keys_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TAPEWIRE_API_KEY", raising=False)
    check = (await examined_venue(tmp_path))["keys"]
    assert "TAPEWIRE_API_KEY" in check.found
    assert "key_file" in check.hint


@pytest.mark.parametrize("full", [False, True])
async def test_a_damaged_store_is_detected(tmp_path: Path, full: bool) -> None:
    """The damaged pages are not read when the store is opened."""
    url = f"sqlite:///{tmp_path / 'store.db'}"
    with closing(open_database(url)) as database:
        Recorder(database, a_run(kind=RunKind.LIVE))
        Journal(database, "run-1").append(pause_commands(2_000))
    flip_bytes(
        tmp_path / "store.db",
        (tmp_path / "store.db").stat().st_size // 2 // 4096 * 4096,
        12,
        random.Random(1),
    )
    async with Sandbox(options(speed=1)) as sandbox:
        checks = {
            check.name: check
            for check in await run_checks(settings(sandbox.rest_url, tmp_path), sandbox.clock, full=full)
        }
    assert not checks["store"].ok
    assert "is damaged" in checks["store"].found
    assert checks["store"].hint
