"""Strategies in the Python files of a folder, found by parsing: no code of the folder is run."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from agent.core.strategy import Strategy
from strategies.description import CALLBACKS, inputs_of

MAX_FILES: Final = 500
"""Most files of a folder that are read."""

_MAX_SIZE: Final = 1_000_000  # bytes of a file
_IGNORED: Final = ("__pycache__", "build", "dist", "node_modules", "site-packages", "tests", "venv")


class FoundStrategy(NamedTuple):
    """A strategy class in a file, as its source states it."""

    name: str  # how the command line names it
    file: Path
    doc: str  # first line of the docstring
    reads: tuple[str, ...]
    parameters: dict[str, str]  # name -> source of the default; "" if required


class FolderScan(NamedTuple):
    """The strategies of a folder, and notes on files that were not read."""

    strategies: list[FoundStrategy]
    notes: list[str]


def scan_folder(folder: Path) -> FolderScan:
    """Find the strategies in the files of `folder` and of the folders directly inside it."""
    found: list[FoundStrategy] = []
    notes: list[str] = []
    for number, file in enumerate(_files(folder)):
        if number >= MAX_FILES:
            notes.append(f"only the first {MAX_FILES} files of {folder} are read")
            break
        try:
            if file.stat().st_size > _MAX_SIZE:
                notes.append(f"{file} is not read: larger than {_MAX_SIZE:,} bytes")
                continue
            text = file.read_text(encoding="utf-8")
            if "Strategy" in text:
                found += _strategies(file, ast.parse(text))
        except (OSError, ValueError, SyntaxError, RecursionError) as error:
            line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
            notes.append(f"{file}{line} can't be read: {type(error).__name__}")
    return FolderScan(found, notes)


def _files(folder: Path) -> Iterator[Path]:
    yield from sorted(folder.glob("*.py"))
    for inner in sorted(path for path in folder.iterdir() if path.is_dir()):
        if not inner.name.startswith(".") and inner.name not in _IGNORED:
            yield from sorted(inner.glob("*.py"))


def _strategies(file: Path, tree: ast.Module) -> list[FoundStrategy]:
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    own = [node for node in classes.values() if _is_strategy(node, classes)]
    found = []
    for node in own:
        methods = _methods(node, classes)
        doc = (ast.get_docstring(node) or "").partition("\n")[0]
        reads = inputs_of(tuple(name for name in CALLBACKS if name in methods))
        name = str(file) if len(own) == 1 else f"{file}:{node.name}"
        found.append(FoundStrategy(name, file, doc, reads, _parameters(node, classes)))
    return found


def _is_strategy(node: ast.ClassDef, classes: dict[str, ast.ClassDef], depth: int = 0) -> bool:
    for base in node.bases:
        name = _name_of(base)
        if name == Strategy.__name__:
            return True
        if name in classes and depth < len(classes) and _is_strategy(classes[name], classes, depth + 1):
            return True
    return False


def _name_of(base: ast.expr) -> str:
    """Return the last part of a base class's name: `Strategy` of `tw.Strategy[Params]`."""
    if isinstance(base, ast.Subscript):
        base = base.value
    if isinstance(base, ast.Attribute):
        return base.attr
    return base.id if isinstance(base, ast.Name) else ""


def _line_of_bases(node: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> list[ast.ClassDef]:
    """Return the class and its bases in the same file, the class first."""
    line, waiting = list[ast.ClassDef](), [node]
    while waiting:
        one = waiting.pop(0)
        if one not in line:
            line.append(one)
            waiting += [classes[name] for base in one.bases if (name := _name_of(base)) in classes]
    return line


def _methods(node: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> set[str]:
    return {
        inner.name
        for one in _line_of_bases(node, classes)
        for inner in one.body
        if isinstance(inner, ast.FunctionDef)
    }


def _parameters(node: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> dict[str, str]:
    """Return the fields of the class's parameters and their defaults, as the source writes them."""
    for one in _line_of_bases(node, classes):
        nested = [inner for inner in one.body if isinstance(inner, ast.ClassDef) and inner.name == "Params"]
        subscripts = [base.slice for base in one.bases if isinstance(base, ast.Subscript)]
        named = [classes[item.id] for item in subscripts if isinstance(item, ast.Name) and item.id in classes]
        if params := next(iter(nested + named), None):
            fields: dict[str, str] = {}
            for base in reversed(_line_of_bases(params, classes)):
                fields |= dict(_fields(base))
            return fields
    return {}


def _fields(params: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for node in params.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id, _default(node.value)


def _default(value: ast.expr | None) -> str:
    """Return the source of a default; of `Field(20, ge=1)` it is `20`."""
    if isinstance(value, ast.Call) and _name_of(value.func) == "Field":
        named = {keyword.arg: keyword.value for keyword in value.keywords}
        value = value.args[0] if value.args else named.get("default")
        if isinstance(value, ast.Constant) and value.value is Ellipsis:
            value = None
    return "" if value is None else ast.unparse(value)
