"""The source files of a recorded run's strategy, found without importing anything."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

from strategies import SOURCE_FILE, check_source


def source_files(name: str, recorded: Mapping[str, str]) -> list[Path]:
    """Return the file of the strategy `name`, and the files beside it that it imports, directly or not.

    `recorded` is `Run.versions`. The list is empty if the strategy is built in or a module in a package,
    which is more than these files. Raises SafetyError if the file has changed since the run.
    """
    check_source(name, recorded)
    if not recorded.get(SOURCE_FILE):
        return []
    file = Path(recorded[SOURCE_FILE])
    if file.with_name("__init__.py").exists():
        return []
    found = [file]
    for one in found:
        for module in _imported(one):
            beside = file.parent / f"{module}.py"
            if beside.is_file() and beside not in found:
                found.append(beside)
    return found


def _imported(file: Path) -> Iterator[str]:
    """Yield the first part of the name of each imported module; nothing if the file can't be parsed."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, ValueError, SyntaxError, RecursionError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]
