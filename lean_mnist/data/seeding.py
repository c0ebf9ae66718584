"""One random generator per purpose, each a pure function of the run's seed."""

import hashlib

import torch


def generator_for(seed: int, purpose: str, index: int = 0) -> torch.Generator:
    """A CPU generator determined by ``(seed, purpose, index)`` and by nothing else.

    Hashing keeps purposes apart: the validation split of seed 1 shares no stream with epoch 1 of seed 0, and nothing
    depends on how many random numbers were drawn before. ``seed`` may be any integer.
    """
    digest = hashlib.blake2b(f"{purpose}:{seed}:{index}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))
