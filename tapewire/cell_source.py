"""Source of a class that was written in a notebook or a script, as a file that `verify` can import.

The file holds the class and what it uses: imports, constants, other classes and functions.
"""

from __future__ import annotations

import ast
import hashlib
import linecache
import symtable
import sys
from collections.abc import Iterator
from importlib import import_module
from inspect import isclass, isfunction
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from agent.core.strategy import Strategy
from agent.system.atomic import write_bytes

MAIN: Final = "__main__"
_MAX_CONSTANT: Final = 20_000  # characters
_HEADER: Final = "# Copied from a notebook or script by tapewire.Backtest, so that runs can be verified.\n"


class NotCopiedError(Exception):
    """The source of a class can't be copied; the message is the reason."""


def save_source(strategy: type[Strategy], folder: Path) -> Path:
    """Write a class of `__main__` and what it uses to a file in `folder`; equal sources have the same file.

    Raises NotCopiedError.
    """
    if "<locals>" in strategy.__qualname__:
        raise NotCopiedError("it is defined inside a function")
    copier = _Copier(sys.modules[MAIN])
    copier.add(strategy.__name__, strategy)
    text = _HEADER + "\n\n".join(["\n".join(sorted(copier.imports)), *copier.parts]) + "\n"
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    path = folder / f"{strategy.__name__}-{digest}.py"
    if not path.exists():
        write_bytes(path, text.encode())
    return path


class _Copier:
    """Collects the definitions that a name needs, those needed by others first."""

    def __init__(self, main: ModuleType) -> None:
        self.imports = {"from __future__ import annotations"} if _postpones_annotations(main) else set[str]()
        self.parts: list[str] = []
        self._globals = vars(main)
        self._cells = [(text, tree) for text in _cells(main) if (tree := _parse(text)) is not None]
        self._seen: set[str] = set()

    def add(self, name: str, value: Any) -> None:
        """Add what defines `name`."""
        if name in self._seen:
            return
        self._seen.add(name)
        if getattr(value, "__module__", None) == MAIN and (isclass(value) or isfunction(value)):
            if value.__name__ != name:
                self.add(value.__name__, value)
                self.parts.append(f"{name} = {value.__name__}")
                return
            text = self._definition(name)
            for other in _global_names(text):
                if other in self._globals and other != name:
                    self.add(other, self._globals[other])
            self.parts.append(text)
        elif line := self._import(name, value):
            self.imports.add(line)
        else:
            self.parts.append(f"{name} = {_literal(name, value)}")

    def _definition(self, name: str) -> str:
        """Return the source of the newest top-level class or function of this name."""
        for text, tree in self._cells:
            for node in reversed(tree.body):
                if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
                    first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
                    return "\n".join(text.splitlines()[first - 1 : node.end_lineno])
        raise NotCopiedError(f"the source of {name} is not at hand")

    def _import(self, name: str, value: Any) -> str:
        """Return the import statement that binds `name` to `value`; "" if there is none."""
        for _, tree in self._cells:
            for node in tree.body:
                for alias in node.names if isinstance(node, ast.Import | ast.ImportFrom) else ():
                    bound = alias.asname or (alias.name.partition(".")[0])
                    if bound == name:
                        return ast.unparse(_with_one_name(node, alias))
        if isinstance(value, ModuleType):
            return f"import {value.__name__} as {name}"
        module, original = getattr(value, "__module__", None), getattr(value, "__qualname__", name)
        if isinstance(module, str) and "." not in original and module != MAIN:
            try:
                if getattr(import_module(module), original, None) is value:
                    return f"from {module} import {original} as {name}"
            except ImportError:
                return ""
        return ""


def _cells(main: ModuleType) -> Iterator[str]:
    """Yield the sources of `__main__`, newest first: the notebook's cells, else the script's file."""
    history = vars(main).get("In")  # IPython's
    if isinstance(history, list):
        yield from (text for text in reversed(history) if isinstance(text, str))
    for name in reversed(list(linecache.cache)):
        if "ipython-input" in name or "ipykernel" in name:
            yield "".join(linecache.getlines(name))
    file = getattr(main, "__file__", None)
    if file and Path(file).is_file():
        yield Path(file).read_text(encoding="utf-8")


def _parse(text: str) -> ast.Module | None:
    """Parse a cell; None if it isn't plain Python, such as one with `%magic` lines."""
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError):
        return None


def _with_one_name(node: Any, alias: ast.alias) -> Any:
    if isinstance(node, ast.Import):
        return ast.Import(names=[alias])
    return ast.ImportFrom(module=node.module, names=[alias], level=node.level)


def _postpones_annotations(main: ModuleType) -> bool:
    return "annotations" in vars(main) and type(vars(main)["annotations"]).__name__ == "_Feature"


def _global_names(text: str) -> set[str]:
    """Return the names that a definition looks up in its module."""
    found: set[str] = set()

    def visit(table: symtable.SymbolTable, top: bool) -> None:
        for symbol in table.get_symbols():
            if symbol.is_referenced() and (symbol.is_global() or (top and not symbol.is_assigned())):
                found.add(symbol.get_name())
        for child in table.get_children():
            visit(child, False)

    visit(symtable.symtable(text, "cell", "exec"), True)
    return found


def _literal(name: str, value: Any) -> str:
    text = repr(value)
    if len(text) <= _MAX_CONSTANT:
        try:
            if ast.literal_eval(text) == value:
                return text
        except (ValueError, SyntaxError):
            pass
    raise NotCopiedError(f"it uses {name}, a {type(value).__name__} of the notebook")
