"""`tapewire status`, `pause`, `resume`, `halt`, `kill`, `flatten`, `model use`: control the running agent."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final

import typer

from agent.cli.command_options import ConfigFile, Json, parse_span
from agent.cli.console import out, print_json, print_text
from agent.cli.typer_setup import option
from agent.config import load
from agent.core.errors import NoAnswer, NotRunning, SafetyError, TapewireError, UsageError

_KILL_MARGIN: Final = 3.0  # seconds beyond live.kill_within that a kill waits for the agent's reply
_WAIT: Final = "30s"
_POLL: Final = 0.25  # seconds between two looks at the open positions

Wait = Annotated[
    str,
    option("--wait", "How long to wait for flat positions (0: not at all), else exit with 1.", "DURATION"),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class AgentOptions:
    """How to reach the running agent."""

    PANEL: ClassVar = "Agent"

    config: ConfigFile = None
    at: Annotated[
        str,
        option(
            "--at",
            "Control port of the agent; or mqtt: signed commands through the broker.",
            "HOST:PORT",
            "the Unix socket in live.folder",
        ),
    ] = ""
    token_file: Annotated[
        Path | None, option("--token-file", "Token for --at.", "FILE", "control.token in live.folder")
    ] = None

    def connect(self) -> AgentClient:
        """Return a client of the agent. Raises UsageError or ConfigError."""
        return AgentClient(self.config, self.at, self.token_file)


def register(app: typer.Typer) -> None:
    """Add the commands and the group `model`."""
    for command in (status, pause, resume, halt, kill, flatten):
        app.command(command.__name__)(command)
    group = typer.Typer(help="Change the model of the running agent.", no_args_is_help=True)
    group.command("use")(use)
    app.add_typer(group, name="model")


def status(agent: AgentOptions, json: Json = False) -> None:
    """Show the running agent's state. If none runs, show the last run and exit with 1."""
    import msgspec

    from agent.cli.status_output import show, show_last
    from agent.live.interfaces.status import Status

    client = agent.connect()
    try:
        snapshot = msgspec.convert(client.request("status"), Status)
    except NotRunning:
        if not agent.at:
            show_last(agent.config, json)
        raise
    if json:
        print_json(snapshot)
    else:
        show(snapshot)


def pause(agent: AgentOptions, json: Json = False) -> None:
    """Open no new positions. Open ones are managed as before."""
    _send(agent.connect(), json, "pause")


def resume(
    agent: AgentOptions,
    json: Json = False,
    confirm: Annotated[
        str, option("--confirm", 'Required after a kill: "resume from kill".', "TEXT", "prompt on a terminal")
    ] = "",
) -> None:
    """Trade again after a pause, a halt or a kill. After a kill a confirmation is required."""
    from agent.core.risk import KILL, RESUME_FROM_KILL

    client = agent.connect()
    if not confirm and sys.stdin.isatty() and not json:
        now = client.request("status")
        if now["risk_rule"] == KILL:
            held = (
                ", ".join(f"{one['qty']} {one['symbol']}" for one in now["positions"] if one["value"])
                or "nothing"
            )
            print_text(f"killed by {now['risk_detail']}; the account holds {held}")
            confirm = typer.prompt(f'Type "{RESUME_FROM_KILL}" to trade again')
            if confirm != RESUME_FROM_KILL:
                raise SafetyError("not resumed: the text typed was another one")
    _send(client, json, "resume", **({"confirm": confirm} if confirm else {}))


def halt(agent: AgentOptions, json: Json = False) -> None:
    """Cancel all entry orders and open nothing until `resume`. Stops and take-profits stay."""
    _send(agent.connect(), json, "halt")


def kill(
    agent: AgentOptions,
    json: Json = False,
    flatten: Annotated[bool, option("--flatten", "Close all positions as well.")] = False,
    reason: Annotated[str, option("--reason", "Reason, for the journal.", "TEXT")] = "",
    wait: Wait = _WAIT,
) -> None:
    """Cancel all orders, stops too, and halt until an operator resumes. A restart doesn't undo it.

    Without --flatten, positions stay open and unprotected. To kill without this program, create the file KILL
    in live.folder or send SIGUSR1 to the agent. If the agent doesn't reply or can't comply, this process
    cancels and closes at the venue itself and leaves the file KILL.
    """
    from agent.cli.offline_kill import kill_without_agent

    args = ({"flatten": "true"} if flatten else {}) | ({"reason": reason} if reason else {})
    client, seconds = agent.connect(), _seconds(wait)
    try:
        reply = client.request("kill", args, timeout=client.config.live.kill_within / 1000 + _KILL_MARGIN)
    except TapewireError as error:
        unable = (
            type(error) is TapewireError and client.config.execution.mode == "testnet"
        )  # the agent can't comply now
        if agent.at or not (unable or isinstance(error, NoAnswer | NotRunning)):
            raise
        reply = kill_without_agent(client.config, args, error)
    if flatten and "emergency" not in reply:
        _wait_until_flat(client, reply, json, seconds, "kill")
    else:
        _show(reply, json, "kill")


def flatten(
    agent: AgentOptions,
    json: Json = False,
    symbol: Annotated[str, option("--symbol", "Close the position of this symbol only.", "SYMBOL")] = "",
    wait: Wait = _WAIT,
) -> None:
    """Close all positions. The strategy may open new ones: `pause` first to stay flat."""
    client, seconds = agent.connect(), _seconds(wait)
    reply = client.request("flatten", {"symbol": symbol} if symbol else {})
    _wait_until_flat(client, reply, json, seconds, "flatten", symbol)


def use(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Folder written by `tapewire export`, starter, openai:URL#MODEL or ensemble:FOLDER.",
            show_default=False,
        ),
    ],
    agent: AgentOptions,
    json: Json = False,
) -> None:
    """Switch the running agent to another sentiment model, without a restart."""
    from models.sentiment import absolute

    _send(agent.connect(), json, "use-model", folder=absolute(model))


class AgentClient:
    """Client of the running agent, over the Unix socket of its folder, its control port, or MQTT."""

    def __init__(self, config: Path | None, at: str, token_file: Path | None) -> None:
        from agent.config.control import split_address
        from agent.live.access_token import read_token

        settled = self.config = load(config)
        self._address: Path | tuple[str, int] = settled.live.folder
        self._token = ""
        self._mqtt = settled.mqtt if at == "mqtt" else None
        if at and self._mqtt is None:
            try:
                self._address = split_address(at)
            except ValueError as error:
                raise UsageError(f"--at: {error}") from None
            self._token = read_token(token_file or settled.token_file())

    def request(self, do: str, args: dict[str, str] | None = None, *, timeout: float = 60.0) -> Any:
        """Send a command and return its result.

        Raises the error with which the agent refused, NotRunning, or NoAnswer after `timeout` seconds.
        """
        if self._mqtt is not None:
            import asyncio
            import getpass

            from agent.live.services.mqtt.commands import send_command

            return asyncio.run(
                send_command(self._mqtt, do, args or {}, by=getpass.getuser(), timeout=timeout)
            )
        from agent.live.control_socket import ControlRequest, send_request

        return send_request(self._address, ControlRequest(do, args or {}, self._token), timeout=timeout)


def _seconds(wait: str) -> float:
    return parse_span(wait, "--wait") / 1000 if wait != "0" else 0.0


def _wait_until_flat(
    client: AgentClient, reply: dict[str, Any], json: bool, seconds: float, do: str, symbol: str = ""
) -> None:
    """Show `reply` to the command `do`, and wait until the positions that it closes, all or that of `symbol`,
    are closed.

    Raises TapewireError if one is open after `seconds`; 0 doesn't wait.
    """
    if not json:
        out.print(f"{do}: done; risk is {reply['risk']}", soft_wrap=True)
    if not seconds:
        if json:
            print_json(reply)
        return
    end = time.monotonic() + seconds
    while (left := _open_positions(client, symbol)) and time.monotonic() < end:
        time.sleep(_POLL)
    if json:
        print_json(reply | {"flat": not left, "open": left})
    elif not left:
        out.print(f"the position of {symbol} is closed" if symbol else "all positions are closed")
    if left:
        what = ", ".join(f"{qty} {symbol}" for symbol, qty in left.items())
        raise TapewireError(
            f"not flat after {seconds:g} s: {what} still open",
            hint="the agent continues to close; `tapewire status` shows what is left",
        )


def _open_positions(client: AgentClient, symbol: str) -> dict[str, str]:
    """Return the quantities, by symbol, of the positions that the agent is still closing."""
    status = client.request("status")
    closing = [one for one in status["flattening"] if not symbol or one == symbol]
    return {one["symbol"]: str(one["qty"]) for one in status["positions"] if one["symbol"] in closing}


def _send(client: AgentClient, json: bool, do: str, **args: str) -> None:
    _show(client.request(do, args), json, do)


def _show(reply: dict[str, Any], json: bool, do: str) -> None:
    if json:
        print_json(reply)
    elif "emergency" in reply:
        import msgspec

        from agent.live.emergency_close import EmergencyReport

        report = msgspec.convert(reply["emergency"], EmergencyReport)
        why = f" without the agent, since {reply['why']}; {reply['file']}" if "why" in reply else ""
        print_text(f"{do}: {report.sentence()}{why}")
    else:
        model = f"; model {reply['model'][:12]} of {reply['folder']} scores" if "model" in reply else ""
        out.print(f"{do}: done; risk is {reply['risk']}{model}", soft_wrap=True)
