"""The two parts of a training split: for learning a prior, and for the bound."""

from __future__ import annotations

import hashlib

import torch

from lean_mnist.data.datasets import Split
from lean_mnist.errors import ConfigError


def cut(split: Split, prior_examples: int, seed: int) -> tuple[Split, Split]:
    """Cut a training split into ``(prior part, bound part)``, disjoint, each in the order of the file.

    The examples are ranked by the SHA-256 of the text ``"{seed}:{index}"``, which needs no library to be repeated; the
    first ``prior_examples`` of them make the prior's part. Raises ``ConfigError`` unless both parts hold something or
    the prior's is empty.
    """
    examples, size = len(split), prior_examples
    if not 0 <= prior_examples < examples:
        raise ConfigError(f"prior-examples: expected from 0 to {examples - 1}, found {prior_examples}")
    ranked = sorted(range(examples), key=lambda index: hashlib.sha256(f"{seed}:{index}".encode()).digest())
    first, second = (
        Split(split.images[index], split.labels[index])
        for index in (torch.tensor(sorted(part), dtype=torch.int64) for part in (ranked[:size], ranked[size:]))
    )
    return first, second
