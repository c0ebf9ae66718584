"""Data: strict IDX files, named data sets and own ones, splits, normalisation and in-memory batches.

Import from the modules (``lean_mnist.data.datasets``, ``.splits``, ...). This file imports nothing, so that a command
line can read :mod:`lean_mnist.data.names` without loading PyTorch.
"""
