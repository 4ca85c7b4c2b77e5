"""The command `tapewire sandbox`."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

SAMPLE = Path(__file__).parents[1] / "sample_data"
COMMAND = (sys.executable, "-c", "from agent.cli.main import main; main()", "sandbox")


@pytest.mark.slow
def test_prints_its_urls_when_ready_and_stops_on_sigterm(tmp_path: Path) -> None:
    klines = ("--klines", str(SAMPLE / "BTCUSDT-1m.csv"), str(SAMPLE / "ETHUSDT-1m.csv"))
    command = (
        *COMMAND,
        *klines,
        "--port",
        "0",
        "--speed",
        "60",
        "--news",
        str(SAMPLE / "headlines.csv"),
        "--json",
    )
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=SAMPLE.parents[1]) as process:
        assert process.stdout is not None
        try:
            ready = json.loads(process.stdout.readline())
            assert ready["ready"]
            assert ready["symbols"] == ["BTCUSDT", "ETHUSDT"]
            assert ready["private"].startswith("ws://127.0.0.1:")
            with urllib.request.urlopen(f"{ready['rest']}/v5/market/time") as response:
                assert json.load(response)["retCode"] == 0
            with urllib.request.urlopen(ready["rss"]) as response:
                assert b"<rss" in response.read()
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["--klines", "nowhere.csv"], 1, "nowhere.csv"),
        (["--klines", str(SAMPLE / "BTCUSDT-1m.csv"), "--host", "0.0.0.0"], 3, "127.0.0.1"),
        (
            ["--klines", str(SAMPLE / "BTCUSDT-1m.csv"), "--symbol", "DOGEUSDT", "--symbol", "XRPUSDT"],
            2,
            "SYMBOL=FILE",
        ),
        (["--klines", str(SAMPLE / "BTCUSDT-1m.csv"), "--fault", "dorp"], 2, "did you mean drop"),
        (["--klines", str(SAMPLE / "BTCUSDT-1m.csv"), "--speed", "0"], 2, "real time"),
        (["--klines", str(SAMPLE / "BTCUSDT-1m.csv"), "--balance", "much"], 2, "USDT"),
        (["--klines", str(SAMPLE / "BTCUSDT-1m.csv"), "--start", "2020-01-01"], 2, "--start"),
        (["--klines", str(SAMPLE / "BTCUSDT-1m.csv"), "--history-bars", "9999999"], 2, "history-bars"),
    ],
)
def test_invalid_options_give_a_one_line_error(
    arguments: list[str], code: int, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from agent.cli.main import main

    monkeypatch.setattr(sys, "argv", ["tapewire", "sandbox", *arguments, "--port", "0"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == code
    message = capsys.readouterr().err
    assert expected in message
    assert message.count("\n") == 1
