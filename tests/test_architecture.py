"""The tree is what docs/architecture.md shows: no import cycles, few names that occur twice."""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

import grimp
import pytest

from tests.conftest import ROOT

PRODUCT = ("agent", "strategies", "models", "tapewire", "tools")
MOST_MODULE_NAMES = 8  # basenames that more than one module has
MOST_CLASS_NAMES = 6  # names that more than one class has


@cache
def imports() -> dict[str, set[str]]:
    graph = grimp.build_graph(*PRODUCT)
    return {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}


def package_of(module: str) -> str:
    is_package = any(other.startswith(f"{module}.") for other in imports())
    return module if is_package else module.rpartition(".")[0]


def cycles(edges: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Strongly connected components of more than one node (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in edges.get(node, ()):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            position = stack.index(node)
            component, stack[position:] = stack[position:], []
            if len(component) > 1:
                found.append(sorted(component))

    for node in list(edges):
        if node not in index:
            visit(node)
    return found


def test_no_modules_import_each_other_in_a_cycle() -> None:
    assert cycles(imports()) == []


def test_no_packages_import_each_other_in_a_cycle() -> None:
    edges: defaultdict[str, set[str]] = defaultdict(set)
    for module, imported in imports().items():
        package = package_of(module)
        edges[package] |= {package_of(one) for one in imported} - {package}
    assert cycles(edges) == []


@pytest.mark.parametrize(
    ("edges", "expected"),
    [
        ({"a": ["b"], "b": ["c"], "c": []}, []),
        ({"a": ["b"], "b": ["a"]}, [["a", "b"]]),
        ({"a": ["b"], "b": ["c"], "c": ["b", "d"], "d": []}, [["b", "c"]]),
    ],
)
def test_cycles_are_found(edges: dict[str, list[str]], expected: list[list[str]]) -> None:
    assert cycles(edges) == expected


def test_few_modules_share_a_name() -> None:
    names = Counter(module.rpartition(".")[2] for module in imports() if package_of(module) != module)
    names.pop("__main__", None)
    shared = sorted(name for name, count in names.items() if count > 1)
    assert len(shared) <= MOST_MODULE_NAMES, shared


def test_no_script_of_bench_hides_a_package() -> None:
    """`python bench/X.py` puts bench first in the search path."""
    scripts = {file.stem for file in (ROOT / "bench").glob("*.py")}
    assert scripts
    assert not scripts & {*PRODUCT, "tests", "bench", *sys.stdlib_module_names}


@pytest.mark.slow
def test_few_classes_share_a_name() -> None:
    names: Counter[str] = Counter()
    for package in PRODUCT:
        for file in (ROOT / package).rglob("*.py"):
            tree = ast.parse(file.read_text(encoding="utf-8"))
            names.update(node.name for node in tree.body if isinstance(node, ast.ClassDef))
    shared = sorted(name for name, count in names.items() if count > 1)
    assert len(shared) <= MOST_CLASS_NAMES, shared


def test_the_documented_tree_exists() -> None:
    """Each package and core module in the drawing of docs/architecture.md, and no other one, is there."""
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    drawing = re.search(r"    agent/\n.*?\n\n", text, re.DOTALL)
    assert drawing
    drawn = set(re.findall(r"^ +([a-z_]+)/", drawing[0], re.MULTILINE)) - {"agent"}
    at = ROOT / "agent"
    folders = {path.parent for path in at.rglob("*.py")} - {at}
    named = {folder.name for folder in folders} | {path.name for path in _tops()}
    assert drawn <= named, drawn - named
    missing = {folder.name for folder in folders if folder.parent in (at, at / "live")} - drawn
    assert not missing, missing


def _tops() -> list[Path]:
    return [path for path in ROOT.iterdir() if path.is_dir()]
