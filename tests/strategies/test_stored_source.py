"""A strategy is loaded by its source: several versions of a file at once, whatever the file is now."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

import pytest

from agent.core.errors import ConfigError
from strategies import strategy_class
from strategies.stored_source import (
    MOST_BYTES,
    class_of_first_source,
    class_of_source,
    read_strategy_file,
    sha256_of,
)

MINE = """
from tapewire import Strategy


class Mine(Strategy):
    number = {number}

    def on_fill(self, fill, market):
        raise ValueError("no fill")
"""


def source(number: int) -> bytes:
    return MINE.format(number=number).encode()


def test_versions_of_a_file_are_loaded_beside_each_other(tmp_path: Path) -> None:
    file = tmp_path / "versions_of.py"
    file.write_bytes(source(1))
    imported = strategy_class(str(file))
    second, third = (class_of_source(source(number), file) for number in (2, 3))
    assert (imported.number, second.number, third.number) == (1, 2, 3)  # type: ignore[attr-defined]
    assert class_of_source(source(2), file) is second
    assert second.__module__ == f"versions_of_{sha256_of(source(2))[:12]}"
    assert sys.modules["versions_of"].__dict__["Mine"] is imported


def test_the_first_source_of_a_run_stands_for_its_file(tmp_path: Path) -> None:
    file = tmp_path / "stands_for.py"
    file.write_bytes(source(2))
    first = class_of_first_source(source(1), file)
    assert first.__module__ == "stands_for"
    assert strategy_class(str(file)) is first
    file.unlink()
    assert strategy_class(str(file)) is first


def test_tracebacks_show_the_lines_that_ran(tmp_path: Path) -> None:
    file = tmp_path / "traced.py"
    file.write_text("# another text\n" * 20)
    kind = class_of_source(source(1), file)
    with pytest.raises(ValueError, match="no fill") as error:
        kind().on_fill(None, None)  # type: ignore[arg-type]
    last = traceback.extract_tb(error.value.__traceback__)[-1]
    assert (last.filename, last.lineno, last.line) == (str(file), 9, 'raise ValueError("no fill")')


def test_a_source_that_fails_leaves_no_module_behind(tmp_path: Path) -> None:
    file = tmp_path / "leaves_nothing.py"
    before = set(sys.modules)
    with pytest.raises(ConfigError, match=r"leaves_nothing\.py, line 1: ZeroDivisionError"):
        class_of_source(b"1 // 0", file)
    assert not [name for name in set(sys.modules) - before if name.startswith("leaves_nothing")]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("import numpy, beside\n", r"line 1: beside is in the strategy's folder"),
        ("def late():\n    from beside.deep import x\n", r"line 2: beside\.deep is in the strategy's folder"),
        ("from . import beside\n", r"line 1: \. is in the strategy's folder"),
        ("import package\n", r"line 1: package is in the strategy's folder"),
        ("#" * MOST_BYTES + "\n", "has more than 1,000,000 bytes"),
    ],
)
def test_only_a_single_file_is_kept(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "beside.py").touch()
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    file = tmp_path / "mine.py"
    file.write_text(text)
    with pytest.raises(ConfigError, match=match):
        read_strategy_file(file)


@pytest.mark.parametrize(
    "text", ["import json, numpy, tapewire\n", "import nowhere\n", "def (:\n", "x = '\0'\n"]
)
def test_other_imports_and_errors_are_left_to_loading(tmp_path: Path, text: str) -> None:
    for name in ("json", "numpy", "tapewire"):  # installed modules take precedence
        (tmp_path / f"{name}.py").touch()
    file = tmp_path / "mine.py"
    file.write_text(text)
    assert read_strategy_file(file) == text.encode()
