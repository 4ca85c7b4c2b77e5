"""What the parts of the live agent know of each other: producers, observers, the agent itself and its status.

Market data, news, gateway and services import this package and never the daemon, so that none of them depends on another.
"""
