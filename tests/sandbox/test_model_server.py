"""The demo's second model, and the server of OpenAI's protocol that a child process runs."""

from __future__ import annotations

import json
import os
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from agent.config.llm import LlmConfig
from agent.sandbox.model_server import ModelServer
from agent.sandbox.second_reader import SecondReader, WordModel
from models.calibration import softmax
from models.labels import LABELS
from models.sentiment.llm.llm_scorer import LlmScorer

TITLE = "Ether leads a late recovery, shorts caught off guard"


@pytest.fixture(scope="module")
def server() -> Iterator[ModelServer]:
    with ModelServer() as running:
        yield running


@pytest.fixture(scope="module")
def reader() -> SecondReader:
    return SecondReader()


def test_words_are_weighed_as_naive_bayes_by_hand() -> None:
    """Two texts a class; "up" is in both bullish ones and no other, "coin" in one of each class.

    With half a text added: P(up | bullish) = 2.5 / 3, P(up | other) = 0.5 / 3; P(coin | class) = 1.5 / 3.
    """
    texts = [("up coin", "bullish"), ("up", "bullish"), ("down coin", "bearish"), ("down", "bearish")]
    texts += [("flat coin", "neutral"), ("flat", "neutral")]
    model = WordModel(texts)
    raw = np.log([0.5 / 3 * 0.5, 0.5 / 3 * 0.5, 2.5 / 3 * 0.5])  # equal priors
    raw -= raw.max()
    found = model.predict("coin rockets, up")
    assert found.sum() == pytest.approx(1)
    # the temperature is fitted, so logits are compared by their ratio to it
    logits = np.log(found)
    scale = (logits[2] - logits[0]) / (raw[2] - raw[0])
    assert scale > 0
    assert softmax(raw[None], 1 / scale)[0] == pytest.approx(found)
    assert model.predict("nothing known") == pytest.approx([1 / 3] * 3)
    assert model.strongest("up coin", LABELS.index("bullish")) == ["up", "up coin"]
    assert model.strongest("up", LABELS.index("bearish")) == []


def test_the_pool_is_the_geometric_mean_of_starter_and_words(reader: SecondReader) -> None:
    (score,) = reader.starter.score([TITLE])
    own = np.array([score.bearish, score.neutral, score.bullish])
    mean = np.sqrt(own * reader.words.predict(TITLE))
    found = reader.read(TITLE)
    assert found.probabilities == pytest.approx(mean / mean.sum())
    assert found.reason.endswith(f"the starter says {LABELS[int(own.argmax())]} {own.max():.2f}")
    assert 0.5 < reader.words.accuracy < 0.8, "of texts that it has not learnt from"


def test_a_headline_that_the_starter_cannot_read_is_read_by_its_words(reader: SecondReader) -> None:
    assert reader.starter.score(["?!"])[0].abstained
    found = reader.read("?!")
    assert found.probabilities == pytest.approx(reader.words.predict("?!"))
    assert "starter" not in found.reason


@pytest.mark.slow
def test_the_agents_client_gets_probabilities_and_reason(server: ModelServer, reader: SecondReader) -> None:
    config = LlmConfig(reasons=True, fallback="")
    scorer = LlmScorer.open(server.path, config)
    (score,) = scorer.score([TITLE])
    scorer.close()
    expected = reader.read(TITLE)
    assert (score.bearish, score.neutral, score.bullish) == pytest.approx(tuple(expected.probabilities))
    assert score.provenance is not None
    assert (score.provenance.fallback, score.provenance.reason) == ("", expected.reason)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[]", 400),
        (b'{"messages": []}', 400),
        (b'{"messages": [{"content": "plain text"}], "logprobs": true}', 400),
        (b'{"messages": [{"content": "{\\"headline\\": 1}"}], "logprobs": true}', 400),
        (b'{"messages": [{"content": "{\\"headline\\": \\"a\\"}"}]}', 400),
        (b"[" * 100_000, 400),
        (b"x" * (1 << 21), 413),
    ],
    ids=["no JSON", "a list", "no message", "no headline", "a number", "no logprobs", "nested", "too long"],
)
def test_requests_of_another_form_are_refused(server: ModelServer, body: bytes, status: int) -> None:
    with pytest.raises((urllib.error.HTTPError, ConnectionError, urllib.error.URLError)) as refused:
        ask(server, body)
    if isinstance(refused.value, urllib.error.HTTPError):  # else it was cut while the body was being sent
        assert refused.value.code == status
        refused.value.close()
    else:
        assert status == 413
    good = json.dumps({"messages": [{"content": '{"headline": "a"}'}], "logprobs": True}).encode()
    assert ask(server, good)["model"] == "starter+words"


def ask(server: ModelServer, body: bytes) -> Any:
    url = f"http://127.0.0.1:{server.port}/v1/chat/completions"
    with urllib.request.urlopen(urllib.request.Request(url, body), timeout=30) as response:
        return json.loads(response.read())


def test_how_a_server_ended_is_told_apart() -> None:
    with ModelServer() as alive:
        assert alive.stop() is None
        with pytest.raises((ConnectionError, urllib.error.URLError)):
            ask(alive, b"{}")
    with ModelServer() as killed:
        assert killed.pid is not None
        os.kill(killed.pid, signal.SIGKILL)
        os.waitid(os.P_PID, killed.pid, os.WEXITED | os.WNOWAIT)
        assert killed.stop() == -signal.SIGKILL
