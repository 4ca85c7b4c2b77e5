"""The strategy interface under its former name, for strategies of earlier versions; new ones import `tapewire`."""

from agent.core.strategy import *  # noqa: F403
from agent.core.strategy import Strategy as Strategy
from agent.core.strategy import StrategyParams as StrategyParams
