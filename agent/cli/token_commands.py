"""`tapewire token`: tokens of programs that use the REST API."""

from __future__ import annotations

from typing import Annotated

import typer

from agent.cli.command_options import ConfigFile, Json, parse_span
from agent.cli.console import print_columns, print_json, print_text
from agent.cli.typer_setup import option
from agent.config import load
from agent.core.errors import UsageError
from agent.system.fitted_table import Column

_Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the program that uses the token.")]


def register(app: typer.Typer) -> None:
    """Add the group `token`."""
    group = typer.Typer(help="Tokens of programs that use the REST API.", no_args_is_help=True)
    group.command("add")(add)
    group.command("list")(list_tokens)
    group.command("revoke")(revoke)
    app.add_typer(group, name="token")


def add(
    name: _Name,
    scopes: Annotated[
        list[str], option("--scope", "read, research or command; may be repeated.", "SCOPE", default="none")
    ],
    expires: Annotated[
        str, option("--expires", "How long the token is valid, such as 90d.", "DURATION", default="for ever")
    ] = "",
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Add a token and print it, once: only its hash is kept. Commands also need api.commands = true.

    A running agent accepts it at once.
    """
    from agent.api.api_messages import Scope
    from agent.api.api_tokens import TokenRegistry
    from agent.system.clock import WallClock

    known = [one.value for one in Scope]
    for scope in scopes:
        if scope not in known:
            raise UsageError(f"--scope {scope}: there is no such scope", hint=f"one of {', '.join(known)}")
    settled, now = load(config), WallClock().now()
    expires_at = now + parse_span(expires, "--expires") if expires else None
    registry = TokenRegistry(settled.api_token_file())
    token = registry.add(name, [Scope(one) for one in scopes], now, expires_at)
    if json:
        print_json({"name": name, "token": token, "scopes": scopes, "expires_at": expires_at})
    else:
        print_text(token)
        print_text(f"its hash is in {registry.path}; the token itself can't be shown again")


def list_tokens(config: ConfigFile = None, json: Json = False) -> None:
    """List the tokens with their scopes."""
    from agent.api.api_tokens import TokenRegistry
    from agent.system.clock import iso

    tokens = TokenRegistry(load(config).api_token_file()).read()
    if json:
        rows = [
            {
                "name": one.name,
                "scopes": one.scopes,
                "created_at": one.created_at,
                "expires_at": one.expires_at,
            }
            for one in tokens
        ]
        print_json({"tokens": rows})
        return
    if not tokens:
        print_text("there is no token: tapewire token add makes one")
        return
    listed = [
        (
            one.name,
            ", ".join(scope.value for scope in one.scopes),
            iso(one.created_at),
            iso(one.expires_at) if one.expires_at is not None else "never",
        )
        for one in tokens
    ]
    print_columns([Column(title) for title in ("name", "scopes", "added", "expires")], listed)


def revoke(name: _Name, config: ConfigFile = None, json: Json = False) -> None:
    """Revoke a token, also in the running agent; its streams end within a second."""
    from agent.api.api_tokens import TokenRegistry

    TokenRegistry(load(config).api_token_file()).revoke(name)
    if json:
        print_json({"revoked": name})
    else:
        print_text(f"{name}: revoked")
