"""Where the costs of the paper exchange come from."""

from __future__ import annotations

from typing import Final

from pydantic import Field

from agent.core.settings import PaperConfig, Section

Interval = tuple[float, float]

COST_KEYS: Final = (
    "half_spread_bps",
    "slippage",
    "slippage_bps",
    "impact",
    "latency",
    "fees",
    "maker_fee",
    "taker_fee",
)
"""Keys of `[paper]` that state costs."""


class CostsConfig(Section):
    """Evidence behind the costs in `[paper]`, as `tapewire costs fit` writes it. It changes no fill.

    Each interval covers the value in `[paper]` with a probability of 95 %.
    """

    runs: tuple[str, ...] = ()  # the runs whose fills were measured; empty: the costs are not fitted
    fills: int = Field(0, ge=0)  # taker fills behind spread and impact
    half_spread_bps: Interval | None = None  # lower and upper end
    impact: Interval | None = None  # lower and upper end
    latency: Interval | None = None  # lower and upper end, ms
    fitted: dict[str, str] = {}  # the fitted values, to notice later changes in [paper]


class TwinConfig(Section):
    """The twin that a run at a venue folds beside itself; `tapewire twin` does the same afterwards."""

    enabled: bool = False  # only runs at a venue have one
    window: int = Field(200, ge=30)  # latest filled orders that are judged
    # the mean difference that is not alarming, bps of the value; with fitted costs their interval is added
    tolerance_bps: float = Field(1.0, gt=0)


def costs_in_words(paper: PaperConfig, costs: CostsConfig) -> str:
    """Return whose costs a configuration uses: default, given, or fitted from runs."""
    if costs.runs:
        changed = changed_costs(paper, costs)
        runs = ", ".join(costs.runs)
        fitted = f"fitted from {costs.fills:,} fills of {'run' if len(costs.runs) == 1 else 'runs'} {runs}"
        return f"{fitted}, but {', '.join(changed)} changed since" if changed else fitted
    default = PaperConfig()
    given = [key for key in COST_KEYS if getattr(paper, key) != getattr(default, key)]
    return f"given in the configuration ({', '.join(given)})" if given else "default"


def changed_costs(paper: PaperConfig, costs: CostsConfig) -> list[str]:
    """Return the keys of `[paper]` whose values are not the fitted ones."""
    return [key for key, value in costs.fitted.items() if str(getattr(paper, key, None)) != value]
