"""Literal help texts: square brackets are text, not Rich markup."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import typer
from rich.markup import escape
from typer.core import TyperCommand, TyperGroup

C = TypeVar("C", bound="TyperCommand | TyperGroup")


class _Command(TyperCommand):
    def format_help(self, ctx: Any, formatter: Any) -> None:
        TyperCommand.format_help(_escaped(self), ctx, formatter)


class _Group(TyperGroup):
    def format_help(self, ctx: Any, formatter: Any) -> None:
        shown = _escaped(self)
        shown.commands = {name: _escaped(command) for name, command in self.commands.items()}  # type: ignore[type-var]
        TyperGroup.format_help(shown, ctx, formatter)


def literal_help(app: typer.Typer) -> None:
    """Make every command of `app` print its help texts, and those of its arguments and options, without reading markup in them."""
    app.info.cls = _Group
    for command in app.registered_commands:
        command.cls = _Command
    for group in app.registered_groups:
        if group.typer_instance is not None:
            literal_help(group.typer_instance)


def _escaped(command: C) -> C:
    """A copy of a command for Typer to draw."""
    shown = copy.copy(command)
    shown.help, shown.short_help = _text(command.help), _text(command.short_help)
    shown.params = [copy.copy(param) for param in command.params]
    for param in shown.params:
        if hasattr(param, "help"):
            param.help = _text(param.help)
    return shown


def _text(text: str | None) -> str | None:
    return None if text is None else escape(text)
