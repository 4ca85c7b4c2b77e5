"""Repeated requests, waits that a server asks for, and servers that are down."""

from __future__ import annotations

import random
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from agent.config.llm import LlmBudget, LlmConfig
from models.sentiment.llm.llm_budget import HourBudget
from models.sentiment.llm.llm_client import InvalidResponse, LlmClient, NotOffered
from models.sentiment.llm.llm_prompt import Prompt
from models.sentiment.llm.llm_retry import FAILURES, OutageBreaker, RetryingClient, Unanswered
from models.sentiment.llm.llm_spec import LlmSpec
from tests.support.llm_server import Fault, LlmServer, Request, without_logprobs

JSON = Prompt(form="json")


def retrying(
    path: str, *, concurrency: int = 4, budget: LlmBudget | None = None, **settings: Any
) -> RetryingClient:
    client = LlmClient(LlmSpec.parse(path), LlmConfig(**settings))
    return RetryingClient(client, HourBudget(budget or LlmBudget()), concurrency, random.Random(1))


def ask(client: RetryingClient, seconds: float = 5.0, prompt: Prompt = JSON) -> str:
    return client.ask(prompt, "Coin climbs", 1, time.monotonic() + seconds).text


def first(count: int, fault: Fault) -> Any:
    """A script in which the first requests fail."""
    return lambda request: fault if request.number < count else None


@pytest.mark.parametrize(
    "fault",
    [Fault("status", status=500), Fault("status", status=429), Fault("cut"), Fault("slow", seconds=5)],
)
def test_a_request_that_failed_for_a_while_is_repeated(fault: Fault) -> None:
    with LlmServer(script=first(2, fault)) as server:
        client = retrying(server.path, request_timeout=500)
        assert ask(client) == '{"sentiment": "bullish"}'
    assert client.retried == 2
    assert len(server.requests) == 3


@pytest.mark.parametrize("fault", [Fault("status", status=401), Fault("redirect", text="http://a.example/")])
def test_a_request_that_was_refused_is_not_repeated(fault: Fault) -> None:
    with LlmServer(script=lambda _: fault) as server:
        client = retrying(server.path)
        with pytest.raises(Unanswered) as found:
            ask(client)
    assert found.value.cause == "error"
    assert len(server.requests) == 1


def test_responses_of_the_wrong_form_are_the_callers_matter() -> None:
    with LlmServer(without_logprobs(), first(1, Fault("html"))) as server:
        client = retrying(server.path)
        with pytest.raises(InvalidResponse):
            ask(client)
        with pytest.raises(NotOffered):
            ask(client, prompt=Prompt(form="word"))
    assert client.retried == 0


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (Fault("status", status=500), "deadline"),
        (Fault("slow", seconds=9), "deadline"),
        (Fault("status", status=429), "rate limit"),
        (Fault("status", status=429, headers={"Retry-After": "60"}), "rate limit"),
    ],
)
def test_a_request_is_not_repeated_beyond_the_deadline(fault: Fault, cause: str) -> None:
    with LlmServer(script=lambda _: fault) as server:
        client = retrying(server.path, request_timeout=250)
        began = time.monotonic()
        with pytest.raises(Unanswered) as found:
            ask(client, 0.6)
    assert found.value.cause == cause
    assert time.monotonic() - began < 1.0


def test_all_requests_wait_as_long_as_a_server_asks_for() -> None:
    times: dict[int, float] = {}

    def script(request: Request) -> Fault | None:
        times[request.number] = time.monotonic()
        return Fault("status", status=429, headers={"Retry-After": "0.5"}) if request.number == 0 else None

    with LlmServer(script=script) as server:
        client = retrying(server.path)
        with ThreadPoolExecutor(4) as pool:
            limited = pool.submit(ask, client)
            while client.last_error == "":
                time.sleep(0.005)
            time.sleep(0.05)
            others = [pool.submit(ask, client) for _ in range(3)]
            assert {one.result() for one in (limited, *others)} == {'{"sentiment": "bullish"}'}
    assert min(at for number, at in times.items() if number) - times[0] >= 0.45


def test_a_wait_beyond_the_deadline_is_not_begun() -> None:
    limit = Fault("status", status=429, headers={"Retry-After": "30"})
    with LlmServer(script=first(1, limit)) as server:
        client = retrying(server.path)
        began = time.monotonic()
        for _ in range(3):
            with pytest.raises(Unanswered, match="429"):
                ask(client)
    assert time.monotonic() - began < 1.0
    assert len(server.requests) == 1


def test_no_more_requests_than_allowed_are_under_way() -> None:
    with LlmServer(script=lambda _: Fault("slow", seconds=0.05)) as server:
        client = retrying(server.path, concurrency=3)
        with ThreadPoolExecutor(12) as pool:
            list(pool.map(lambda _: ask(client), range(12)))
    assert server.most_at_a_time == 3


def test_a_request_that_is_not_sent_before_its_deadline_says_so() -> None:
    with LlmServer(script=lambda _: Fault("slow", seconds=0.6)) as server:
        client = retrying(server.path, concurrency=1)
        with ThreadPoolExecutor(1) as pool:
            slow = pool.submit(ask, client)
            while not server.requests:
                time.sleep(0.005)
            with pytest.raises(Unanswered, match="no request was free"):
                ask(client, 0.1)
            slow.result()


def test_beyond_the_budget_no_request_is_sent() -> None:
    with LlmServer(usage={"prompt_tokens": 300, "completion_tokens": 100}) as server:
        client = retrying(server.path, budget=LlmBudget(tokens=1_000))
        ask(client)
        ask(client)
        with pytest.raises(Unanswered, match="budget of 1,000 tokens") as found:
            ask(client)
    assert found.value.cause == "budget"
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("fault", "spends"),
    [
        (Fault("status", status=429), False),
        (Fault("status", status=401), False),
        (Fault("cut"), True),  # the model may have answered
        (Fault("slow", seconds=5), True),
    ],
)
def test_a_failed_request_costs_what_it_may_have_cost(fault: Fault, spends: bool) -> None:
    with LlmServer(script=lambda _: fault) as server:
        client = retrying(server.path, request_timeout=1_000)
        with pytest.raises(Unanswered):
            ask(client, 1.2)
    assert (client.budget.total_in > 0) is spends


def test_a_limit_that_outlasts_the_deadlines_counts_as_an_outage() -> None:
    limit = Fault("status", status=429, headers={"Retry-After": "0.05"})
    with LlmServer(script=lambda _: limit) as server:
        client = retrying(server.path)
        causes: list[str] = []
        while "outage" not in causes:
            with pytest.raises(Unanswered) as found:
                ask(client, 0.2)
            causes.append(found.value.cause)
    assert len(causes) == FAILURES + 1
    assert "rate limit" in causes


def test_closing_ends_a_wait_at_once() -> None:
    with LlmServer(script=lambda _: Fault("status", status=429, headers={"Retry-After": "30"})) as server:
        client = retrying(server.path)
        threading.Timer(0.1, client.close).start()
        began = time.monotonic()
        with pytest.raises(Unanswered, match="closed"):
            ask(client, 60.0)
    assert time.monotonic() - began < 2.0


@pytest.mark.slow
def test_a_dead_server_costs_the_first_headline_its_tries_and_the_next_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    client = retrying(f"openai:http://127.0.0.1:{port}/v1#m")
    with pytest.raises(Unanswered) as found:
        ask(client, 20.0)
    assert found.value.cause == "outage"
    assert client.client.health.requests == FAILURES
    began = time.monotonic()
    for _ in range(1_000):
        with pytest.raises(Unanswered, match="not asked after 5 failures in a row"):
            ask(client)
    assert time.monotonic() - began < 1.0
    assert client.client.health.requests == FAILURES


class TestBreaker:
    """By a clock that the test moves."""

    def test_it_opens_after_failures_in_a_row_and_tries_once_after_each_rest(self) -> None:
        now = [0.0]
        breaker = OutageBreaker(lambda: now[0])
        for _ in range(FAILURES - 1):
            breaker.failed("cut")
        breaker.succeeded()
        for _ in range(FAILURES - 1):
            breaker.failed("cut")
            assert breaker.blocked() == ""
        breaker.failed("refused")
        assert breaker.down == "refused"
        trials = []
        for tenth in range(3_000):
            now[0] = tenth / 10
            if not breaker.blocked():
                trials.append(now[0])
                breaker.failed("refused")
        # rests of 5, 10, 20, 40 and then 60 seconds
        assert trials == [5.0, 15.0, 35.0, 75.0, 135.0, 195.0, 255.0]

    def test_one_success_closes_it(self) -> None:
        now = [0.0]
        breaker = OutageBreaker(lambda: now[0])
        for _ in range(FAILURES):
            breaker.failed("refused")
        now[0] = 5.0
        assert (breaker.blocked(), bool(breaker.blocked())) == ("", True)  # one trial only
        breaker.succeeded()
        assert (breaker.blocked(), breaker.down) == ("", "")

    def test_failures_of_requests_under_way_do_not_lengthen_the_rest(self) -> None:
        now = [0.0]
        breaker = OutageBreaker(lambda: now[0])
        for _ in range(FAILURES + 20):
            breaker.failed("refused")
        now[0] = 5.0
        assert breaker.blocked() == ""

    def test_a_trial_whose_result_never_comes_is_repeated(self) -> None:
        now = [0.0]
        breaker = OutageBreaker(lambda: now[0])
        for _ in range(FAILURES):
            breaker.failed("refused")
        found = []
        for second in range(5, 16):
            now[0] = float(second)
            found.append(breaker.blocked() == "")
        assert found == [True, *[False] * 4, True, *[False] * 4, True]
