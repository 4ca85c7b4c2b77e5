"""Ways of fine-tuning: one module a method, one `register` call each. All of them are peft's own implementations."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Final

import msgspec

from agent.core.errors import UsageError, did_you_mean
from models.sentiment.train.methods.recipe import Defaults, Recipe


class Plan(msgspec.Struct, frozen=True):
    """What a method may need to know beside the recipe. `steps` are optimiser steps of the whole training."""

    encoder: Any
    steps: int


Configure = Callable[[Recipe, Plan], Any]
"""(recipe, plan) → a `peft.PeftConfig`, or None to train every weight."""


class Method(msgspec.Struct, frozen=True):
    """A registered method."""

    name: str
    configure: Configure
    defaults: Defaults
    four_bit: bool = False


METHODS: Final = ("lora", "qlora", "adalora", "prefix", "prompt", "ptuning", "full")
_REGISTERED: Final[dict[str, Method]] = {}


def register(name: str, defaults: Defaults, *, four_bit: bool = False) -> Callable[[Configure], Configure]:
    """Makes a method known as `--method name`."""

    def keep(configure: Configure) -> Configure:
        _REGISTERED[name] = Method(name, configure, defaults, four_bit)
        return configure

    return keep


def get_method(name: str) -> Method:
    """The method of that name. Raises UsageError with the closest one."""
    if name not in METHODS:
        raise UsageError(
            f"unknown method {name!r}", hint=did_you_mean(name, METHODS, f"known: {', '.join(METHODS)}")
        )
    importlib.import_module(f"{__name__}.{name}")
    return _REGISTERED[name]
