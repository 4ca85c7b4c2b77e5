"""`tapewire score`: what the model makes of a text."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Final

import typer

from agent.cli.console import err, out, print_json
from agent.data.text import MAX_TITLE, one_line

if TYPE_CHECKING:
    from models.sentiment.serve.generator import SentimentSignal

_LINES_AT_ONCE: Final = 256


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    app.command("score")(score)


def score(
    texts: Annotated[
        list[str] | None, typer.Argument(help="Texts; none: standard input, one a line.")
    ] = None,
    model: Annotated[
        str, typer.Option("--model", "-m", help="An exported folder, or the model that ships.")
    ] = "starter",
    threshold: Annotated[
        float | None, typer.Option(help="Calibrated confidence from which a score is actionable.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Texts scored at once; default: all cores.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Score headlines: calibrated probabilities of bearish, neutral and bullish."""
    from models.sentiment.serve.generator import SentimentSignalGenerator
    from models.sentiment.serve.scorer import providers_of

    generator = SentimentSignalGenerator.from_pretrained(
        model, threshold=threshold, threads=threads, providers=providers_of(device)
    )
    if not texts and sys.stdin.isatty():
        err.print("one text a line, end with Ctrl-D")
    for chunk in _chunks(texts or _lines()):
        signals = generator.batch_signals(chunk)
        if json:
            for text, signal in zip(chunk, signals, strict=True):
                print_json({"text": text, **_fields(signal)})
        else:
            _print_table(chunk, signals)


def _lines() -> Iterator[str]:
    for line in sys.stdin.buffer:
        yield line.decode("utf-8", "replace").rstrip("\r\n")


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(texts)
    while chunk := list(islice(rest, _LINES_AT_ONCE)):
        yield chunk


def _fields(signal: SentimentSignal) -> dict[str, object]:
    import msgspec

    return msgspec.structs.asdict(signal)


def _print_table(texts: Sequence[str], signals: Sequence[SentimentSignal]) -> None:
    from rich.table import Table
    from rich.text import Text

    style = {"BUY": "green", "SELL": "red", "HOLD": "dim"}
    table = Table("", "confidence", "bearish", "neutral", "bullish", "text", box=None, header_style="dim")
    for column in table.columns[1:5]:
        column.justify = "right"
    for raw, signal in zip(texts, signals, strict=True):
        text = one_line(raw, MAX_TITLE)
        if signal.abstained:
            table.add_row(
                Text("—", "dim"), "", "", "", "", Text(f"{text}  (abstained: {signal.reason})", "dim")
            )
            continue
        verdict = Text(
            signal.prediction.value,
            f"bold {style[signal.prediction]}" if signal.actionable else style[signal.prediction],
        )
        shares = (
            f"{share:.2f}" for share in (signal.confidence, signal.bearish, signal.neutral, signal.bullish)
        )
        table.add_row(verdict, *shares, Text(text))
    out.print(table)
