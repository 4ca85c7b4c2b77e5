"""The configuration of the page on which the agent is seen and steered."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from agent.section import Section


class DashboardConfig(Section):
    """Where the page is served. Anything but this machine's own address needs the token of `token_file`."""

    enabled: bool = True
    host: str = "127.0.0.1"
    port: int = Field(8610, ge=0, le=65_535)  # 0: any free one; where it is taken, one of the next is
    token_file: Path = Path("var/dashboard.token")  # made at the first start on another host, mode 0600
    allowed_hosts: tuple[str, ...] = ()  # names, beside addresses and localhost, by which browsers may call the page
    session: int = Field(43_200, gt=0)  # seconds after which a browser has to log in again
    attempts: int = Field(10, gt=0)  # wrong tokens a minute that an address may try
    browsers: int = Field(20, gt=0)  # pages that may look on at once
    bars: int = Field(300, gt=0, le=5_000)  # of each symbol
