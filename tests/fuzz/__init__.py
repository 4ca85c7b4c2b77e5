"""Everything that strangers send, damaged: what reads it may refuse it, in the words of its own errors, and nothing else."""
