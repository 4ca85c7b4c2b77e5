"""Paths are printed as they are, also with square brackets in them."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from agent.cli.main import build


def test_a_path_with_brackets_is_printed_whole(tmp_path: Path) -> None:
    path = tmp_path / "mine[draft].toml"
    path.write_text("")
    result = CliRunner().invoke(build(), ["config", "check", str(path)])
    assert result.exit_code == 0
    assert "mine[draft].toml" in result.stdout.replace("\n", "")
