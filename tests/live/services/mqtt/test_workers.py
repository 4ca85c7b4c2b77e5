"""Headlines are scored by workers through a broker: once each, even if workers die, lie or are late."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import astuple

from agent.config import Config, ModelConfig
from agent.config.services import MqttConfig
from agent.core.errors import ConfigError, ModelError
from agent.core.events import News, Sentiment
from agent.core.symbols import AssetFinder
from agent.data.sentiment import NamedScorer
from agent.live.app import make_agent
from agent.live.model_loader import LazyScorer, model_loader
from agent.live.services.mqtt.sentiment_worker import SentimentWorker
from agent.live.services.mqtt.worker_pool import WorkerPool
from agent.replay.verify import verify
from agent.sandbox import Sandbox
from agent.store.database import Database
from agent.store.queries import find_run, read_rows
from models.sentiment import model_dir
from models.sentiment.open_scorer import open_scorer
from models.sentiment.scorer_facts import close_scorer
from models.sentiment.serve.headline_score import HeadlineScore
from models.sentiment.serve.scorer import Scorer
from tests.cli.conftest import Outcome, tapewire
from tests.models.fusion.fusion_harness import write_fusion
from tests.support.live import (
    SENTIMENT,
    Words,
    handled,
    journal,
    living,
    load_words,
    of,
    options,
    settings,
    until,
)
from tests.support.llm_server import LlmServer
from tests.support.mosquitto import Mosquitto, needs_mosquitto

__all__ = ["tapewire"]

pytestmark = needs_mosquitto
MODEL = "starter"  # the name of the configured model for `load_words`


class Slow(Words):
    """A model that takes 50 ms per batch."""

    def score(self, texts: Sequence[str]) -> list[HeadlineScore]:
        import time

        time.sleep(0.05)
        return super().score(texts)


@asynccontextmanager
async def working(broker: Mosquitto, scorer: NamedScorer, name: str) -> Any:
    worker = SentimentWorker(MqttConfig(**broker.settings()), scorer, name)
    task = asyncio.create_task(worker.run())
    try:
        await until(lambda: worker.health.state == "live")
        yield worker, task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def config_for(sandbox: Sandbox, broker: Mosquitto, folder: Path, **workers: Any) -> Config:
    return settings(
        sandbox.rest_url,
        folder,
        strategy=SENTIMENT,
        mqtt=broker.settings(),
        workers={"enabled": True, "answer_within": "20s"} | workers,
    )


def assert_each_once(database: Database) -> None:
    events = journal(database)
    headlines = [one.id for one in of(News, events) if one.actionable]
    scored = [one.news_id for one in of(Sentiment, events)]
    assert len(scored) == len(set(scored))
    assert set(scored) <= {one.id for one in of(News, events)}
    # the last ones may have arrived while the agent was stopping
    assert set(headlines) - set(scored) <= set(headlines[-3:])


async def test_workers_score_and_the_agents_model_is_idle(
    sandbox: Sandbox, database: Database, broker: Mosquitto, tmp_path: Path
) -> None:
    own = Words(MODEL)
    daemon = make_agent(
        config_for(sandbox, broker, tmp_path), database, load_model=lambda _: own, clock=sandbox.clock
    )
    async with AsyncExitStack() as stack:
        for name in ("one", "two"):
            await stack.enter_async_context(working(broker, Words(MODEL), name))
        async with living(daemon):
            pool = daemon.services.scorer
            assert pool is not None
            await until(lambda: pool.health.workers == 2)
            await until(lambda: pool.health.scored >= 5)
            assert not own.batches
            await until(lambda: handled(daemon) > 0 and not daemon.pipeline.memory.unscored)
    assert_each_once(database)


async def test_workers_scores_have_assets_and_kinds_as_the_agents_model_would(
    sandbox: Sandbox,
    database: Database,
    broker: Mosquitto,
    tmp_path: Path,
    write_reader: Callable[..., Path],
) -> None:
    """The first worker has the agent's names of assets, the second those of no configuration."""
    folder = write_reader(tmp_path / "reader")
    settled = config_for(sandbox, broker, tmp_path)
    config = settled.model_copy(update={"model": ModelConfig(path=str(folder))})
    own = Scorer.load(folder, finder=AssetFinder(config.market.symbols, config.instruments))
    loader = model_loader(config, database, lazy=True)
    daemon = make_agent(config, database, load_model=loader, clock=sandbox.clock)
    async with living(daemon):
        pool = daemon.services.scorer
        assert isinstance(pool, WorkerPool)
        async with working(broker, own, "configured"):
            await until(lambda: pool.health.scored >= 3)
            assert pool.health.other_names == 0
        async with working(broker, Scorer.load(folder), "unconfigured"):
            before = pool.health.scored
            await until(lambda: pool.health.scored > before and pool.health.other_names == 1)
            assert "unconfigured" in pool.health.last_error
    events = journal(database)
    titles = {one.id: one.title for one in of(News, events)}
    found = of(Sentiment, events)
    for one in found:
        (score,) = own.score([titles[one.news_id]])
        assert [(a.asset, a.bearish, a.neutral, a.bullish) for a in one.assets] == [
            astuple(answer) for answer in score.assets
        ]
        assert (one.kind, one.kind_confidence) == (score.kind, score.kind_confidence)
    assert any(one.assets for one in found)
    run = find_run(database)
    assert list(read_rows(database, run.id, Sentiment)) == found
    assert verify(database, run).identical


async def test_a_worker_with_a_language_model_sends_the_provenance_of_its_answers(
    sandbox: Sandbox, database: Database, broker: Mosquitto, tmp_path: Path
) -> None:
    """The worker has the agent's model at the same server, and the agent itself asks nothing."""
    with LlmServer() as server:
        settled = config_for(sandbox, broker, tmp_path)
        config = settled.model_copy(update={"model": ModelConfig(path=server.path)})
        scorer = open_scorer(server.path, config)
        loader = model_loader(config, database, lazy=True)
        daemon = make_agent(config, database, load_model=loader, clock=sandbox.clock)
        async with working(broker, scorer, "llm"), living(daemon):
            pool = daemon.services.scorer
            assert isinstance(pool, WorkerPool)
            await until(lambda: pool.health.scored >= 3)
            (own,) = (one for row in daemon.status().producers for one in row.get("llm", ()))
            assert own["asked"] == 0
        close_scorer(scorer)
        asked = len(server.requests)
        found = of(Sentiment, journal(database))
        assert all(one.provenance and one.provenance.answers for one in found)
        assert {one.provenance.model for one in found if one.provenance} == {"tiny:1b"}
        assert verify(database, find_run(database)).identical
        assert len(server.requests) == asked


async def test_a_dying_worker_loses_no_headline(
    database: Database, broker: Mosquitto, tmp_path: Path
) -> None:
    own = Words(MODEL)
    async with Sandbox(options(news=True)) as sandbox:
        daemon = make_agent(
            config_for(sandbox, broker, tmp_path), database, load_model=lambda _: own, clock=sandbox.clock
        )
        async with working(broker, Slow(MODEL), "doomed") as (doomed, task), living(daemon):
            pool = daemon.services.scorer
            assert pool is not None
            await until(lambda: doomed.scored >= 1)
            task.cancel()
            async with working(broker, Words(MODEL), "heir") as (heir, _):
                await until(lambda: heir.scored + own_count(own) >= 5 and not daemon.pipeline.memory.unscored)
    assert_each_once(database)


def own_count(words: Words) -> int:
    return sum(map(len, words.batches))


async def test_without_workers_the_agents_model_scores(
    sandbox: Sandbox, database: Database, broker: Mosquitto, tmp_path: Path
) -> None:
    own = Words(MODEL)
    config = config_for(sandbox, broker, tmp_path, answer_within="50ms")
    daemon = make_agent(config, database, load_model=lambda _: own, clock=sandbox.clock)
    async with living(daemon):
        await until(lambda: own_count(own) >= 5 and not daemon.pipeline.memory.unscored)
    assert_each_once(database)


async def test_a_worker_with_another_model_receives_no_headlines(
    sandbox: Sandbox, database: Database, broker: Mosquitto, tmp_path: Path
) -> None:
    own, foreign = Words(MODEL), Words("another")
    config = config_for(sandbox, broker, tmp_path, answer_within="50ms")
    daemon = make_agent(config, database, load_model=lambda _: own, clock=sandbox.clock)
    async with working(broker, foreign, "stranger"), living(daemon):
        pool = daemon.services.scorer
        assert pool is not None
        await until(lambda: pool.health.others == 1 and len(of(Sentiment, journal(database))) >= 3)
    assert not foreign.batches
    assert {one.model for one in of(Sentiment, journal(database))} == {MODEL}


def test_workers_require_a_broker(database: Database, tmp_path: Path) -> None:
    config = settings("http://127.0.0.1:1", tmp_path, strategy=SENTIMENT, workers={"enabled": True})
    with pytest.raises(ConfigError, match=r"mqtt\.broker is empty"):
        make_agent(config, database, load_model=load_words)


def test_a_fusion_model_that_reads_embeddings_is_refused_with_workers(
    database: Database, tmp_path: Path
) -> None:
    write_fusion(tmp_path / "fusion", scorer=MODEL, interval=60_000)
    config = settings(
        "http://127.0.0.1:1",
        tmp_path,
        strategy={"name": "fusion"},
        fusion={"path": str(tmp_path / "fusion")},
        mqtt={"broker": "mqtt://127.0.0.1:1"},
        workers={"enabled": True},
    )
    with pytest.raises(ConfigError, match="reads embeddings"):
        make_agent(config, database, load_model=load_words)


async def test_a_worker_whose_model_fails_ends_with_its_error_and_the_agent_runs_on(
    sandbox: Sandbox, database: Database, broker: Mosquitto, tmp_path: Path
) -> None:
    class Broken(Words):
        def score(self, texts: Sequence[str]) -> list[HeadlineScore]:
            raise ModelError("the model has no more memory")

    own = Words(MODEL)
    config = config_for(sandbox, broker, tmp_path, answer_within="2s")
    daemon = make_agent(config, database, load_model=lambda _: own, clock=sandbox.clock)
    worker = asyncio.create_task(
        SentimentWorker(MqttConfig(**broker.settings()), Broken(MODEL), "broken").run()
    )
    async with living(daemon):
        with pytest.raises(ModelError, match="no more memory"):
            await worker
        await until(lambda: own_count(own) >= 3 and not daemon.pipeline.memory.unscored)
    assert_each_once(database)


def test_the_agents_model_is_identified_by_its_card_and_loaded_on_first_use(database: Database) -> None:
    scorer = model_loader(Config(), database, lazy=True)("starter")
    assert isinstance(scorer, LazyScorer)
    assert scorer.fingerprint == Scorer.load(model_dir("starter"), threads=1).fingerprint
    assert not scorer.loaded
    assert len(scorer.score(["Bitcoin rallies", "Ether slides"])) == 2
    assert scorer.loaded


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "no broker is configured"),
        (("--broker", "http://127.0.0.1"), "a broker is written mqtt://HOST"),
        (("--broker", "mqtt://me:secret@127.0.0.1"), "mqtt.username"),
    ],
)
def test_the_worker_command_checks_its_broker(
    tapewire: Callable[..., Outcome], arguments: tuple[str, ...], words: str
) -> None:
    outcome = tapewire("worker", "sentiment", *arguments)
    assert outcome.code == 2
    assert words in outcome.err
    assert "secret" not in outcome.err
