"""Which modules a command imports, and the table that says where commands are."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from click.testing import CliRunner

from agent.cli.command_index import MODULES, PANELS
from agent.cli.main import build, build_listing
from tests.support.command_line import whole_command

_SAMPLE = Path(__file__).parents[1] / "sample_data"
_RUN = """
import sys
from agent.cli.main import main
sys.argv = ["tapewire", *sys.argv[1:]]
try:
    main()
finally:
    print(*sys.modules, file=sys.stderr)
"""


def imported(*arguments: str) -> set[str]:
    """Run a command in a fresh interpreter; return the modules that it has imported."""
    done = subprocess.run(
        [sys.executable, "-c", _RUN, *arguments], capture_output=True, text=True, check=True
    )
    return set(done.stderr.splitlines()[-1].split())


def test_the_table_has_the_commands_of_each_module_in_order() -> None:
    for panel, modules in PANELS.items():
        for module, commands in modules.items():
            part = typer.Typer()
            importlib.import_module(f"agent.cli.{module}_commands").register(part)
            entries = [*part.registered_commands, *part.registered_groups]
            assert [entry.name for entry in entries] == list(commands), (panel, module)


def test_the_summaries_are_the_first_paragraphs_of_the_help() -> None:
    commands = whole_command().commands
    found = {
        name: text for modules in PANELS.values() for part in modules.values() for name, text in part.items()
    }
    assert found == {
        name: " ".join(inspect.cleandoc(commands[name].help).split("\n\n")[0].split()) for name in found
    }


@pytest.mark.parametrize("columns", ["80", "120"])
@pytest.mark.parametrize("arguments", [["-h"], [], ["--version"], ["backtset"], ["--nonsense"]])
def test_the_listing_prints_what_all_commands_would(arguments: list[str], columns: str) -> None:
    env = {"COLUMNS": columns}
    listed = CliRunner().invoke(typer.main.get_command(build_listing()), arguments, env=env)
    whole = CliRunner().invoke(whole_command(), arguments, env=env)
    assert (listed.output, listed.exit_code) == (whole.output, whole.exit_code)


@pytest.mark.parametrize("name", MODULES)
def test_a_command_is_set_up_without_the_others(name: str) -> None:
    app = build(name)
    assert [entry.name for entry in (*app.registered_commands, *app.registered_groups)] == [name]


_HEAVY = {"aiohttp", "alembic", "ccxt", "matplotlib", "pandas", "scipy", "sklearn", "torch", "transformers"}
_DATA = {"numpy", "pyarrow", "sqlalchemy", "onnxruntime", "structlog", "msgspec", "asyncio"}


@pytest.mark.parametrize(
    ("arguments", "unneeded", "own"),
    [
        (["-h"], _HEAVY | _DATA | {"agent.config", "pydantic"}, 15),
        (["backtest", "-h"], _HEAVY | _DATA | {"agent.config"}, 35),
        (["score", "Bitcoin rallies"], _HEAVY | {"pyarrow", "sqlalchemy", "structlog", "agent.config"}, 45),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_command_imports_no_library_that_it_does_not_need(
    arguments: list[str], unneeded: set[str], own: int
) -> None:
    modules = imported(*arguments)
    assert modules & unneeded == set()
    assert len([name for name in modules if name.startswith(("agent", "models", "strategies"))]) <= own


@pytest.mark.slow
def test_a_backtest_of_prices_imports_no_model_server_or_plotting(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'[store]\nurl = "sqlite:///{tmp_path / "runs.db"}"\n')
    arguments = ["--config", str(config), "--strategy", "buy_and_hold"]
    klines = f"BTCUSDT={_SAMPLE / 'BTCUSDT-1m.csv'}"
    imported("backtest", *arguments, "--klines", klines)  # creates the store, which imports Alembic
    modules = imported("backtest", *arguments, "--klines", klines)
    assert modules & (_HEAVY | {"onnxruntime", "structlog", "psycopg", "numpy.ma", "jinja2"}) == set()
