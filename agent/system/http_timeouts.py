"""Time limits of HTTP requests that don't lose a cancellation.

aiohttp's own limit for a whole request does: it is entered twice by a request, and each exit takes back one
cancellation of the task. If the limit and a cancellation from outside meet in one step of the loop, both are
taken back: the request ends with TimeoutError, and the cancelled task goes on. `asyncio.timeout` counts
correctly, so requests run in it, in sessions without a limit for the whole.
"""

from __future__ import annotations

from typing import Final

import aiohttp

# For sessions whose requests run in `asyncio.timeout`; without it aiohttp's limit is five minutes
NO_TOTAL: Final = aiohttp.ClientTimeout(total=None)
# For `timeout` of a ccxt exchange, which it also passes to aiohttp as the limit for the whole
NO_CCXT_TIMEOUT: Final = 0
