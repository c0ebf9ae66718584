"""Objectives: what a run trains, and what its steps, evaluations and end mean; begin with ``protocol``."""
