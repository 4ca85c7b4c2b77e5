"""A wrong system clock raises an alarm in a running agent and changes nothing else."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.core.engine import Engine
from agent.core.events import HOUR_MS, MINUTE_MS, Command, Event, Funding, Kline, News, RiskEvent, RiskState
from agent.core.sinks import ListSink
from agent.live.app import make_agent
from agent.live.event_queue import OPEN_BAR
from agent.live.interfaces.probes import why_not_ready
from agent.live.pipeline import Pipeline
from agent.live.stale_data_watchdog import watch_for_stale_data
from agent.live.timekeeping import Timekeeper
from agent.sandbox import Sandbox
from agent.store.database import Database
from agent.store.journal import Journal
from agent.store.queries import find_run, read_rows
from agent.system.clock import WallClock
from agent.system.clock_discipline import DisciplinedClock
from strategies import load_strategy
from tests.live.test_pipeline import BARS, CONFIG, a_run, at_once
from tests.simulation.virtual_loop import VirtualLoop
from tests.support.live import assert_sound, journal, living, load_words, of, options, settings, until
from tests.support.market import SYMBOL, T0


class SystemClock:
    """The machine's clock, wrong by `skew` ms."""

    skew = 0

    def now(self) -> int:
        return WallClock().now() + self.skew


def alarms(database: Database) -> list[str]:
    return [event.args["detail"] for event in of(Command, journal(database)) if event.action == "alarm"]


@pytest.mark.slow
async def test_a_step_of_the_system_clock_raises_an_alarm_and_changes_nothing_else(
    database: Database, tmp_path: Path
) -> None:
    async with Sandbox(options(speed=1)) as sandbox:
        machine = SystemClock()
        config = settings(
            sandbox.rest_url,
            tmp_path,
            strategy={"name": "buy_and_hold", "params": {}},
            risk={"stale_after": "2m"},
            paper={"funding_rate": 0.001, "funding_interval": "8h"},
        )
        daemon = make_agent(config, database, load_model=load_words, clock=DisciplinedClock(machine))
        async with living(daemon):
            await until(lambda: not daemon.status().warming_up)
            for skew, words in ((26 * HOUR_MS, "26h ahead of"), (-2 * HOUR_MS, "2h behind")):
                machine.skew = skew
                await until(
                    lambda words=words: any(
                        f"the system clock is {words}" in told for told in alarms(database)
                    )
                )
                assert daemon.status().clock.trouble == "system"
                assert any(reason.startswith("clock: ") for reason in why_not_ready(daemon))
                states = daemon.pipeline.latencies[OPEN_BAR]
                before = len(states)
                await until(lambda states=states, before=before: len(states) > before)  # the market continues
                machine.skew = 0
                await until(lambda: alarms(database)[-1] == "the clocks agree")
                assert daemon.status().clock.trouble == ""
            assert daemon.pipeline.memory.now <= WallClock().now() + 5_000
    events = assert_sound(database, "latest", config)
    assert not of(Funding, events)
    assert not [event for event in of(Command, events) if event.action == "heartbeat"]
    told = [event for event in read_rows(database, find_run(database).id, RiskEvent) if event.rule == "clock"]
    assert len(told) == 4
    assert not [
        event
        for event in read_rows(database, find_run(database).id, RiskEvent)
        if event.rule.startswith("stale")
    ]


async def test_a_start_with_a_wrong_system_clock_uses_the_venues_time(
    database: Database, tmp_path: Path
) -> None:
    async with Sandbox(options(speed=1)) as sandbox:
        machine = SystemClock()
        machine.skew = 26 * HOUR_MS
        config = settings(sandbox.rest_url, tmp_path)
        daemon = make_agent(config, database, load_model=load_words, clock=DisciplinedClock(machine))
        async with living(daemon):
            await until(lambda: alarms(database))
    assert all(event.available_at <= WallClock().now() + 5_000 for event in journal(database))


# -- the core ------------------------------------------------------------------------------------------------


async def test_without_confirmed_time_only_bars_advance_the_cores_time(
    database: Database,
) -> None:
    latest: list[int | None] = [None]
    Journal(database, "run-1")
    with Pipeline(CONFIG, database, a_run(), resume=False, latest=lambda: latest[0]) as pipeline:
        news: list[Event] = [News(f"n{day}", T0, T0 + day * 24 * HOUR_MS, "tomorrow") for day in range(3)]
        held = await pipeline.feed(at_once([BARS[0], *news[1:]]))
        assert {event.available_at for event in held} == {BARS[0].available_at}
        moved = await pipeline.feed(at_once([BARS[1]]))
        assert moved[0].available_at == BARS[1].ts
        latest[0] = BARS[2].ts
        waited = await pipeline.feed(
            at_once([News("n9", T0, T0 + 9 * HOUR_MS, "stamped while the clock was wrong")])
        )
        assert waited[0].available_at == BARS[2].ts
        pipeline.end(complete=True)


async def test_funding_is_due_after_a_closed_bar_and_not_by_time_alone(database: Database) -> None:
    paid = CONFIG.model_copy(
        update={"paper": CONFIG.paper.model_copy(update={"funding_rate": 0.001, "funding_interval": 300_000})}
    )
    later = BARS[3].ts + 26 * HOUR_MS
    with Pipeline(paid, database, a_run(), resume=False) as pipeline:
        events = await pipeline.feed(at_once([*BARS[:4], Command("heartbeat", later, later)]))
        pipeline.end(complete=False)
    with Pipeline(paid, database, find_run(database), resume=True) as pipeline:
        events += await pipeline.feed(at_once(BARS[4:11]))
        pipeline.end(complete=False)
    stamps = [event.ts for event in events if isinstance(event, Funding)]
    assert stamps == [T0 + 5 * MINUTE_MS, T0 + 10 * MINUTE_MS]
    closes = [event.ts for event in events if isinstance(event, Kline)]
    assert all(stamp in closes for stamp in stamps)


async def test_a_run_recorded_ahead_of_time_is_reported_with_a_fix(database: Database) -> None:
    clock = DisciplinedClock(WallClock())
    ahead = clock.now() + 26 * HOUR_MS
    with Pipeline(CONFIG, database, a_run(), resume=False) as pipeline:
        await pipeline.feed(at_once([Command("heartbeat", ahead, ahead)]))
        status = Timekeeper(clock, CONFIG).status(pipeline.memory)
        pipeline.end(complete=False)
    assert status.trouble == "run"
    assert "26h ahead of" in status.detail
    assert "tapewire run --new" in status.detail


# -- heartbeats ----------------------------------------------------------------------------------------------


class Still:
    def __init__(self, now: int) -> None:
        self.time = now

    def now(self) -> int:
        return self.time


def an_engine() -> Engine:
    engine = Engine(CONFIG, load_strategy("sma_cross", {"fast": 1, "slow": 2}), ListSink(), run_id="r")
    for bar in BARS[:3]:
        engine.handle(bar)
    return engine


def heartbeats_in(seconds: float, engine: Engine, clock: Still, beat: Callable[[], None]) -> int:
    """Return how many heartbeats are sent within `seconds` of virtual time."""
    sent = 0

    async def heartbeat() -> None:
        nonlocal sent
        sent += 1
        beat()

    async def watch() -> None:
        try:
            async with asyncio.timeout(seconds):
                await watch_for_stale_data(engine, clock, heartbeat)
        except TimeoutError:
            pass

    loop = VirtualLoop(random.Random(1))
    try:
        loop.run_until_complete(watch())
    finally:
        loop.close()
    return sent


def test_a_core_ahead_of_the_clock_gets_no_heartbeats() -> None:
    engine = an_engine()
    ahead = BARS[2].ts + 26 * HOUR_MS
    engine.handle(Command("heartbeat", ahead, ahead))
    assert engine.risk.stale == {SYMBOL}
    assert heartbeats_in(600, engine, Still(BARS[2].ts), lambda: None) == 0


def test_a_heartbeat_without_effect_is_repeated_slowly() -> None:
    assert heartbeats_in(299, an_engine(), Still(BARS[2].ts + HOUR_MS), lambda: None) == 10


def test_a_heartbeat_is_sent_each_time_data_become_stale() -> None:
    engine, clock = an_engine(), Still(BARS[2].ts + HOUR_MS)

    def beat() -> None:
        engine.handle(Command("heartbeat", clock.time, clock.time))

    assert heartbeats_in(60, engine, clock, beat) == 1
    assert engine.risk.stale == {SYMBOL}
    for bar in BARS[3:]:
        engine.handle(bar)
    clock.time = engine.market.now
    engine.risk.stale.clear()
    clock.time += HOUR_MS
    assert heartbeats_in(60, engine, clock, beat) == 1


def test_the_disciplined_clock_follows_the_machine() -> None:
    clock = DisciplinedClock(WallClock())
    before = clock.now()
    time.sleep(0.01)
    assert before <= clock.now() <= WallClock().now() + 50


def test_an_alarm_is_recorded_and_changes_nothing() -> None:
    sink = ListSink()
    engine = Engine(CONFIG, load_strategy("sma_cross", {"fast": 1, "slow": 2}), sink, run_id="r")
    for bar in BARS[:3]:
        engine.handle(bar)
    before, rule = len(sink.decisions), engine.risk.rule
    now = BARS[2].ts + 1
    engine.handle(Command("alarm", now, now, {"rule": "clock", "detail": "the system clock is 26h ahead"}))
    assert sink.decisions[before:] == [
        RiskEvent(now, RiskState.ACTIVE, "clock", "the system clock is 26h ahead")
    ]
    assert (engine.risk.state, engine.risk.rule) == (RiskState.ACTIVE, rule)
    assert not engine.counts["unknown commands"]
