"""The placebo: would the same system have done as well with headlines that came at other times?"""

from __future__ import annotations

import msgspec

from agent.analysis.chance import ChanceTest
from agent.core.errors import UsageError
from agent.research.evidence import SURE, placebo_test
from agent.research.material import Material, release
from agent.research.variants import Variant, rehearse_all
from agent.research.workers import Advance


class PlaceboCheck(msgspec.Struct, frozen=True):
    """The real total return among those with shuffled headlines (`drawn`); passed where those hardly ever reach it."""

    passed: bool
    strategy: str
    trades: int
    test: ChanceTest
    drawn: list[float]


def check_placebo(
    material: Material, *, draws: int, jobs: int = 1, seed: int = 0, advance: Advance | None = None
) -> PlaceboCheck:
    """Replay a settled `material` as it is, and `draws` times with its headlines at each other's times.

    Raises UsageError where it reads no headlines.
    """
    if material.plan.news is None and material.plan.sentiment is None:
        raise UsageError(
            f"strategy {material.config.strategy.name} reads no headlines: there is nothing to shuffle",
            hint="tapewire check lookahead and tapewire check costs need none",
        )
    variants = [Variant(), *(Variant(shuffle=seed + number) for number in range(draws))]
    real, *others = rehearse_all(material, variants, jobs=jobs, advance=advance)
    drawn = [other.total_return for other in others]
    release()
    test = placebo_test(real.total_return, drawn)
    if test is None:
        raise UsageError("a placebo needs at least one draw", hint="--draws 20 or more")
    return PlaceboCheck(test.p_value <= 1 - SURE, material.config.strategy.name, real.trades, test, drawn)
