"""`tapewire config check` and `tapewire config show`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agent.cli.console import out, print_json
from agent.config import load
from agent.core.masking import masked


def register(app: typer.Typer) -> None:
    """Adds the verbs."""
    group = typer.Typer(help="The configuration.", no_args_is_help=True)
    group.command("check")(check)
    group.command("show")(show)
    app.add_typer(group, name="config")


def check(
    path: Annotated[
        Path | None, typer.Argument(help="Default: ./config.toml, else the one that ships.")
    ] = None,
) -> None:
    """Validate a configuration and the strategy that it names."""
    from strategies import load_strategy

    config = load(path)
    config.check_live()
    load_strategy(config.strategy.name, config.strategy.params)
    out.print(f"{path or 'the configuration'} is valid", highlight=False, markup=False)


def show(
    path: Annotated[
        Path | None, typer.Argument(help="Default: ./config.toml, else the one that ships.")
    ] = None,
) -> None:
    """Print the configuration as it will be used, defaults included, as JSON; secrets of its URLs are masked."""
    print_json(masked(load(path).model_dump(mode="json")))
