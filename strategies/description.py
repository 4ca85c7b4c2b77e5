"""What a strategy is, for people and for searches: parameters with bounds, docstring, and what it reads."""

from __future__ import annotations

import ast
import inspect
import io
import tokenize
from collections.abc import Mapping
from enum import Enum
from textwrap import dedent
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import msgspec
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from agent.core.durations import Duration, format_duration
from agent.core.strategy import Strategy

Value = int | float | str | bool

CALLBACKS: Final = tuple(name for name in vars(Strategy) if name.startswith("on_"))
"""The `on_…` methods of a strategy."""

_READS: Final = {
    "on_kline": "bars",
    "on_bar": "bars",
    "on_news": "headlines",
    "on_sentiment": "scored headlines",
    "on_signal": "scored headlines",
    "on_signal_expired": "scored headlines",
    "on_prediction": "predictions",
    "on_fill": "fills",
}
"""Callback -> the input that it receives."""


class Parameter(msgspec.Struct, frozen=True):
    """One parameter of a strategy.

    - `type`: `int`, `float`, `bool`, `str`, `duration`, the name of an enumeration, or another type's text.
    - `default`: None if the parameter is off by default or has no default (`required`).
    - `low`, `high`: its bounds, None without one; the value itself is excluded if `above` or `below` is set.
      Durations are in ms.
    - `step`: distance of its values, from `multiple_of`.
    - `choices`: all its values, of a bool, a Literal or an enumeration.
    - `description`: from `Field(description=…)`, else the comment on its line.
    """

    name: str
    type: str
    default: Value | None = None
    required: bool = False
    low: float | None = None
    high: float | None = None
    above: bool = False
    below: bool = False
    step: float | None = None
    choices: tuple[Value, ...] = ()
    description: str = ""

    @property
    def whole(self) -> bool:
        """True for whole numbers, durations included."""
        return self.type in ("int", "duration")

    def excludes(self, value: float) -> bool:
        """Return whether the bounds exclude `value`."""
        too_low = self.low is not None and (value < self.low or (self.above and value == self.low))
        too_high = self.high is not None and (value > self.high or (self.below and value == self.high))
        return too_low or too_high

    @property
    def bounds(self) -> str:
        """The bounds in words: `1 to 60`, `above 0`, `one of a, b`; "" without any."""
        if self.choices:
            return "" if self.type == "bool" else f"one of {', '.join(map(str, self.choices))}"
        low = "" if self.low is None else f"{'above' if self.above else 'from'} {self.text(self.low)}"
        high = "" if self.high is None else f"{'below' if self.below else 'to'} {self.text(self.high)}"
        return " ".join(part for part in (low, high) if part)

    def text(self, value: Any) -> str:
        """Return a value as it is written on the command line; `–` for None."""
        if value is None:
            return "–"
        if isinstance(value, bool):
            return str(value).lower()
        if self.type == "duration":
            return format_duration(round(value)) if value else "0"
        return f"{value:g}" if isinstance(value, float) else str(value)


class StrategyDescription(msgspec.Struct, frozen=True):
    """A strategy by name: what it reads, its parameters, and what it declares about bars."""

    name: str
    file: str
    doc: str
    callbacks: tuple[str, ...]
    reads: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    intervals: tuple[str, ...] = ()
    warm_up: dict[str, int] = {}


def describe_strategy(name: str, strategy: type[Strategy]) -> StrategyDescription:
    """Describe a loaded class; `name` is how the command line knows it."""
    callbacks = tuple(method for method in CALLBACKS if method != "on_start" and strategy.overrides(method))
    warm_up = getattr(strategy, "warm_up", None)
    return StrategyDescription(
        name=name,
        file=inspect.getsourcefile(strategy) or "",
        doc=inspect.cleandoc(vars(strategy).get("__doc__") or ""),
        callbacks=callbacks,
        reads=inputs_of(callbacks),
        parameters=tuple(describe_parameters(strategy.Params)),
        intervals=tuple(getattr(strategy, "intervals", ())),
        warm_up=dict(warm_up) if isinstance(warm_up, Mapping) else {},
    )


def inputs_of(callbacks: tuple[str, ...]) -> tuple[str, ...]:
    """Return what the callbacks receive, each once."""
    return tuple(dict.fromkeys(_READS[name] for name in callbacks if name in _READS))


def describe_parameters(params: type[BaseModel]) -> list[Parameter]:
    """Describe the parameters of a class, in its order."""
    comments: dict[str, str] = {}
    for kind in reversed(params.__mro__):
        if issubclass(kind, BaseModel) and kind.__module__ != BaseModel.__module__:
            comments |= _comments_of(kind)
    return [_describe(name, field, comments.get(name, "")) for name, field in params.model_fields.items()]


def _describe(name: str, field: FieldInfo, comment: str) -> Parameter:
    kind, metadata = _unwrap(field.annotation)
    metadata = [*metadata, *field.metadata]
    choices = _choices(kind)
    type_name = getattr(kind, "__name__", str(kind)) if get_origin(kind) is None else str(kind)
    if get_origin(kind) is Literal:
        type_name = "/".join(dict.fromkeys(type(choice).__name__ for choice in choices))
    if kind is int and any(item in metadata for item in get_args(Duration)[1:2]):
        type_name = "duration"
    low, above = _bound(metadata, "ge", "gt")
    high, below = _bound(metadata, "le", "lt")
    step = next((item.multiple_of for item in metadata if getattr(item, "multiple_of", None)), None)
    required = field.is_required()
    default = None if required else field.get_default(call_default_factory=True)
    if default is PydanticUndefined:
        default = None
    return Parameter(
        name=name,
        type=type_name,
        default=_plain(default),
        required=required,
        low=low,
        high=high,
        above=above,
        below=below,
        step=None if step is None else float(step),
        choices=choices,
        description=field.description or comment,
    )


def _unwrap(annotation: Any) -> tuple[Any, list[Any]]:
    """Return the type inside `Annotated` and `… | None`, and the metadata found on the way."""
    metadata: list[Any] = []
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation, *more = get_args(annotation)
            for item in more:
                metadata += item.metadata if isinstance(item, FieldInfo) else [item]
        elif origin in (Union, UnionType):
            inside = [one for one in get_args(annotation) if one is not NoneType]
            if len(inside) != 1:
                return annotation, metadata
            annotation = inside[0]
        else:
            return annotation, metadata


def _choices(kind: Any) -> tuple[Value, ...]:
    if kind is bool:
        return (False, True)
    if get_origin(kind) is Literal:
        found = [_plain(one) for one in get_args(kind)]
    elif isinstance(kind, type) and issubclass(kind, Enum):
        found = [_plain(one) for one in kind]
    else:
        return ()
    return tuple(one for one in found if one is not None)


def _bound(metadata: list[Any], closed: str, opened: str) -> tuple[float | None, bool]:
    """Return the bound in a field's metadata, and whether the value itself is excluded."""
    for name in (closed, opened):
        for item in metadata:
            value = getattr(item, name, None)
            if value is not None:
                return float(value), name == opened
    return None, False


def _plain(value: Any) -> Value | None:
    """Return a default or choice as a plain value; None for other objects."""
    if isinstance(value, Enum):
        value = value.value
    if value is None or isinstance(value, int | float | str | bool):
        return value
    return str(value)


def _comments_of(kind: type) -> dict[str, str]:
    try:
        source = dedent(inspect.getsource(kind))
        found = ast.parse(source).body[0]
    except (OSError, TypeError, SyntaxError, IndexError):
        return {}  # its source is not at hand
    return trailing_comments(source, found) if isinstance(found, ast.ClassDef) else {}


def trailing_comments(source: str, kind: ast.ClassDef) -> dict[str, str]:
    """Return the comments on the lines of a class's annotated fields, by field."""
    comments: dict[int, str] = {}
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                comments[token.start[0]] = token.string.lstrip("#: ").strip()
    except (tokenize.TokenError, SyntaxError):
        return {}
    found = {}
    for node in kind.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            text = comments.get(node.end_lineno or node.lineno) or comments.get(node.lineno)
            if text:
                found[node.target.id] = text
    return found
