"""Fuzzing: readers of untrusted input may reject corrupted input only with their documented errors."""
