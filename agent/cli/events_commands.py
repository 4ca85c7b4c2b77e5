"""`tapewire events`: list what a recorded run was given, in order."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from agent.cli.command_options import ConfigFile, RunId, parse_window
from agent.cli.console import err, print_json
from agent.cli.typer_setup import option
from agent.config import load

if TYPE_CHECKING:
    from agent.core.events import Sentiment
    from agent.replay.event_listing import ListedEvent

_LIMIT: Final = 100
_TITLE: Final = 120  # characters of a headline


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("events")(events)


def events(
    run: RunId = "latest",
    kind: Annotated[
        list[str] | None,
        option(
            "--kind",
            "Only events of this kind: such as kline, news, sentiment, command; may be repeated.",
            "KIND",
            "all",
        ),
    ] = None,
    symbol: Annotated[
        str, option("--symbol", "Only events about this symbol, also headlines and their scores.", "SYMBOL")
    ] = "",
    start: Annotated[
        str | None, option("--start", "Only what was available from this time on (UTC).", "TIME", "begin")
    ] = None,
    end: Annotated[
        str | None, option("--end", "Only what was available before this time (UTC).", "TIME", "end")
    ] = None,
    limit: Annotated[
        int | None,
        option("--limit", "Maximum number of events; 0: all.", "NUMBER", "100, or all with --json", min=0),
    ] = None,
    newest: Annotated[
        bool, option("--newest", "List the last of the selected events instead of the first.")
    ] = False,
    decisions: Annotated[
        bool, option("--decisions", "Also list the decisions that the run made on each event.")
    ] = False,
    full: Annotated[
        bool, option("--full", "Also print the verbatim answers of language models, as JSON strings.")
    ] = False,
    config: ConfigFile = None,
    json: Annotated[bool, option("--json", "Print one JSON object a line.")] = False,
) -> None:
    """List the events of a recorded run: bars, headlines, scores, revisions, commands and reports.

    A live run's journal is listed, also while it runs; a replay's inputs are read from its files again. A
    score shows its headline, what it revises, and how a language model came to it. No model is asked.
    """
    from agent.replay.event_listing import EventSelection, list_events, parse_kinds
    from agent.store.database import open_database
    from agent.store.queries import find_run

    settled = load(config)
    selection = EventSelection(parse_kinds(kind or []), symbol.upper(), *parse_window(start, end))
    most = (None if json else _LIMIT) if limit is None else limit or None
    count = 0
    with closing(open_database(settled.store.url, create=False)) as database:
        listed = list_events(database, find_run(database, run), selection, decisions=decisions)
        shown: Iterator[ListedEvent] = listed
        if newest:
            shown = iter(deque(listed, maxlen=most))
        elif most is not None:
            shown = islice(listed, most)
        for one in shown:
            count += 1
            if json:
                print_json(_as_json(one, full=full))
            else:
                sys.stdout.writelines(f"{line}\n" for line in _lines(one, full=full))
        more = not newest and most is not None and count == most and next(listed, None) is not None
    if not json:
        rest = "; there are more: --limit 0 lists all, --newest the last" if more else ""
        err.print(f"{count:,} events{rest}", markup=False)


def _lines(one: ListedEvent, *, full: bool) -> Iterator[str]:
    """Yield the event's line, its verbatim answers and its decisions. Nothing in them controls a terminal."""
    from msgspec.structs import replace

    from agent.core.events import Command, News, Sentiment, kind_of
    from agent.core.masking import masked
    from agent.data.text import one_line, printable
    from agent.live.formatting import one_line_summary
    from agent.system.clock import iso

    event = one.event
    match event:
        case News():
            source = one_line(event.publisher or event.feed, _TITLE)
            text = one_line(event.title, _TITLE) + (f" ({source})" if source else "")
            text += "" if event.actionable else ", too old to trade on"
        case Sentiment():
            text = _sentiment_text(event, one.before) + (
                f": {one_line(one.title, _TITLE)}" if one.title else ""
            )
        case Command():
            text = one_line_summary(replace(event, args=masked(event.args)))
        case _:
            text = one_line_summary(event)
    yield printable(f"{one.seq:>8} {iso(event.available_at)[:23]} {kind_of(event):<9} {text}")
    if isinstance(event, Sentiment):
        yield from (f"{'':9}{printable(line)}" for line in _provenance_lines(event, full=full))
    for decision in one.decisions:
        yield printable(f"{'':9}→ {one_line_summary(decision.decision)}")


def _sentiment_text(sentiment: Sentiment, before: Sentiment | None) -> str:
    from agent.analysis.event_study import CLASSES
    from agent.core.votes import leading

    def answer(one: Sentiment) -> str:
        if one.abstained:
            return "abstained"
        return f"{CLASSES[leading(one.bearish, one.neutral, one.bullish)]} {one.confidence:.2f}"

    text = answer(sentiment)
    if before is not None:
        text = f"revised: {answer(before)} → {text}"
    assets = ", ".join(f"{one.asset} {one.bullish - one.bearish:+.2f}" for one in sentiment.assets)
    facts = [sentiment.kind, assets, "provisional" if sentiment.provisional else ""]
    facts.append(f"by {sentiment.model[:12]}" if sentiment.model else "")
    told = "; ".join(fact for fact in facts if fact)
    return f"{text} ({told})" if told else text


def _provenance_lines(sentiment: Sentiment, *, full: bool) -> Iterator[str]:
    """Yield how a language model came to its score."""
    from agent.data.provenance import shown_reason
    from agent.data.text import one_line

    own = sentiment.provenance
    if own is None:
        return
    told = f"language model {one_line(own.model, _TITLE)}, prompt {own.prompt[:12]}, seed {own.seed}"
    told += f", {len(own.answers)} answers" if len(own.answers) != 1 else ""
    yield told + (f"; not answered: {one_line(own.fallback, _TITLE)}" if own.fallback else "")
    if reason := shown_reason(own):
        yield f"reason: {reason}"
    if full:
        yield f"prompt: {own.prompt}"
        yield from (f"answer: {_quoted(answer)}" for answer in own.answers)


def _quoted(text: str) -> str:
    r"""Return the text as a JSON string, in which control characters are \uXXXX."""
    import json

    from agent.data.text import escape_unprintable

    return escape_unprintable(json.dumps(text, ensure_ascii=False))


def _as_json(one: ListedEvent, *, full: bool) -> dict[str, Any]:
    from msgspec import to_builtins

    from agent.core.events import Sentiment
    from agent.core.masking import masked

    row: dict[str, Any] = {"seq": one.seq} | _fields(one.event, full=full)
    if one.title and isinstance(one.event, Sentiment):
        row["headline"] = one.title
    if one.symbols:
        row["symbols"] = one.symbols
    if one.before is not None:
        row["revises"] = _fields(one.before, full=full)
    if one.decisions:
        row["decisions"] = [{"number": own.seq} | to_builtins(own.decision) for own in one.decisions]
    found: dict[str, Any] = masked(row)
    return found


def _fields(event: Any, *, full: bool) -> dict[str, Any]:
    """Return the fields of an event by name, and its kind as `event`; without hidden states of models, and
    without the verbatim answers unless `full`.
    """
    from msgspec import to_builtins
    from msgspec.structs import asdict

    from agent.core.events import Sentiment
    from agent.data.provenance import to_object

    fields: dict[str, Any] = to_builtins(event)
    if isinstance(event, Sentiment):
        del fields["embedding"]
        fields["assets"] = [
            {name: value for name, value in asdict(own).items() if name != "embedding"}
            for own in event.assets
        ]
        fields["provenance"] = to_object(event.provenance)
        if fields["provenance"] is not None and not full:
            del fields["provenance"]["answers"]
    return fields
