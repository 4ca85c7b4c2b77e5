"""The cost of the twin beside a running agent: time per event with it, and without.

    python bench/twin.py [--minutes 600] [--rounds 3]

Prints JSON. A run at a simulated venue is recorded once: a strategy trades two symbols on every bar, with a
price each second. Its journal then goes through the agent's real pipeline (journal, core, recorder, in a
store of its own), one event after the other, once without a twin and once with it in each round.

    off, on         microseconds per event from the pipeline's call to its return: mean, p50 and p99
    twin            the same of the twin's own part of `on`, measured inside it
    ratio           mean of `on` over mean of `off`, the median over the rounds; a commit takes most of both
    decisions       decisions of the run; they are the same in both
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from statistics import median
from time import perf_counter_ns
from typing import Any, Final

import msgspec
import numpy as np

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from agent.config import Config  # noqa: E402
from agent.core.events import Decision, Event  # noqa: E402
from agent.live.live_twin import LiveTwin  # noqa: E402
from agent.live.pipeline import Pipeline  # noqa: E402
from agent.store.database import open_database  # noqa: E402
from agent.store.journal import read_journal  # noqa: E402
from agent.store.runs import Run, RunStatus  # noqa: E402
from tests.live.gateway.churning_strategy import churn  # noqa: E402
from tests.support.recorded_venue import Venue, configuration, record  # noqa: E402


def measure(minutes: int, rounds: int) -> dict[str, Any]:
    """Measure so many rounds of a run of so many minutes."""
    config = configuration(("BTCUSDT", "ETHUSDT"), churn())
    with tempfile.TemporaryDirectory() as folder:
        with closing(open_database(f"sqlite:///{folder}/recorded.db")) as database:
            run = record(database, config, Venue(rules={"latency": 700}), minutes=minutes)
            events = [event for _, event in read_journal(database, run.id)]
        taken: dict[str, list[float]] = {"off": [], "on": [], "twin": []}
        means: list[tuple[float, float]] = []
        heads: set[str] = set()
        for number in range(rounds):
            found = {}
            for name in ("off", "on"):
                path = Path(folder, f"{name}-{number}.db")
                times, own, head = asyncio.run(_feed(path, config, run, events, twin=name == "on"))
                taken[name] += times
                taken["twin"] += own
                found[name] = float(np.mean(times))
                heads.add(head)
            means.append((found["off"], found["on"]))
    return {
        "events": len(events),
        "decisions": run.decisions,
        "same": len(heads) == 1,
        **{name: _summary(times) for name, times in taken.items()},
        "ratio": round(median(on / off for off, on in means), 3),
    }


async def _feed(
    path: Path, config: Config, run: Run, events: list[Event], *, twin: bool
) -> tuple[list[float], list[float], str]:
    """Feed the events to a new pipeline; return the microseconds of each, those of them that the twin took,
    and the decisions' chain head.
    """
    fresh = msgspec.structs.replace(run, status=RunStatus.RUNNING, events=0, decisions=0, chain_head="")
    times = []
    with (
        closing(open_database(f"sqlite:///{path}")) as database,
        Pipeline(config, database, fresh, resume=False) as pipeline,
    ):
        timed = _Timed(LiveTwin(config))
        if twin:
            pipeline.observers.append(timed)
        for event in events:
            began = perf_counter_ns()
            await pipeline.feed([(event, 0.0)])
            times.append((perf_counter_ns() - began) / 1e3)
        return times, timed.times, pipeline.end(complete=True).chain_head


class _Timed:
    """Passes everything on to a twin and keeps the microseconds by event."""

    def __init__(self, twin: LiveTwin) -> None:
        self.times: list[float] = []
        self._twin = twin

    def event(self, seq: int, event: Event) -> None:
        began = perf_counter_ns()
        self._twin.event(seq, event)
        self.times.append((perf_counter_ns() - began) / 1e3)

    def decision(self, seq: int, decision: Decision) -> None:
        began = perf_counter_ns()
        self._twin.decision(seq, decision)
        self.times[-1] += (perf_counter_ns() - began) / 1e3


def _summary(times: list[float]) -> dict[str, float]:
    p50, p99 = np.percentile(times, [50, 99])
    return {"mean": round(float(np.mean(times)), 1), "p50": round(float(p50), 1), "p99": round(float(p99), 1)}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    results = measure(args.minutes, args.rounds)
    print(json.dumps(results, indent=2))
    return 0 if results["same"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
