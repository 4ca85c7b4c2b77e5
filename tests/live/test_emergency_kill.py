"""The kill switch works if the store, log, core or process fails; no decision precedes a kill."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from agent.cli.offline_kill import append_kill
from agent.config import Config
from agent.core.errors import NoAnswer, SafetyError, StoreUnavailable, TapewireError
from agent.core.events import Command, Fill, Order, OrderType, RiskState, Side
from agent.core.exchange import EMERGENCY_PREFIX
from agent.core.risk import KILL
from agent.live.app import make_agent
from agent.live.control_socket import ControlRequest, send_request
from agent.live.daemon import Daemon
from agent.live.emergency_close import EmergencyExit, Share
from agent.live.gateway.bybit_port import BybitPort
from agent.live.gateway.credentials import Credentials
from agent.live.kill_file import FILE, KillSwitch
from agent.sandbox import Sandbox
from agent.sandbox.faults import parse_fault
from agent.store.database import Database
from agent.store.lock import store_lock
from agent.system.secret import Secret
from tests.live.gateway.churning_strategy import venue_settings
from tests.support.killing import KEYS, Case, clear, kill_in, start
from tests.support.live import (
    PATIENCE,
    assert_sound,
    handled,
    journal,
    living,
    load_words,
    of,
    options,
    settings,
    until,
)

QUICK = {"patience": "1m", "retry": {"first": "5ms", "ceiling": "20ms"}}


SHARE = [
    Case("store", "verb", True),
    Case("log", "file", True),
    Case("spin", "signal", False),
    Case("dead", "verb", True),
]
"""One case of each kind. `python -m tests.kill_states --variants broken` runs all of them."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", SHARE, ids=lambda case: f"{case.state}-{case.pull}{'-flatten' if case.flatten else ''}"
)
async def test_a_kill_clears_the_venue_account(case: Case, tmp_path: Path) -> None:
    result = await kill_in(case, tmp_path)
    if case.state == "store":
        fills = [
            fill.order_id for fill in of(Fill, result.events) if fill.order_id.startswith(EMERGENCY_PREFIX)
        ]
        assert bool(fills) is case.flatten  # the ledger has them as the run's own
        note = next(event for event in of(Command, result.events) if event.action == "emergency-kill")
        assert note.args["cancelled"]
        kill = next(event for event in of(Command, result.events) if event.action == "kill")
        assert result.events.index(kill) < result.events.index(note)
        assert note.by.split()[0] == kill.by.split()[0]


# -- on paper ------------------------------------------------------------------------------------------------


def killed(daemon: Daemon) -> bool:
    risk = daemon.pipeline.engine.risk
    return (risk.state, risk.rule) == (RiskState.HALTED, KILL)


async def by_verb(daemon: Daemon) -> None:
    with pytest.raises(TapewireError, match="nothing is traded"):
        await asyncio.to_thread(send_request, daemon.config.live.folder, ControlRequest("kill"))


async def by_file(daemon: Daemon) -> None:
    (daemon.config.live.folder / FILE).write_text("a drill")


async def by_signal(daemon: Daemon) -> None:
    daemon.kill_switch.catch(signal.SIGUSR1)
    os.kill(os.getpid(), signal.SIGUSR1)


@pytest.mark.parametrize("pull", [by_verb, by_file, by_signal])
async def test_while_the_store_cant_be_written_a_kill_precedes_all_waiting_events(
    pull: Callable[[Daemon], Any], sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    daemon = make_agent(
        settings(sandbox.rest_url, tmp_path, store=QUICK),
        database,
        load_model=load_words,
        clock=sandbox.clock,
    )
    async with living(daemon):
        await until(lambda: handled(daemon) >= 10)
        (tmp_path / "store.db").chmod(0o444)
        await until(daemon.pipeline.storage.failing.is_set)
        await until(lambda: len(daemon.queue) > 5)
        before, commands = daemon.pipeline.journal.last_seq, daemon.queue.stats().kinds["Command"].put
        await pull(daemon)
        await until(lambda: daemon.queue.stats().kinds["Command"].put > commands)
        await until(lambda: (tmp_path / FILE).exists())  # the kill outlives this process
        tries = daemon.status().storage.tries
        await until(lambda: daemon.status().storage.tries > tries + 1)
        assert daemon.pipeline.journal.last_seq == before
        (tmp_path / "store.db").chmod(0o644)
        await until(lambda: killed(daemon))
        bars = handled(daemon)
        await until(lambda: handled(daemon) > bars + 5)
        first = journal(database)[before]
        assert isinstance(first, Command)
        assert first.action == "kill"
        if pull is not by_file:
            await until(lambda: not (tmp_path / FILE).exists())  # the kill is in the journal now
    events = assert_sound(database, "latest", daemon.config)
    assert [event.action for event in of(Command, events)].count("kill") == 1


async def test_an_unjournalled_kill_prevents_the_next_start(
    sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    live = {"folder": str(tmp_path), "drain_timeout": "200ms"}
    config = settings(sandbox.rest_url, tmp_path, store=QUICK, live=live)
    daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
    stop = asyncio.Event()
    life = asyncio.create_task(daemon.run(stop))
    await until(lambda: daemon.started and handled(daemon) >= 10)
    (tmp_path / "store.db").chmod(0o444)
    await until(daemon.pipeline.storage.failing.is_set)
    await by_verb(daemon)
    await until(lambda: (tmp_path / FILE).exists())
    stop.set()
    with pytest.raises(StoreUnavailable):
        await asyncio.wait_for(life, PATIENCE)
    (tmp_path / "store.db").chmod(0o644)
    with pytest.raises(SafetyError, match="no start while"):
        await make_agent(config, database, load_model=load_words, clock=sandbox.clock).run(asyncio.Event())


async def test_the_kill_command_does_not_write_to_a_store_in_use(
    sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    daemon = make_agent(
        settings(sandbox.rest_url, tmp_path), database, load_model=load_words, clock=sandbox.clock
    )
    config = settings(sandbox.rest_url, tmp_path, live={"folder": str(other)})
    async with living(daemon):
        await until(lambda: handled(daemon) >= 10)
    with store_lock(database, tmp_path):  # an agent that waits for its next bar
        assert not append_kill(config, {})
    assert "kill" not in [event.action for event in of(Command, journal(database))]
    assert append_kill(config, {})
    assert [event.action for event in of(Command, journal(database))][-1] == "kill"


@pytest.mark.slow
@pytest.mark.parametrize(("pull", "how"), [("signal", "spin"), ("verb", "sleep")])
async def test_a_kill_of_a_hanging_core_prevents_the_next_start_on_paper(
    pull: str, how: str, tmp_path: Path
) -> None:
    async with Sandbox(options(speed=240)) as sandbox:
        path = tmp_path / "config.toml"
        path.write_text(
            'strategy = { name = "tests.support.hanging_agent:Hanging", '
            f'params = {{ trigger = "{tmp_path / "hang"}", how = "{how}" }} }}\n'
            f'bybit = {{ endpoint = "{sandbox.rest_url}", warmup_bars = 20, settle = "40s" }}\n'
            "dashboard.enabled = false\n"
            f'live = {{ folder = "{tmp_path}", kill_within = "500ms" }}\n'
            f'store.url = "sqlite:///{tmp_path / "store.db"}"\n'
        )
        process = await start("run", "--config", path)
        try:
            async with asyncio.timeout(2 * PATIENCE):
                while True:
                    with suppress(TapewireError):
                        if not (
                            await asyncio.to_thread(
                                send_request, tmp_path, ControlRequest("status"), timeout=1.0
                            )
                        )["warming_up"]:
                            break
                    await asyncio.sleep(0.1)
                (tmp_path / "hang").touch()
                with suppress(NoAnswer):
                    while True:
                        await asyncio.to_thread(send_request, tmp_path, ControlRequest("status"), timeout=1.0)
                if pull == "signal":
                    process.send_signal(signal.SIGUSR1)
                    while not (tmp_path / FILE).exists():
                        await asyncio.sleep(0.05)
                else:
                    verb = await start("kill", "--config", path)
                    _, said = await verb.communicate()
                    assert verb.returncode == 1
                    assert "keeps the agent killed until it is removed" in " ".join(said.decode().split())
                process.kill()
                await process.wait()
                again = await start("run", "--config", path)
                _, said = await again.communicate()
                assert again.returncode == 3, said.decode()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


# -- kinds of KILL files -------------------------------------------------------------------------------------


def a_fifo(path: Path) -> None:
    os.mkfifo(path)


def a_folder(path: Path) -> None:
    path.mkdir()


def a_dangling_link(path: Path) -> None:
    path.symlink_to("nowhere")


def a_link_to_a_terminal(path: Path) -> None:
    path.symlink_to("/dev/tty")


def unreadable(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\0")
    path.chmod(0)


@pytest.mark.parametrize("make", [a_fifo, a_folder, a_dangling_link, a_link_to_a_terminal, unreadable])
async def test_a_kill_file_of_any_type_kills_without_blocking_the_agent(
    make: Callable[[Path], None], sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    daemon = make_agent(
        settings(sandbox.rest_url, tmp_path), database, load_model=load_words, clock=sandbox.clock
    )
    async with living(daemon):
        await until(lambda: handled(daemon) >= 3)
        make(tmp_path / FILE)
        await until(lambda: killed(daemon))
        bars = handled(daemon)
        await until(lambda: handled(daemon) > bars + 3)
    with pytest.raises(SafetyError, match="no start while"):
        KillSwitch(tmp_path).refuse("no start")


async def test_text_written_after_the_kill_file_was_created_still_flattens(
    sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    hold = {"name": "buy_and_hold", "params": {}}
    daemon = make_agent(
        settings(sandbox.rest_url, tmp_path, strategy=hold),
        database,
        load_model=load_words,
        clock=sandbox.clock,
    )
    async with living(daemon):
        await until(lambda: len(daemon.pipeline.engine.portfolio.open) == 2)
        with (tmp_path / FILE).open("w") as file:
            await until(lambda: killed(daemon))
            file.write("flatten")
        await until(lambda: not daemon.pipeline.engine.portfolio.open)


# -- emergency exit ------------------------------------------------------------------------------------------


def account(sandbox: Sandbox, folder: Path, **sections: Any) -> Config:
    return settings(sandbox.rest_url, folder, **venue_settings(sandbox.rest_url, **sections))


@asynccontextmanager
async def port(config: Config, sandbox: Sandbox) -> AsyncIterator[BybitPort]:
    keys = Credentials(Secret(KEYS["TAPEWIRE_API_KEY"]), Secret(KEYS["TAPEWIRE_API_SECRET"]))
    opened = BybitPort(config.execution.testnet, config.market.category, keys, sandbox.clock)
    try:
        yield opened
    finally:
        await opened.close()


def market_order(name: str, qty: str, side: Side = Side.BUY) -> Order:
    return Order(name, "BTCUSDT", 0, side, OrderType.MARKET, Decimal(qty))


@pytest.mark.slow
@pytest.mark.parametrize(
    "faults",
    [
        [],
        ["status,on=rest/v5/order/create,code=500,count=2"],
        [
            "status,on=rest/v5/order/cancel-all,code=500,count=3",
            "status,on=rest/v5/position/list,code=500,count=2",
        ],
    ],
    ids=["none", "create", "cancel"],
)
async def test_two_concurrent_exits_end_flat_without_reversing_the_position(
    faults: list[str], tmp_path: Path
) -> None:
    async with Sandbox(options(speed=240)) as sandbox:
        config = account(sandbox, tmp_path)
        async with port(config, sandbox) as one, port(config, sandbox) as two:
            await one.create(market_order("a", "0.05"))
            resting = Order(
                "b", "BTCUSDT", 0, Side.BUY, OrderType.LIMIT, Decimal("0.01"), price=Decimal(1_000)
            )
            await one.create(resting)
            await until(
                lambda: sandbox.venue.account.books["linear"].open_legs() and sandbox.venue.account.open
            )
            sandbox.venue.faults.add([parse_fault(fault) for fault in faults])
            other = account(sandbox, tmp_path / "other")  # another folder, so the two exits share no lock
            exits = [
                EmergencyExit(c, p, sandbox.clock, random.Random(1), lambda: None)
                for c, p in ((config, one), (other, two))
            ]
            reports = await asyncio.gather(*(way_out.run(flatten=True, within=PATIENCE) for way_out in exits))
            assert [report.done for report in reports] == [True, True], reports
            assert clear(sandbox, flatten=True)
            bought = sum(one.qty for one in sandbox.venue.account.executions if one.side is Side.BUY)
            sold = sum(one.qty for one in sandbox.venue.account.executions if one.side is Side.SELL)
            assert bought == sold == Decimal("0.05")


async def test_on_spot_the_exit_sells_only_what_the_run_holds(tmp_path: Path) -> None:
    async with Sandbox(options(speed=240)) as sandbox:
        config = account(sandbox, tmp_path, market={"symbols": ["BTCUSDT"], "category": "spot"})
        async with port(config, sandbox) as venue:
            for name, qty in (("theirs", "0.03"), ("booked", "0.02"), ("missed", "0.01")):
                await venue.create(market_order(name, qty))
            await until(
                lambda: len({one.order.link for one in sandbox.venue.account.executions if one.order}) == 3
            )
            since = sandbox.clock.now() - 3_600_000
            found = await venue.executions(since)
            booked = [one for one in found if one.client_id == "booked"]
            held = sum((one.qty - one.fee for one in booked), Decimal(0))
            share = Share(
                frozenset({"booked", "missed"}), frozenset(one.id for one in booked), {"BTCUSDT": held}, since
            )
            before = (await venue.wallet()).balances["BTC"]
            way_out = EmergencyExit(config, venue, sandbox.clock, random.Random(1), lambda: share)
            report = await way_out.run(flatten=True, within=PATIENCE)
            assert report.done, report
            left = (await venue.wallet()).balances["BTC"]
            assert Decimal("0.0299") < left < Decimal("0.0301")
            assert before > Decimal("0.0598")
            blind = EmergencyExit(config, venue, sandbox.clock, random.Random(1), lambda: None)
            refused = await blind.run(flatten=True, within=PATIENCE)
            assert "nothing is sold" in refused.error
            assert (await venue.wallet()).balances["BTC"] == left
