"""The live agent: producers, one queue, the journal, and the same engine as in replay."""
