"""Ids of runs: they sort by time, and runs of one second differ."""

from __future__ import annotations

from agent.replay.backtest import new_run_id


def test_a_thousand_runs_of_one_second_have_ids_of_their_own() -> None:
    assert len({new_run_id() for _ in range(1_000)}) == 1_000


def test_ids_sort_by_time_and_name_it() -> None:
    first, second = new_run_id(), new_run_id()
    assert first[:15] <= second[:15]
    day, time, chance = first.split("-")
    assert (len(day), len(time), len(chance)) == (8, 6, 8)
