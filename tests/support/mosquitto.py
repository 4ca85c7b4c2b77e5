"""A mosquitto broker on a free port, optionally with a certificate and a password."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.ports import await_server, free_port

PASSWORD = "correct horse battery staple"
SECRET = "0123456789abcdef0123456789abcdef"

needs_mosquitto = pytest.mark.skipif(shutil.which("mosquitto") is None, reason="mosquitto is not installed")


class Mosquitto(NamedTuple):
    """A running broker."""

    port: int
    folder: Path
    ca_file: Path | None = None

    @property
    def url(self) -> str:
        return f"{'mqtts' if self.ca_file else 'mqtt'}://127.0.0.1:{self.port}"

    def settings(self, **more: Any) -> dict[str, Any]:
        """Return a section `[mqtt]` with short waits."""
        return {
            "broker": self.url,
            "state_every": "100ms",
            "timeout": "5s",
            "keepalive": "5s",
            "reconnect": {"first": "20ms", "ceiling": "100ms"},
            **more,
        }


@contextmanager
def mosquitto(folder: Path, *, port: int = 0, tls: bool = False, user: str = "") -> Iterator[Mosquitto]:
    """Run a broker inside the context and kill it at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    port = port or free_port()
    lines = [
        f"listener {port} 127.0.0.1",
        f"allow_anonymous {'false' if user else 'true'}",
        "user root",
        "max_queued_messages 10000",
    ]
    ca = make_certificate(folder) if tls else None
    if ca is not None:
        lines += [f"cafile {ca}", f"certfile {folder / 'server.pem'}", f"keyfile {folder / 'server.key'}"]
    if user:
        subprocess.run(
            ["mosquitto_passwd", "-b", "-c", folder / "passwords", user, PASSWORD],
            check=True,
            capture_output=True,
        )
        lines.append(f"password_file {folder / 'passwords'}")
    config = folder / "mosquitto.conf"
    config.write_text("\n".join(lines) + "\n")
    with (folder / "mosquitto.log").open("w") as log:
        process = subprocess.Popen(["mosquitto", "-c", config], stdout=log, stderr=subprocess.STDOUT)
    try:
        try:
            await_server(process, port)
        except RuntimeError:
            raise RuntimeError((folder / "mosquitto.log").read_text()) from None
        yield Mosquitto(port, folder, ca)
    finally:
        process.kill()
        process.wait()


def make_certificate(folder: Path) -> Path:
    """Create a temporary authority in `ca.pem` and a server certificate signed by it."""
    run = {"check": True, "capture_output": True, "cwd": folder}
    (folder / "san").write_text("subjectAltName=IP:127.0.0.1\n")
    for command in (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -keyout ca.key -out ca.pem -subj /CN=throw-away",
        "openssl req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=127.0.0.1",
        (
            "openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 "
            "-extfile san -out server.pem"
        ),
    ):
        subprocess.run(command.split(), **run)  # type: ignore[call-overload]
    return folder / "ca.pem"
