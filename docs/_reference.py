"""Pages made from the code while the site is built, so they can't drift: configuration, commands, tables.

A mkdocs hook: `on_files` adds them as generated files.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from agent.core.durations import Duration, format_duration

ROOT = Path(__file__).resolve().parent.parent


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Called by mkdocs with what lies in docs/."""
    pages = {"configuration": configuration(), "commands": commands(), "database": database(), "mqtt": mqtt()}
    for name, text in pages.items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


# -- configuration ---------------------------------------------------------------------------------------


def configuration() -> str:
    """Return a table for each section: every key with its type and default, and the comment beside it in
    config.toml or in the code.
    """
    from agent.config import Config

    lines = [
        "# Configuration",
        "",
        "`config.toml` in the working folder, or the file named by `--config`. Every key may be left out; a",
        "key that doesn't exist is an error that names the closest one. Durations are written `250ms`,",
        "`30s`, `5m`, `4h`, `1d`.",
        "`tapewire config check` validates a file, `tapewire config show` prints what will be used.",
        "",
    ]
    said = _stated((ROOT / "config.toml").read_text(encoding="utf-8"))
    for name, field in Config.model_fields.items():
        lines += _section(name, field.annotation, said)
    return "\n".join(lines) + "\n"


def _section(name: str, annotation: Any, said: dict[str, tuple[str, str]]) -> Iterator[str]:
    from agent.core.settings import Section

    kinds = [
        kind
        for kind in (annotation, *get_args(annotation))
        if isinstance(kind, type) and issubclass(kind, Section)
    ]
    if not kinds:
        return
    (section,) = kinds
    repeated = get_origin(annotation) is tuple
    header = f"[{name}.NAME]" if get_origin(annotation) is dict else f"[{name}]"
    yield f"## `{f'[{header}]' if repeated else header}`"
    yield ""
    yield _first_sentence(section.__doc__)
    yield ""
    yield "| key | type | default | |"
    yield "|---|---|---|---|"
    inner = []
    beside = _comments(section)
    for key, field in section.model_fields.items():
        nested = [
            k
            for k in (field.annotation, *get_args(field.annotation))
            if isinstance(k, type) and issubclass(k, Section)
        ]
        if nested:
            inner.append((f"{name}.{key}", field.annotation))
            continue
        value, comment = said.get(f"{name}.{key}", ("", ""))
        duration = any(one in field.metadata for one in get_args(Duration))
        default = (
            "" if field.is_required() or field.default is None else _shown(field.default, duration=duration)
        )
        # as a user writes it; of a list the file has examples
        if not repeated and value and not field.is_required():
            default = value
        shown = f"`{_cell(default)}`" if default else "required" if field.is_required() else ""
        kind = "duration" if duration else _type(field.annotation)
        yield f"| `{key}` | {_cell(kind)} | {shown} | {_cell(comment or beside.get(key, ''))} |"
    yield ""
    for path, inside in inner:
        yield from _section(path, inside, said)


def _comments(section: type) -> dict[str, str]:
    """Map each key to the comment beside or above it in the source of a section or of its bases."""
    found: dict[str, str] = {}
    for kind in reversed([one for one in section.__mro__ if one.__module__.startswith("agent.")]):
        above: list[str] = []
        for line in inspect.getsource(kind).splitlines():
            if comment := re.match(r"    # (.*)", line):
                above.append(comment[1])
                continue
            pair = re.match(r"    (\w+): (?:.*?  # (?!noqa|type:)(.*))?", line)
            if pair and (text := pair[2] or " ".join(above)):
                found[pair[1]] = text
            above = []
    return found


def _stated(text: str) -> dict[str, tuple[str, str]]:
    """Map each dotted key to its value and the comment after it, as config.toml writes them, also in lines
    that are commented out.
    """
    found: dict[str, tuple[str, str]] = {}
    section = ""
    for line in text.splitlines():
        if header := re.match(r"#? ?\[+([\w.]+)\]+", line):
            section = header[1]
        elif pair := re.match(r"(#?) ?(\w+) = (.*?)(?:\s+# (.*))?$", line):
            found.setdefault(f"{section}.{pair[2]}", ("" if pair[1] else pair[3], pair[4] or ""))
    return found


_PLAIN: Final = {
    str: "text",
    int: "integer",
    float: "number",
    Decimal: "decimal",
    bool: "true or false",
    Path: "path",
    Any: "value",
    NoneType: "",
}


def _type(annotation: Any) -> str:
    """A type as a person who writes TOML knows it."""
    arguments, origin = get_args(annotation), get_origin(annotation)
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    if origin is Literal:
        return " or ".join(f'"{choice}"' for choice in arguments)
    if origin is Annotated:
        return _type(arguments[0])
    if origin in (tuple, list):
        return f"list of {_type(arguments[0])}"
    if origin is dict:
        return "table"
    if origin in (UnionType, Union):
        return " or ".join(filter(None, map(_type, arguments)))
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


def _shown(value: Any, *, duration: bool = False) -> str:
    if duration:
        text = f'"{format_duration(value)}"'
    elif isinstance(value, bool):
        text = str(value).lower()
    elif isinstance(value, str | Path):
        text = f'"{value}"'
    elif isinstance(value, tuple | list):
        text = json.dumps(value)
    else:
        text = str(value)
    return text if len(text) <= 60 else text[:57] + "…"


# -- commands --------------------------------------------------------------------------------------------


def commands() -> str:
    """Every verb with its arguments and options."""
    import typer

    from agent.cli.main import build

    lines = [
        "# Command line",
        "",
        "Exit codes: 0 fine, 1 the work failed, 2 wrong usage or configuration, 3 refused for safety.",
        "`--json` prints one JSON object on standard output; progress and errors go to standard error.",
        "",
    ]
    lines += _command("tapewire", typer.main.get_command(build()), 2)
    return "\n".join(lines) + "\n"


def _command(path: str, command: Any, level: int) -> Iterator[str]:
    inner = getattr(command, "commands", None)
    if inner is None or path.count(" "):
        yield f"{'#' * level} `{path}`"
        yield ""
        yield from inspect.cleandoc(command.help or "").splitlines()
        yield ""
    if inner is None or path.count(" "):  # a group may have options of its own
        yield from _parameters(command)
    for name in sorted(inner or ()):
        yield from _command(f"{path} {name}", inner[name], level + path.count(" "))


def _parameters(command: Any) -> Iterator[str]:
    """The arguments and options of a verb as a table."""
    from agent.cli.typer_setup import metavar

    rows = [p for p in command.params if p.name != "help"]
    if rows:
        yield "| | value | default | |"
        yield "|---|---|---|---|"
    for param in rows:
        option = param.param_type_name == "option"
        shown = (*param.opts, *param.secondary_opts) if option else (param.metavar or param.name.upper(),)
        names = ", ".join(f"`{name}`" for name in shown)
        default = "required" if param.required else _default(param)
        value = metavar(param) if option else ""
        yield f"| {names} | {_cell(value)} | {_cell(default)} | {_cell(param.help or '')} |"
    yield ""


def _default(param: Any) -> str:
    if isinstance(param.show_default, str):  # of an option whose default depends on something else
        return param.show_default
    return "" if param.default is False or param.default in (None, "", (), []) else str(param.default)


# -- database --------------------------------------------------------------------------------------------


def database() -> str:
    """Every table with its columns."""
    from agent.store import tables

    lines = ["# Database", "", *(tables.__doc__ or "").strip().splitlines(), ""]
    for table in tables.metadata.sorted_tables:
        lines += [f"## `{table.name}`", "", "| column | type | |", "|---|---|---|"]
        for column in table.columns:
            facts = [
                *(["key"] if column.primary_key else []),
                *(f"references `{key.target_fullname}`" for key in column.foreign_keys),
                *(["may be NULL"] if column.nullable else []),
            ]
            lines.append(f"| `{column.name}` | {_cell(type(column.type).__name__)} | {', '.join(facts)} |")
        lines.append("")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _first_sentence(text: str | None) -> str:
    return " ".join((text or "").split())


# -- messages --------------------------------------------------------------------------------------------


def mqtt() -> str:
    """A table a message: its fields, their types and defaults."""
    from agent.live.services.mqtt.json_schema import schema

    lines = [
        "# MQTT messages",
        "",
        "Which message passes on which topic is on the page about [MQTT](../mqtt.md);",
        "the same as JSON Schema is in [mqtt.schema.json](../mqtt.schema.json).",
        "",
    ]
    for definition in schema()["$defs"].values():
        lines += [f"## {definition['title']}", "", _first_sentence(definition.get("description")), ""]
        if "enum" in definition:
            lines += ["One of " + ", ".join(f"`{value}`" for value in definition["enum"]) + ".", ""]
            continue
        required = set(definition.get("required", ()))
        lines += ["| field | type | default |", "|---|---|---|"]
        for name, field in definition["properties"].items():
            default = "" if name in required else f"`{_json(field.get('default'))}`"
            lines.append(f"| `{name}` | {_cell(_json_type(field))} | {_cell(default)} |")
        lines.append("")
    return "\n".join(lines) + "\n"


def _json_type(field: dict[str, Any]) -> str:
    if "$ref" in field:
        name = str(field["$ref"]).rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "enum" in field:
        return " or ".join(f"`{_json(value)}`" for value in field["enum"])
    if "anyOf" in field:
        return " or ".join(_json_type(choice) for choice in field["anyOf"])
    kind = field.get("type", "anything")
    if kind == "array" and "prefixItems" in field:
        return f"[{', '.join(_json_type(item) for item in field['prefixItems'])}]"
    if kind == "array":
        return f"list of {_json_type(field['items'])}"
    if kind == "object":
        return f"object of {_json_type(field['additionalProperties'])} by name"
    if isinstance(kind, list):
        return " or ".join(kind)
    return f"{kind} ({field['format']})" if "format" in field else str(kind)


def _json(value: Any) -> str:
    return json.dumps(value, default=str)
