"""What a run ran with: settings beside their defaults, versions, inputs, and the cards of its models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from msgspec import to_builtins

from agent.api.run_messages import ModelFacts, RunConfiguration, Setting
from agent.config import NOT_PERSISTED, Config, InstrumentConfig
from agent.core.errors import ModelError
from agent.core.masking import MASK, is_secret_field, masked
from agent.store.runs import Run
from models.cards import Card, read_card
from models.sentiment.serve.model_paths import STARTER, starter_dir

_STATES: Final = ("changed", "given", "default")
_NO_DEFAULT: Final = object()
_SERVICES: Final = (
    "Sections that don't affect decisions and may hold addresses or secrets "
    f"({', '.join(NOT_PERSISTED)}) are not stored with a run: tapewire config show prints those of the file."
)


def read_configuration(run: Run) -> RunConfiguration:
    """Return the configuration of a run, what differs from the defaults first."""
    notes = [_SERVICES]
    recorded = run.config | {"strategy": {**run.config.get("strategy", {}), "params": run.params}}
    defaults = dict(_leaves("", Config().persisted()))
    of_instrument = dict(_leaves("", InstrumentConfig().model_dump(mode="json")))
    settings = []
    for key, value in _leaves("", recorded):
        if value is None and key.startswith("window."):
            continue  # no bound was given
        default = defaults.get(key, _NO_DEFAULT)
        if default is _NO_DEFAULT and key.startswith("instruments."):
            default = of_instrument.get(key.split(".", 2)[-1], _NO_DEFAULT)
        settings.append(_setting(key, value, default))
    settings.sort(key=lambda setting: _STATES.index(setting.state))
    return RunConfiguration(
        run=run.id,
        strategy=run.strategy,
        settings=tuple(settings),
        versions=masked(run.versions),
        inputs=run.inputs,
        models=tuple(_models(run, notes)),
        notes=tuple(notes),
    )


def _setting(key: str, value: Any, default: Any) -> Setting:
    shown = MASK if value and is_secret_field(key.rpartition(".")[2]) else masked(value)
    if default is _NO_DEFAULT:
        return Setting(key, shown, None, "given")
    return Setting(key, shown, masked(default), "default" if value == default else "changed")


def _leaves(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and values. The members of a list of sections are named by their `name`."""
    if isinstance(value, list) and value and all(isinstance(one, Mapping) and "name" in one for one in value):
        value = {one["name"]: {key: own for key, own in one.items() if key != "name"} for one in value}
    if not isinstance(value, Mapping) or (prefix and not value):
        yield prefix, value
        return
    for name, own in value.items():
        yield from _leaves(f"{prefix}.{name}" if prefix else str(name), own)


def _models(run: Run, notes: list[str]) -> Iterator[ModelFacts]:
    """Yield the cards of models whose fingerprint the run recorded; note the others."""
    for section, name, kind in (
        ("model", "path", "sentiment"),
        ("model", "revise_with", "sentiment"),
        ("fusion", "path", "fusion"),
    ):
        folder = (run.config.get(section) or {}).get(name)
        if not folder:
            continue
        card = _card(starter_dir() if folder == STARTER else Path(folder).expanduser(), kind)
        if card is not None and card.fingerprint in run.versions.values():
            yield ModelFacts(f"{section}.{name}", masked(folder), masked(to_builtins(card)))
        elif card is not None and section == "fusion":
            notes.append(f"The model in {folder} is not the one that predicted in this run.")


def _card(folder: Path, kind: str) -> Card | None:
    try:
        return read_card(folder, kind=kind)
    except (ModelError, OSError, ValueError):
        return None  # a language model or an ensemble, which has no card; or the folder is gone
