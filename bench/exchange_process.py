"""Exchange for the live benchmarks: a sandbox in its own process, with real bars and generated headlines."""

from __future__ import annotations

import asyncio
import csv
import os
import random
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from agent.core.errors import UsageError
from agent.core.events import Kline
from agent.data.klines import KlineFile
from agent.sandbox import Sandbox, SandboxOptions
from agent.system.clock import Clock, iso

Cores = frozenset[int]
"""Numbers of CPU cores; empty for all cores."""

PUBLISHERS: Final = ("Soak Wire", "Soak Ledger")
_COINS: Final = (("Bitcoin", "BTC"), ("Ether", "ETH"))
_WHO: Final = (
    "miners",
    "funds",
    "options desks",
    "lenders",
    "custodians",
    "wallets",
    "futures",
    "payment firms",
)
_WHAT: Final = ("gain", "lose", "add", "shed", "recover", "give back", "report", "halt", "double", "warn of")
_OF_WHAT: Final = (
    "deposits",
    "clients",
    "open interest",
    "staff",
    "reserves",
    "fee income",
    "hash rate",
    "volume",
)
_WHERE: Final = (
    "Norholm",
    "Vasterby",
    "Port Ellery",
    "Quillmere",
    "Tarnford",
    "Osk",
    "Lower Brenn",
    "Saltmarch",
)


def copy_bars(source: Path, target: Path, bars: int) -> list[Kline]:
    """Copy the first bars of a kline file to CSV and return them. Raises UsageError if there are too few."""
    head = list(islice((event for event in KlineFile(source) if isinstance(event, Kline)), bars))
    if len(head) < bars:
        raise UsageError(
            f"{source} has {len(head):,} bars, but {bars:,} are needed",
            hint="use fewer --hours or a longer file",
        )
    with target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("open_time", "open", "high", "low", "close", "volume"))
        writer.writerows((iso(bar.start), bar.open, bar.high, bar.low, bar.close, bar.volume) for bar in head)
    return head


def write_headlines(
    target: Path, times: Sequence[int], seed: int, publishers: Sequence[str] = PUBLISHERS
) -> dict[str, int]:
    """Write generated headlines, one at each of `times` (UTC ms, to the second); return title ->
    publication.
    """
    rng = random.Random(seed)
    titles: dict[str, int] = {}
    with target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("published_at", "title", "summary", "publisher", "currencies"))
        for number, moment in enumerate(times):
            coin, ticker = rng.choice(_COINS)
            words = (rng.choice(choices) for choices in (_WHO, _WHAT, _OF_WHAT, _WHERE))
            who, what, things, where = words
            # The number makes each title unique
            title = f"{coin} {who} {what} {things} in {where}, bulletin {number}"
            titles[title] = moment // 1000 * 1000
            writer.writerow((iso(titles[title]), title, "", publishers[number % len(publishers)], ticker))
    return titles


class ExchangeInfo(NamedTuple):
    """A running exchange: base URL, the market's clock, and the shift of its files' times (ms)."""

    url: str
    clock: Clock
    shift: int


class ExchangeReport(NamedTuple):
    """Starts (UTC ms) of the bars that history withholds, by symbol, and the hits of each fault."""

    withheld: dict[str, set[int]]
    faults: list[dict[str, Any]]


class ExchangeProcess:
    """Context manager that runs a sandbox in a new process with `info` about it; `close` returns its report.

    The process ends with this one.
    """

    def __init__(self, options: SandboxOptions, cores: Cores = frozenset()) -> None:
        context = get_context("spawn")
        self._pipe, self._far_end = context.Pipe()
        self._process = context.Process(target=_serve, args=(self._far_end, options, cores), daemon=True)

    def __enter__(self) -> Self:
        self._process.start()
        self._far_end.close()
        try:
            self.info: ExchangeInfo = self._pipe.recv()
        except EOFError:
            raise UsageError("the sandbox did not start", hint="it has said why, above") from None
        return self

    def close(self) -> ExchangeReport:
        """Stop the exchange and return its report."""
        self._pipe.send(None)
        closed: ExchangeReport = self._pipe.recv()
        return closed

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pipe.close()
        self._process.join()


def _serve(pipe: Connection, options: SandboxOptions, cores: Cores) -> None:
    if cores:
        os.sched_setaffinity(0, cores)
    with suppress(EOFError, BrokenPipeError, KeyboardInterrupt):  # the parent process has ended
        asyncio.run(_play(pipe, options))


async def _play(pipe: Connection, options: SandboxOptions) -> None:
    async with Sandbox(options) as sandbox:
        pipe.send(ExchangeInfo(sandbox.rest_url, sandbox.clock, sandbox.market.shift))
        await asyncio.to_thread(pipe.recv)
        withheld = {symbol: set(quote.series.hidden) for symbol, quote in sandbox.market.quotes.items()}
        pipe.send(ExchangeReport(withheld, sandbox.venue.faults.state()))
