"""The documentation: it builds without a warning, and its commands work as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import typer

from agent.cli.main import build
from tests.conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
_FENCE = re.compile(
    r"(?P<skip><!-- not run: [^\n]+ -->\n)?^```(?P<kind>[a-z]+)(?: title=\"(?P<file>[^\"]+)\")?\n"
    r"(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    """A fenced block: shell to run, or a file that later shell needs."""

    kind: str
    file: str
    text: str
    run: bool


def blocks(page: Path) -> Iterator[Block]:
    for found in _FENCE.finditer(page.read_text(encoding="utf-8")):
        yield Block(found["kind"], found["file"] or "", found["text"], not found["skip"])


def verbs(page: Path) -> Iterator[list[str]]:
    """Every `tapewire …` line of the page's shell blocks, whether it is run or not."""
    for block in blocks(page):
        if block.kind == "sh":
            for line in block.text.replace("\\\n", " ").splitlines():
                for command in re.findall(r"(?:^|[|;&] *|\.venv/bin/|exec )tapewire ([^|;&#>]*)", line):
                    yield re.findall(r"\"[^\"]*\"|'[^']*'|\S+", command)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_and_option_named_exists(page: Path) -> None:
    for words in verbs(page):
        command, rest = typer.main.get_command(build()), words
        while rest and (inner := getattr(command, "commands", None)) is not None and rest[0] in inner:
            command, rest = inner[rest[0]], rest[1:]
        assert getattr(command, "commands", None) is None or not rest or rest[0].startswith("-"), (
            f"{page.name}: {words}"
        )
        known = {name for param in command.params for name in (*param.opts, *param.secondary_opts)} | {
            "-h",
            "--help",
        }
        assert {word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)} <= known, (
            f"{page.name}: {words}"
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any(b.kind == "sh" and b.run for b in blocks(page))],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_commands_run_as_they_stand(page: Path, tmp_path: Path) -> None:
    for name in ("tests", "examples", "Makefile", "hatch_build.py"):
        if (ROOT / name).exists():
            (tmp_path / name).symlink_to(ROOT / name)
    programs = tmp_path / "bin"
    programs.mkdir()
    program = programs / "tapewire"
    program.write_text(
        f'#!{sys.executable}\nfrom agent.cli.main import main\nif __name__ == "__main__":\n    main()\n'
    )
    program.chmod(0o755)
    (programs / "python").symlink_to(sys.executable)
    env = os.environ | {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}:{tmp_path}",
        "COLUMNS": "120",
    }
    for block in blocks(page):
        if block.file:
            (tmp_path / block.file).write_text(block.text)
        elif block.kind == "sh" and block.run:
            script = block.text.replace(".venv/bin/", "")
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", script],
                cwd=tmp_path,
                env=env,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{page.name}:\n{block.text}\n{done.stdout}\n{done.stderr}"


@pytest.mark.slow
def test_the_site_builds_without_warnings(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="mkdocs-material is not installed")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mkdocs",
            "build",
            "--strict",
            "--quiet",
            "--site-dir",
            str(tmp_path / "site"),
        ],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    said = [line for line in done.stderr.splitlines() if "WARNING" in line or "ERROR" in line]
    assert done.returncode == 0, done.stderr
    assert not said
    for name, word in (
        ("configuration", "half_life"),
        ("commands", "--allow-leakage"),
        ("database", "order_updates"),
        ("mqtt", "Decided[Fill]"),
    ):
        assert word in (tmp_path / "site" / "reference" / name / "index.html").read_text(encoding="utf-8")
    html = "".join(file.read_text(encoding="utf-8") for file in (tmp_path / "site").rglob("*.html"))
    assert not re.findall(
        r"<(?:script|link|img)[^>]+(?:src|href)=\"https?://(?!github)[^\"]+\.(?:js|css|png|woff2?)", html
    ), "nothing comes from elsewhere"
