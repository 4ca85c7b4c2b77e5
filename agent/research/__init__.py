"""Walk-forward tests, parameter search and honesty checks, all by replays of the engine that trades."""
