"""The page in a real browser."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from tests.support.live import PATIENCE

T = TypeVar("T")

DESKTOP = {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False}
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}


class BrowserPage:
    """A browser tab.

    Its commands run in threads, so that the agent in the test's event loop is not blocked.
    """

    def __init__(self, chrome: Chrome) -> None:
        self.chrome = chrome

    async def do(self, work: Callable[[Chrome], T]) -> T:
        return await asyncio.to_thread(work, self.chrome)

    async def run(self, script: str, *arguments: Any) -> Any:
        return await self.do(lambda chrome: chrome.execute_script(script, *arguments))

    async def open(self, url: str, *, screen: dict[str, Any] = DESKTOP, dark: bool = False) -> None:
        def go(chrome: Chrome) -> None:
            chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
            scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
            chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
            chrome.get("about:blank")  # ends the previous test's page, whose errors are then discarded
            chrome.get_log("browser")
            chrome.get(url)

        await self.do(go)

    async def text(self, css: str) -> str:
        return str(await self.run("return document.querySelector(arguments[0])?.textContent ?? ''", css))

    async def click(self, css: str) -> None:
        await self.do(lambda chrome: chrome.find_element(By.CSS_SELECTOR, css).click())

    async def type(self, css: str, text: str) -> None:
        await self.do(lambda chrome: chrome.find_element(By.CSS_SELECTOR, css).send_keys(text))

    async def until(self, expression: str, *arguments: Any, within: float = PATIENCE) -> Any:
        """Wait until a JavaScript expression is truthy, at most so many seconds, and return its value."""
        async with asyncio.timeout(within):
            while not (value := await self.run(f"return {expression}", *arguments)):
                await asyncio.sleep(0.05)
        return value

    async def console_errors(self) -> list[str]:
        """Return the errors in the browser's console, which include violations of the content policy."""
        entries = await self.do(lambda chrome: chrome.get_log("browser"))
        return [str(entry["message"]) for entry in entries if entry["level"] == "SEVERE"]
