"""The help of every command."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner as ClickRunner
from typer.testing import CliRunner

from agent.cli.main import PANELS, build
from tests.support.command_line import whole_command


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


TAPEWIRE = whole_command()
ALL = dict(commands(TAPEWIRE))
OPTIONS = {
    f"{' '.join(path)} {param.opts[0]}": param
    for path, command in ALL.items()
    for param in command.params
    if param.param_type_name == "option"
}


def help_of(path: tuple[str, ...], width: int = 400) -> str:
    # typer's runner would build all commands anew
    result = ClickRunner().invoke(TAPEWIRE, [*path, "-h"], env={"COLUMNS": str(width)})
    assert result.exit_code == 0
    return result.stdout


def squeeze(text: str) -> str:
    """Remove the frames, line ends and spaces of a terminal's table."""
    return re.sub(r"[\s│╭╮╰╯─]+", "", text)


@pytest.mark.parametrize("path", ALL, ids=lambda path: " ".join(path) or "tapewire")
def test_help_shows_texts_and_defaults_in_full(path: tuple[str, ...]) -> None:
    command, shown = ALL[path], squeeze(help_of(path))
    for param in command.params:
        text = getattr(param, "help", None) or ""
        assert not re.search(r"\s\.\s*$", text)
        assert squeeze(text) in shown, param.name
        if isinstance(param.show_default, str):
            assert squeeze(f"[default: ({param.show_default})]") in shown, param.name
        elif param.default is True:
            assert squeeze(f"[default: {param.opts[0].removeprefix('--')}]") in shown, param.name
        elif param.default not in (None, "", [], ()) and param.default is not False:
            assert squeeze(f"[default: {param.default}]") in shown, param.name
    for paragraph in (command.help or "").split("\n\n"):
        assert squeeze(paragraph) in shown
    for inner in getattr(command, "commands", {}).values():
        assert squeeze((inner.help or "").split("\n\n")[0].split("\n")[0]) in shown


@pytest.mark.parametrize("path", ALL, ids=lambda path: " ".join(path) or "tapewire")
def test_help_names_no_python_type(path: tuple[str, ...]) -> None:
    assert not re.search(r"<\w+|\blist\[|\bPATH\b|\bNone\b", help_of(path, 120))


@pytest.mark.parametrize("path", ALL, ids=lambda path: " ".join(path) or "tapewire")
def test_help_fits_a_terminal_of_80_columns(path: tuple[str, ...]) -> None:
    shown = help_of(path, 80)
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown, "nothing is cut off"


def test_every_option_has_a_help_text() -> None:
    assert [name for name, param in OPTIONS.items() if not param.help] == []


def test_values_that_are_paths_or_pairs_are_named_as_such() -> None:
    assert OPTIONS["backtest --news"].metavar == "FILE"
    assert OPTIONS["backtest --model"].metavar == "MODEL"
    assert OPTIONS["backtest --set"].metavar == "NAME=VALUE"
    assert OPTIONS["backtest --klines"].metavar == "[SYMBOL=]FILE"


def test_some_help_texts_have_brackets() -> None:
    assert any(
        "[" in (getattr(param, "help", None) or "") for command in ALL.values() for param in command.params
    )


def test_commands_are_listed_in_panels() -> None:
    shown = help_of((), 100)
    assert re.findall(r"╭─ (\w[\w ]*\w) ─", shown) == ["Options", *PANELS]
    for name in ALL[()].commands:
        assert re.search(rf"^│ {name} ", shown, re.MULTILINE), name


def test_each_replaying_command_has_the_same_options() -> None:
    commands = (
        "backtest",
        "walkforward",
        "tune",
        "check lookahead",
        "check placebo",
        "check costs",
        "check masked",
    )
    options = {
        name: {one.removeprefix(name) for one in OPTIONS if one.rpartition(" ")[0] == name}
        for name in commands
    }
    assert options["check masked"] >= options["backtest"] - {" --sentiment", " --report"}
    assert all(
        found >= options["backtest"] - {" --report"}
        for name, found in options.items()
        if name != "check masked"
    )


@pytest.mark.parametrize(
    ("typed", "offered"), [("tapewire back", "backtest"), ("tapewire backtest --alllow", "")]
)
def test_a_shell_completes_commands(typed: str, offered: str) -> None:
    words = {"COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
    env = words | {"_TAPEWIRE_COMPLETE": "complete_bash"}
    assert CliRunner().invoke(build(), [], prog_name="tapewire", env=env).stdout.strip() == offered
