"""kill -9 at random moments, many times a run: `python -m tests.crash --kills 300 --seed 1`."""
