"""Lives that end by SIGKILL while their orders are at an exchange that lives on, and whether ledger and wallet agree after each.

    python -m tests.crash --testnet [--kills 300] [--seed 1] [--faults] [--mutant NAME]

The exchange is the sandbox, in this process, over real HTTP and WebSocket; each life of the agent is a process of its own, with the real
daemon, gateway and store. It dies at a named point between intent, send, acknowledgement, fill and commit, or at any time. After each
death the exchange's books are looked at: no client order id twice, none filled beyond its quantity. Every `EVERY` deaths, and at the end,
a life is let go on until it has reconciled, its orders are settled and it is flat; then the ledger must be the wallet to the cent, every
execution be booked once, and `verify` find the same decisions. The last line is the count; exit code 1 where anything was lost.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing, suppress
from decimal import Decimal
from functools import wraps
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Final

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from agent.cli.console import err
from agent.config import Config, parse
from agent.config_live import LogConfig
from agent.engine import Engine
from agent.errors import TapewireError
from agent.events import Fill, FillKind
from agent.execution.testnet.bybit import BybitPort
from agent.execution.testnet.gateway import Gateway
from agent.execution.testnet.reports import Reports
from agent.execution.venue import VenueExchange
from agent.live.control import Request, ask
from agent.live.daemon import Daemon
from agent.live.logging import configure
from agent.live.venue_clock import venue_clock
from agent.sandbox import Sandbox, SandboxOptions
from agent.sandbox.faults import parse_fault
from agent.sink import ListSink
from agent.store.database import open_database
from agent.store.journal import read_journal
from agent.store.queries import find_run, read_decisions
from agent.verify import verify
from strategies import load_strategy
from tests.conftest import ROOT
from tests.crash.audit import Loss
from tests.crash.points import POINTS, Moment, around, install
from tests.execution.testnet.world import churn, venue_settings
from tests.live.world import settings

SPEED: Final = 600.0  # a bar in 100 ms
EVERY: Final = 25  # deaths between two audits
LONGEST: Final = 2.5  # seconds that a life may have before it is killed wherever it is
PATIENCE: Final = 120.0  # seconds until a life that is let go on must be settled
SYMBOLS: Final = ("BTCUSDT", "ETHUSDT")

INTENT: Final = "intent kept, not sent"
SENT: Final = "sent, not acknowledged"
ACKNOWLEDGED: Final = "acknowledged, not told"
FILLED: Final = "a fill heard, not told"
TOLD: Final = "told, not journalled"
CANCELLED: Final = "a cancel sent, not acknowledged"

VENUE_POINTS: Final = {INTENT: 6, SENT: 6, ACKNOWLEDGED: 6, FILLED: 8, TOLD: 20, CANCELLED: 2}
"""Points of the gateway, besides those of journal, core and recorder; as `tests.crash.points.POINTS`."""

FAULTS: Final = (
    "lost,on=rest/v5/order/create,code=10000,p=0.05", "retcode,on=rest/v5/order/*,code=10006,p=0.03", "drop,on=ws/private/*,p=0.1",
    "duplicate,on=ws/private/*,p=0.1", "close,on=ws/private/*,p=0.01", "lag,on=rest/v5/*/list,ms=200,p=0.3",
)  # fmt: skip


def life(raw: dict[str, Any], moment: Moment, mutant: str) -> None:
    """In a process of its own: the agent, until it is killed or told to stop."""
    os.environ |= {"TAPEWIRE_API_KEY": "sandbox-key", "TAPEWIRE_API_SECRET": "sandbox-secret"}
    configure(LogConfig(level="error"), sys.stderr if os.environ.get("TRACE") else open(os.devnull, "w"))  # noqa: SIM115 until the end
    MUTANTS[mutant]()
    install(moment)
    install_at_venue(moment)
    asyncio.run(_live(parse(raw, where="crash")))


async def _live(config: Config) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    clock = await venue_clock(config.bybit.endpoint)
    with closing(open_database(config.store.url)) as database:
        daemon = Daemon(config, database, load_model=_no_model, clock=clock, rng=random.Random(1))
        await daemon.run(stop)


def _no_model(folder: str) -> Any:
    raise AssertionError(folder)


# -- where to die ------------------------------------------------------------------------------------------------------


def install_at_venue(moment: Moment) -> None:
    """Let this process die at a point of the gateway, if `moment` names one."""
    left = moment.nth

    def reach(point: str) -> None:
        nonlocal left
        if point == moment.point:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def around_request(name: str, before: str, sent: str, after: str) -> None:
        original = getattr(BybitPort, name)

        @wraps(original)
        async def wrapped(self: BybitPort, *args: Any, **kwargs: Any) -> Any:
            reach(before)
            if sent == moment.point:
                asyncio.get_running_loop().call_later(
                    0.004, reach, sent
                )  # the request is on its way, its answer isn't here yet
            result = await original(self, *args, **kwargs)
            reach(after)
            return result

        setattr(BybitPort, name, wrapped)

    around_request("create", INTENT, SENT, ACKNOWLEDGED)
    around_request("cancel", "", CANCELLED, "")
    around(Reports, "execution", before=lambda *_: reach(FILLED))
    around(Gateway, "_put", after=lambda *_: reach(TOLD))


# -- faults that must be found -----------------------------------------------------------------------------------------


def _executions_before_are_forgotten() -> None:
    """A restart doesn't ask for what happened while nobody lived."""
    executions = BybitPort.executions

    async def recent(self: BybitPort, since: int) -> Any:
        return await executions(self, max(since, self.now() - 1))

    BybitPort.executions = recent  # type: ignore[method-assign]


def _ids_of_their_own() -> None:
    """An order goes out under another client order id each time that it is sent."""
    create = BybitPort.create

    async def renamed(self: BybitPort, order: Any) -> str:
        from msgspec.structs import replace

        return await create(self, replace(order, id=f"{order.id[:20]}{random.getrandbits(40):x}"))

    BybitPort.create = renamed  # type: ignore[method-assign]


MUTANTS: Final = {
    "": lambda: None,
    "executions-before-are-forgotten": _executions_before_are_forgotten,
    "ids-of-their-own": _ids_of_their_own,
}


# -- the harness -------------------------------------------------------------------------------------------------------


class Harness:
    """One exchange, and the lives that come and go at it."""

    def __init__(self, sandbox: Sandbox, folder: Path, dice: random.Random, mutant: str) -> None:
        self.deaths: Counter[str] = Counter()
        self.audits = 0
        self._sandbox = sandbox
        self._folder = folder
        self._dice = dice
        self._mutant = mutant
        self._context = get_context("forkserver")
        rules = sandbox.venue.listing.instruments["linear"]
        sections = venue_settings(sandbox.rest_url, execution={"start_within": "1m"}, strategy=churn(weight=0.05))
        instruments = {
            symbol: {
                "tick_size": str(rules[symbol].tick_size), "qty_step": str(rules[symbol].qty_step), "min_qty": str(rules[symbol].min_qty),
            }
            for symbol in SYMBOLS
        }  # fmt: skip
        self._config = settings(
            sandbox.rest_url, folder, market={"symbols": SYMBOLS}, account={"initial_capital": 100_000}, instruments=instruments,
            dashboard={"enabled": False}, bybit={"warmup_bars": 5}, **sections,
        )  # fmt: skip

    def _start(self, moment: Moment) -> ForkServerProcess:
        raw = self._config.model_dump(mode="json")
        arguments = raw, moment, self._mutant
        process = self._context.Process(target=life, args=arguments, daemon=True)
        process.start()
        return process

    def _choose(self) -> Moment:
        if self._dice.random() < 0.3:
            return Moment(after=self._dice.uniform(0.05, LONGEST))
        points = (
            VENUE_POINTS
            if self._dice.random() < 0.75
            else {p: n for p, n in POINTS.items() if "schema" not in p and "end" not in p}
        )
        point = self._dice.choice(list(points))
        return Moment(point, self._dice.randint(1, points[point]))

    @property
    def orders(self) -> int:
        """That the exchange has had."""
        return len(self._sandbox.venue.account.orders)

    @property
    def executions(self) -> int:
        """Of them, and funding."""
        return len(self._sandbox.venue.account.executions)

    async def die(self) -> None:
        """One life, and its end."""
        moment = self._choose()
        process = self._start(moment)
        limit = moment.after or 3 * LONGEST
        begun = time.monotonic()
        while process.is_alive() and time.monotonic() - begun < limit:
            await asyncio.sleep(0.01)
        reached = moment.point and not process.is_alive()
        if process.is_alive() and process.pid:
            os.kill(process.pid, signal.SIGKILL)
        await asyncio.to_thread(process.join)
        if process.exitcode not in (-signal.SIGKILL, 0):
            raise Loss(f"a life ended with exit code {process.exitcode} ({moment}); TRACE=1 shows why")
        self.deaths[moment.point if reached else "any time"] += 1
        self._look_at_exchange(str(moment))

    def _look_at_exchange(self, when: str) -> None:
        """What can be said of the exchange's own books at any time."""
        venue = self._sandbox.venue.account
        links = Counter(order.link for order in venue.orders.values())
        if twice := [link for link, count in links.items() if count > 1]:
            raise Loss(f"{when}: the exchange has the client order id {twice[0]} twice")
        filled: Counter[str] = Counter()
        wanted = {order.link: order.qty for order in venue.orders.values()}
        for one in venue.executions:
            if one.order is not None and one.kind == "Trade":
                filled[one.order.link] += one.qty  # type: ignore[assignment]
        if over := [link for link, qty in filled.items() if qty > wanted[link]]:
            raise Loss(f"{when}: order {over[0]} was filled for {filled[over[0]]}, and was for {wanted[over[0]]}")

    async def audit(self) -> None:
        """A life that goes on until all is settled and flat, and the books held against each other."""
        process = self._start(Moment())
        try:
            await self._settle(process)
        finally:
            if process.is_alive() and process.pid:
                os.kill(process.pid, signal.SIGTERM)
            await asyncio.to_thread(process.join, 30)
        if process.exitcode != 0:
            raise Loss(f"the life that was let go on ended with exit code {process.exitcode}; TRACE=1 shows why")
        self._look_at_exchange("when settled")
        self._compare()
        self.audits += 1

    async def _settle(self, process: ForkServerProcess) -> None:
        told = ""
        until = time.monotonic() + PATIENCE
        words = "nobody answers"
        while time.monotonic() < until:
            if not process.is_alive():
                raise Loss(f"the life that was let go on ended by itself, with exit code {process.exitcode}; TRACE=1 shows why")
            await asyncio.sleep(0.1)
            with suppress(TapewireError):
                status = await asyncio.to_thread(ask, self._folder, Request("status"), timeout=10.0)
                gateway = next(row for row in status["producers"] if row["name"] == Gateway.name)
                words = f"{gateway['intents']} open, drift {gateway.get('drift')!r}, reconciled {not status['unreconciled']}"
                if status["warming_up"] or status["unreconciled"]:
                    continue
                if not told:
                    for action in ("pause", "flatten"):
                        await asyncio.to_thread(ask, self._folder, Request(action), timeout=30.0)
                    told = "flatten"
                    looked = gateway["reconciled_at"]
                elif not gateway["intents"] and not gateway["drift"] and gateway["reconciled_at"] > looked:
                    if all(one["qty"] in ("0", "0.0", 0) or Decimal(str(one["qty"])) == 0 for one in status["positions"]):
                        await asyncio.to_thread(ask, self._folder, Request("resume"), timeout=30.0)
                        return
                    looked = gateway["reconciled_at"]
                    await asyncio.to_thread(ask, self._folder, Request("flatten"), timeout=30.0)
        raise Loss(f"not settled within {PATIENCE:g} s: {words}")

    def _compare(self) -> None:
        venue = self._sandbox.venue.account
        with closing(open_database(self._config.store.url)) as database:
            run = find_run(database)
            engine = Engine(self._config, load_strategy(run.strategy, run.params), ListSink(), run_id=run.id, equity_block=1)
            for _, event in read_journal(database, run.id):
                engine.handle(event)
            fills = [one.decision for one in read_decisions(database, run.id) if isinstance(one.decision, Fill)]
            identical = verify(database, run).identical
        ledger = engine.exchange
        assert isinstance(ledger, VenueExchange)
        booked = Counter(fill.id for fill in fills if fill.kind is FillKind.TRADE)
        happened = {one.id for one in venue.executions if one.kind == "Trade"}
        if missing := happened - set(booked):
            raise Loss(f"{len(missing)} of {len(happened)} executions are not booked")
        if strange := [fill for fill, count in booked.items() if count > 1 or fill not in happened]:
            raise Loss(f"execution {strange[0]} is booked {booked[strange[0]]} times")
        drift = venue.wallet.balances()[0].wallet - ledger.wallet()
        if abs(drift) >= Decimal("0.005"):
            raise Loss(f"the wallet is {drift:.4f} above the ledger")
        held = {leg.symbol: leg.held.qty for leg in venue.desks["linear"].open_legs()}
        if any(ledger.held(symbol) != held.get(symbol, 0) for symbol in SYMBOLS):
            raise Loss(f"the exchange holds {held}, the ledger something else")
        if not identical:
            raise Loss("verify finds another decision")


async def harness(
    kills: int, seed: int, *, faults: bool, mutant: str, folder: Path, progress: Progress
) -> tuple[Harness, int, str]:
    """The harness, how many kills were recovered from, and what was lost, if anything was."""
    dice = random.Random(seed)
    options = SandboxOptions(
        klines=tuple(Path(f"{symbol}={ROOT / 'tests/sample_data' / f'{symbol}-1m.csv'}") for symbol in SYMBOLS),
        speed=SPEED, balance=Decimal(100_000), seed=seed, loop=True, history_bars=200, ip_limit=10**9, socket_limit=10**6,
    )  # fmt: skip
    async with Sandbox(options) as sandbox:
        lives = Harness(sandbox, folder, dice, mutant)
        task = progress.add_task("kills", total=kills)
        recovered = done = 0
        try:
            await lives.audit()  # a first life, so that there is something to kill
            if faults:
                sandbox.venue.faults.add(tuple(parse_fault(text) for text in FAULTS))
            while done < kills:
                await lives.die()
                done += 1
                progress.advance(task)
                progress.refresh()
                if done % EVERY == 0 or done == kills:
                    await lives.audit()
                    recovered = done
        except Loss as loss:
            return lives, recovered, f"after {done} kills: {loss}"
    return lives, recovered, ""


def run(kills: int, seed: int, *, faults: bool, mutant: str) -> int:
    """All of it; the exit code."""
    get_context("forkserver").set_forkserver_preload([__name__])
    configure(LogConfig(level="error"))
    progress = Progress(
        TextColumn("kills"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=err, auto_refresh=False
    )
    with tempfile.TemporaryDirectory(prefix="tapewire-crash-") as folder, progress:
        work = harness(kills, seed, faults=faults, mutant=mutant, folder=Path(folder), progress=progress)
        done, recovered, lost = asyncio.run(work)
    for point, count in done.deaths.most_common():
        print(f"{count:5}  {point}")
    print(f"{done.orders:,} orders, {done.executions:,} executions, {done.audits} audits")
    if lost:
        print(f"LOST {lost}")
    print(f"{done.deaths.total()} kills, {recovered} recovered, {int(bool(lost))} lost")
    return int(bool(lost))
