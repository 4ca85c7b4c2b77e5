"""A loopback exchange that speaks Bybit v5: real clients trade on it, matched by the core's own paper exchange."""

from agent.sandbox.app import Sandbox
from agent.sandbox.options import SandboxOptions

__all__ = ["Sandbox", "SandboxOptions"]
