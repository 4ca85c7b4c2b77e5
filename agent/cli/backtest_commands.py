"""`tapewire backtest` and `tapewire verify`: replay history, and replay a recorded run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli.command_options import ConfigFile, Json, ReplayOptions, acting_as
from agent.cli.console import err, out, print_json, print_text, progress_bar
from agent.cli.typer_setup import option
from agent.core.errors import UsageError

if TYPE_CHECKING:
    from agent.config import Config
    from agent.replay.backtest import CompletedBacktest
    from agent.replay.history import History
    from agent.replay.verify import Verification
    from agent.store.database import Database
    from agent.store.runs import Run


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("backtest")(backtest)
    app.command("verify")(verify)


def backtest(
    replay: ReplayOptions,
    report: Annotated[
        Path | None, option("--report", "Write the HTML report of the run to this file.", "FILE")
    ] = None,
    json: Json = False,
) -> None:
    """Replay history through a strategy: paper trades with costs, measured and recorded.

    The run goes into the store, so that `tapewire verify` and `tapewire report` work on it afterwards.
    Without --klines the sample data is replayed.
    """
    from agent.cli.backtest_output import trades_json
    from agent.cli.research_output import score_headlines
    from agent.cli.sleeve_output import sleeves_json
    from agent.config.costs import costs_in_words
    from agent.replay import backtest as backtesting
    from agent.research.replay_inputs import NO_SCORING, configured_scoring
    from agent.store.database import open_database

    _, history = replay.open_history()
    config, leaks = history.config, replay.allow_leakage
    with closing(open_database(config.store.url)) as database:
        scorer, stamps, versions = NO_SCORING
        if history.news:
            scorer, stamps, versions = configured_scoring(
                config, database, history.start, allow_leakage=leaks
            )
        if scorer is not None:
            backtesting.refuse_models(history, scorer, allow_leakage=leaks)
            reads = history.predictor is not None and history.predictor.reads_embeddings
            workers = replay.mqtt_workers
            score_headlines(config, scorer, history.news, embeddings=reads, local_only=True, workers=workers)
        with replay_progress("replaying", history.start, history.end) as progress:
            result = backtesting.backtest(
                history,
                database,
                scorer=scorer,
                stamps=stamps,
                versions=versions,
                allow_leakage=leaks,
                progress=progress,
                by=acting_as(),
            )
        if report is not None:
            _write_report(database, result.run.id, report)
    if json:
        print_json(
            {
                "run": result.run.id,
                "trades": result.metrics.trades.trades,
                "final_equity": result.run.final_equity,
                "metrics": result.metrics,
                **({"sleeves": sleeves_json(result.sleeves)} if result.sleeves is not None else {}),
                "costs": costs_in_words(history.config.paper, history.config.costs),
                "stamps": result.run.stamps,
                "study": result.standing,
                "notes": result.notes,
                **trades_json(result),
                "seconds": round(result.seconds, 3),
            }
        )
    else:
        _print_result(result, history)


def verify(
    run: Annotated[
        str,
        typer.Argument(
            help="Id of a run, or its first characters; latest: the newest run; or a file made by tapewire "
            "bundle.",
            metavar="RUN|FILE",
        ),
    ] = "latest",
    config: ConfigFile = None,
    trust_strategy: Annotated[
        bool,
        option(
            "--trust-strategy",
            "Import the run's strategy even if its file has changed since the run, or comes with a bundle.",
        ),
    ] = False,
    inputs: Annotated[
        Path | None, option("--inputs", "Folder with the inputs that a bundle lacks.", "FOLDER")
    ] = None,
    blocks: Annotated[
        bool,
        option(
            "--blocks",
            "Handle the bars in blocks, as a backtest of one strategy does: faster, but finds no bar that a "
            "block passes over by mistake.",
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Replay a recorded run and compare every decision with the record. Exit code 1 if one differs.

    A strategy that isn't built in is imported only if its file is unchanged since the run, or has run on this
    machine before.
    """
    from agent.config import load
    from agent.replay.verify import verify as verify_run

    settled = load(config)
    with _recorded_run(run, config, inputs, trust_strategy=trust_strategy) as (database, recorded):
        begin, end = recorded.first_event_at or 0, recorded.last_event_at or 0
        with replay_progress("verifying", begin, end) as progress:
            result = verify_run(
                database,
                recorded,
                progress,
                trust_strategy=trust_strategy,
                folder=settled.live.folder,
                in_blocks=blocks,
            )
    if json:
        fields = {field: getattr(result, field) for field in result.__struct_fields__}
        print_json({"identical": result.identical, **fields})
    else:
        _print_verification(result)
    if not result.identical:
        raise typer.Exit(1)


@contextmanager
def _recorded_run(
    run: str, config: Path | None, inputs: Path | None, *, trust_strategy: bool
) -> Iterator[tuple[Database, Run]]:
    """Yield the store and the run of an id, or of a bundle."""
    from agent.config import load
    from agent.replay.run_bundle import open_bundle
    from agent.store.bundle_file import is_bundle, read_bundle
    from agent.store.database import open_database
    from agent.store.queries import find_run

    if not is_bundle(Path(run)):
        if inputs is not None:
            raise UsageError("--inputs is for bundles", hint="name a file made by tapewire bundle")
        with closing(open_database(load(config).store.url, create=False)) as database:
            yield database, find_run(database, run)
        return
    with TemporaryDirectory(prefix="tapewire-bundle-") as folder:
        bundle = read_bundle(Path(run))
        database, recorded = open_bundle(bundle, Path(folder), inputs=inputs, trust_strategy=trust_strategy)
        with closing(database):
            yield database, recorded


@contextmanager
def replay_progress(title: str, start: int, end: int) -> Iterator[Callable[[int], None]]:
    """Draw a bar over the replayed time from `start` to `end`; yields a callback for that time (UTC ms)."""
    with progress_bar(title, max(end - start, 1), "{task.fields[date]}", date="") as update:
        yield lambda now: update(
            completed=now - start, date=f"{datetime.fromtimestamp(now / 1000, UTC):%Y-%m-%d}"
        )


def _print_verification(result: Verification) -> None:
    found = result.divergence
    if found is None and result.differing:
        numbers = ", ".join(f"{number:,}" for number in result.differing)
        out.print(f"[bold red]different[/]: the snapshot after event {numbers} holds another state")
    elif found is None:
        checked = f", {result.snapshots:,} snapshots" if result.snapshots else ""
        counts = f"{result.events:,} events, {result.decisions:,} decisions{checked}"
        out.print(f"identical: {counts}")
    else:
        place = f"decision {found.seq:,}, on event {found.event_seq:,} of run {result.run}"
        out.print(f"[bold red]different[/] at {place}")
        for title, what in (("event", result.event), ("recorded", found.recorded), ("again", found.again)):
            print_text(f"  {title:<9} {what if what is not None else 'nothing'}")
        if result.hint:
            print_text(f"  {result.hint}")


def _write_report(database: Database, run_id: str, path: Path) -> None:
    from agent.analysis.report.html import write_report
    from agent.analysis.report.report_loader import load_report_data

    page, _ = write_report(load_report_data(database, run_id), path)
    err.print(f"report: {page}", soft_wrap=True)


def _print_result(result: CompletedBacktest, history: History) -> None:
    from agent.cli.backtest_output import print_figures, unexplained
    from agent.cli.research_output import show_stamps, standing_in_words
    from agent.cli.sleeve_output import print_sleeves
    from agent.config.costs import costs_in_words

    run, currency = result.run, history.config.account.currency
    show_stamps(run.stamps)
    named = "the account" if history.config.sleeves else run.strategy
    print_figures(result, f"{named} on {', '.join(history.config.market.symbols)}", currency)
    if result.sleeves is not None:
        print_sleeves(result.sleeves, currency)
    print_text(f"costs: {costs_in_words(history.config.paper, history.config.costs)}", wrap=True)
    for note in filter(None, (*result.notes, unexplained(result))):
        print_text(f"note: {note}", wrap=True)
    if result.standing is not None:
        print_text(standing_in_words(result.standing), wrap=True)
    if _has_own_parameters(history.config):
        out.print(
            "note: parameters chosen on this window prove nothing about it; tapewire walkforward judges them"
        )
    print_text(
        f"run {run.id}: {run.events:,} events, {run.decisions:,} decisions in {result.seconds:.1f} s "
        f"({history.bars / max(result.seconds, 1e-9):,.0f} bars/s)",
        wrap=True,
    )
    print_text(f"tapewire report {run.id}")
    print_text(f"tapewire verify {run.id}")


def _has_own_parameters(config: Config) -> bool:
    """Return whether parameters differ from the strategies' defaults."""
    from agent.replay.open_engine import params_of
    from strategies import load_strategy

    defaults = {name: load_strategy(one.name).params for name, one in config.strategies().items()}
    given = params_of(config)
    by_sleeve = given if config.sleeves else {"": given}
    return any(by_sleeve[name] != one.model_dump(mode="json") for name, one in defaults.items())
