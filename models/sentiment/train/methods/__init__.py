"""Fine-tuning methods by name. Choosing one imports `peft_methods`, and with it torch; listing them
doesn't.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Final

import msgspec

from agent.core.errors import UsageError, did_you_mean
from models.sentiment.train.methods.recipe import MethodDefaults, Recipe


class MethodContext(msgspec.Struct, frozen=True):
    """What a method may depend on besides the recipe. `steps` counts the optimiser steps of the whole
    training.
    """

    encoder: Any
    steps: int


Configure = Callable[[Recipe, MethodContext], Any]
"""(recipe, context) → a `peft.PeftConfig`, or None to train every weight."""


class Method(msgspec.Struct, frozen=True):
    """A registered method."""

    name: str
    configure: Configure
    defaults: MethodDefaults
    four_bit: bool = False

    @property
    def trains(self) -> bool:
        """False if the method changes no weight."""
        return self.name != UNTRAINED


METHODS: Final = ("lora", "qlora", "adalora", "prefix", "prompt", "ptuning", "full")
UNTRAINED: Final = "none"
"""Method that trains nothing: a language model classifies as it is, from its prompt alone."""
WORD_METHODS: Final = ("lora", "qlora", "adalora", "full", UNTRAINED)
"""Methods that a classification by label words supports."""
_REGISTERED: Final[dict[str, Method]] = {}


def register(
    name: str, defaults: MethodDefaults, *, four_bit: bool = False
) -> Callable[[Configure], Configure]:
    """Make a configuration function available as `--method name`."""

    def decorate(configure: Configure) -> Configure:
        _REGISTERED[name] = Method(name, configure, defaults, four_bit)
        return configure

    return decorate


def get_method(name: str) -> Method:
    """Return the method of that name. Raises UsageError, which suggests the closest one, for an unknown
    name.
    """
    known = (*METHODS, UNTRAINED)
    if name not in known:
        hint = did_you_mean(name, known, f"known: {', '.join(known)}")
        raise UsageError(f"unknown method {name!r}", hint=hint)
    importlib.import_module(f"{__name__}.peft_methods")
    return _REGISTERED[name]
