"""Fuzzing of every reader of files: mutations, targets, and the probe that watches one input."""
