"""Settings that differ between two runs: flattened keys of the configuration, with defaults resolved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from agent.analysis.report.report_data import recorded_config
from agent.core.errors import ConfigError
from agent.store.runs import Run

DECIDING: Final = frozenset(
    (
        *("market", "account", "instruments", "signals", "fusion", "strategy", "risk", "paper"),
        *("execution", "history", "model", "llm", "window"),
    )
)
"""Sections that can change decisions; the others change how a run is operated."""


class SettingDifference(msgspec.Struct, frozen=True):
    """A key whose values differ, such as `strategy.params.fast`. A value is None if the run lacks the key."""

    key: str
    a: Any
    b: Any
    decides: bool  # True if the setting can change decisions


def settings_of(run: Run, notes: list[str]) -> dict[str, Any]:
    """Return a run's settings by flattened key: configuration, parameters of the strategy, and window.

    Defaults of this program stand for keys that the run's version lacked. A configuration that this program
    can't read is taken as it was recorded, with a note in `notes`.
    """
    try:
        settings = recorded_config(run).persisted()
    except ConfigError as error:
        notes.append(f"{error.message}; its defaults are not resolved")
        settings = {key: value for key, value in run.config.items() if key != "window"}
    settings["strategy"] = {"name": run.strategy, "params": run.params}
    window = run.config.get("window") or {}
    return flatten(settings | {"window": window})


def differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[SettingDifference]:
    """Return the flattened keys with different values; those that can change decisions come first."""
    found = [
        SettingDifference(key, a.get(key), b.get(key), key.partition(".")[0] in DECIDING)
        for key in sorted(a.keys() | b.keys())
        if a.get(key) != b.get(key)
    ]
    return sorted(found, key=lambda one: not one.decides)


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings to keys joined by dots. Lists stay values; empty mappings have no key."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = list(value) if isinstance(value, tuple) else value
    return flat
