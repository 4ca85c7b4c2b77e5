"""A headless Chromium, driven over the W3C WebDriver protocol by the `chromedriver` that Debian ships with it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import pytest

_FLAGS: Final = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # no name leads anywhere
)  # fmt: skip


class Browser:
    """One window. Every wait is inside the browser's own commands."""

    def __init__(self, port: int, session: str) -> None:
        self._port, self._session = port, session

    def open(self, page: Path) -> None:
        """Load a file, and return once its scripts have run; what was said and asked for before is forgotten."""
        self._ask("url", {"url": "about:blank"})
        self.complaints(), self.requests()
        self._ask("url", {"url": page.resolve().as_uri()})

    def run(self, script: str, *args: Any) -> Any:
        """What the body of a function returns; a promise is awaited."""
        return self._ask("execute/sync", {"script": script, "args": list(args)})

    def devtools(self, command: str, **params: Any) -> Any:
        """One command of the DevTools protocol."""
        return self._ask("goog/cdp/execute", {"cmd": command, "params": params})

    def point_at(self, x: float, y: float) -> None:
        """Move the mouse there, in CSS pixels of the view, by way of a neighbour so that it does move."""
        moves = [
            {"type": "pointerMove", "duration": 0, "x": round(x) + by, "y": round(y), "origin": "viewport"}
            for by in (3, 0)
        ]
        mouse = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": moves}
        self._ask("actions", {"actions": [mouse]})

    def picture(self) -> bytes:
        """The view as PNG."""
        return b64decode(self._ask("screenshot", method="GET"))

    def complaints(self) -> list[str]:
        """What the console has said since the last call, at any level."""
        return [entry["message"] for entry in self._ask("se/log", {"type": "browser"})]

    def requests(self) -> list[str]:
        """The addresses that were asked for since the last call."""
        entries = [
            json.loads(entry["message"])["message"] for entry in self._ask("se/log", {"type": "performance"})
        ]
        return [e["params"]["request"]["url"] for e in entries if e["method"] == "Network.requestWillBeSent"]

    def _ask(self, path: str, body: dict[str, Any] | None = None, method: str = "POST") -> Any:
        return ask(self._port, f"/session/{self._session}/{path}", body, method)


@contextmanager
def chromium(width: int, height: int, *, phone: bool = False) -> Iterator[Browser]:
    """A browser whose view has this size in CSS pixels; a `phone` has a finger in place of a mouse. Skips where there is none."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("needs Debian's chromium and chromium-driver")
    with TemporaryDirectory() as profile:
        flags = [*_FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"]
        options: dict[str, Any] = {"binary": program, "args": flags}
        if phone:
            metrics = {"width": width, "height": height, "pixelRatio": 1, "touch": True, "mobile": True}
            options["mobileEmulation"] = {"deviceMetrics": metrics}
        wanted = {
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        process = subprocess.Popen(
            [driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        try:
            assert process.stdout is not None
            port = next(
                int(found[1])
                for line in process.stdout
                if (found := re.search(r"successfully on port (\d+)", line))
            )
            session = ask(port, "/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
            browser = Browser(port, session)
            if not phone:
                metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
                browser.devtools("Emulation.setDeviceMetricsOverride", **metrics)
            yield browser
            ask(port, f"/session/{session}", method="DELETE")
        finally:
            process.terminate()
            process.wait()


def ask(port: int, path: str, body: dict[str, Any] | None = None, method: str = "POST") -> Any:
    """One command to the driver on `port`; AssertionError with its words where it fails."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        text = json.dumps(body) if body is not None else None
        connection.request(method, path, text, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        value = json.loads(answer.read())["value"]
        assert answer.status == 200, f"{path}: {value['error']}: {value['message']}"
        return value
    finally:
        connection.close()
