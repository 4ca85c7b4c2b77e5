"""The configuration of a recorded run with other values: of its sections, and of its sleeves."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from agent.config import Config, parse
from agent.core.errors import ConfigError, UsageError, did_you_mean

CHANGEABLE: Final = ("signals", "risk", "paper", "sleeves")
"""Sections of the configuration that a change may set."""

OF_SLEEVES: Final = ("share", "enabled", "risk", "symbols")
"""Keys of a sleeve that a change may set, as `sleeves.NAME.KEY`."""

_MIDWAY: Final = ("enabled", "risk")
"""Those of them that may also change in the middle of a run, as in a running agent."""


def changed_config(config: Config, settings: Mapping[str, Any], *, midway: bool = False) -> Config:
    """Return `config` with other values of dotted keys; texts are read as TOML if they can be.

    A sleeve's keys are `sleeves.NAME.KEY`. Raises ConfigError for an unknown key, an invalid value, and a
    section that no change may set, and UsageError for one that can't change `midway`.
    """
    raw = config.persisted()
    for key, value in settings.items():
        section, *inner = key.split(".")
        if section not in CHANGEABLE or not inner:
            raise ConfigError(
                f"{key} can't be changed in a recorded run", hint=f"keys of {', '.join(CHANGEABLE)} can"
            )
        place = raw.setdefault(section, {})
        if section == "sleeves":
            place, inner = _place_of_sleeve(raw["sleeves"], key, inner), inner[1:]
            if midway and inner[0] not in _MIDWAY:
                raise UsageError(
                    f"{key} can only change from the beginning: a running agent can't change it either",
                    hint="leave out --from",
                )
        for name in inner[:-1]:
            place = place.setdefault(name, {})
        place[inner[-1]] = _value(value)
    return parse(raw, where="the change") if settings else config


def _place_of_sleeve(sleeves: Sequence[dict[str, Any]], key: str, inner: Sequence[str]) -> dict[str, Any]:
    """Return the settings of the sleeve that a key `sleeves.NAME.KEY` names. Raises ConfigError."""
    names = [one["name"] for one in sleeves]
    if not names:
        raise ConfigError(f"{key} can't be changed: the run has one strategy, and no sleeves")
    if inner[0] not in names:
        raise ConfigError(
            f"{key}: the run's configuration has no sleeve {inner[0]!r}",
            hint=did_you_mean(inner[0], names, f"its sleeves are {', '.join(names)}"),
        )
    if len(inner) < 2 or inner[1] not in OF_SLEEVES:
        keys = ", ".join(f"sleeves.{inner[0]}.{name}" for name in OF_SLEEVES)
        raise ConfigError(
            f"{key} can't be changed in a recorded run",
            hint=f"{keys} can; its strategy and parameters by --sleeve {inner[0]} with --strategy or --set",
        )
    return sleeves[names.index(inner[0])]


def _value(text: Any) -> Any:
    if not isinstance(text, str):
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
