"""Former module of the strategy interface, kept for existing strategies; new ones import `tapewire`."""

from agent.core.strategy import *  # noqa: F403
from agent.core.strategy import Strategy as Strategy
from agent.core.strategy import StrategyParams as StrategyParams
