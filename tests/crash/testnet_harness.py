"""Runs of a seed in testnet mode: agent processes that are killed, at one exchange that goes on."""

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

from agent.core.events import FillKind
from tests.crash.exchange_audit import EMPTY, check_after_kill, check_end, read_ledger
from tests.crash.gateway_kill_points import POINTS
from tests.crash.kill_points import BEGUN, SCHEMA, KillMoment
from tests.crash.sandbox_process import SandboxProcess
from tests.crash.trading_process import SETTLE_TIMEOUT
from tests.crash.trading_process import main as live
from tests.crash.transcript_checks import Loss

MAX_LIFETIME: Final = 2.5  # seconds after which a process is killed at the latest


def choose_kill(rng: random.Random, number: int) -> KillMoment:
    """Choose a random time (30%) or a named point; two points occur only in the first process."""
    if rng.random() < 0.3:
        return KillMoment(after=rng.uniform(0.001, MAX_LIFETIME))
    point = rng.choice((SCHEMA, BEGUN) if number == 0 else list(POINTS))
    return KillMoment(point, rng.randint(1, POINTS.get(point, 1)))


class TestnetHarness:
    """Runs of one seed in testnet mode. `orders` and `executions` count those of the exchange in all runs,
    `crossed` the internal crosses of sleeves.
    """

    def __init__(self, seed: int, folder: Path, *, faulty: bool = False, sleeves: bool = False) -> None:
        self.kills: Counter[str] = Counter()
        self.orders = self.executions = self.crossed = 0
        self._seed = seed
        self._folder = folder
        self._faulty = faulty
        self._sleeves = sleeves

    def run(self, number: int, quota: int, progress: Progress) -> int:
        """Run with `quota` kills at one exchange; return the number of kills. Raises Loss."""
        rng = random.Random(f"{self._seed}:{number}")
        home = self._folder / f"{number}-testnet"
        home.mkdir()
        store, before = home / "store.db", EMPTY
        with SandboxProcess(rng.getrandbits(32), faulty=self._faulty) as exchange:
            for kill in range(1, quota + 1):
                moment, earlier = choose_kill(rng, kill - 1), exchange.account_summary()
                code, at_point = run_process(exchange, home, moment, sleeves=self._sleeves)
                try:
                    if code != -signal.SIGKILL:
                        raise Loss(f"the process ended with exit code {code}")
                    now = read_ledger(store)
                    check_after_kill(now, before, earlier, exchange.account_summary())
                except Loss as loss:
                    raise Loss(f"run {number}, kill {kill}, {moment}: {loss}") from loss
                before = now
                self.kills[moment.point if at_point else "any time"] += 1
                progress.advance(progress.task_ids[0])
                progress.refresh()
            try:
                earlier = exchange.account_summary()
                if run_process(exchange, home, KillMoment(), finish=True, sleeves=self._sleeves)[0] != 0:
                    raise Loss("the last process did not settle")
                summary = exchange.account_summary()
                ledger = read_ledger(store)
                check_after_kill(ledger, before, earlier, summary)
                check_end(store, summary)
                self.orders += len(summary.ordered)
                self.executions += len(summary.trades)
                self.crossed += sum(fill.kind is FillKind.INTERNAL for fill in ledger.fills) // 2
            except Loss as loss:
                raise Loss(f"run {number}, after {quota} kills: {loss}") from loss
        return quota


def run_process(
    exchange: SandboxProcess, home: Path, moment: KillMoment, *, finish: bool = False, sleeves: bool
) -> tuple[int, bool]:
    """Run one agent process; return its exit code and whether it ended by itself or at its kill point."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            exchange.close_pipe()
            code = live(exchange.url, exchange.clock, home, moment, finish=finish, sleeves=sleeves)
        except BaseException:  # noqa: BLE001 - the forked child must not continue
            traceback.print_exc()
        finally:
            os._exit(code)
    process = os.pidfd_open(pid)
    try:
        ended = select.select(
            [process], [], [], 2 * SETTLE_TIMEOUT if finish else moment.after or MAX_LIFETIME
        )[0]
        if not ended:
            signal.pidfd_send_signal(process, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), bool(ended)
    finally:
        os.close(process)
