"""The configuration of the fusion model."""

from __future__ import annotations

from agent.core.settings import Section


class FusionConfig(Section):
    """The model that predicts from prices and what was read: a folder made by `tapewire train fusion`."""

    path: str = ""  # empty: none
