"""The same window over and over, with something changed each time: costs, or the times of its headlines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from agent.analysis.trades import round_trips
from agent.config import Config
from agent.research.evidence import round_trip_cost
from agent.research.material import Material, held_stage
from agent.research.placebo import shuffled
from agent.research.workers import Advance, spread


class Variant(NamedTuple):
    """Another configuration, headlines shuffled by a seed, or neither: the window as it is."""

    config: Config | None = None
    shuffle: int | None = None


class Outcome(NamedTuple):
    """What a variant came to; `cost` is that of an average round trip, as a fraction of its notional, None without any."""

    total_return: float
    trades: int
    cost: float | None


def rehearse_all(
    material: Material, variants: Sequence[Variant], *, jobs: int = 1, advance: Advance | None = None
) -> list[Outcome]:
    """Every variant of a settled `material`, in their order; each process reads the window once. Raises what replays raise."""
    return spread(rehearse, [(material, variant) for variant in variants], jobs=jobs, advance=advance)


def rehearse(task: tuple[Material, Variant]) -> Outcome:
    """One variant, in whatever process; the window stays in its memory (see `material.release`)."""
    material, variant = task
    stage = held_stage(material)
    wire = stage.wire if variant.shuffle is None else shuffled(stage.wire, variant.shuffle)
    done = stage.rehearse(variant.config or material.config, wire=wire)
    trades = round_trips(done.moves)
    costs = [round_trip_cost(trade) for trade in trades]
    return Outcome(done.total_return, len(trades), sum(costs) / len(costs) if costs else None)
