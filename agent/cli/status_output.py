"""What `tapewire status` prints: the state of the running agent, or of the last run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agent.cli.console import err, out, print_columns, print_json, print_text
from agent.core.masking import mask, masked
from agent.data.text import one_line
from agent.system.fitted_table import Column, figures

if TYPE_CHECKING:
    from agent.live.interfaces.status import ModelDriftStatus, Status, TwinStatus

_ERROR: Final = 160  # characters shown of an error
_CAUSES: Final = 4  # parts of the twin's difference, the largest


def show(status: Status) -> None:
    """Print the running agent's state."""
    from rich.markup import escape
    from rich.text import Text

    from agent.system.clock import iso

    warming = ", warming up" if status.warming_up else ""
    out.print(
        f"run {status.run} (process {status.pid}), up {status.uptime_s:,.0f} s{warming}: "
        f"{status.strategy} on {status.endpoint}"
    )
    out.print(_strategy_line(status), markup=False, soft_wrap=True)
    if status.orders != "paper":
        known = "[bold red]not reconciled: no position is opened[/]" if status.unreconciled else "reconciled"
        out.print(f"orders go to {status.orders}, {known}")
    why = f": {escape(status.risk_detail)}" if status.risk_detail else ""
    rule = f" by {status.risk_rule} since {iso(status.risk_since)}{why}" if status.risk_rule else ""
    out.print(f"equity {status.equity:,.2f}, cash {status.cash:,.2f}; risk {status.risk.value}{rule}")
    if status.record:
        out.print(f"[bold red]the record[/]: {escape(status.record)}")
    if not status.storage.writable:
        out.print(
            f"[bold red]not trading[/]: {escape(status.storage.error)}; "
            f"for {status.storage.failing_s:,.0f} s, {status.storage.tries} tries"
        )
    if status.clock.trouble:
        out.print(f"[bold red]clock[/]: {escape(status.clock.detail)}")
    log = status.log
    if log.dropped or log.suppressed or log.error:
        why = f", last error: {escape(log.last_error)}" if log.last_error else ""
        out.print(f"log: {log.dropped:,} lines dropped, {log.suppressed:,} repetitions suppressed{why}")
    saved = status.snapshots
    if saved.problem:
        out.print(f"[yellow]snapshots[/]: {escape(saved.problem)}")
    elif saved.event:
        facts = f"{saved.size / 1e3:,.1f} kB, {saved.took_ms:.1f} ms"
        out.print(f"snapshot after event {saved.event:,}: {facts}")
    revision = next((source for source in status.producers if source["name"] == "revision"), None)
    if revision is not None:
        show_revision(revision)
    for source in status.producers:
        for own in source.get("llm", ()):
            show_language_model(own)
    telegram = next((source for source in status.producers if source["name"] == "telegram"), None)
    if telegram is not None:
        show_telegram(telegram)
    if status.model_drift is not None:
        show_drift(status.model_drift)
    if status.twin is not None:
        show_twin(status.twin)
    positions = []
    for one in status.positions:
        mark = "–" if one.mark is None else f"{one.mark:,.2f}"
        last = Text("–" if one.last_bar is None else iso(one.last_bar))
        if one.stale:
            last.append(" stale", "red")
        positions.append((one.symbol, str(one.qty), mark, f"{one.value:,.2f}", last, str(one.open_orders)))
    columns = (*figures("position", "mark", "value"), Column("last bar"), *figures("open orders"))
    print_columns((Column("symbol"), *columns), positions)
    if status.sleeves:
        show_sleeves(status)
    sources = []
    for source in status.producers:
        counts = f"{source['messages']:,}", f"{source['errors']:,}", f"{source['failures']:,}"
        sources.append((source["name"], source["state"], *counts, source["last_error"][:_ERROR]))
    for feed in status.feeds:
        counts = f"{feed.messages:,}", f"{feed.errors:,}", ""
        sources.append((f"  {feed.name}", feed.state, *counts, feed.last_error[:_ERROR]))
    _print_sources(figures("messages", "errors", "restarts"), sources)
    latencies = [
        (kind, f"{latency['n']:,.0f}", f"{latency['p50_ms']:.2f}", f"{latency['p99_ms']:.2f}")
        for kind, latency in status.latencies.items()
    ]
    print_columns((Column("handled"), *figures("n", "p50 ms", "p99 ms")), latencies)
    queue = status.queue
    out.print(
        f"queue: {queue.depth} waiting, {queue.high_water} at most; "
        f"{sum(kind.coalesced for kind in queue.kinds.values()):,} open bars coalesced, "
        f"{sum(kind.dropped for kind in queue.kinds.values()):,} headlines dropped; "
        f"{status.events:,} events, {status.decisions:,} decisions"
    )
    for server in status.listeners:
        closed = server.displaced + server.refused + server.timed_out
        if closed or server.denied or server.limited or server.slow:
            beyond = f", {server.limited:,} beyond a rate limit" if server.limited else ""
            slow = f", {server.slow:,} slow streams closed" if server.slow else ""
            out.print(
                f"{server.name}: {server.open} connections, {closed:,} closed by limits, "
                f"{server.denied:,} requests denied{beyond}{slow}"
            )
    for line in status.recent[-10:]:
        print_text(f"  {iso(line['at'])}  {line['what']}")


def _print_sources(counts: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    columns = (Column("source"), Column("state"), *counts, Column("last error", wraps=True))
    print_columns(columns, rows)


def show_sleeves(status: Status) -> None:
    """Print a table of the sleeves, the idle cash, and positions that no sleeve has."""

    rows: list[tuple[str, ...]] = []
    for one in status.sleeves:
        held = ", ".join(f"{qty:+} {symbol}" for symbol, qty in one.positions.items()) or "flat"
        state = "leaving" if one.leaving else one.risk.value
        rule = f" by {one.risk_rule}" if one.risk_rule and not one.leaving else ""
        amounts = f"{one.capital:,.2f}", f"{one.equity:,.2f}", f"{one.equity - float(one.capital):+,.2f}"
        rows.append((one.name, one.strategy, *amounts, held, f"{one.open_orders}", f"{state}{rule}"))
    if status.idle:
        rows.append(("idle cash", "", "", f"{status.idle:,.2f}", "", "", "", ""))
    if status.unassigned:
        held = ", ".join(f"{qty:+} {symbol}" for symbol, qty in status.unassigned.items())
        rows.append(("unassigned", "", "", "", "", held, "", ""))
    columns = (
        *(Column("sleeve"), Column("strategy"), *figures("capital", "equity", "profit")),
        *(Column("positions", wraps=True), *figures("open orders"), Column("risk", wraps=True)),
    )
    print_columns(columns, rows)


def _strategy_line(status: Status) -> str:
    """Describe the strategy that decides: name, beginning of its hash, parameters, and since when."""
    from agent.system.clock import iso

    source = f" {status.strategy_source[:12]}" if status.strategy_source else ""
    params = ", ".join(f"{name}={value}" for name, value in status.strategy_params.items())
    values = f" with {params}" if params else ""
    return f"strategy {status.strategy}{source}{values} since {iso(status.strategy_since)}"


def show_revision(source: dict[str, Any]) -> None:
    """Print the counts of the revising model, from its health."""
    names = ("waiting", "late", "unanswered", "failed_headlines", "dropped", "outlived", "resumed", "skipped")
    others = [f"{source[name]:,} {name.replace('_', ' ')}" for name in names if source[name]]
    counts = ", ".join([f"{source['revised']:,} of {source['messages']:,} answers revised", *others])
    model = f"model {source['model'][:12]}" if source["model"] else f"{source['folder']} is not loaded"
    out.print(f"revision by {model}: {counts}", soft_wrap=True, markup=False)


def show_telegram(source: dict[str, Any]) -> None:
    """Print what the Telegram bot did, from its health."""
    counts = [f"{source['commands']:,} commands"]
    for name, what in (("refused", "refused"), ("dropped", "replies not sent"), ("waiting", "replies wait")):
        counts += [f"{source[name]:,} {what}"] if source[name] else []
    if source["ignored"]:
        counts.append(
            f"{source['ignored']:,} messages ignored, the last of chat {source['last_ignored']}, which "
            "telegram.chats doesn't list"
        )
    name = f"bot {source['bot']}" if source["bot"] else "no bot yet"
    out.print(f"telegram: {name}, {', '.join(counts)}", soft_wrap=True, markup=False)


def show_language_model(health: dict[str, Any]) -> None:
    """Print the counters of a language model (`LlmHealth` as a mapping)."""
    from rich.markup import escape

    figures = [f"{health['asked']:,} headlines asked", f"{health['answered']:,} answered"]
    for what, counts in (("fallback", health["fallbacks"]), ("abstained", health["abstained"])):
        figures += [f"{what} ({cause}) {count:,}" for cause, count in sorted(counts.items())]
    figures.append(f"{health['requests']:,} requests, {health['retried']:,} of them again")
    figures.append(f"{health['tokens_in']:,} + {health['tokens_out']:,} tokens")
    if health["cost"]:
        figures.append(f"cost {health['cost']:,.4f}")
    down = f"[bold red]down[/]: {escape(health['down'][:_ERROR])}; " if health["down"] else ""
    name = escape(one_line(health["model"], _ERROR))
    out.print(f"language model {name} by {health['method']}: {down}{'; '.join(figures)}", soft_wrap=True)
    if health["note"]:
        out.print(f"[yellow]{escape(health['note'])}[/]", soft_wrap=True)


def show_drift(status: ModelDriftStatus) -> None:
    """Print the sentiment model's drift and its hit rate."""
    from rich.markup import escape

    drift, rate = status.drift, status.moves.sides["all"]
    style = {"drifted": "bold red", "watch": "yellow"}.get(drift.state, "default")
    why = f": {escape(drift.reason)}" if drift.reason else ""
    out.print(f"[{style}]model drift[/] {drift.state} on {drift.headlines:,} headlines{why}", soft_wrap=True)
    figures = [
        f"{name} {share:.1%}" if share is not None else f"{name} unknown"
        for name, share in (("abstained", drift.abstained), ("unknown tokens", drift.unknown_tokens))
    ]
    if rate.rate is not None:
        figures.append(
            f"{rate.rate:.1%} of {rate.calls:,} calls moved as predicted "
            f"({rate.low or 0:.1%} to {rate.high or 0:.1%})"
        )
    out.print(", ".join(figures), soft_wrap=True, markup=False)


def show_last(config: Path | None, json: bool) -> None:
    """Print what the store holds about the last live run and its sources, if there was one."""
    from contextlib import closing

    import msgspec
    from rich.markup import escape

    from agent.config import load
    from agent.core.errors import StoreError
    from agent.live.feed_health import read_feed_health
    from agent.store.database import open_database, sqlite_file
    from agent.store.integrity import find_lost_commits, mark_path
    from agent.store.queries import list_runs
    from agent.store.runs import RunKind
    from agent.system.clock import iso

    settled = load(config)
    try:
        with closing(open_database(settled.store.url, create=False)) as database:
            run = next((run for run in list_runs(database) if run.kind is RunKind.LIVE), None)
            feeds = read_feed_health(database, run.id) if run else []
            gap = find_lost_commits(database, mark_path(database, settled.live.folder))
    except StoreError as unreadable:
        file = sqlite_file(settled.store.url)
        if file is None or file.is_file():  # without a file, nothing has been recorded yet
            err.print(f"the record: {unreadable.message}", markup=False, soft_wrap=True)
        return
    if json:
        record = gap.message if gap else ""
        found = {
            "running": False,
            "run": run and run.id,
            "status": run and run.status,
            "feeds": feeds,
            "record": record,
        }
        print_json(masked(msgspec.to_builtins(found)))
    elif run is not None:
        out.print(
            f"the last live run, {run.id}, is {run.status.value}: {run.events:,} events, "
            f"{run.decisions:,} decisions, equity {run.final_equity or 0:,.2f}"
        )
        if gap is not None:
            out.print(f"[bold red]the record[/]: {escape(gap.message)}", soft_wrap=True)
        rows = []
        for feed in feeds:
            last = iso(feed.last_message_at) if feed.last_message_at else "–"
            error = mask(one_line(feed.last_error, _ERROR))  # earlier versions stored it unmasked
            rows.append((feed.name, feed.state, f"{feed.messages:,}", f"{feed.errors:,}", last, error))
        if feeds:
            out.print(f"its sources at {iso(feeds[0].written_at)}:")
            _print_sources((*figures("messages", "errors"), Column("last message")), rows)


def show_twin(twin: TwinStatus) -> None:
    """Print how the latest orders at the venue differ from the same on paper."""
    if twin.problem:
        print_text(f"the twin has ended: {twin.problem}", "yellow")
    elif twin.behind:
        print_text(f"twin: reads the journal again, {twin.behind:,} events left")
    elif twin.mean_bps is None:
        print_text("twin: no order has been compared with paper yet")
    else:
        interval = "" if twin.low is None else f" (99 % interval {twin.low:+.2f} to {twin.high:+.2f})"
        allowed = f"the model allows {twin.allowed_low:+.2f} to {twin.allowed_high:+.2f}"
        line = (
            f"twin: {twin.orders} orders differ from paper by {twin.mean_bps:+.2f} bps{interval}; {allowed}"
        )
        print_text(line, "yellow" if twin.outside else None, wrap=True)
    if twin.difference is not None and twin.causes:
        largest = sorted(twin.causes.items(), key=lambda part: -abs(part[1]))[:_CAUSES]
        parts = ", ".join(f"{cause} {amount:+,.2f}" for cause, amount in largest)
        print_text(f"twin: since the run began, the venue minus paper is {twin.difference:+,.2f}: {parts}")
