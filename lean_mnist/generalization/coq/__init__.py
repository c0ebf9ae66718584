"""Certificates as Coq files: the errors of a quantised network on a test split, counted and bounded by a theorem."""
