"""Hooks: look at every step between the backward pass and the update, and make records of it."""
