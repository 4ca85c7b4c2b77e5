"""The loopback server of a real language model: answers, log-probabilities, seeds, bad requests."""

from __future__ import annotations

import json
import math
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.smollm2_server import MODEL, serving, skip_reason

pytestmark = [
    pytest.mark.train,
    pytest.mark.slow,
    pytest.mark.skipif(bool(skip_reason()), reason=skip_reason()),
]

ASKED = {"model": MODEL, "messages": [{"role": "user", "content": "What is the capital of France?"}]}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving() as address:
        yield address


def answer(url: str, body: Any) -> dict[str, Any]:
    request = urllib.request.Request(f"{url}/chat/completions", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=120) as response:
        found: dict[str, Any] = json.load(response)
        return found


def test_the_server_names_its_model_and_the_model_knows_paris(url: str) -> None:
    with urllib.request.urlopen(f"{url}/models") as response:
        assert [model["id"] for model in json.load(response)["data"]] == [MODEL]
    found = answer(url, ASKED | {"temperature": 0, "max_tokens": 12})
    assert "Paris" in found["choices"][0]["message"]["content"]
    assert found["choices"][0]["logprobs"] is None
    assert found["usage"]["total_tokens"] == sum(
        found["usage"][part] for part in ("prompt_tokens", "completion_tokens")
    )


def test_log_probabilities_are_those_of_the_likeliest_tokens(url: str) -> None:
    wanted = {"temperature": 0, "max_tokens": 2, "logprobs": True, "top_logprobs": 20}
    choice = answer(url, ASKED | wanted)["choices"][0]
    assert choice["finish_reason"] == "length"
    first = choice["logprobs"]["content"][0]
    chances = [math.exp(one["logprob"]) for one in first["top_logprobs"]]
    assert len(chances) == 20
    assert chances == sorted(chances, reverse=True)
    assert 0.5 < sum(chances) <= 1 + 1e-5
    assert first["token"] == first["top_logprobs"][0]["token"]
    assert bytes(first["bytes"]).decode() == first["token"]


def test_a_seed_gives_the_same_sample_again(url: str) -> None:
    def sampled(seed: int) -> str:
        body = ASKED | {"temperature": 1.5, "max_tokens": 8, "seed": seed}
        return str(answer(url, body)["choices"][0]["message"]["content"])

    assert sampled(1) == sampled(1)
    assert len({sampled(seed) for seed in range(4)}) > 1


@pytest.mark.parametrize(
    "body", [{}, [], {"messages": []}, ASKED | {"max_tokens": 10_000}, ASKED | {"temperature": "warm"}]
)
def test_bad_requests_are_refused_and_the_server_goes_on(url: str, body: Any) -> None:
    with pytest.raises(urllib.error.HTTPError, match="400"):
        answer(url, body)
    assert answer(url, ASKED | {"max_tokens": 1})["choices"]
