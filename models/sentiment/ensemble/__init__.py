"""Several sentiment models pooled to one score. `tapewire train ensemble` fits the weights."""

from models.sentiment.ensemble.ensemble_scorer import EnsembleScorer, load_ensemble

__all__ = ["EnsembleScorer", "load_ensemble"]
