"""The live rim: producers, one queue, the journal, and the same core as in replay."""
