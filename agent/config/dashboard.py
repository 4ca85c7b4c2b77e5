"""The configuration of the page on which the agent is seen and steered."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from agent.system.listener_config import ListenerConfig, Networks


def _base_path(value: str) -> str:
    if value and not re.fullmatch(r"(/[\w.~-]+)+", value, re.ASCII):
        raise ValueError(f"{value!r} is no path of an address: write e.g. /tapewire")
    return value


class DashboardConfig(ListenerConfig):
    """Where the page is served, and who may see it."""

    enabled: bool = True
    host: str = "127.0.0.1"
    port: int = Field(8610, ge=0, le=65_535)  # 0: any free one; where it is taken, one of the next is
    login: Literal["always", "never"] = "always"  # never: no login on loopback, for anybody who can connect
    token_file: Path | None = None  # made at the first start, mode 0600; None: dashboard.token in live.folder
    # names, beside addresses and localhost, by which browsers may call the page
    allowed_hosts: tuple[str, ...] = ()
    trusted_proxies: Networks = ()  # whose X-Forwarded-For, -Proto, -Host and -Prefix are believed
    # served below this path too, for proxies that don't strip it
    base_path: Annotated[str, AfterValidator(_base_path)] = ""
    session: int = Field(43_200, gt=0)  # seconds after which a browser has to log in again
    attempts: int = Field(10, gt=0)  # wrong tokens a minute of one client; a right one is always taken
    browsers: int = Field(20, gt=0)  # pages that may look on at once
    bars: int = Field(300, gt=0, le=5_000)  # of each symbol
