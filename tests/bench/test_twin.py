"""`bench/twin.py`: the decisions are those of the run, with and without the twin."""

from __future__ import annotations

from bench.twin import measure


def test_the_twin_changes_no_decision() -> None:
    found = measure(minutes=3, rounds=1)
    assert found["same"]
    assert found["decisions"] > 10
    assert set(found["off"]) == set(found["on"]) == set(found["twin"]) == {"mean", "p50", "p99"}
    assert found["twin"]["mean"] < found["on"]["mean"]
