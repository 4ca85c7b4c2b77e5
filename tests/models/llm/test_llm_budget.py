"""Limits of an hour, on a clock that the test moves."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from agent.config.llm import LlmBudget
from models.sentiment.llm.llm_budget import HourBudget, Spending


class Timer:
    """Seconds that the test sets."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def spend(budget: HourBudget, tokens_in: int, tokens_out: int) -> str:
    """Spend one request whose estimate is right; return why not, or ""."""
    found = budget.reserve(tokens_in, tokens_out)
    if isinstance(found, str):
        return found
    budget.settle(found, tokens_in, tokens_out)
    return ""


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({}, ""),
        ({"requests": 3}, "budget of 3 requests an hour is spent"),
        ({"requests": 4}, ""),
        ({"tokens": 3_300}, "budget of 3,300 tokens an hour is spent"),
        ({"tokens": 4_400}, ""),
        # 1,000 tokens at 2 and 100 at 10 a million are 0.003
        ({"cost": 0.0119, "price_in": 2.0, "price_out": 10.0}, "budget of 0.0119 an hour is spent"),
        ({"cost": 0.0121, "price_in": 2.0, "price_out": 10.0}, ""),
        ({"cost": 0.01}, ""),  # without prices nothing costs
    ],
)
def test_the_fourth_request_in_an_hour_is_refused_beyond_a_limit(
    limits: dict[str, float], reason: str
) -> None:
    timer = Timer()
    budget = HourBudget(LlmBudget(**limits), timer)
    refusals = []
    for minute in range(4):
        timer.seconds = minute * 60.0
        refusals.append(spend(budget, 1_000, 100))
    assert refusals == ["", "", "", reason]
    timer.seconds = 3_600.0  # the first is an hour old
    assert spend(budget, 1_000, 100) == ""


def test_an_hour_is_counted_back_from_now() -> None:
    timer = Timer()
    budget = HourBudget(LlmBudget(requests=2), timer)
    found = {}
    for second in (0, 1_800, 3_599, 3_600, 3_601, 5_399, 5_400):
        timer.seconds = float(second)
        found[second] = not spend(budget, 1, 1)
    assert found == {0: True, 1_800: True, 3_599: False, 3_600: True, 3_601: False, 5_399: False, 5_400: True}


def test_the_servers_counts_replace_the_estimate_and_totals_are_never_forgotten() -> None:
    timer = Timer()
    budget = HourBudget(LlmBudget(tokens=1_000, cost=1.0, price_in=1_000.0, price_out=2_000.0), timer)
    first = budget.reserve(600, 100)
    assert isinstance(first, Spending)
    assert budget.reserve(250, 100) == "budget of 1,000 tokens an hour is spent"
    budget.settle(first, 400, 50)  # costs 0.4 and 0.1
    assert (budget.total_in, budget.total_out, budget.total_cost) == (400, 50, pytest.approx(0.5))
    second = budget.reserve(250, 100)
    assert isinstance(second, Spending)
    budget.settle(second, None, None)  # the server didn't count
    assert (budget.total_in, budget.total_out) == (650, 150)
    timer.seconds = 4_000.0
    third = budget.reserve(900, 0)
    assert isinstance(third, Spending)
    assert (budget.total_in, budget.total_out) == (1_550, 150)


def test_a_request_that_ends_after_its_hour_leaves_the_hour_as_it_is() -> None:
    timer = Timer()
    budget = HourBudget(LlmBudget(tokens=1_000), timer)
    long = budget.reserve(900, 0)
    assert isinstance(long, Spending)
    timer.seconds = 4_000.0
    assert spend(budget, 500, 0) == ""
    budget.settle(long, 100, 0)
    assert spend(budget, 500, 0) == ""
    assert spend(budget, 1, 0) == "budget of 1,000 tokens an hour is spent"
    assert budget.total_in == 1_100


def test_requests_at_the_same_time_do_not_exceed_a_limit_together() -> None:
    budget = HourBudget(LlmBudget(requests=50, tokens=1_000))
    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(lambda _: budget.reserve(30, 0), range(200)))
    assert sum(isinstance(one, Spending) for one in results) == 33  # 990 tokens
