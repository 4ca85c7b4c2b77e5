"""Strategies whose source is kept by its SHA-256, so that a run decides alike after the file has changed.

Such a source is one file: it may import installed packages, but nothing from its own folder.
"""

from __future__ import annotations

import ast
import hashlib
import linecache
import re
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Final

from agent.core.errors import ConfigError
from agent.core.strategy import Strategy
from strategies import class_in, imported_source, importing, module_name_of, note_source

MOST_BYTES: Final = 1_000_000
"""Size of the largest source that is kept."""

_OWN: Final = ("agent", "models", "strategies", "tapewire")
_DIGITS: Final = 12  # of the hash in a module's name


def sha256_of(source: bytes) -> str:
    """Return the hash by which a source is known."""
    return hashlib.sha256(source).hexdigest()


def read_strategy_file(file: Path) -> bytes:
    """Read the source of a strategy. Raises ConfigError if it can't be read or is not a single file."""
    try:
        source = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"strategy {file} can't be read: {error.strerror}") from None
    if len(source) > MOST_BYTES:
        raise ConfigError(f"strategy {file} has more than {MOST_BYTES:,} bytes")
    for line, module in neighbours(file, source):
        raise ConfigError(
            f"{file}, line {line}: {module} is in the strategy's folder, and only a single file can be kept",
            hint="put everything into one file, or install a package and use package.module:Class",
        )
    return source


def neighbours(file: Path, source: bytes) -> Iterator[tuple[int, str]]:
    """Find the imports of modules in the file's own folder: their lines and names."""
    try:
        tree = ast.parse(source, str(file))
    except (SyntaxError, ValueError):
        return  # importing the source states where it is wrong
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = ["." * node.level + (node.module or "")]
        else:
            continue
        for name in names:
            if _is_neighbour(name.partition(".")[0], file.parent):
                yield node.lineno, name


def _is_neighbour(module: str, folder: Path) -> bool:
    """Return whether a module is in `folder`; an installed one of the same name takes precedence."""
    if not module:
        return True  # a relative import
    own = (folder / f"{module}.py", folder / module / "__init__.py")
    if module in _OWN or module in sys.stdlib_module_names or not any(file.is_file() for file in own):
        return False
    spec = PathFinder.find_spec(module)
    return spec is None or spec.origin is None or Path(spec.origin).resolve() in own


def class_of_source(source: bytes, file: Path, class_name: str = "") -> type[Strategy]:
    """Return a strategy of a source: its only one, or the one named `class_name`.

    `file` is where the source comes from, for messages; it is not read. The module's name contains the hash,
    so several versions of a file can be loaded. Raises ConfigError with file and line if that fails.
    """
    module = _module_of(source, file)
    return class_in(module, class_name, file.name, guess=True)


def class_of_first_source(source: bytes, file: Path, class_name: str = "") -> type[Strategy]:
    """As `class_of_source`, for the source with which a run began: the module has the plain name of the file,
    as if the file were still the same.
    """
    module = _module_of(source, file, plain=True)
    return class_in(module, class_name, file.name, guess=True)


def _module_of(source: bytes, file: Path, *, plain: bool = False) -> ModuleType:
    stem = re.sub(r"\W", "_", file.stem)
    name = module_name_of(file) if plain else f"{stem}_{sha256_of(source)[:_DIGITS]}"
    before = sys.modules.get(name)
    if before is not None and imported_source(before) == source:
        return before
    module = sys.modules[name] = ModuleType(name)
    module.__file__ = str(file)
    note_source(module, source)
    # Tracebacks show the lines that ran, also if the file has changed
    text = source.decode(errors="replace")
    linecache.cache[str(file)] = (len(source), None, text.splitlines(keepends=True), str(file))
    try:
        with importing(file.name, None):
            try:
                exec(compile(source, str(file), "exec", dont_inherit=True), vars(module))
            except SystemExit as error:
                raise RuntimeError(f"it ends the program: SystemExit({error.code!r})") from error
    except BaseException:
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before
        raise
    return module
