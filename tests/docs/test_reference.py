"""The reference pages that are made from the code."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("mkdocs")

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("_reference", ROOT / "docs/_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(page: str, section: str) -> dict[str, list[str]]:
    """Key -> (type, default, comment) of one section."""
    part = page.partition(f"## `{section}`\n")[2].partition("\n## ")[0]
    assert part, section
    found = [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("| `")]
    return {cells[0].strip("`"): cells[1:] for cells in found}


def test_every_key_of_the_configuration_is_explained(reference: ModuleType) -> None:
    lines = [line for line in reference.configuration().splitlines() if line.startswith("| `")]
    assert len(lines) > 200
    assert [line for line in lines if line.endswith("|  |")] == []


def test_types_and_defaults_are_those_of_a_toml_file(reference: ModuleType) -> None:
    page = reference.configuration()
    retry = rows(page, "[store.retry]")
    assert retry["stable_after"][:2] == ["duration", '`"1m"`']
    assert rows(page, "[market]")["symbols"][:2] == ["list of text", '`["BTCUSDT", "ETHUSDT"]`']
    feeds = rows(page, "[[news.feeds]]")
    assert feeds["url"][:2] == ["text", "required"]
    assert feeds["name"][:2] == ["text", '`""`']  # not the name of one that the file lists
    assert "[instruments.NAME]" in page
    types = re.findall(r"^\| `\w+` \| (.*?) \|", page, re.MULTILINE)
    assert not [
        kind for kind in types if re.search(r"tuple|Decimal|None|\bstr\b|\bbool\b|dict|Annotated", kind)
    ]


def test_each_command_has_a_heading_of_the_level_of_its_words(reference: ModuleType) -> None:
    found = re.findall(r"^(#+) `tapewire (.*)`$", reference.commands(), re.MULTILINE)
    assert len(found) > 30
    assert all(len(level) == 2 + path.count(" ") for level, path in found)


def test_the_options_of_a_group_are_listed_under_it(reference: ModuleType) -> None:
    """`tapewire runs` lists runs without a command."""
    text = reference.commands()
    own = text.partition("## `tapewire runs`\n")[2].partition("### `tapewire runs delete`")[0]
    assert "| `--sort` | COLUMN | -started |" in own
    assert "| `--folds` |" in own
