"""Lives that end by SIGKILL, and whether they add up to the uninterrupted one.

    python -m tests.crash [--testnet [--faults]] [--kills 300] [--seed 1] [--run N] [--cold]

Every life is a process of its own with the real daemon, store and threads; only the market is a script. Most lives are forked from
this process, which has everything imported, so that a death costs milliseconds; with --cold each one is a new interpreter. The last
line is the count. Exit code 1 where anything was lost; the line before says which run and moment, and how to see it again.

With --testnet the lives trade at a sandbox exchange that goes on while they die, and what they recorded is held against its books.
With --faults that exchange also loses answers, lags behind, and garbles its private stream. The market moves in real time: a seed
gives the same deaths, at almost the same moments. The store of a loss is kept.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Final

import msgspec
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from agent.cli.console import err
from tests.crash.audit import Loss, Transcript, check_prefix, check_whole, read
from tests.crash.life import Fate
from tests.crash.life import main as live
from tests.crash.points import BEGUN, ENDING, POINTS, SCHEMA, Moment
from tests.crash.trading import TradingHarness
from tests.support import mutants

MINUTES: Final = 400  # of market in a run
PER_RUN: Final = 50  # deaths in a run, at most
LONGEST: Final = 0.4  # seconds that a life may have before it is killed wherever it is
ROOT: Final = Path(__file__).resolve().parents[2]


def spend(fate: Fate, *, cold: bool) -> int:
    """One life; the return code of its process, negative where a signal ended it."""
    if cold:
        life = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.life", msgspec.json.encode(fate).decode()], cwd=ROOT
        )
        if fate.moment.after:
            time.sleep(fate.moment.after * 15)  # the interpreter and its imports come first
            life.kill()
        return life.wait()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            code = live(fate)
        finally:
            os._exit(code)
    if fate.moment.after:
        time.sleep(fate.moment.after)
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def choose(dice: random.Random, number: int, quota: int) -> Moment:
    """Some deaths come at any time, most at a named point; some points are there only in a first or a last life."""
    if number == quota - 1:
        return Moment(ENDING, 1)
    if dice.random() < 0.3:
        return Moment(after=dice.uniform(0.001, LONGEST))
    point = dice.choice((SCHEMA, BEGUN) if number == 0 else [p for p in POINTS if p not in (SCHEMA, ENDING)])
    return Moment(point, dice.randint(1, POINTS[point]))


class Harness:
    """Runs of one seed. `deaths` counts them by point."""

    def __init__(self, seed: int, folder: Path, *, cold: bool) -> None:
        self.deaths: Counter[str] = Counter()
        self._seed = seed
        self._folder = folder
        self._cold = cold

    def run(self, number: int, quota: int, progress: Progress) -> int:
        """One run with up to `quota` deaths, and its uninterrupted twin; returns how many deaths it had. Raises Loss."""
        dice = random.Random(f"{self._seed}:{number}")
        script = dice.getrandbits(32)
        twin = Fate(str(self._home(number, "uninterrupted")), script, MINUTES)
        if spend(twin, cold=self._cold) != 0:
            raise Loss(f"run {number}: the uninterrupted life failed")
        whole = read(Path(twin.folder) / "store.db", twin.run_id)
        fate = msgspec.structs.replace(twin, folder=str(self._home(number, "killed")))
        store, before = Path(fate.folder) / "store.db", Transcript([], [], "", [])
        died = 0
        while died < quota:
            moment = choose(dice, died, quota)
            code = spend(msgspec.structs.replace(fate, moment=moment), cold=self._cold)
            try:
                if code not in (0, -signal.SIGKILL):
                    raise Loss(f"the life ended with exit code {code}")
                now = read(store, fate.run_id)
                check_prefix(now, before, whole)
            except Loss as loss:
                raise Loss(f"run {number}, death {died + 1}, {moment}: {loss}") from loss
            before = now
            if code == 0:
                break
            died += 1
            self.deaths[moment.point or "any time"] += 1
            progress.advance(progress.task_ids[0])
            progress.refresh()
        try:
            if code != 0 and spend(fate, cold=self._cold) != 0:
                raise Loss("the last life failed")
            check_whole(store, fate.run_id, whole)
        except Loss as loss:
            raise Loss(f"run {number}, after {died} deaths: {loss}") from loss
        return died

    def _home(self, number: int, name: str) -> Path:
        home = self._folder / f"{number}-{name}"
        home.mkdir()
        return home


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.crash",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--testnet", action="store_true", help="trade at a sandbox exchange that outlives the deaths"
    )
    parser.add_argument(
        "--faults", action="store_true", help="an exchange, in testnet mode, at which much goes wrong besides"
    )
    parser.add_argument("--run", type=int, help="only this run of the seed, to see its deaths again")
    parser.add_argument("--cold", action="store_true", help="a new interpreter for each life")
    parser.add_argument(
        "--mutant",
        default="",
        choices=("", *mutants.names((*mutants.IN_STORE, *mutants.BETWEEN_LIVES))),
        help="put this fault into the product",
    )
    given = parser.parse_args()
    if given.mutant and given.cold:
        parser.error("a mutant lives in this process and its forks")
    if given.testnet and given.cold:
        parser.error("--cold is for paper mode")
    if given.faults and not given.testnet:
        parser.error("--faults is for --testnet")
    if given.mutant in mutants.names(mutants.BETWEEN_LIVES) and not given.testnet:
        parser.error(f"{given.mutant} shows with --testnet alone")
    if given.mutant:
        mutants.apply(given.mutant)
    # Without its own thread: threads don't survive a fork
    progress = Progress(
        TextColumn("kills"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=err,
        auto_refresh=False,
    )
    killed = lost = 0
    with tempfile.TemporaryDirectory(prefix="tapewire-crash-") as folder, progress:
        home = Path(folder)
        harness: Harness | TradingHarness
        harness = (
            TradingHarness(given.seed, home, faulty=given.faults)
            if given.testnet
            else Harness(given.seed, home, cold=given.cold)
        )
        progress.add_task("kills", total=given.kills)
        number = given.run or 0
        while killed < given.kills and not lost:
            quota = min(PER_RUN, given.kills - killed)
            try:
                killed += harness.run(number, quota, progress)
            except Loss as loss:
                lost = 1
                killed = harness.deaths.total()
                mode = " --testnet" * given.testnet + " --faults" * given.faults
                print(
                    f"LOST {loss}\n  again: python -m tests.crash{mode} --seed {given.seed} --run {number} --kills {quota}"
                )
                if given.testnet:
                    kept = tempfile.mkdtemp(prefix="tapewire-lost-")
                    shutil.copytree(folder, kept, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.sock"))
                    print(f"  its store: {kept}")
            if given.run is not None:
                break
            number += 1
    for point, count in sorted(harness.deaths.items()):
        print(f"{count:>5}  {point}")
    if isinstance(harness, TradingHarness):
        print(f"{harness.orders} orders and {harness.executions} executions at the exchange")
    print(f"{killed} kills, {killed - lost} recovered, {lost} lost")
    return bool(lost)


if __name__ == "__main__":
    sys.exit(main())
