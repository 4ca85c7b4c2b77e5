"""A defective model is refused with a one-line error; the old model continues to score headlines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.core.errors import TapewireError
from agent.core.events import Sentiment
from agent.live.app import make_agent
from agent.live.control_socket import ControlRequest, send_request
from agent.live.model_loader import model_loader
from agent.sandbox import Sandbox
from agent.store.database import Database
from models.labels import NOT_FINITE
from models.sentiment.serve.headline_score import HeadlineScore
from models.sentiment.serve.scorer import MODEL_NAME, TOKENIZER_NAME
from tests.live.test_scoring import Listening, headline
from tests.models.sentiment.broken_models import (
    catastrophic,
    everywhere,
    rehashed,
    with_card,
    with_constant,
    with_tokenizer,
)
from tests.models.tiny_model import write_tiny
from tests.support.live import SENTIMENT, Words, assert_sound, journal, living, of, settings, until


def half_written(folder: Path) -> Path:
    (folder / MODEL_NAME).write_bytes((folder / MODEL_NAME).read_bytes()[:200])
    return folder


def broken_tokenizer(folder: Path) -> Path:
    (folder / TOKENIZER_NAME).write_bytes(b"{")
    return rehashed(folder)


def no_graph(folder: Path) -> Path:
    (folder / MODEL_NAME).write_bytes(b"\x00\xff" * 100)
    return rehashed(folder)


HOSTILE: dict[str, Callable[[Path], Path]] = {
    "nan": lambda f: with_constant(f, "head", everywhere(np.nan)),
    "cold": lambda f: with_card(f, temperature=0),
    "fails": lambda f: with_constant(f, "lean", lambda lean: lean[:0]),
    "half": half_written,
    "tokenizer": broken_tokenizer,
    "graph": no_graph,
}


async def test_a_defective_model_is_refused_and_the_old_one_stays(
    sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    config = settings(
        sandbox.rest_url,
        tmp_path,
        strategy=SENTIMENT,
        model={"path": str(write_tiny(tmp_path / "first")), "threads": 1},
    )
    daemon = make_agent(config, database, load_model=model_loader(config, database), clock=sandbox.clock)
    folders = [str(spoil(write_tiny(tmp_path / name))) for name, spoil in HOSTILE.items()]
    async with living(daemon):
        await until(lambda: of(Sentiment, journal(database)))
        first = daemon.status().model
        for folder in [
            *folders,
            f"{tmp_path}/a\0b",
            str(tmp_path / "nowhere"),
            "/dev/null",
            "\0",
            "~nobody-at-all/x",
        ]:
            with pytest.raises(TapewireError) as error:
                await asyncio.to_thread(
                    send_request, tmp_path, ControlRequest("use-model", {"folder": folder}), timeout=20
                )
            assert "the old model stays" in str(error.value), folder
            assert "\n" not in str(error.value)
            assert daemon.status().model == first
        before = len(of(Sentiment, journal(database)))
        good = with_tokenizer(write_tiny(tmp_path / "good"), catastrophic)  # sound except for some texts
        answer = await asyncio.to_thread(
            send_request, tmp_path, ControlRequest("use-model", {"folder": str(good)}), timeout=20
        )
        await until(lambda: of(Sentiment, journal(database))[-1].model == answer["model"])
    events = assert_sound(database, "latest", config)
    assert len(of(Sentiment, events)) > before


class Spoilt(Words):
    """A model that returns NaN for one headline."""

    def score(self, texts: Sequence[str]) -> list[HeadlineScore]:
        scores = zip(texts, super().score(texts), strict=True)
        return [HeadlineScore(float("nan"), 0.1, 0.1) if text == "worst" else score for text, score in scores]


async def test_a_score_that_is_not_finite_is_counted_as_an_abstention() -> None:
    loaded: Any = lambda _: Spoilt()  # noqa: E731
    async with Listening(loaded) as listening:
        for number, title in enumerate(["bitcoin", "worst", "ether"]):
            listening.consumer.offer(headline(number, title=title))
        await until(lambda: len(listening.said) == 3)
        health = listening.consumer.health
    assert [(said.news_id, said.abstained) for said in listening.said] == [
        ("n0", False),
        ("n1", True),
        ("n2", False),
    ]
    spoilt = listening.said[1]
    assert spoilt.bearish + spoilt.neutral + spoilt.bullish == pytest.approx(1)
    assert (health.scored, health.abstained, health.unsound, health.errors) == (3, 1, 1, 1)
    assert NOT_FINITE in health.last_error
