"""`tapewire status`, `pause`, `resume`, `halt`, `kill`, `flatten` and `model use`: words to the running agent."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from agent.cli.console import out, print_json
from agent.core.errors import SafetyError, TapewireError, UsageError

_ANSWER = 3.0  # seconds, beyond live.kill_within, that a kill waits for the agent
_PATIENCE = "30s"
_LOOK = 0.25  # seconds between two looks at what is still open

_Config = Annotated[
    Path | None, typer.Option("--config", "-c", help="Configuration file; its live.folder has the socket.")
]
_Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]
_At = Annotated[
    str,
    typer.Option(
        "--at",
        help="HOST:PORT of the agent's control port, instead of its Unix socket; or mqtt: through the broker, signed.",
        show_default=False,
    ),
]
_Wait = Annotated[
    str,
    typer.Option(
        help="How long to wait until the positions are closed, e.g. 30s; 0 does not wait. Not flat by then: exit code 1."
    ),
]
_TokenFile = Annotated[
    Path | None,
    typer.Option("--token-file", help="For --at; else control.token in live.folder.", show_default=False),
]


def register(app: typer.Typer) -> None:
    """Adds the verbs."""
    for verb in (status, pause, resume, halt, kill, flatten):
        app.command(verb.__name__)(verb)
    group = typer.Typer(help="The model of the running agent.", no_args_is_help=True)
    group.command("use")(use)
    app.add_typer(group, name="model")


def status(config: _Config = None, json: _Json = False, at: _At = "", token_file: _TokenFile = None) -> None:
    """How the running agent is; where none runs, how the last one left things, and exit code 1."""
    import msgspec

    from agent.cli.status import show, show_last
    from agent.core.errors import NotRunning
    from agent.live.interfaces.status import Status

    agent = _Agent(config, at, token_file)
    try:
        snapshot = msgspec.convert(agent.ask("status"), Status)
    except NotRunning:
        if not at:
            show_last(config, json)
        raise
    if json:
        print_json(snapshot)
    else:
        show(snapshot)


def pause(config: _Config = None, json: _Json = False, at: _At = "", token_file: _TokenFile = None) -> None:
    """Open no new positions; those that are open are looked after."""
    _tell(_Agent(config, at, token_file), json, "pause")


def resume(
    config: _Config = None,
    json: _Json = False,
    at: _At = "",
    token_file: _TokenFile = None,
    confirm: Annotated[
        str,
        typer.Option(help='After a kill: "resume from kill". Asked for on a terminal.', show_default=False),
    ] = "",
) -> None:
    """Trade again after a pause or a halt; after a kill it has to be confirmed."""
    from agent.core.risk import KILL, RESUME_FROM_KILL

    agent = _Agent(config, at, token_file)
    if not confirm and sys.stdin.isatty() and not json:
        now = agent.ask("status")
        if now["risk_rule"] == KILL:
            held = (
                ", ".join(f"{one['qty']} {one['symbol']}" for one in now["positions"] if one["value"])
                or "nothing"
            )
            out.print(
                f"killed by {now['risk_detail']}; the account holds {held}", highlight=False, markup=False
            )
            confirm = typer.prompt(f'Type "{RESUME_FROM_KILL}" to trade again')
            if confirm != RESUME_FROM_KILL:
                raise SafetyError("not resumed: that was something else")
    _tell(agent, json, "resume", **({"confirm": confirm} if confirm else {}))


def halt(config: _Config = None, json: _Json = False, at: _At = "", token_file: _TokenFile = None) -> None:
    """Cancel all entries, and open nothing until `resume`. Stops and take-profits stay."""
    _tell(_Agent(config, at, token_file), json, "halt")


def kill(
    config: _Config = None,
    json: _Json = False,
    at: _At = "",
    token_file: _TokenFile = None,
    flatten: Annotated[bool, typer.Option("--flatten", help="Close all positions too.")] = False,
    reason: Annotated[str, typer.Option(help="For the journal.", show_default=False)] = "",
    wait: _Wait = _PATIENCE,
) -> None:
    """Cancel all working orders, stops too, and halt until somebody resumes and confirms it; a restart changes nothing.

    Without `--flatten` positions stay as they are, without protection. The same without this program: make the file KILL in
    live.folder, or send the agent SIGUSR1. If the agent does not answer, or can't do it, this process cancels and closes at the venue
    itself, and leaves the file KILL.
    """
    from agent.cli.emergency import kill_without_agent
    from agent.core.errors import NoAnswer, NotRunning

    args = ({"flatten": "true"} if flatten else {}) | ({"reason": reason} if reason else {})
    agent, seconds = _Agent(config, at, token_file), _seconds(wait)
    try:
        answer = agent.ask("kill", args, timeout=agent.config.live.kill_within / 1000 + _ANSWER)
    except TapewireError as error:
        # it answers that it can't now
        unable = type(error) is TapewireError and agent.config.execution.mode == "testnet"
        if at or not (unable or isinstance(error, NoAnswer | NotRunning)):
            raise
        answer = kill_without_agent(agent.config, args, error)
    if flatten and "emergency" not in answer:
        _wait_until_flat(agent, answer, json, seconds, "kill")
    else:
        _show(answer, json, "kill")


def flatten(
    config: _Config = None,
    json: _Json = False,
    at: _At = "",
    token_file: _TokenFile = None,
    wait: _Wait = _PATIENCE,
) -> None:
    """Close all positions. What comes next may open new ones: `pause` first to stay flat."""
    agent, seconds = _Agent(config, at, token_file), _seconds(wait)
    _wait_until_flat(agent, agent.ask("flatten"), json, seconds, "flatten")


def use(
    folder: Annotated[Path, typer.Argument(help="Made by `tapewire export`, or `starter`.")],
    config: _Config = None,
    json: _Json = False,
    at: _At = "",
    token_file: _TokenFile = None,
) -> None:
    """Let another model score from now on, without a restart."""
    from models.sentiment import STARTER

    chosen = STARTER if str(folder) == STARTER else str(folder.absolute())
    _tell(_Agent(config, at, token_file), json, "use-model", folder=chosen)


class _Agent:
    """The running agent: behind the Unix socket of the configuration, or behind a control port."""

    def __init__(self, config: Path | None, at: str, token_file: Path | None) -> None:
        from agent.config import load
        from agent.config.control import split_address
        from agent.live.access_token import read_token

        settled = self.config = load(config)
        self._where: Path | tuple[str, int] = settled.live.folder
        self._token = ""
        self._mqtt = settled.mqtt if at == "mqtt" else None
        if at and self._mqtt is None:
            try:
                self._where = split_address(at)
            except ValueError as error:
                raise UsageError(f"--at: {error}") from None
            self._token = read_token(token_file or settled.token_file())

    def ask(self, do: str, args: dict[str, str] | None = None, *, timeout: float = 60.0) -> Any:
        """Its result. Raises what it refused with, NotRunning, or NoAnswer after `timeout` seconds."""
        if self._mqtt is not None:
            import asyncio
            import getpass

            from agent.live.services.mqtt.commands import tell

            return asyncio.run(tell(self._mqtt, do, args or {}, by=getpass.getuser(), timeout=timeout))
        from agent.live.control_socket import Request, ask

        return ask(self._where, Request(do, args or {}, self._token), timeout=timeout)


def _seconds(wait: str) -> float:
    from agent.core.durations import parse_duration

    try:
        return parse_duration(wait) / 1000 if wait != "0" else 0.0
    except ValueError as error:
        raise UsageError(f"--wait: {error}") from None


def _wait_until_flat(agent: _Agent, answer: dict[str, Any], json: bool, seconds: float, do: str) -> None:
    """Watch until the positions that a command closes are closed; `answer` is what it was answered.

    Raises TapewireError for those that are open after `seconds`; 0 doesn't wait.
    """
    import time

    if not json:
        out.print(f"{do}: done; risk is {answer['risk']}", highlight=False, soft_wrap=True)
    if not seconds:
        if json:
            print_json(answer)
        return
    end = time.monotonic() + seconds
    while (left := _open_positions(agent)) and time.monotonic() < end:
        time.sleep(_LOOK)
    if json:
        print_json(answer | {"flat": not left, "open": left})
    elif not left:
        out.print("all positions are closed", highlight=False)
    if left:
        what = ", ".join(f"{qty} {symbol}" for symbol, qty in left.items())
        raise TapewireError(
            f"not flat after {seconds:g} s: {what} still open",
            hint="the agent goes on closing; `tapewire status` shows what is left",
        )


def _open_positions(agent: _Agent) -> dict[str, str]:
    """What the agent is to close and has not closed yet, quantities by symbol."""
    status = agent.ask("status")
    closing = status["flattening"]
    return {one["symbol"]: str(one["qty"]) for one in status["positions"] if one["symbol"] in closing}


def _tell(agent: _Agent, json: bool, do: str, **args: str) -> None:
    _show(agent.ask(do, args), json, do)


def _show(answer: dict[str, Any], json: bool, do: str) -> None:
    if json:
        print_json(answer)
    elif "emergency" in answer:
        import msgspec

        from agent.live.emergency_close import EmergencyReport

        report = msgspec.convert(answer["emergency"], EmergencyReport)
        why = f" without the agent, since {answer['why']}; {answer['file']}" if "why" in answer else ""
        out.print(f"{do}: {report.sentence()}{why}", highlight=False, markup=False, soft_wrap=True)
    else:
        model = f"; model {answer['model'][:12]} of {answer['folder']} scores" if "model" in answer else ""
        out.print(f"{do}: done; risk is {answer['risk']}{model}", highlight=False, soft_wrap=True)
