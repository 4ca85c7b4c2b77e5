"""The documentation: it builds without a warning, and its commands work as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import indent
from typing import NamedTuple

import pytest

import tapewire as tw
from tests.conftest import ROOT
from tests.support.command_line import whole_command
from tests.support.warm_tapewire import warm_tapewire

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

    @property
    def is_script(self) -> bool:
        """True for Python that runs alone."""
        return self.kind == "python" and self.text.startswith("import tapewire")

    @property
    def is_strategy(self) -> bool:
        return self.file.endswith(".py") and "(Strategy" in self.text

    @property
    def is_fragment(self) -> bool:
        """True for Python that is meant for the inside of a strategy."""
        return self.kind == "python" and not (self.file or self.is_script or "class " in self.text)


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
        command, rest = whole_command(), words
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


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The program without the time that its imports take, which is most of the time of such commands."""
    with warm_tapewire(tmp_path_factory.mktemp("warm")) as program:
        yield program


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any(b.kind == "sh" and b.run for b in blocks(page))],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_commands_run_as_they_stand(page: Path, tmp_path: Path, warm: Path) -> None:
    for name in ("tests", "examples", "Makefile", "hatch_build.py"):
        if (ROOT / name).exists():
            (tmp_path / name).symlink_to(ROOT / name)
    programs = tmp_path / "bin"
    programs.mkdir()
    program = programs / "tapewire"
    if page.name == "README.md":
        program.write_text(
            f'#!{sys.executable}\nfrom agent.cli.main import main\nif __name__ == "__main__":\n    main()\n'
        )
        program.chmod(0o755)
    else:
        program.symlink_to(warm)
    (programs / "python").symlink_to(sys.executable)
    env = os.environ | {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}:{tmp_path}",
        "COLUMNS": "120",
    }
    if "self.ta" in page.read_text(encoding="utf-8"):
        pytest.importorskip("talib", reason="TA-Lib, the extra `ta`, is not installed")
    for block in blocks(page):
        if block.file:
            (tmp_path / block.file).write_text(block.text)
        elif (block.kind == "sh" or block.is_script) and block.run:
            script = block.text.replace(".venv/bin/", "")
            command = ["bash", "-euo", "pipefail", "-c"] if block.kind == "sh" else [sys.executable, "-c"]
            done = subprocess.run(
                [*command, script],
                cwd=tmp_path,
                env=env,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{page.name}:\n{block.text}\n{done.stdout}\n{done.stderr}"


STRATEGIES = [
    pytest.param(block, id=f"{page.stem} {block.file}")
    for page in PAGES
    for block in blocks(page)
    if block.is_strategy
]


@pytest.mark.parametrize("block", STRATEGIES)
def test_each_strategy_trades_on_the_sample(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "self.ta" in block.text:
        pytest.importorskip("talib", reason="TA-Lib, the extra `ta`, is not installed")
    monkeypatch.chdir(tmp_path)
    file = tmp_path / f"documented_{block.file}"
    file.write_text(block.text)
    news = tw.sample_data("headlines.csv") if "def on_signal" in block.text else None
    klines = [tw.sample_data("BTCUSDT-1m.csv"), tw.sample_data("ETHUSDT-1m.csv")]
    result = tw.Backtest(file, klines, news).run()
    assert result.metrics["fills"] > 0, result.notes
    assert tw.verify(result.run.id).identical


FRAGMENTS = [
    pytest.param(block.text, id=f"{page.stem} {number}")
    for page in PAGES
    for number, block in enumerate(blocks(page))
    if block.is_fragment
]
FRAME = """
from tapewire import Market, Signal, Strategy, StrategyParams

class Params(StrategyParams):
    weight: float = 0.1

class Framed(Strategy[Params]):
    intervals = ("1m", "1h")
"""


@pytest.mark.parametrize("text", FRAGMENTS)
def test_each_fragment_runs_inside_a_strategy(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "self.ta" in text:
        pytest.importorskip("talib", reason="TA-Lib, the extra `ta`, is not installed")
    monkeypatch.chdir(tmp_path)
    called = ""
    if "self." in text and not text.startswith("def "):
        called = "    def on_bar(self, bar, market):\n        symbol = bar.symbol\n"
    file = tmp_path / "framed.py"
    file.write_text(FRAME + called + indent(text, "        " if called else "    "))
    news = tw.sample_data("headlines.csv") if "def on_signal" in text else None
    result = tw.Backtest(file, tw.sample_data("BTCUSDT-1m.csv"), news).run()
    assert result.run.id


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
