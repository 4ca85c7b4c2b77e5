"""`tapewire costs`: the costs of the paper exchange from the fills of venue runs."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli.command_options import ConfigFile, Json
from agent.cli.console import err, print_columns, print_json, print_text
from agent.cli.typer_setup import option
from agent.config import load
from agent.core.errors import StoreError, TapewireError, UsageError
from agent.system.fitted_table import Column, figures

if TYPE_CHECKING:
    from agent.analysis.cost_fit import CostFit, FittedCost


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="Measure the costs of fills.", no_args_is_help=True)
    group.command("fit")(fit)
    app.add_typer(group, name="costs")


def fit(
    runs: Annotated[list[str], typer.Argument(help="Ids of runs on a testnet, or their first characters.")],
    output: Annotated[
        Path | None, option("--output -o", "New file for the sections [paper] and [costs].", "FILE")
    ] = None,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Fit spread, impact, latency and fees of the paper exchange to the fills of runs on a testnet.

    Prints each with its interval and the number of orders behind it, and the sections [paper] and [costs] for
    a configuration file. Backtests with that file state whose costs they use.
    """
    from agent.analysis.cost_fit import fit_costs, paper_section
    from agent.replay.fill_samples import fill_samples
    from agent.store.database import open_database
    from agent.store.queries import find_run
    from agent.system.atomic import write_bytes

    if output is not None and output.exists():
        raise UsageError(f"--output {output} exists", hint="name a new file, and copy its sections")
    with (
        closing(open_database(load(config).store.url, create=False)) as database,
        err.status("Measuring the fills …"),
    ):
        found = list({one.id: one for one in (find_run(database, which) for which in runs)}.values())
        fitted = fit_costs([run.id for run in found], fill_samples(database, found))
    section = paper_section(fitted)
    if output is not None:
        try:
            write_bytes(output, section.encode())
        except StoreError as error:
            raise TapewireError(error.message, hint="choose another path with --output") from None
    if json:
        print_json(fitted)
        return
    _print(fitted)
    if output is None:
        print_text(f"\n{section}")
    else:
        print_text(str(output))


def _print(fitted: CostFit) -> None:
    listed: list[list[str]] = []
    rows: list[tuple[str, FittedCost | None, float, int]] = [
        ("half spread, bps", fitted.half_spread_bps, 1, 3),
        ("impact", fitted.impact, 1, 3),
        ("latency, ms", fitted.latency, 1, 0),
        ("limit orders filled as makers, %", fitted.maker_share, 100, 1),
        ("taker fee, bps", fitted.taker_fee, 10_000, 3),
        ("maker fee, bps", fitted.maker_fee, 10_000, 3),
    ]
    for name, estimate, factor, digits in rows:
        if estimate is not None:
            numbers = (estimate.value, estimate.low, estimate.high)
            shown = [f"{number * factor:,.{digits}f}" for number in numbers]
            listed.append([name, *shown, f"{estimate.count:,}"])
    print_columns((Column("costs"), *figures("fitted", "from", "to", "orders or fills")), listed)
    print_text(
        f"latency: 90 % within {fitted.latency_p90:,.0f} ms, 99 % within {fitted.latency_p99:,.0f} ms; the "
        "paper exchange has one latency, the median",
        wrap=True,
    )
    print_text(f"intervals of 95 % by a bootstrap of {fitted.resampled}", wrap=True)
    for reason, count in sorted(fitted.left_out.items()):
        print_text(f"! {count:,} market orders {reason} were left out", wrap=True)
