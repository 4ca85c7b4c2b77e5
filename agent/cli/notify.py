"""`tapewire notify test`: are the addresses right?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agent.cli.console import out, print_json
from agent.core.errors import ConfigError, VenueError


def register(app: typer.Typer) -> None:
    """Adds the group."""
    group = typer.Typer(help="Notifications.", no_args_is_help=True)
    group.callback()(_group)  # one verb in it, and it is named
    group.command("test")(send_test)
    app.add_typer(group, name="notify")


def _group() -> None:
    """Notifications."""


def send_test(
    config: Annotated[Path | None, typer.Option("--config", "-c", help="Configuration file.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Send a line to every address, and say which of them took it; exit code 1 where one did not."""
    from agent.config import load
    from agent.live.services.notifications.apprise_sender import AppriseSender
    from agent.live.services.notifications.batcher import Notification
    from agent.live.services.notifications.notification_urls import URLS, notify_urls

    settled = load(config).notify
    urls = notify_urls(settled)
    if not urls:
        raise ConfigError("no address is configured", hint=f"set {URLS}, or notify.urls_file of mode 0600")
    courier = AppriseSender(urls, settled.timeout / 1000)
    done = courier.deliver(
        Notification("Tapewire: a test", "Notifications of this agent arrive here.", urgent=False)
    )
    courier.close()
    if json:
        print_json({one.service: one.delivered for one in done})
    else:
        for one in done:
            out.print(
                f"{one.service}: {'delivered' if one.delivered else '[red]not delivered[/]'}", highlight=False
            )
    if failed := [one.service for one in done if not one.delivered]:
        raise VenueError(
            f"not delivered: {', '.join(failed)}", hint="is the address right, and the service reachable?"
        )
