"""Kills the agent with SIGKILL many times per run: `python -m tests.crash --kills 300 --seed 1`."""
