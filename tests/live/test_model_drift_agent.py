"""Drift in a running agent: the reference of its model, restarts, alarm, status and metrics."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import cast

import pytest

from agent.config import Config
from agent.config.live import LogConfig
from agent.core.events import MINUTE_MS, News, RiskEvent, RiskState, Sentiment
from agent.core.risk import MODEL_DRIFT
from agent.live.app import make_agent
from agent.live.daemon import Daemon
from agent.live.log import configure
from agent.live.model_drift import RAISED, ModelDrift
from agent.live.model_loader import model_loader
from agent.live.pipeline import Pipeline
from agent.sandbox import Sandbox
from agent.store.database import Database, open_database
from agent.store.queries import find_run, read_decisions
from agent.store.runs import Run, RunKind
from models.cards import ReferenceShares, read_card, write_card
from models.sentiment.serve.drift import CLASS, reference_shares
from models.sentiment.serve.headline_score import HeadlineScore
from tests.live.conftest import database, hasty_start, quiet_log, sandbox, write_model
from tests.live.services.metrics.test_metrics import METRICS, Asked, value
from tests.support.command_line import run_command
from tests.support.live import SENTIMENT, Words, assert_sound, living, settings, until
from tests.support.stories import Story

__all__ = ["database", "hasty_start", "quiet_log", "sandbox", "write_model"]

BULLISH = (0.1, 0.1, 0.8)
EVEN = reference_shares(
    [HeadlineScore(*one) for one in ((0.8, 0.1, 0.1), (0.1, 0.8, 0.1), BULLISH) * 300], [0.0] * 900
)


class Moody(Words):
    """A model with a reference; every headline is bullish."""

    reference: ReferenceShares | None = EVEN

    def _one(self, text: str) -> HeadlineScore:
        return HeadlineScore(*BULLISH, unknown=0.125)


@pytest.mark.parametrize("lazy", [False, True], ids=["loaded", "loaded when workers fail"])
def test_the_reference_is_that_of_the_loaded_folder(
    database: Database, tmp_path: Path, write_model: Callable[..., Path], lazy: bool
) -> None:
    folder = write_model(tmp_path / "tiny")
    load = model_loader(Config(), database, lazy=lazy)
    assert cast(Moody, load(str(folder))).reference is None
    card = read_card(folder)
    card.reference = EVEN
    write_card(card, folder)
    assert cast(Moody, load(str(folder))).reference == EVEN


# -- restarts --------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Database]:
    with closing(open_database(f"sqlite:///{tmp_path / 'drift.db'}")) as opened:
        yield opened


async def lived(
    store: Database, config: Config, story: Story, parts: list[int]
) -> tuple[ModelDrift, list[int]]:
    """Feed the story in as many lives as there are parts; return the last life's monitor, and for each life
    the event after which its snapshot was loaded.
    """
    run = Run(
        "run-1",
        RunKind.LIVE,
        0,
        config.strategy.name,
        params=dict(config.strategy.params),
        config=config.persisted(),
    )
    begin, loaded = 0, []
    for number, end in enumerate(parts):
        drift = ModelDrift(config, Moody(story_model(story)))
        resume = number > 0
        with Pipeline(
            config, store, find_run(store) if resume else run, resume=resume, run_observers=(drift,)
        ) as pipe:
            loaded.append(pipe.snapshots.status.resumed_from)
            for at in range(begin, end, 7):
                await pipe.feed([(event, 0.0) for event in story.events[at : min(at + 7, end)]])
            pipe.end(complete=False)
        begin = end
    return drift, loaded


def story_model(story: Story) -> str:
    return next(event.model for event in story.events if isinstance(event, Sentiment))


@pytest.mark.slow
async def test_a_restart_continues_the_window_from_a_snapshot(store: Database, tmp_path: Path) -> None:
    story = Story(4, tmp_path, minutes=240)
    section = story.config.monitoring.model_copy(update={"move_horizon": 5 * MINUTE_MS})
    config = story.config.model_copy(update={"monitoring": section})
    drift, loaded = await lived(store, config, story, [400, len(story.events)])
    assert loaded[0] == 0 < loaded[1]
    with closing(open_database(f"sqlite:///{tmp_path / 'whole.db'}")) as other:
        whole, _ = await lived(other, config, story, [len(story.events)])
    assert drift.status() == whole.status()
    assert drift.status().drift.headlines > 10


# -- a running agent -------------------------------------------------------------------------------------


def load_moody(folder: str) -> Moody:
    return Moody(folder)


def drift_events(database: Database) -> list[RiskEvent]:
    """The risk events about drift in the record."""
    recorded = (item.decision for item in read_decisions(database, find_run(database, "latest").id))
    return [one for one in recorded if isinstance(one, RiskEvent) and one.rule == MODEL_DRIFT]


async def read(daemon: Daemon, begin: int, count: int) -> None:
    """Let the agent read headlines, each about something else, and wait for its sentiments."""
    assert daemon.model is not None
    health = daemon.model.health
    before = health.scored
    for number in range(begin, begin + count):
        now = daemon.clock.now()
        await daemon.queue.put(News(f"n{number}", now, now, f"{number}a {number}b {number}c {number}d"))
    await until(lambda: health.scored >= before + count and not len(daemon.queue))


async def test_a_drifted_model_is_an_alarm_a_metric_and_a_line_of_the_status(
    sandbox: Sandbox, database: Database, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    configure(LogConfig(format="json", level="warning"))
    config = settings(
        sandbox.rest_url, tmp_path, strategy=SENTIMENT, monitoring={"drift_window": 100}, **METRICS
    )
    daemon = make_agent(config, database, load_model=load_moody, clock=sandbox.clock)
    async with living(daemon):
        asked = Asked(daemon)
        await until(lambda: asked.server.health.state == "live" and not daemon.status().warming_up)
        samples = await asked.samples()
        assert value(samples, "tapewire_sentiment_drift_state", state="unknown") == 1
        assert not [name for name, _ in samples if name == "tapewire_sentiment_psi"]
        await read(daemon, 0, 100)
        await until(lambda: drift_events(database))
        await read(daemon, 100, 30)
        samples = await asked.samples()
        status = daemon.status()
        path = tmp_path / "config.toml"
        path.write_text(f'[live]\nfolder = "{tmp_path}"\n')
        shown = await asyncio.to_thread(run_command, ["status", "--config", str(path)])
    assert "model drift drifted on 100 headlines: class (PSI" in shown.output.replace("\n", " ")
    assert "abstained 0.0%, unknown tokens 12.5%" in shown.output
    assert value(samples, "tapewire_sentiment_drift_state", state="drifted") == 1
    assert status.model_drift is not None
    psi = status.model_drift.drift.of(CLASS).psi
    assert value(samples, "tapewire_sentiment_psi", of="class") == pytest.approx(psi)
    assert psi is not None
    assert psi > 1
    assert value(samples, "tapewire_sentiment_class_share", label="bullish") == 1
    assert value(samples, "tapewire_sentiment_reference_class_share", label="bullish") == pytest.approx(1 / 3)
    assert value(samples, "tapewire_sentiment_unknown_token_share") == 0.125
    assert value(samples, "tapewire_sentiment_abstain_share") == 0
    assert value(samples, "tapewire_sentiment_window_headlines") == 100
    (alarm,) = drift_events(database)
    assert (alarm.state, "class (PSI" in alarm.detail) == (RiskState.ACTIVE, True)
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines() if MODEL_DRIFT in line]
    assert [(line["level"], line["event"], line["state"]) for line in lines] == [
        ("warning", MODEL_DRIFT, RAISED)
    ]
    assert status.risk_rule != MODEL_DRIFT  # an alarm changes no state
    assert_sound(database, "latest", config)
