"""`-h` of every command prints the help texts as they are written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from agent.cli.main import build


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


ALL = dict(commands(typer.main.get_command(build())))


def words(text: str) -> str:
    """Without the frames, line ends and spaces of a terminal's table."""
    return re.sub(r"[\s│╭╮╰╯─]+", "", text)


@pytest.mark.parametrize("path", ALL, ids=lambda path: " ".join(path) or "tapewire")
def test_help_texts_keep_what_stands_in_brackets(path: tuple[str, ...]) -> None:
    result = CliRunner().invoke(build(), [*path, "-h"], env={"COLUMNS": "400", "TERMINAL_WIDTH": "400"})
    assert result.exit_code == 0
    shown = words(result.stdout)
    command = ALL[path]
    for param in command.params:
        text = getattr(param, "help", None) or ""
        assert not re.search(r"\s\.\s*$", text)
        assert words(text) in shown, param.name
    for paragraph in (command.help or "").split("\n\n"):
        assert words(paragraph) in shown
    for inner in getattr(command, "commands", {}).values():
        assert words((inner.help or "").split("\n\n")[0].split("\n")[0]) in shown


def test_some_help_texts_have_brackets() -> None:
    assert any(
        "[" in (getattr(param, "help", None) or "") for command in ALL.values() for param in command.params
    )
