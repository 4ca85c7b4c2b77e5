"""A headless Chromium, controlled over the W3C WebDriver protocol by Debian's `chromedriver`."""

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
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # blocks DNS
)


class Browser:
    """A browser window. Its methods return once the browser has executed the command."""

    def __init__(self, port: int, session: str) -> None:
        self._port, self._session = port, session

    def open(self, page: Path) -> None:
        """Load a file and return once its scripts have run.

        Discards earlier console messages and requests.
        """
        self._send("url", {"url": "about:blank"})
        self.console_messages(), self.requests()
        self._send("url", {"url": page.resolve().as_uri()})

    def run(self, script: str, *args: Any) -> Any:
        """Run the body of a JavaScript function and return its result; a promise is awaited."""
        return self._send("execute/sync", {"script": script, "args": list(args)})

    def devtools(self, command: str, **params: Any) -> Any:
        """Send a command of the DevTools protocol."""
        return self._send("goog/cdp/execute", {"cmd": command, "params": params})

    def point_at(self, x: float, y: float) -> None:
        """Move the mouse to a point in CSS pixels of the viewport.

        It comes from a neighbouring point, so that it moves.
        """
        moves = [
            {"type": "pointerMove", "duration": 0, "x": round(x) + by, "y": round(y), "origin": "viewport"}
            for by in (3, 0)
        ]
        mouse = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": moves}
        self._send("actions", {"actions": [mouse]})

    def screenshot(self) -> bytes:
        """Return the viewport as PNG."""
        return b64decode(self._send("screenshot", method="GET"))

    def console_messages(self) -> list[str]:
        """Return the console's messages since the last call, of any level."""
        return [entry["message"] for entry in self._send("se/log", {"type": "browser"})]

    def requests(self) -> list[str]:
        """Return the URLs requested since the last call."""
        entries = [
            json.loads(entry["message"])["message"] for entry in self._send("se/log", {"type": "performance"})
        ]
        return [e["params"]["request"]["url"] for e in entries if e["method"] == "Network.requestWillBeSent"]

    def _send(self, path: str, body: dict[str, Any] | None = None, method: str = "POST") -> Any:
        return send_command(self._port, f"/session/{self._session}/{path}", body, method)


@contextmanager
def chromium(width: int, height: int, *, phone: bool = False) -> Iterator[Browser]:
    """Start a browser whose viewport has this size in CSS pixels.

    A `phone` has touch input instead of a mouse. Skips the test if Chromium is not installed.
    """
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
            session = send_command(port, "/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
            browser = Browser(port, session)
            if not phone:
                metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
                browser.devtools("Emulation.setDeviceMetricsOverride", **metrics)
            yield browser
            send_command(port, f"/session/{session}", method="DELETE")
        finally:
            process.terminate()
            process.wait()


def send_command(port: int, path: str, body: dict[str, Any] | None = None, method: str = "POST") -> Any:
    """Send a command to the driver on `port` and return its result. Raises AssertionError if it fails."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        text = json.dumps(body) if body is not None else None
        connection.request(method, path, text, {"Content-Type": "application/json"})
        response = connection.getresponse()
        value = json.loads(response.read())["value"]
        assert response.status == 200, f"{path}: {value['error']}: {value['message']}"
        return value
    finally:
        connection.close()
