"""What a strategy declares about bars, and how much history they need before trading starts."""

from __future__ import annotations

from collections.abc import Mapping

from agent.core.bar_history import MOST
from agent.core.durations import format_bar_length
from agent.core.errors import ConfigError
from agent.core.intervals import format_interval, is_foldable, parse_interval, periods_before
from agent.core.strategy import Strategy


def declared_intervals(strategy: Strategy, base: int, *, calendar: bool = False) -> dict[str, int]:
    """Return the intervals (ms) by name that a strategy declares, in `intervals` and `warm_up`, ascending.

    Empty if it declares none and doesn't override `on_bar`; only the run's interval, `base` (ms), if it
    overrides `on_bar` and declares none. `calendar` states that the run's bars follow a calendar, from which
    nothing can be folded. Raises ConfigError if an interval is invalid or can't be folded from these bars.
    """
    declared = declared_warm_up(strategy)
    if isinstance(strategy.intervals, str):
        hint = f'write intervals = ("{strategy.intervals}",)'
        raise ConfigError(f"{_name(strategy)}: intervals is a text, not a tuple of texts", hint=hint)
    found: dict[int, str] = {}
    for text in (*strategy.intervals, *declared):
        interval = _parse(strategy, text)
        if not is_foldable(base, interval) or (calendar and interval != base):
            own = format_bar_length(base)
            relation = "shorter than" if interval < base else "no multiple of"
            raise ConfigError(
                f"{_name(strategy)} declares bars of {text}, which can't be made from the run's, of {own}",
                hint="the run's bars follow a calendar" if calendar else f"{text} is {relation} {own}",
            )
        found.setdefault(interval, text)
    if not found and strategy.overrides("on_bar"):
        return {format_interval(base): base}
    return {found[interval]: interval for interval in sorted(found)}


def declared_warm_up(strategy: Strategy) -> dict[str, int]:
    """Return the declared warm-up: bars by interval. Raises ConfigError if it is not valid."""
    declared: object = strategy.warm_up  # of any type, in a file that no type checker has seen
    if not isinstance(declared, Mapping):
        hint = 'write warm_up = {"1h": 200}'
        raise ConfigError(f"{_name(strategy)}: warm_up={declared!r} is not bars by interval", hint=hint)
    for text, bars in declared.items():
        _parse(strategy, text)
        if isinstance(bars, bool) or not isinstance(bars, int) or not 0 <= bars <= MOST:
            raise ConfigError(
                f"{_name(strategy)}: warm_up of {text} is {bars!r}", hint=f"a number of bars, up to {MOST:,}"
            )
    return dict(declared)


def warm_up_start(start: int, bars: Mapping[str, int]) -> int:
    """Return the time (UTC ms) from which bars must be read so that these bars have closed by `start`."""
    begins = [periods_before(start, parse_interval(text), count) for text, count in bars.items() if count]
    return min(begins, default=start)


def _parse(strategy: Strategy, text: str) -> int:
    try:
        return parse_interval(text)
    except ConfigError as error:
        raise ConfigError(f"{_name(strategy)}: {error.message}", hint=error.hint) from None


def _name(strategy: Strategy) -> str:
    return f"strategy {type(strategy).__name__}"
