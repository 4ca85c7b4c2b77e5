"""`kill --flatten` from random states, while the strategy insists on its position: flat or alarmed, never
silent.

    python -m tests.kill_states [--states 200] [--seed 1] [--variants paper,sandbox]

States are dealt to the variants in turn. A variant is an async function of a random generator and an empty
folder, listed in `VARIANTS`; it brings an agent into some state, kills it and returns what came of that. The
last line is the count, and the exit code is 1 if a state was silent: a position was left open, or something
was opened after the kill, and no risk event said so.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final, NamedTuple

from agent.config.live import LogConfig
from agent.core.engine import Engine
from agent.core.events import MINUTE_MS, Command, Decision, Fill, Kline, Order, RiskEvent
from agent.core.risk import FLATTEN
from agent.core.sinks import ListSink
from agent.core.strategy import Market, Strategy, StrategyParams, TimeInForce
from agent.live.app import make_agent
from agent.live.log import configure
from agent.sandbox import Sandbox
from agent.sandbox.faults import parse_fault
from agent.store.database import open_database
from agent.store.queries import find_run, read_decisions
from bench.orders import FAULTS
from tests.live.gateway.churning_strategy import venue_settings
from tests.support.killing import CASES, Case, kill_in
from tests.support.live import load_words, options, settings
from tests.support.market import SYMBOL, T0, bar, config

_PATIENCE: Final = 20.0  # seconds until a position at the sandbox must be closed, or an alarm be there


class Verdict(NamedTuple):
    """What came of one state: flat, alarmed or silent, and what the state was."""

    result: str
    state: str


Variant = Callable[[random.Random, Path], Awaitable[Verdict]]


class Insisting(Strategy):
    """Wants something new on every bar and on every fill, most of it large, by dice."""

    class Params(StrategyParams):
        """`seed` of the dice; `largest` exposure."""

        seed: int = 1
        largest: float = 0.8

    def __init__(self, params: StrategyParams | None = None) -> None:
        super().__init__(params)
        self._dice = random.Random(self.params.seed)

    def on_kline(self, kline: Kline, market: Market) -> None:
        self._insist(kline.symbol, kline.close)

    def on_fill(self, fill: Fill, market: Market) -> None:
        if self._dice.random() < 0.3:
            self._insist(fill.symbol, float(fill.price))

    def _insist(self, symbol: str, price: float) -> None:
        dice = self._dice
        side = dice.choice((1, 1, -1))
        self.target(
            symbol,
            weight=side * self.params.largest * dice.choice((0.0, 0.5, 1.0)),
            limit=price * dice.uniform(0.99, 1.01) if dice.random() < 0.3 else None,
            stop=-0.02 * side if dice.random() < 0.4 else None,
            take_profit=0.02 * side if dice.random() < 0.4 else None,
            tif=dice.choice((TimeInForce.GTC, TimeInForce.GTC, TimeInForce.IOC)),
        )


# -- variants -----------------------------------------------------------------------------------------------


async def paper(dice: random.Random, folder: Path) -> Verdict:
    """The core alone, on bars with much, little or no volume."""
    minutes, volume, after = (
        dice.randrange(3, 60),
        dice.choice((50.0, 500.0)),
        dice.choice((0.0, 50.0, 5_000.0)),
    )
    latency = dice.choice((0, 250, 90_000))
    state = f"paper: killed at minute {minutes}, volume {volume:g} and then {after:g}, latency {latency} ms"
    exchange = {"liquidity": "participation", "max_participation": 0.1, "latency": latency}
    sink = ListSink()
    strategy = Insisting(Insisting.Params(seed=dice.randrange(1 << 30)))
    engine = Engine(config(paper=exchange), strategy, sink, run_id="run")
    engine.handle(Command("life", T0, T0, {"incarnation": f"{dice.getrandbits(128):032x}"}))
    price, killed = 100.0, 0
    for minute in range(minutes + 60):
        close = round(price * dice.uniform(0.99, 1.01), 2)
        much = after if minute >= minutes else volume * dice.choice((0, 1, 1))
        engine.handle(bar(minute, price, max(price, close), min(price, close), close, much))
        price = close
        if minute == minutes - 1:
            now = T0 + minutes * MINUTE_MS + dice.randrange(MINUTE_MS)
            killed = len(sink.decisions)
            engine.handle(Command("kill", now, now, {"flatten": "true"}, "harness"))
    held = engine.portfolio.positions[SYMBOL].qty
    return Verdict(
        judge(sink.decisions[killed:], flat=not held and not engine.flattener.open), f"{state}, {held} left"
    )


async def sandbox(dice: random.Random, folder: Path) -> Verdict:
    """The daemon, its gateway and an exchange at which something goes wrong."""
    faults = dice.sample(FAULTS, dice.choice((0, 0, 3, 6)))
    wait = dice.uniform(0.0, 2.0)
    state = f"sandbox: killed after {wait:.2f} s, faults {faults}"
    async with Sandbox(options(speed=240)) as venue:
        strategy = {
            "name": "tests.kill_states:Insisting",
            "params": {"seed": dice.randrange(1 << 30), "largest": 0.2},
        }
        given = settings(venue.rest_url, folder, **venue_settings(venue.rest_url, strategy=strategy))
        with closing(open_database(given.store.url)) as database:
            daemon = make_agent(given, database, load_model=load_words, clock=venue.clock)
            stop = asyncio.Event()
            life = asyncio.create_task(daemon.run(stop))
            account = venue.venue.account
            await _until(lambda: life.done() or len(account.executions) > 2)
            venue.venue.faults.add([parse_fault(text) for text in faults])
            await asyncio.sleep(wait)
            seq = (await daemon.command("kill", {"flatten": "true"}, "harness"))["event"]
            flat = await _until(
                lambda: (
                    not account.books["linear"].open_legs()
                    and not account.open
                    and not daemon.status().flattening
                )
            )
            venue.venue.faults.clear()
            stop.set()
            await life
            run = find_run(database).id
            made = [item.decision for item in read_decisions(database, run) if item.event_seq >= seq]
            open_legs = account.books["linear"].open_legs()
    return Verdict(judge(made, flat=flat), f"{state}, {len(open_legs)} positions left")


async def broken(dice: random.Random, folder: Path) -> Verdict:
    """An agent in a process of its own, with a store that can't be written, a log that nobody reads, a core
    that hangs, or dead.
    """
    case = dice.choice(
        [case for case in (*CASES, Case("sound", "verb", True), Case("sound", "file", True)) if case.flatten]
    )
    try:
        done = await kill_in(case, folder)
    except AssertionError as error:
        return Verdict("silent", f"{case}: {error}")
    return Verdict("flat", f"{case}: {done.seconds:.1f} s")


VARIANTS: Final[dict[str, Variant]] = {"paper": paper, "sandbox": sandbox, "broken": broken}


def judge(decisions: list[Decision], *, flat: bool) -> str:
    """What the decisions since the kill and the end make of it."""
    if any(isinstance(one, Order) and not one.reduce_only for one in decisions):
        return "silent"
    if flat:
        return "flat"
    alarmed = any(isinstance(one, RiskEvent) and one.rule == FLATTEN for one in decisions)
    return "alarmed" if alarmed else "silent"


async def _until(condition: Callable[[], Any]) -> bool:
    end = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > end:
            return False
        await asyncio.sleep(0.01)
    return True


async def kill_states(states: int, seed: int, variants: list[str]) -> Counter[str]:
    """Kill from so many states; prints each that was not flat."""
    counts: Counter[str] = Counter()
    for number in range(states):
        name = variants[number % len(variants)]
        with tempfile.TemporaryDirectory() as folder:
            verdict = await VARIANTS[name](random.Random(f"{seed}:{number}"), Path(folder))
        counts[verdict.result] += 1
        if verdict.result != "flat":
            print(f"state {number}: {verdict.result}: {verdict.state}")
    return counts


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.kill_states",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--states", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--variants", default=",".join(VARIANTS), help="some of these, separated by commas")
    given = parser.parse_args()
    configure(LogConfig(level="error"))
    os.environ.setdefault("TAPEWIRE_API_KEY", "sandbox-key")
    os.environ.setdefault("TAPEWIRE_API_SECRET", "sandbox-secret")
    counts = asyncio.run(kill_states(given.states, given.seed, given.variants.split(",")))
    print(
        f"{given.states} states: {counts['flat']} flat, {counts['alarmed']} alarmed, "
        f"{counts['silent']} silent"
    )
    return int(bool(counts["silent"]))


if __name__ == "__main__":
    sys.exit(main())
