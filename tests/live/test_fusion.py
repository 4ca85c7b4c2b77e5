"""A fusion model in the running agent: warm at the first live bar, fed with scores, resumed and verified."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.core.errors import ConfigError, ModelError
from agent.core.events import MINUTE_MS, Kline, Prediction
from agent.live.app import make_agent
from agent.sandbox import Sandbox
from agent.store.database import Database
from agent.store.queries import find_run, list_runs, read_decisions
from tests.models.fusion.fusion_harness import write_fusion
from tests.support.live import assert_sound, handled, journal, living, load_words, options, settings, until

FUSION = {"name": "fusion", "params": {"round_trip": 0.0}}


def predictions(database: Database, run: str) -> list[Prediction]:
    return [item.decision for item in read_decisions(database, run) if isinstance(item.decision, Prediction)]


@pytest.mark.slow
async def test_a_restart_with_the_same_model_continues_the_run(database: Database, tmp_path: Path) -> None:
    write_fusion(tmp_path / "model", ablation="probabilities", scorer="starter", interval=5 * MINUTE_MS)
    async with Sandbox(options(news=True)) as sandbox:
        config = settings(
            sandbox.rest_url, tmp_path, strategy=FUSION, fusion={"path": str(tmp_path / "model")}
        )
        for life in (1, 2):
            daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
            async with living(daemon, complete=life == 2):
                await until(lambda daemon=daemon: handled(daemon) >= 60)
    (run,) = list_runs(database)
    assert run.versions["fusion"]
    events = assert_sound(database, run.id, config)
    bars = [event for event in events if isinstance(event, Kline) and event.confirm]
    made = predictions(database, run.id)
    assert len(made) > 10
    assert len(bars) / 2 > 34 * 5  # enough history was fetched for the model's own bars
    assert len({(item.down, item.flat, item.up) for item in made}) > 5


async def test_an_incompatible_sentiment_model_is_refused(
    sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    write_fusion(tmp_path / "model", ablation="probabilities", scorer="starter", interval=MINUTE_MS)
    config = settings(sandbox.rest_url, tmp_path, strategy=FUSION, fusion={"path": str(tmp_path / "model")})
    daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
    async with living(daemon):
        await until(lambda: handled(daemon) >= 4)
        with pytest.raises(ModelError, match="was trained with sentiment model starter"):
            await daemon.command("use-model", {"folder": "other"})
        assert daemon.status().model == "starter"
    assert find_run(database).versions["fusion"]
    assert journal(database)


async def test_another_fusion_model_begins_another_run(
    sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    config = settings(sandbox.rest_url, tmp_path, strategy=FUSION, fusion={"path": str(tmp_path / "model")})
    for seed in (1, 2):
        write_fusion(tmp_path / "model", ablation="price", interval=MINUTE_MS, seed=seed)
        daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
        async with living(daemon):
            await until(lambda daemon=daemon: handled(daemon) >= 4)
    assert len(list_runs(database)) == 2


def test_the_strategy_requires_a_model(database: Database, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no model is configured"):
        make_agent(settings("http://127.0.0.1:1", tmp_path, strategy=FUSION), database, load_model=load_words)
