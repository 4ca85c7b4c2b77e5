"""Bybit v5 exchange on loopback: real clients can trade on it, and the core's paper exchange matches."""

from agent.sandbox.loopback_server import Sandbox
from agent.sandbox.sandbox_options import SandboxOptions

__all__ = ["Sandbox", "SandboxOptions"]
