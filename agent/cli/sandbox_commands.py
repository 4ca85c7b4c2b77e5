"""`tapewire sandbox`: a test exchange on this machine for Bybit clients."""

from __future__ import annotations

import asyncio
import signal
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli.command_options import parse_time
from agent.cli.console import err, print_json
from agent.cli.typer_setup import option
from agent.core.errors import UsageError

if TYPE_CHECKING:
    from agent.sandbox import SandboxOptions


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("sandbox")(sandbox)


def sandbox(
    klines: Annotated[
        list[str], option("--klines", "Klines, Parquet or CSV; may be repeated.", "[SYMBOL=]FILE")
    ],
    files: Annotated[
        list[str] | None, typer.Argument(metavar="[SYMBOL=]FILE", help="More kline files.")
    ] = None,
    symbol: Annotated[
        list[str] | None,
        option("--symbol", "Symbol of each file, in their order.", "SYMBOL", "the files' names"),
    ] = None,
    port: Annotated[int, option("--port", "Port to listen on; 0: any free one.", min=0, max=65535)] = 8600,
    host: Annotated[str, option("--host", "Address to listen on.", "ADDRESS")] = "127.0.0.1",
    allow_remote: Annotated[
        bool, option("--allow-remote", "Allow a --host that other machines can reach.")
    ] = False,
    speed: Annotated[
        float, option("--speed", "Speed of the market; 1: real time, 60: a minute per second.")
    ] = 1.0,
    api_key: Annotated[
        str, option("--api-key", "API key that clients must use.", "TEXT", envvar="TAPEWIRE_SANDBOX_KEY")
    ] = "sandbox-key",
    api_secret: Annotated[
        str, option("--api-secret", "Secret that signs requests.", "TEXT", envvar="TAPEWIRE_SANDBOX_SECRET")
    ] = "sandbox-secret",
    balance: Annotated[str, option("--balance", "USDT in the account.", "NUMBER")] = "10000",
    start: Annotated[
        str | None,
        option(
            "--start",
            "Time in the files that becomes now, such as 2025-03-03T12:00Z.",
            "TIME",
            "after --history-bars",
        ),
    ] = None,
    history_bars: Annotated[
        int | None,
        option("--history-bars", "Bars before now.", default="half of the file, at most 1000", min=0),
    ] = None,
    steps: Annotated[int, option("--steps", "Price changes per bar; 0: about one per second.", min=0)] = 0,
    loop: Annotated[bool, option("--loop", "Start again when the files end.")] = False,
    news: Annotated[
        Path | None, option("--news", "Headlines (CSV or Parquet) to serve as RSS and Atom.", "FILE")
    ] = None,
    fault: Annotated[
        list[str] | None, option("--fault", "Fault to inject, as described above; may be repeated.", "FAULT")
    ] = None,
    participation: Annotated[
        float | None,
        option("--participation", "Share of a bar's volume that orders may fill.", default="no limit"),
    ] = None,
    seed: Annotated[int, option("--seed", "Seed of the prices inside bars and of the faults.")] = 0,
    json: Annotated[bool, option("--json", "Print the URLs as one JSON object.")] = False,
) -> None:
    """Run a test exchange on this machine with Bybit v5's protocol, with prices from kline files.

    Orders are matched by the paper exchange that backtests use. The first live bar of the files becomes the
    present one. At --speed 1 every timestamp is the present time, as on the real venue. At a higher speed the
    market's clock starts now and runs that much faster, so the time of klines, orders, market/time and feeds
    gets ahead of the machine's clock; signed requests may carry either time.

    Faults: --fault KIND[,on=PATTERN][,p=P][,count=N][,after=N][,ms=MS][,code=CODE][,rest=true], or POST
    /_sandbox/faults while it runs; GET /_sandbox/state shows the exchange's state.
    """
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
        start=None if start is None else parse_time(start, "--start"),
        history_bars=history_bars,
        steps=steps,
        loop=loop,
        seed=seed,
        news=news,
        faults=tuple(parse_fault(text) for text in fault or ()),
        participation=participation,
    )
    asyncio.run(_serve(options, allow_remote=allow_remote, json=json))


async def _serve(options: SandboxOptions, *, allow_remote: bool, json: bool) -> None:
    from agent.sandbox import Sandbox

    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with Sandbox(options, allow_remote=allow_remote) as exchange:
        urls = exchange.urls()
        if json:
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
            err.print("the kline files have ended, so prices stand still; Ctrl-C stops the sandbox")
            await waiting
        ended.cancel()


def _amount(text: str) -> Decimal:
    try:
        amount = Decimal(text)
    except InvalidOperation:
        amount = Decimal(-1)
    if not amount.is_finite() or amount < 0:
        raise UsageError(f"--balance {text!r} is no amount", hint="write a number of USDT, such as 10000")
    return amount
