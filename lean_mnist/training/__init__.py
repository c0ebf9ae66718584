"""Training: configuration, the loop, its hooks, what they record and where it is drawn, and checkpoints."""
