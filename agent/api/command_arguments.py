"""The arguments of commands that the page and the API send, and how long they wait for the agent."""

from __future__ import annotations

from typing import Final

import msgspec

from agent.api.api_messages import CommandRequest
from agent.core.errors import UsageError
from agent.live.strategy_switch import SET, USE

_TIMEOUT: Final = 15.0
_CHANGE_TIMEOUT: Final = 45.0  # a strategy is loaded and checked first
_FLATTEN: Final = ("kill", USE, SET)
_FIELDS: Final[dict[str, tuple[str, ...]]] = {
    "flatten": _FLATTEN,
    "confirm": ("resume",),
    "reason": ("kill",),
    "sleeve": ("pause", "resume", "halt", "flatten", USE, SET),
    "symbol": ("flatten",),
    "strategy": (USE,),
    "params": (USE, SET),
}
"""Field -> actions for which it counts."""


def check_fields(command: CommandRequest) -> None:
    """Raise UsageError if a field is set that doesn't count for the action."""
    for field, actions in _FIELDS.items():
        if getattr(command, field) and command.action not in actions:
            raise UsageError(
                f"{field} has no effect on {command.action}", hint=f"it is for {', '.join(actions)}"
            )


def arguments(command: CommandRequest) -> dict[str, str]:
    """Return the arguments to journal with the command; fields that don't count for it are left out."""
    args: dict[str, str] = {}
    for field in ("confirm", "reason", "sleeve", "symbol", "strategy"):
        if getattr(command, field) and command.action in _FIELDS[field]:
            args[field] = getattr(command, field)
    if command.flatten and command.action in _FLATTEN:
        args["flatten"] = "true"
    if command.action in (USE, SET):
        args["params"] = msgspec.json.encode(command.params).decode()
    return args


def timeout_of(command: CommandRequest) -> float:
    """Return the seconds to wait for the agent."""
    return _CHANGE_TIMEOUT if command.action in (USE, SET) else _TIMEOUT
