"""Paths of the files that ship with the program, in the installed package or at the top of a checkout."""

from __future__ import annotations

from pathlib import Path

_PACKAGED = Path(__file__).parents[1] / "_resources"
_CHECKOUT = Path(__file__).parents[2]
_IN_CHECKOUT = {"sample_data": "tests/sample_data"}


def resource(name: str) -> Path:
    """Return the path of `config.toml`, `migrations`, `docs` or `sample_data`."""
    packaged = _PACKAGED / name
    return packaged if packaged.exists() else _CHECKOUT / _IN_CHECKOUT.get(name, name)
