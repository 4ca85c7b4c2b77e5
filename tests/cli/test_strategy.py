"""`tapewire strategy` and `tapewire init`: what they write runs at once, and the folder's code is not run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Outcome
from tests.conftest import ROOT

Tapewire = Callable[..., Outcome]
SAMPLE = ROOT / "tests/sample_data"
KLINES = ("--klines", SAMPLE / "BTCUSDT-1m.csv", "--klines", SAMPLE / "ETHUSDT-1m.csv")

TWO = '''
from pydantic import Field
import tapewire as tw

open("ran", "w").close()


class Base(tw.StrategyParams):
    weight: float = Field(0.1, gt=0)  # fraction of equity


class Params(Base):
    length: int = Field(default=20, ge=5, le=60, description="bars")


class One(tw.Strategy[Params]):
    """The first.

    More about it.
    """

    intervals = ("1m", "1h")
    warm_up = {"1h": 60}

    def on_kline(self, kline, market):
        pass


class Two(One):
    def on_signal(self, signal, market):
        pass
'''


def test_list_names_built_in_strategies_and_those_of_the_folder_without_running_it(
    tapewire: Tapewire,
) -> None:
    Path("own").mkdir()
    Path("own/two.py").write_text(TWO)
    Path("broken.py").write_text("class Strategy(\n")
    Path("other.py").write_text("class Strategist:\n    pass\n")
    done = tapewire("strategy", "list", "--json")
    assert done.code == 0, done.err
    rows = {row["name"]: row for row in json.loads(done.out)}
    assert list(rows) == [
        "buy_and_hold",
        "fusion",
        "sentiment",
        "sma_cross",
        "own/two.py:One",
        "own/two.py:Two",
    ]
    assert rows["sma_cross"]["parameters"]["fast"] == "20"
    one, two = rows["own/two.py:One"], rows["own/two.py:Two"]
    assert one["parameters"] == two["parameters"] == {"weight": "0.1", "length": "20"}
    assert (one["doc"], one["reads"]) == ("The first.", ["bars"])
    assert two["reads"] == ["bars", "scored headlines"]
    assert "broken.py, line 1 can't be read: SyntaxError" in done.err
    assert not Path("ran").exists()
    assert "own/two.py:Two" in tapewire("strategy", "list").out


def test_show_describes_parameters_inputs_and_declarations(tapewire: Tapewire) -> None:
    Path("two.py").write_text(TWO)
    found = json.loads(tapewire("strategy", "show", "two.py:One", "--json").out)
    assert found["doc"] == "The first.\n\nMore about it."
    assert (found["intervals"], found["warm_up"]) == (["1m", "1h"], {"1h": 60})
    weight, length = found["parameters"]
    assert (weight["type"], weight["default"], weight["low"], weight["above"]) == ("float", 0.1, 0.0, True)
    assert weight["description"] == "fraction of equity"
    assert (length["low"], length["high"], length["description"]) == (5.0, 60.0, "bars")
    shown = tapewire("strategy", "show", "two.py:One").out
    assert "60 bars of 1h" in shown
    assert "from 5 to 60" in shown
    hold = tapewire("strategy", "show", "fusion").out
    assert "duration" in hold
    assert "4h" in hold


@pytest.mark.parametrize("template", ["sma", "news", "empty"])
def test_a_new_strategy_runs_at_once(tapewire: Tapewire, template: str) -> None:
    done = tapewire("strategy", "new", "my_first-try", "--template", template, "--json")
    assert done.code == 0, done.err
    new = json.loads(done.out)
    assert (new["file"], new["class"]) == ("my_first-try.py", "MyFirstTry")
    news = ("--news", SAMPLE / "headlines.csv") if template == "news" else ()
    result = tapewire("backtest", *KLINES, *news, "--strategy", new["file"], "--json")
    assert result.code == 0, result.err
    assert (json.loads(result.out)["trades"] > 0) == (template != "empty")
    assert tapewire("verify").out.startswith("identical")
    line = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--isolated", "--line-length", "110", new["file"]],
        capture_output=True,
        text=True,
        check=False,
    )
    assert line.returncode == 0, line.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("new", "mine.py"), "mine.py: there already"),
        (("new", "1st"), "'1st' can't be the name of a class"),
        (("new", "other", "--template", "smaa"), "did you mean sma?"),
        (("show", "sma_crss"), "did you mean sma_cross?"),
        (("list", "nowhere"), "no folder nowhere"),
    ],
)
def test_wrong_usage_is_one_line(tapewire: Tapewire, args: tuple[str, ...], message: str) -> None:
    Path("mine.py").write_text("# mine\n")
    done = tapewire("strategy", *args)
    assert done.code == 2
    assert message in done.err
    assert Path("mine.py").read_text() == "# mine\n"


@pytest.mark.slow
@pytest.mark.parametrize("template", ["sma", "news"])
def test_the_commands_that_init_prints_work(tapewire: Tapewire, tmp_path: Path, template: str) -> None:
    done = tapewire("init", "my project", "--template", template, "--json")
    assert done.code == 0, done.err
    made = json.loads(done.out)
    assert {Path(file).name for file in made["files"]} == {
        "config.toml",
        "strategy.py",
        "notebook.ipynb",
        "README.md",
        ".gitignore",
    }
    readme = (tmp_path / "my project/README.md").read_text()
    assert len(readme.splitlines()) <= 10
    sweep = next(line.partition("#")[0].strip() for line in readme.splitlines() if "sweep" in line)
    program = tmp_path / "bin/tapewire"
    program.parent.mkdir()
    program.write_text(
        f'#!{sys.executable}\nfrom agent.cli.main import main\nif __name__ == "__main__":\n    main()\n'
    )
    program.chmod(0o755)
    script = "\n".join([*made["next"], "tapewire config check", sweep])
    ran = subprocess.run(
        ["bash", "-euc", script],
        cwd=tmp_path,
        env=os.environ | {"PATH": f"{program.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "identical" in ran.stdout


def test_init_overwrites_nothing(tapewire: Tapewire, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "README.md").write_text("mine")
    done = tapewire("init", folder)
    assert done.code == 2
    assert "README.md: there already" in done.err
    assert [path.name for path in folder.iterdir()] == ["README.md"]


RUN_CELLS = """
import json, linecache, sys
cells = [c for c in json.load(open("notebook.ipynb"))["cells"] if c["cell_type"] == "code"]
space = sys.modules["__main__"].__dict__
for number, cell in enumerate(cells):
    text, name = "".join(cell["source"]), f"<ipython-input-{number}>"
    linecache.cache[name] = (len(text), None, text.splitlines(True), name)
    exec(compile(text, name, "exec"), space)
print("identical", verified := space["tw"].verify(space["result"].run.id).identical)
own = space["tw"].Backtest(space["Dip"], space["klines"]).run()
print("own", len(own.trades), space["tw"].verify(own.run.id).identical, own.notes)
"""


@pytest.mark.slow
@pytest.mark.parametrize("template", ["sma", "news"])
def test_the_notebook_is_valid_and_its_cells_run(tapewire: Tapewire, tmp_path: Path, template: str) -> None:
    tapewire("init", "--template", template)
    notebook = json.loads(Path("notebook.ipynb").read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    for cell in notebook["cells"]:
        fields = {"cell_type", "metadata", "source", "id"}
        assert cell.keys() == (
            fields | {"execution_count", "outputs"} if cell["cell_type"] == "code" else fields
        )
    done = subprocess.run(
        [sys.executable, "-c", RUN_CELLS],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == "identical True"
    assert second.startswith("own ")
    assert " True ['the source of Dip is kept in var/frames/Dip-" in second
