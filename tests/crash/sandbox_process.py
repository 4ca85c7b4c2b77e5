"""The exchange of the testnet mode: a sandbox in its own process that outlives the kills of the agent."""

from __future__ import annotations

import asyncio
import os
import signal
import traceback
from collections import Counter, defaultdict
from decimal import Decimal
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, Self

import msgspec

from agent.sandbox import Sandbox, SandboxOptions
from agent.sandbox.faults import parse_fault
from agent.system.clock import Clock
from tests.conftest import ROOT

SYMBOLS: Final = ("C0USDT", "C1USDT", "C2USDT")
SPEED: Final = 240.0  # a bar in 250 ms
BALANCE: Final = Decimal(1_000_000)
FAULTS: Final = (
    "lost,on=rest/v5/order/create,code=10000,p=0.05",
    "lost,on=rest/v5/order/cancel,code=10000,p=0.05",
    "retcode,on=rest/v5/order/*,code=10000,p=0.03",
    "retcode,on=rest/v5/*,code=10016,p=0.02",
    "close,on=rest/v5/*,p=0.02",
    "lag,on=rest/v5/*/list,ms=50,p=0.3",
    "drop,on=ws/private/*,p=0.05",
    "duplicate,on=ws/private/*,p=0.1",
    "reorder,on=ws/private/*,p=0.1",
    "close,on=ws/private/*,p=0.005",
)
"""Faults of the sandbox with --faults."""


class RecordedTrade(msgspec.Struct, frozen=True):
    """An execution as recorded by the exchange; `link` is the client order id."""

    id: str
    link: str
    kind: str  # Trade or Funding


class AccountSummary(msgspec.Struct, frozen=True):
    """The exchange's account at one moment."""

    trades: list[RecordedTrade]
    ordered: dict[str, Decimal]  # client order id -> quantity
    filled: dict[str, Decimal]
    duplicates: list[str]  # client order ids of more than one order
    open: list[str]
    positions: dict[str, tuple[Decimal, Decimal]]  # symbol -> quantity and cost of open positions
    wallet: Decimal


class SandboxProcess:
    """Context manager that runs the sandbox. `url` and `clock` are for the agent."""

    def __init__(self, seed: int, *, faulty: bool = False) -> None:
        self._seed = seed
        self._faulty = faulty

    def __enter__(self) -> Self:
        self._pipe, theirs = get_context("fork").Pipe()
        self.pid = os.fork()
        if self.pid == 0:
            code = 70
            try:
                self._pipe.close()  # the sandbox ends when the harness's end is closed
                code = asyncio.run(_serve(self._seed, theirs, faulty=self._faulty))
            except BaseException:  # noqa: BLE001 - the forked child must not continue
                traceback.print_exc()
            finally:
                os._exit(code)
        theirs.close()
        self.url: str
        self.clock: Clock
        self.url, self.clock = self._pipe.recv()
        return self

    def __exit__(self, *_: object) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self._pipe.close()

    def account_summary(self) -> AccountSummary:
        """Return the current account. Raises EOFError if the sandbox is gone."""
        self._pipe.send("books")
        return msgspec.msgpack.decode(self._pipe.recv_bytes(), type=AccountSummary)

    def close_pipe(self) -> None:
        """Close the pipe in an agent process, which must not use it."""
        self._pipe.close()


async def _serve(seed: int, pipe: Connection, *, faulty: bool) -> int:
    samples = [
        f"{symbol}={ROOT / f'tests/sample_data/{name}-1m.csv'}"
        for symbol, name in zip(SYMBOLS, ("BTCUSDT", "ETHUSDT", "BTCUSDT"), strict=True)
    ]
    options = SandboxOptions(
        klines=tuple(map(Path, samples)),
        speed=SPEED,
        balance=BALANCE,
        seed=seed,
        loop=True,
        history_bars=200,
        ip_limit=10**9,
        socket_limit=10**6,
        faults=tuple(map(parse_fault, FAULTS)) if faulty else (),
    )
    over = asyncio.Event()

    def respond() -> None:
        try:
            pipe.recv()
            pipe.send_bytes(msgspec.msgpack.encode(_summarise(sandbox)))
        except EOFError:
            over.set()

    async with Sandbox(options) as sandbox:
        pipe.send((sandbox.rest_url, sandbox.clock))  # monotonic time is the same in all processes
        asyncio.get_running_loop().add_reader(pipe.fileno(), respond)
        await over.wait()
    return 0


def _summarise(sandbox: Sandbox) -> AccountSummary:
    account: Any = sandbox.venue.account
    links = Counter(order.link for order in account.orders.values())
    filled: defaultdict[str, Decimal] = defaultdict(Decimal)
    for one in account.executions:
        if one.order is not None and one.kind == "Trade":
            filled[one.order.link] += one.qty
    return AccountSummary(
        trades=[
            RecordedTrade(one.id, one.order.link if one.order else "", one.kind) for one in account.executions
        ],
        ordered={order.link: order.qty for order in account.orders.values()},
        filled=dict(filled),
        duplicates=[link for link, count in links.items() if count > 1],
        open=[order.link for order in account.open.values()],
        positions={leg.symbol: (leg.held.qty, leg.held.cost) for leg in account.books["linear"].open_legs()},
        wallet=account.wallet.balances()[0].wallet,
    )
