"""Loading of strategies by name, with errors that suggest a correction."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from agent.core.errors import ConfigError, SafetyError
from agent.core.strategy import Strategy
from strategies import BUILT_IN, SOURCE_FILE, check_source, load_strategy, source_of
from strategies.sma_cross import SmaCross

MINE = """
from agent.core.strategy import Strategy, StrategyParams

class Mine(Strategy):
    class Params(StrategyParams):
        weight: float = 0.1

class Plain(Strategy):
    pass

class Other:
    pass
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a user's package; its modules are unloaded after the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    package = tmp_path / "user_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "mine.py").write_text(MINE)
    (package / "typo.py").write_text("x = 1\nclass Broken(\n")
    (package / "raises.py").write_text("\n\nraise RuntimeError('no licence')\n")
    (package / "needs.py").write_text("import a_library_that_is_not_there\n")
    return tmp_path


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_strategies_load_with_their_defaults(name: str) -> None:
    assert isinstance(load_strategy(name), Strategy)


def test_texts_are_converted_to_the_types_of_the_parameters() -> None:
    strategy = load_strategy(
        "sma_cross", {"fast": "5", "slow": "50", "weight": "0.99", "allow_short": "true"}
    )
    assert isinstance(strategy, SmaCross)
    assert strategy.params == SmaCross.Params(fast=5, slow=50, weight=0.99, allow_short=True)
    assert load_strategy("sentiment", {"hold": "4h"}).params.hold == 4 * 3_600_000


def test_a_users_strategy_is_loaded_by_module_and_class(folder: Path) -> None:
    assert load_strategy("user_package.mine:Mine", {"weight": "0.3"}).params.weight == 0.3
    assert load_strategy("user_package.mine:Plain").targets == []


ONE = """
import neighbour_of_one
from agent.core.strategy import Strategy

class Only(Strategy):
    number = neighbour_of_one.NUMBER
"""


@pytest.mark.parametrize("name", ["one.py", "./one.py", "one.py:Only", "{}/one.py", "one:Only"])
def test_a_users_strategy_is_loaded_by_file(folder: Path, name: str) -> None:
    (folder / "one.py").write_text(ONE)
    (folder / "neighbour_of_one.py").write_text("NUMBER = 7\n")
    name = name.format(folder)
    assert load_strategy(name).number == 7
    assert type(load_strategy(name)) is type(load_strategy(name))
    assert source_of(name)[SOURCE_FILE] == str(folder / "one.py")


def test_files_with_equal_names_are_separate_modules(folder: Path) -> None:
    for place, number in (("a", 1), ("b", 2)):
        (folder / place).mkdir()
        for name in ("one", "json"):
            (folder / place / f"{name}.py").write_text(
                ONE.replace("import neighbour_of_one", "").replace("neighbour_of_one.NUMBER", str(number))
            )
    assert [load_strategy(f"{place}/one.py").number for place in "abab"] == [1, 2, 1, 2]
    assert load_strategy("a/json.py").number == 1
    assert not hasattr(sys.modules["json"], "Only")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("none.py", "no such file"),
        ("user_package/mine.py", "defines 2 strategies: Mine, Plain (name one: user_package/mine.py:Mine)"),
        ("user_package/__init__.py", "defines no strategies"),
        ("user_package/mine.py:Mind", "did you mean Mine?"),
        ("user_package/typo.py", "typo.py, line 2"),
    ],
)
def test_a_file_without_a_strategy_is_refused_in_one_line(folder: Path, name: str, expected: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_strategy(name)
    assert expected in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_corrected_file_is_imported_again(folder: Path) -> None:
    (folder / "one.py").write_text("raise RuntimeError\n")
    with pytest.raises(ConfigError, match=r"one\.py, line 1: RuntimeError"):
        load_strategy("one.py")
    (folder / "one.py").write_text(MINE)
    assert load_strategy("one.py:Mine").params.weight == 0.1


@pytest.mark.parametrize(
    ("name", "params", "expected"),
    [
        ("sma_cros", {}, ["unknown strategy 'sma_cros'", "did you mean sma_cross?", "package.module:Class"]),
        ("", {}, ["unknown strategy ''", "buy_and_hold"]),
        ("user_package.mine", {}, ["unknown strategy", "package.module:Class"]),
        ("user_package.mine:", {}, ["unknown strategy"]),
        ("user_package.nine:Mine", {}, ["no module 'user_package.nine'", "searched"]),
        ("no_such_package.mine:Mine", {}, ["no module 'no_such_package'"]),
        ("user_package.mine:Mind", {}, ["Mind does not exist", "mine.py", "did you mean Mine?"]),
        ("user_package.mine:Other", {}, ["Other is not a Strategy", "Mine, Plain"]),
        ("user_package.typo:Broken", {}, ["typo.py, line 2", "SyntaxError"]),
        ("user_package.raises:Mine", {}, ["raises.py, line 3", "RuntimeError: no licence"]),
        ("user_package.needs:Mine", {}, ["needs 'a_library_that_is_not_there'"]),
        ("user_package.mine:Mine", {"wieght": 1}, ["unknown parameter wieght", "did you mean weight?"]),
        ("user_package.mine:Plain", {"weight": 1}, ["unknown parameter weight", "it has none"]),
        ("sma_cross", {"fast": "ten"}, ["'sma_cross'", "fast", "'ten'"]),
        ("sma_cross", {"fast": 100, "slow": 20}, ["fast (100) must be below slow (20)"]),
        ("sma_cross", {"fast": 0, "slwo": 3}, ["fast", "did you mean slow?"]),
        ("sentiment", {"hold": "soon"}, ["hold", "is not a duration"]),
        ("sentiment", {"stop": -0.02}, ["stop", "greater than 0"]),
    ],
)
def test_errors_are_described_in_one_line(
    folder: Path, name: str, params: dict[str, Any], expected: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_strategy(name, params)
    message = str(caught.value)
    assert "\n" not in message
    for part in expected:
        assert part in message
    assert caught.value.exit_code == 2


def test_a_folder_hidden_by_an_installed_package_is_named(folder: Path) -> None:
    (folder / "strategies").mkdir()
    (folder / "strategies" / "mine.py").write_text(MINE)
    with pytest.raises(
        ConfigError, match=r"strategies/mine\.py is there, but 'strategies' is an installed package"
    ):
        load_strategy("strategies.mine:Mine")


def test_files_in_the_working_folder_never_hide_installed_modules(folder: Path) -> None:
    for name in (
        "feedparser",
        "colorsys",
        "agent",
    ):  # third-party, standard library, ours
        sys.modules.pop(name, None) if name == "colorsys" else None
        (folder / f"{name}.py").write_text(f"raise RuntimeError('the {name} of the folder ran')")
    (folder / "uses.py").write_text("import colorsys, feedparser, agent.core.events\n" + MINE)
    before = list(sys.path)
    load_strategy("sma_cross")
    load_strategy("uses:Mine")
    assert "site-packages" in (sys.modules["feedparser"].__file__ or "")
    assert sys.path == before, "the working folder is searched for the import of a strategy alone"


def test_a_recorded_runs_strategy_must_have_the_same_path_and_content(folder: Path) -> None:
    name = "user_package.mine:Mine"
    recorded = source_of(name)
    check_source(name, recorded)
    check_source("sma_cross", {})
    with pytest.raises(SafetyError, match=r"without its source's hash.*--trust-strategy"):
        check_source(name, {})
    moved = recorded | {SOURCE_FILE: "/elsewhere/mine.py"}
    with pytest.raises(SafetyError, match=r"it was at /elsewhere/mine\.py"):
        check_source(name, moved)
    (folder / "user_package" / "mine.py").write_text(MINE + "x = 1\n")
    with pytest.raises(SafetyError, match="has changed since the run"):
        check_source(name, recorded)
    (folder / "user_package" / "mine.py").unlink()
    with pytest.raises(SafetyError, match="is not there"):
        check_source(name, recorded)


def test_locating_a_strategy_runs_none_of_its_code(folder: Path) -> None:
    (folder / "user_package" / "__init__.py").write_text("raise RuntimeError('it ran')")
    assert source_of("user_package.mine:Mine")[SOURCE_FILE] == str(folder / "user_package" / "mine.py")
    assert source_of("user_package.mine.deeper:Mine") == {}
    assert source_of("no_such_package.mine:Mine") == {}
