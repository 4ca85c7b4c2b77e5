"""A short run of bench/orders.py; its checks must detect spoilt results."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.sandbox.faults import parse_fault
from bench.orders import FAULTS, is_sound, trade


@pytest.mark.slow
async def test_no_order_is_lost_duplicated_or_unknown_under_any_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAPEWIRE_API_KEY", "sandbox-key")
    monkeypatch.setenv("TAPEWIRE_API_SECRET", "sandbox-secret")
    found = await trade(80, tuple(parse_fault(text) for text in FAULTS), 7, tmp_path)
    assert is_sound(found), found
    assert found["sent"] >= 80
    assert found["doubted"]
    for spoilt in (
        {"lost_fills": 1},
        {"doubled": 1},
        {"unknown": 1},
        {"drift": "0.01"},
        {"verify": "diverged"},
    ):
        assert not is_sound(found | spoilt)
