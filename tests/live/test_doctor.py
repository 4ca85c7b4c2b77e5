"""The doctor finds what is wrong, and says what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.live.doctor import Check, examine
from agent.sandbox import Sandbox
from agent.sandbox.faults import parse_fault
from tests.live.world import SENTIMENT, options, settings


async def examined(tmp_path: Path, fault: str = "", **sections: Any) -> dict[str, Check]:
    """At a market in real time."""
    faults = (parse_fault(fault),) if fault else ()
    async with Sandbox(options(speed=1, news=True, faults=faults)) as sandbox:
        config = settings(sandbox.rest_url, tmp_path, **sections)
        return {check.name: check for check in await examine(config, sandbox.clock)}


async def test_all_is_well(tmp_path: Path, write_model: Any) -> None:
    model = {"path": str(write_model(tmp_path / "model"))}
    checks = await examined(tmp_path, strategy=SENTIMENT, model=model)
    assert list(checks) == ["strategy", "store", "model", "feed 127.0.0.1", "clock", "history", "websocket"]
    assert [check for check in checks.values() if not check.ok or check.hint] == []
    assert "scores a headline in" in checks["model"].found
    assert "accepts 2 topics" in checks["websocket"].found
    assert "entries, the newest of" in checks["feed 127.0.0.1"].found


async def test_what_a_strategy_does_not_need_is_not_looked_for(tmp_path: Path) -> None:
    checks = await examined(tmp_path)
    assert list(checks) == ["strategy", "store", "clock", "history", "websocket"]
    assert all(check.ok for check in checks.values())


ROWS: list[tuple[str, dict[str, Any], str, str]] = [
    ("skew,ms=5000", {}, "clock", "ms behind the exchange's (synchronise it by NTP)"),
    ("skew,ms=-5000", {}, "clock", "ms ahead of the exchange's"),
    ("status,on=rest/v5/market/time,code=403", {}, "clock", "answered HTTP 403"),
    ("retcode,on=rest/v5/market/kline,code=10016", {}, "history", "can't be had"),
    ("status,on=ws/public/connect,code=500", {}, "websocket", "answered HTTP 500"),
    ("drop,on=ws/public/ack", {}, "websocket", "no answer to a subscription"),
    ("status,on=feeds/*,code=500", {}, "feed 127.0.0.1", "500"),
    ("truncate,on=feeds/*", {"news": {"max_bytes": 10}}, "feed 127.0.0.1", "10"),
    ("", {"market": {"symbols": ["BTCUSDT", "NONEUSDT"]}}, "websocket", "refuses kline.1.NONEUSDT"),
    ("", {"market": {"symbols": ["BTCUSDT", "NONEUSDT"]}}, "history", "NONEUSDT"),
    ("", {"model": {"path": "/nowhere"}}, "model", "/nowhere"),
    ("", {"store": {"url": "sqlite:////proc/none/store.db"}}, "store", "can't be made"),
    ("", {"strategy": {"name": "sentimnt", "params": {}}}, "strategy", "did you mean sentiment"),
]


@pytest.mark.parametrize(("fault", "sections", "name", "said"), ROWS, ids=[f"{row[2]}: {row[3]}" for row in ROWS])
async def test_what_is_wrong_is_named(
    tmp_path: Path, write_model: Any, fault: str, sections: dict[str, Any], name: str, said: str
) -> None:
    model = {"path": str(write_model(tmp_path / "model"))}
    checks = await examined(tmp_path, fault, **({"strategy": SENTIMENT, "model": model} | sections))
    check = checks[name]
    assert not check.ok
    assert said in f"{check.found} ({check.hint})"


async def test_an_exchange_that_is_not_there_fails_its_checks_alone(tmp_path: Path) -> None:
    checks = {check.name: check.ok for check in await examine(settings("http://127.0.0.1:9", tmp_path))}
    assert checks == {"strategy": True, "store": True, "clock": False, "history": False, "websocket": False}
