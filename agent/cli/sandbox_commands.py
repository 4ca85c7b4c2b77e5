"""`tapewire sandbox`: a test exchange on this machine for Bybit clients."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from agent.cli.command_options import parse_span, parse_time
from agent.cli.console import err, print_json
from agent.cli.typer_setup import option
from agent.core.errors import UsageError
from agent.core.events import HOUR_MS

if TYPE_CHECKING:
    from agent.sandbox import SandboxOptions


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("sandbox")(sandbox)


@dataclass(frozen=True, kw_only=True, slots=True)
class VenueCosts:
    """What trading at the sandbox costs, to plant what `tapewire twin` and `costs fit` must find."""

    PANEL: ClassVar = "Costs"

    taker_fee: Annotated[
        str | None, option("--taker-fee", "Fee of takers, a fraction of the value.", "NUMBER", "Bybit's")
    ] = None
    maker_fee: Annotated[
        str | None,
        option("--maker-fee", "Fee of makers, the same; negative: a rebate.", "NUMBER", "Bybit's"),
    ] = None
    half_spread: Annotated[
        float, option("--half-spread", "Half the spread in basis points: what takers pay.", min=0)
    ] = 0.5
    latency: Annotated[
        str,
        option(
            "--latency",
            "Market time that an order, change or cancellation takes to reach the exchange.",
            "DURATION",
        ),
    ] = "0s"
    participation: Annotated[
        float | None,
        option("--participation", "Share of a bar's volume that orders may fill.", default="no limit"),
    ] = None
    funding_rate: Annotated[
        str, option("--funding-rate", "Rate at each funding time; positive: longs pay.", "NUMBER")
    ] = "0.0001"
    funding_interval: Annotated[
        str, option("--funding-interval", "Time between two fundings: whole hours.", "DURATION")
    ] = "8h"

    def settings(self) -> dict[str, Any]:
        """Return the fields of `SandboxOptions`. Raises UsageError."""
        interval = parse_span(self.funding_interval, "--funding-interval")
        if not interval or interval % HOUR_MS:
            raise UsageError(
                f"--funding-interval {self.funding_interval} is not whole hours", hint="such as 1h or 8h"
            )
        return {
            "taker_fee": _rate(self.taker_fee, "--taker-fee"),
            "maker_fee": _rate(self.maker_fee, "--maker-fee"),
            "half_spread_bps": self.half_spread,
            "order_latency": parse_span(self.latency, "--latency"),
            "participation": self.participation,
            "funding_rate": _rate(self.funding_rate, "--funding-rate"),
            "funding_interval": interval,
        }


def sandbox(
    costs: VenueCosts,
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
    seed: Annotated[int, option("--seed", "Seed of the prices inside bars and of the faults.")] = 0,
    json: Annotated[bool, option("--json", "Print the URLs as one JSON object.")] = False,
) -> None:
    """Run a test exchange on this machine with Bybit v5's protocol, with prices from kline files.

    Orders are matched by the paper exchange that backtests use, at the costs given. The first live bar of the
    files becomes the present one. At --speed 1 every timestamp is the present time, as on the real venue. At
    a higher speed the market's clock starts now and runs that much faster, so the time of klines, orders,
    market/time and feeds gets ahead of the machine's clock; signed requests may carry either time.

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
        **costs.settings(),
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


def _rate(text: str | None, name: str) -> Decimal | None:
    """Return a fraction below 1. Raises UsageError that names the option."""
    if text is None:
        return None
    try:
        rate = Decimal(text)
    except InvalidOperation:
        rate = Decimal(1)
    if not rate.is_finite() or abs(rate) >= 1:
        raise UsageError(f"{name} {text!r} is no rate", hint="write a fraction, such as 0.00055")
    return rate


def _amount(text: str) -> Decimal:
    try:
        amount = Decimal(text)
    except InvalidOperation:
        amount = Decimal(-1)
    if not amount.is_finite() or amount < 0:
        raise UsageError(f"--balance {text!r} is no amount", hint="write a number of USDT, such as 10000")
    return amount
