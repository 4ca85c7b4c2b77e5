"""Ports of the loopback interface for servers that tests start."""

from __future__ import annotations

import socket
import subprocess
import time


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def await_server(process: subprocess.Popen[bytes], port: int, seconds: float = 30.0) -> None:
    """Return once `process` accepts connections at `port`. Raises RuntimeError if it ends or takes longer."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.01)
        else:
            return
    raise RuntimeError(f"no server at port {port}: exit code {process.poll()}")
