"""Comparison of two recorded runs: settings, metrics, paired returns, round trips and decisions."""
