"""What Typer lacks: options grouped in a dataclass, and help without markup and Python types."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from inspect import Parameter, Signature
from typing import Annotated, Any, Final, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

import typer
from rich.markup import escape
from typer.core import TyperArgument, TyperCommand, TyperGroup

C = TypeVar("C", bound="TyperCommand | TyperGroup")

_METAVARS: Final = {str: "TEXT", int: "NUMBER", float: "NUMBER", bool: ""}


def option(names: str, help: str, metavar: str | None = None, default: str | None = None, **more: Any) -> Any:
    """Return a `typer.Option`.

    Args:
        names: Its names, separated by spaces, such as "--config -c".
        help: Its help text.
        metavar: What the value is called, such as FILE; by default a name for its type.
        default: Shown as the default in place of the value.
        more: Further arguments of `typer.Option`, such as `min`.
    """
    return typer.Option(*names.split(), help=help, metavar=metavar, show_default=default or True, **more)


class Without(NamedTuple):
    """Annotation of a parameter: leave this option out of the group."""

    option: str


def set_up_commands(app: typer.Typer) -> None:
    """Expand the option groups of every command of `app` and of its groups, and let each print plain help."""
    app.info.cls = app.info.cls or PlainGroup
    for command in app.registered_commands:
        command.cls = PlainCommand
        if command.callback is not None:
            command.callback = expand_option_groups(command.callback)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            set_up_commands(group.typer_instance)


def expand_option_groups(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function` with one parameter for each field of its option groups.

    A parameter whose type is a dataclass is an option group: Typer sees the fields, `function` receives the
    object. The class attribute `PANEL`, if there is one, is the title under which help lists the group.
    """
    hints = get_type_hints(function, include_extras=True)
    groups: dict[str, tuple[type, list[str]]] = {}
    parameters: list[Parameter] = []
    for parameter in inspect.signature(function).parameters.values():
        hint = hints[parameter.name]
        kind, *extras = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        if isinstance(kind, type) and is_dataclass(kind):
            expanded = sorted(_parameters(kind, {extra.option for extra in extras}), key=_is_optional)
            groups[parameter.name] = kind, [one.name for one in expanded]
            parameters += expanded
        else:
            parameters.append(parameter.replace(kind=Parameter.KEYWORD_ONLY, annotation=hint))
    if not groups:
        return function

    @functools.wraps(function)
    def call(**given: Any) -> Any:
        for name, (kind, names) in groups.items():
            given[name] = kind(**{option: given.pop(option) for option in names})
        return function(**given)

    call.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return call


def _parameters(group: type, omitted: set[str]) -> Iterator[Parameter]:
    hints, panel = get_type_hints(group, include_extras=True), getattr(group, "PANEL", None)
    for one in fields(group):
        if one.name in omitted:
            continue
        kind, info = get_args(hints[one.name])
        info = copy.copy(info)
        info.rich_help_panel = panel
        default = Parameter.empty if one.default is MISSING else one.default
        annotation: Any = Annotated[kind, info]
        yield Parameter(one.name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _is_optional(parameter: Parameter) -> bool:
    return parameter.default is not Parameter.empty


class PlainCommand(TyperCommand):
    def format_help(self, ctx: Any, formatter: Any) -> None:
        TyperCommand.format_help(_plain(self), ctx, formatter)


class PlainGroup(TyperGroup):
    def format_help(self, ctx: Any, formatter: Any) -> None:
        shown = _plain(self)
        commands: Any = self.commands
        shown.commands = {name: _plain(command) for name, command in commands.items()}
        TyperGroup.format_help(shown, ctx, formatter)


def _plain(command: C) -> C:
    """Return a copy for Typer to print: brackets in texts aren't markup, and no Python type is shown."""
    shown = copy.copy(command)
    shown.help, shown.short_help, shown.epilog = map(
        _text, (command.help, command.short_help, command.epilog)
    )

    def get_params(ctx: Any) -> list[Any]:
        return [_plain_parameter(param) for param in command.get_params(ctx)]

    shown.get_params = get_params  # type: ignore[method-assign]
    return shown


def _plain_parameter(param: Any) -> Any:
    shown = copy.copy(param)
    shown.help = _text(param.help)
    if isinstance(param, TyperArgument):
        shown.metavar = param.metavar or param.name.upper()
        shown.display_type_rich = lambda **_: None
    else:
        shown.metavar = metavar(param)
    return shown


def metavar(param: Any) -> str:
    """Return the name for the value of an option or argument, such as FILE; "" for a flag."""
    if param.metavar is not None:
        return str(param.metavar)
    kind = param.type_descriptor.annotation
    return _METAVARS.get(get_args(kind)[0] if get_args(kind) else kind, "PATH")


def _text(text: str | None) -> str | None:
    """Join the lines of each paragraph, and escape what Rich would read as markup."""
    if text is None:
        return None
    return escape(
        "\n\n".join(" ".join(paragraph.split()) for paragraph in inspect.cleandoc(text).split("\n\n"))
    )
