"""Interfaces between the parts of the live agent: producers, observers, the agent and its status.

Market data, news, gateway and services import this package and never the daemon, so that none of them depends
on another.
"""
