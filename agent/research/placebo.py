"""Placebo check: would the same system do as well with headlines that arrive at other times?"""

from __future__ import annotations

import msgspec

from agent.analysis.chance import ChanceTest
from agent.core.errors import UsageError
from agent.research.assessment import CONFIDENCE, placebo_test
from agent.research.parallel import Advance
from agent.research.replay_inputs import ReplayInputs, clear_window_cache
from agent.research.replay_variants import Variant, count_check, replay_variants


class PlaceboCheck(msgspec.Struct, frozen=True):
    """The total return compared with those under shuffled headlines (`drawn`).

    It passes if these rarely reach it.
    """

    passed: bool
    strategy: str
    trades: int
    test: ChanceTest
    drawn: list[float]


def check_placebo(
    inputs: ReplayInputs, *, draws: int, jobs: int = 1, seed: int = 0, advance: Advance | None = None
) -> PlaceboCheck:
    """Replay settled `inputs` once unchanged, and `draws` times with shuffled headlines.

    Raises UsageError if the inputs have no headlines.
    """
    strategy = inputs.config.strategy.name
    if inputs.plan.news is None and inputs.plan.sentiment is None:
        raise UsageError(
            f"strategy {strategy} reads no headlines: there is nothing to shuffle",
            hint="tapewire check lookahead and tapewire check costs need none",
        )
    variants = [Variant(), *(Variant(shuffle_seed=seed + number) for number in range(draws))]
    real, *placebos = replay_variants(inputs, variants, jobs=jobs, advance=advance)
    clear_window_cache()
    count_check(inputs, real.evaluation)
    drawn = [placebo.total_return for placebo in placebos]
    test = placebo_test(real.total_return, drawn)
    if test is None:
        raise UsageError("a placebo check needs at least one draw", hint="--draws 20 or more")
    return PlaceboCheck(test.p_value <= 1 - CONFIDENCE, strategy, real.trades, test, drawn)
