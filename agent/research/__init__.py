"""Evidence: walk-forward judgement, parameter search in sample, and checks of honesty, all by the engine that trades."""
