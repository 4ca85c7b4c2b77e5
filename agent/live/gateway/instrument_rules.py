"""Trading rules from Bybit's public endpoint (https://bybit-exchange.github.io/docs/v5/market/instrument)."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import aiohttp
import msgspec

from agent.core.errors import VenueError, brief
from agent.live.gateway.private_messages import InstrumentJson, read_list
from agent.live.gateway.venue_port import VenueRules
from agent.system.addresses import is_loopback
from agent.system.http_timeouts import NO_TOTAL
from agent.system.untrusted import JSON_DECODE_ERRORS

_PATH: Final = "/v5/market/instruments-info"
_PAGES: Final = 20  # at most, of 1,000 instruments


class _Result(msgspec.Struct):
    list: Any = ()
    nextPageCursor: str = ""


class _Answer(msgspec.Struct):
    retCode: int
    retMsg: str = ""
    result: _Result = msgspec.field(default_factory=_Result)


async def fetch_rules(
    base: str, category: str, symbol: str = "", *, within: float = 10.0
) -> dict[str, VenueRules]:
    """Fetch the rules of `symbol`, or of all symbols of `category` if it is empty; unknown ones are missing.

    `base` is the endpoint's URL without a path, `within` the timeout of all requests together in seconds.
    Raises VenueError without a usable response.
    """
    known: dict[str, VenueRules] = {}
    cursor = ""
    try:
        async with (
            asyncio.timeout(within),
            aiohttp.ClientSession(timeout=NO_TOTAL, trust_env=not is_loopback(base)) as session,
        ):
            for _ in range(_PAGES):
                limit = "" if symbol else "1000"
                given = {"category": category, "symbol": symbol, "limit": limit, "cursor": cursor}
                params = {name: value for name, value in given.items() if value}
                async with session.get(base + _PATH, params=params) as response:
                    page = msgspec.json.decode(await response.read(), type=_Answer)
                if page.retCode:
                    if symbol:
                        return {}
                    raise VenueError(f"{base}{_PATH}: {page.retMsg} ({page.retCode})")
                known |= dict(read_list(InstrumentJson, page.result.list, category))
                cursor = page.result.nextPageCursor
                if not cursor:
                    break
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError, *JSON_DECODE_ERRORS) as error:
        raise VenueError(f"{base}{_PATH} returned no trading rules: {brief(error)}") from None
    return known
