"""Runs of a seed in testnet mode: lives that end by SIGKILL, all of them at one exchange that goes on."""

from __future__ import annotations

import os
import random
import select
import signal
import sys
import traceback
from collections import Counter
from pathlib import Path
from typing import Final

from rich.progress import Progress

from tests.crash.audit import Loss
from tests.crash.exchange import Exchange
from tests.crash.gateway_points import POINTS
from tests.crash.points import BEGUN, SCHEMA, Moment
from tests.crash.reckoning import NOTHING, check_death, check_end, read
from tests.crash.trader import PATIENCE
from tests.crash.trader import main as live

LONGEST: Final = 2.5  # seconds that a life may have before it is killed wherever it is


def choose(dice: random.Random, number: int) -> Moment:
    """Some deaths come at any time, most at a named point; two points are there only in a first life."""
    if dice.random() < 0.3:
        return Moment(after=dice.uniform(0.001, LONGEST))
    point = dice.choice((SCHEMA, BEGUN) if number == 0 else sorted(POINTS))
    return Moment(point, dice.randint(1, POINTS.get(point, 1)))


class TradingHarness:
    """As `Harness`, in testnet mode. `orders` and `executions` count what the exchange had of all runs."""

    def __init__(self, seed: int, folder: Path, *, faulty: bool = False) -> None:
        self.deaths: Counter[str] = Counter()
        self.orders = self.executions = 0
        self._seed = seed
        self._folder = folder
        self._faulty = faulty

    def run(self, number: int, quota: int, progress: Progress) -> int:
        """One run with `quota` deaths at one exchange; returns how many it had. Raises Loss."""
        dice = random.Random(f"{self._seed}:{number}")
        home = self._folder / f"{number}-testnet"
        home.mkdir()
        store, before = home / "store.db", NOTHING
        with Exchange(dice.getrandbits(32), faulty=self._faulty) as exchange:
            for death in range(1, quota + 1):
                moment, earlier = choose(dice, death - 1), exchange.books()
                code, dated = spend(exchange, home, moment)
                try:
                    if code != -signal.SIGKILL:
                        raise Loss(f"the life ended with exit code {code}")
                    now = read(store)
                    check_death(now, before, earlier, exchange.books())
                except Loss as loss:
                    raise Loss(f"run {number}, death {death}, {moment}: {loss}") from loss
                before = now
                self.deaths[moment.point if dated else "any time"] += 1
                progress.advance(progress.task_ids[0])
                progress.refresh()
            try:
                earlier = exchange.books()
                if spend(exchange, home, Moment(), finish=True)[0] != 0:
                    raise Loss("the last life did not settle")
                books = exchange.books()
                check_death(read(store), before, earlier, books)
                check_end(store, books)
                self.orders += len(books.ordered)
                self.executions += len(books.trades)
            except Loss as loss:
                raise Loss(f"run {number}, after {quota} deaths: {loss}") from loss
        return quota


def spend(exchange: Exchange, home: Path, moment: Moment, *, finish: bool = False) -> tuple[int, bool]:
    """One life; the return code of its process, and whether it ended where it was to, before its time was up."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            exchange.close_pipe()
            code = live(exchange.url, exchange.clock, home, moment, finish=finish)
        except BaseException:  # noqa: BLE001 said here, for nothing may go on in this half of the fork
            traceback.print_exc()
        finally:
            os._exit(code)
    life = os.pidfd_open(pid)
    try:
        ended = select.select([life], [], [], 2 * PATIENCE if finish else moment.after or LONGEST)[0]
        if not ended:
            signal.pidfd_send_signal(life, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), bool(ended)
    finally:
        os.close(life)
