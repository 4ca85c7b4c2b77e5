"""The REST API under /api/v1: its routes, messages and tokens. `agent.dashboard.server` serves it."""
