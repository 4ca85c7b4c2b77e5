"""Backoff policy, reconnection delays and request budgets."""

from __future__ import annotations

import random
from itertools import islice, pairwise

from hypothesis import given
from hypothesis import strategies as st

from agent.system.backoff import BackoffConfig, Budget, Reconnection, delays

STEADY = BackoffConfig(first=500, factor=2, ceiling=6_000, jitter=0, stable_after=60_000)


def test_waits_grow_up_to_the_ceiling() -> None:
    assert list(islice(delays(STEADY, random.Random(1)), 7)) == [0.5, 1, 2, 4, 6, 6, 6]
    assert next(islice(delays(STEADY, random.Random(1)), 5_000, None)) == 6


@given(st.floats(0, 1), st.integers())
def test_jitter_shortens_a_wait_by_at_most_its_share(jitter: float, seed: int) -> None:
    policy = STEADY.model_copy(update={"jitter": jitter})
    for wait, full in zip(delays(policy, random.Random(seed)), [0.5, 1, 2, 4, 6, 6], strict=False):
        assert full * (1 - jitter) <= wait <= full


def test_short_lived_connections_wait_longer_each_time() -> None:
    reconnection = Reconnection(STEADY, random.Random(1))
    assert [reconnection.after(lived) for lived in (0, 0.1, 59.9)] == [0.5, 1, 2]


def test_a_stable_connection_resets_the_wait() -> None:
    reconnection = Reconnection(STEADY, random.Random(1))
    assert [reconnection.after(lived) for lived in (0, 0, 60, 0, 3_600)] == [0.5, 1, 0.5, 1, 0.5]


def test_a_closed_budget_allows_nothing_until_it_opens() -> None:
    budget = Budget(10, 60)
    budget.close(25)
    budget.close(20)  # a shorter ban doesn't lift a longer one
    assert budget.delay(10) == 15
    assert budget.delay(25) == 0


@given(limit=st.integers(1, 5), pauses=st.lists(st.floats(0, 3), min_size=1, max_size=40))
def test_no_window_holds_more_uses_than_the_limit(limit: int, pauses: list[float]) -> None:
    budget = Budget(limit, 5)
    now, used = 0.0, []
    for pause in pauses:
        now += pause
        now += budget.delay(now)
        budget.use(now)
        used.append(now)
    assert all(later - earlier >= 5 - 1e-9 for earlier, later in zip(used, used[limit:], strict=False))
    assert all(earlier <= later for earlier, later in pairwise(used))
