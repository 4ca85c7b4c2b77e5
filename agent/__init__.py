"""Tapewire's agent: the deterministic core and the asynchronous rim around it (see docs/architecture.md)."""

__version__ = "0.1.0"
