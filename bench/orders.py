"""Sends thousands of orders to an exchange with all faults: none lost, doubled or unknown.

    python bench/orders.py [--orders 3000] [--seed 1] [--log FILE]

Prints JSON. The exchange is the sandbox on loopback, over real HTTP and WebSocket, with every fault of
`FAULTS` on; the agent is the real daemon with its journal. After the given number of orders, trading is
paused, pending orders are awaited, and then:

    unknown         intents without a known state at the end; must be 0
    doubled         client order ids that exist twice at the exchange or were overfilled; must be 0
    lost_fills      executions of the exchange that the ledger has not booked, or booked twice; must be 0
    drift           wallet of the exchange minus wallet of the ledger, USDT; must be 0.00
    verify          whether the recorded run, decided again, is identical

`overhead` is (seconds per order with faults) / (seconds per order on a fault-free exchange in the same
process).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from agent.config.live import LogConfig  # noqa: E402
from agent.core.events import Fill, FillKind, Order  # noqa: E402
from agent.core.venue import VenueExchange  # noqa: E402
from agent.live.app import make_agent  # noqa: E402
from agent.live.daemon import Daemon  # noqa: E402
from agent.live.log import configure  # noqa: E402
from agent.replay.verify import verify  # noqa: E402
from agent.sandbox import Sandbox, SandboxOptions  # noqa: E402
from agent.sandbox.faults import Fault, parse_fault  # noqa: E402
from agent.store.database import open_database  # noqa: E402
from agent.store.queries import find_run, read_decisions  # noqa: E402
from tests.live.gateway.churning_strategy import churn, venue_settings  # noqa: E402
from tests.support.live import settings  # noqa: E402

FAULTS: Final = (
    "retcode,on=rest/v5/order/*,code=10000,p=0.02",
    "lost,on=rest/v5/order/create,code=10000,p=0.03",
    "lost,on=rest/v5/order/cancel,code=10000,p=0.03",
    "retcode,on=rest/v5/*,code=10006,p=0.02",
    "retcode,on=rest/v5/*,code=10002,p=0.01",
    "retcode,on=rest/v5/*,code=10016,p=0.02",
    "status,on=rest/v5/*,code=502,p=0.01",
    "delay,on=rest/v5/*,ms=150,p=0.05",
    "timeout,on=rest/v5/order/*,ms=1500,p=0.01",
    "close,on=rest/v5/*,p=0.02",
    "corrupt,on=rest/v5/order/*,p=0.01",
    "truncate,on=rest/v5/execution/*,p=0.02",
    "lag,on=rest/v5/*/list,ms=500,p=0.3",
    "drop,on=ws/private/*,p=0.05",
    "duplicate,on=ws/private/*,p=0.1",
    "reorder,on=ws/private/*,p=0.1",
    "delay,on=ws/private/*,ms=200,p=0.03",
    "corrupt,on=ws/private/*,p=0.01",
    "close,on=ws/private/*,p=0.002",
)
"""Error codes such as 10000 and 10006, timeouts, closed connections, lagging views, private stream faults."""

SYMBOLS: Final = 10
SPEED: Final = 60.0
_PATIENCE: Final = 120.0


async def trade(orders: int, faults: tuple[Fault, ...], seed: int, folder: Path) -> dict[str, Any]:
    """Place this many orders, wait until all are settled, and count."""
    files = tuple(
        Path(f"C{number}USDT={ROOT / 'tests/sample_data' / f'{symbol}-1m.csv'}")
        for number, symbol in enumerate(("BTCUSDT", "ETHUSDT") * (SYMBOLS // 2))
    )
    symbols = [f"C{number}USDT" for number in range(SYMBOLS)]
    options = SandboxOptions(
        klines=files,
        speed=SPEED,
        balance=Decimal(1_000_000),
        seed=seed,
        loop=True,
        history_bars=200,
        ip_limit=10**9,
        socket_limit=10**6,
    )
    async with Sandbox(options) as sandbox:
        rules = sandbox.venue.instruments.by_category["linear"]
        sections = venue_settings(
            sandbox.rest_url, execution={"start_within": "2m"}, strategy=churn(weight=0.02)
        )
        config = settings(
            sandbox.rest_url,
            folder,
            market={"symbols": symbols},
            account={"initial_capital": 1_000_000},
            instruments={
                symbol: {
                    "tick_size": str(rules[symbol].tick_size),
                    "qty_step": str(rules[symbol].qty_step),
                    "min_qty": str(rules[symbol].min_qty),
                }
                for symbol in symbols
            },
            **sections,
        )
        with closing(open_database(config.store.url)) as database:
            daemon = make_agent(config, database, load_model=_no_model, clock=sandbox.clock)
            stop = asyncio.Event()
            life = asyncio.create_task(daemon.run(stop))
            began = time.perf_counter()
            try:
                gateway = None
                while gateway is None or not gateway.reconciled.is_set():
                    await _poll(life)
                    gateway = daemon.gateway
                sandbox.venue.faults.add(faults)
                while gateway.health.sent - gateway.health.resent < orders:
                    await _poll(life)
                took = time.perf_counter() - began
                await daemon.command("pause", by="bench")
                await daemon.command("flatten", by="bench")
                settled = await _settle(daemon, life, orders)
                health = gateway.health
                faulted = {_name(f): f["hits"] for f in sandbox.venue.faults.state()}
            finally:
                stop.set()
                await asyncio.wait({life})
            run = life.result()
            ledger = daemon.pipeline.engine.exchange
            assert isinstance(ledger, VenueExchange)
            found = compare_accounts(
                sandbox, ledger, [item.decision for item in read_decisions(database, run.id)]
            )
            proof = verify(database, find_run(database))
    return {
        "sent": health.sent,
        "resent": health.resent,
        "doubted": health.unknown,
        "existed": health.existed,
        "slowed": health.slowed,
        "reconnects": health.reconnects,
        "ended": dict(sorted(health.ended.items())),
        "unknown": len(health.intents),
        "settled": settled,
        **found,
        "verify": "identical" if proof.identical else "diverged",
        "events": proof.events,
        "seconds": round(took, 1),
        "ms_per_order": round(1000 * took / max(1, health.sent), 1),
        "faults": faulted,
    }


def compare_accounts(sandbox: Sandbox, ledger: VenueExchange, decisions: list[Any]) -> dict[str, Any]:
    """Compare the exchange's account with the ledger."""
    venue = sandbox.venue.account
    decided = {order.id: order for order in decisions if isinstance(order, Order)}
    booked = Counter(fill.id for fill in decisions if isinstance(fill, Fill) and fill.kind is FillKind.TRADE)
    happened = {one.id for one in venue.executions if one.kind == "Trade"}
    links = Counter(order.link for order in venue.orders.values())
    filled: Counter[str] = Counter()
    for one in venue.executions:
        if one.order is not None and one.kind == "Trade":
            filled[one.order.link] += one.qty  # type: ignore[assignment]
    over = [link for link, qty in filled.items() if link not in decided or qty > venue_qty(sandbox, link)]
    drift = venue.wallet.balances()[0].wallet - ledger.wallet()
    held = {leg.symbol: leg.held.qty for leg in venue.books["linear"].open_legs()}
    return {
        "doubled": sum(count > 1 for count in links.values()) + len(over),
        "lost_fills": len(happened ^ set(booked)) + sum(count > 1 for count in booked.values()),
        "fills": len(happened),
        "drift": f"{drift:.2f}",
        "positions_agree": all(
            ledger.held(symbol) == held.get(symbol, 0) for symbol in sandbox.venue.instruments.symbols
        ),
    }


def venue_qty(sandbox: Sandbox, link: str) -> Decimal:
    """Return the quantity of an order at the exchange."""
    return max(order.qty for order in sandbox.venue.account.orders.values() if order.link == link)


async def _settle(daemon: Daemon, life: asyncio.Task[Any], orders: int) -> bool:
    """Wait until no intent is open and the account agrees with the ledger."""
    gateway = daemon.gateway
    assert gateway is not None
    until = time.perf_counter() + _PATIENCE + orders / 100
    while time.perf_counter() < until:
        health, seen = gateway.health, gateway.health.reconciled_at
        if not health.intents:
            while gateway.health.reconciled_at == seen and time.perf_counter() < until:
                await _poll(life)
            await (await daemon.life.commands.put("heartbeat"))  # all earlier events have been handled
            if not gateway.health.intents and not gateway.health.drift:
                return True
        await _poll(life)
    return False


async def _poll(life: asyncio.Task[Any]) -> None:
    await asyncio.sleep(0.05)
    if life.done():
        life.result()


def _name(fault: dict[str, Any]) -> str:
    return f"{fault['kind']} {fault['on']}" + (f" {fault['code']}" if fault["code"] else "")


def _no_model(folder: str) -> Any:
    raise AssertionError(folder)


def is_sound(result: dict[str, Any]) -> bool:
    """Return whether nothing was lost, doubled or left open."""
    return (
        result["settled"]
        and result["positions_agree"]
        and result["verify"] == "identical"
        and Decimal(result["drift"]) == 0
        and not (result["unknown"] or result["doubled"] or result["lost_fills"])
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--orders", type=int, default=3_000)
    parser.add_argument("--seed", type=int, default=1)
    os.environ |= {"TAPEWIRE_API_KEY": "sandbox-key", "TAPEWIRE_API_SECRET": "sandbox-secret"}
    parser.add_argument("--log", default=os.devnull, help="file for the agent's log")
    args = parser.parse_args()
    with open(args.log, "w", encoding="utf-8") as log:
        configure(LogConfig(level="error"), log)
        results = measure(args.orders, args.seed)
    print(json.dumps(results, indent=2))
    return 0 if results["sound"] else 1


def measure(orders: int, seed: int) -> dict[str, Any]:
    """Measure the fault-free and the faulty exchange."""
    faults = tuple(parse_fault(text) for text in FAULTS)
    results: dict[str, Any] = {}
    for name, number, on in (("calm", max(100, orders // 10), ()), ("faults", orders, faults)):
        with tempfile.TemporaryDirectory() as folder:
            results[name] = asyncio.run(trade(number, on, seed, Path(folder)))
    results["overhead"] = round(results["faults"]["ms_per_order"] / results["calm"]["ms_per_order"], 2)
    results["sound"] = all(is_sound(results[name]) for name in ("calm", "faults"))
    return results


if __name__ == "__main__":
    raise SystemExit(main())
