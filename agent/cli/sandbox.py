"""`tapewire sandbox`: an exchange on this machine that real Bybit clients can trade on."""

from __future__ import annotations

import asyncio
import signal
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli.console import err, print_json
from agent.core.errors import UsageError

if TYPE_CHECKING:
    from agent.sandbox import SandboxOptions

_HELP = """Run a loopback exchange that speaks Bybit v5, on a market made of kline files.

The first live bar of the files becomes the present one. At --speed 1 every timestamp is of now, as on the real venue. At a higher
speed the market's clock starts at now and then runs that much faster, so market time (klines, orders, market/time, feeds) gets ahead
of the machine's clock; signed requests may carry either time.

Orders are matched by the same paper exchange as in backtests. Faults: --fault KIND[,on=PATTERN][,p=P][,count=N][,after=N][,ms=MS]
[,code=CODE][,rest=true], or POST /_sandbox/faults while it runs; GET /_sandbox/state shows how things are.
"""


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    app.command("sandbox", help=_HELP)(sandbox)


def sandbox(
    klines: Annotated[
        list[str],
        typer.Option("--klines", help="Kline file (parquet or CSV), or SYMBOL=FILE; more may follow."),
    ],
    files: Annotated[list[str] | None, typer.Argument(help="More kline files.", show_default=False)] = None,
    symbol: Annotated[
        list[str] | None,
        typer.Option("--symbol", help="Name of each file's symbol; default: the file's name."),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one.")] = 8600,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Let --host be more than loopback.")
    ] = False,
    speed: Annotated[float, typer.Option(help="1: real time; 60: a minute a second.")] = 1.0,
    api_key: Annotated[str, typer.Option(envvar="TAPEWIRE_SANDBOX_KEY")] = "sandbox-key",
    api_secret: Annotated[str, typer.Option(envvar="TAPEWIRE_SANDBOX_SECRET")] = "sandbox-secret",
    balance: Annotated[str, typer.Option(help="USDT in the account.")] = "10000",
    start: Annotated[
        str | None, typer.Option(help="Moment of the files that becomes now, e.g. 2025-03-03T00:00:00Z.")
    ] = None,
    history_bars: Annotated[
        int | None, typer.Option(min=0, help="Bars before now; default half of the file, 1000 at most.")
    ] = None,
    steps: Annotated[int, typer.Option(min=0, help="Prices a bar; 0: about one a second.")] = 0,
    loop: Annotated[bool, typer.Option("--loop", help="Begin again where the files end.")] = False,
    news: Annotated[
        Path | None, typer.Option(help="Headlines to serve as RSS and Atom (CSV or parquet).")
    ] = None,
    fault: Annotated[
        list[str] | None, typer.Option("--fault", help="Something to go wrong; may be repeated.")
    ] = None,
    participation: Annotated[
        float | None,
        typer.Option(help="Share of a bar's volume that orders may take; default: all they want."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of prices inside bars and of faults.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the URLs as one JSON object.")] = False,
) -> None:
    """Run the exchange until it is stopped."""
    from agent.cli.moments import parse_moment
    from agent.sandbox import SandboxOptions
    from agent.sandbox.faults import parse_fault

    options = SandboxOptions(
        klines=tuple(Path(file) for file in (*klines, *(files or ()))),
        symbols=tuple(name.upper() for name in symbol or ()),
        api_key=api_key,
        api_secret=api_secret,
        host=host,
        port=port,
        speed=speed,
        balance=_amount(balance),
        start=None if start is None else parse_moment(start, "--start"),
        history_bars=history_bars,
        steps=steps,
        loop=loop,
        seed=seed,
        news=news,
        faults=tuple(parse_fault(text) for text in fault or ()),
        participation=participation,
    )
    asyncio.run(_serve(options, allow_remote=allow_remote, as_json=as_json))


async def _serve(options: SandboxOptions, *, allow_remote: bool, as_json: bool) -> None:
    from agent.sandbox import Sandbox

    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with Sandbox(options, allow_remote=allow_remote) as exchange:
        urls = exchange.urls()
        if as_json:
            print_json(
                {"ready": True, "symbols": list(exchange.market.quotes), "speed": options.speed, **urls}
            )
        else:
            typer.echo("ready  " + "  ".join(f"{name}={url}" for name, url in urls.items()))
        ended = asyncio.create_task(exchange.ended())
        waiting = asyncio.create_task(stopped.wait())
        await asyncio.wait({ended, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            ended.result()
            err.print("the kline files are at their end: prices stand still now; Ctrl-C stops the sandbox")
            await waiting
        ended.cancel()


def _amount(text: str) -> Decimal:
    try:
        amount = Decimal(text)
    except InvalidOperation:
        amount = Decimal(-1)
    if not amount.is_finite() or amount < 0:
        raise UsageError(f"--balance {text!r} is no amount", hint="write a number of USDT, e.g. 10000")
    return amount
