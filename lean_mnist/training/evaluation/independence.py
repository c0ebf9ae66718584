"""Measurement of clusters: whether the errors of consecutive images come together, as independent draws' would not.

Certificates assume that examples are independent draws. Where one writer wrote several images in a row, their errors
come together, and a count says less than of so many independent ones. Errors are counted in blocks of n consecutive
images; under independence every order of the images is equally probable, which a permutation test asks for.
"""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from lean_mnist.generalization.bounds import beta_quantile

BLOCK = 100  # images
PERMUTATIONS = 4_999
_LEAST_BLOCKS = 10
_DELTA = 0.035


@dataclass(frozen=True)
class Independence:
    """Errors in blocks of consecutive images against those of independent ones; nothing of it is certified."""

    block: int
    blocks: int
    halves: tuple[int, int]  # errors in the first half of the blocks and in the second
    variance_ratio: float  # of the counts of errors in the blocks: their variance by that of a binomial one
    p_value: float  # of so large a variance, if every order of the images is equally probable
    correlation: float  # between the errors of two images of one block
    effective_examples: float  # independent images that would say as much: m / (1 + (n − 1) correlation)
    effective_risk: float  # what Clopper–Pearson at δ = 0.035 would make of as many with this error rate

    def __str__(self) -> str:
        first, second = self.halves
        return (
            f"independence: between blocks of {self.block} consecutive images errors vary {self.variance_ratio:.2f} "
            f"times as much as those of independent ones (p = {self.p_value:.4f}, {PERMUTATIONS:,} permutations); "
            f"{first} in the first half, {second} in the second\n"
            f"  as if there were {self.effective_examples:,.0f} independent images, with which the risk would be at "
            f"most {self.effective_risk:.2%} at δ = {_DELTA:g}: a measurement, not a certificate"
        )


def independence(right_m: Tensor, seed: int = 0) -> Independence | None:
    """Measure how far errors (``right`` bool (m,), in the order of the file) come in clusters.

    ``None`` where there are too few images for ten blocks of two, or where all of them are right or all are wrong. The
    correlation is the analysis of variance's; the effective sample size is Kish's (Survey Sampling, 1965, section 5.4).
    """
    block = min(BLOCK, len(right_m) // _LEAST_BLOCKS)
    if block < 2:
        return None
    blocks = len(right_m) // block
    wrong = (~right_m[: blocks * block]).numpy().reshape(blocks, -1)
    errors, examples = int(wrong.sum()), wrong.size
    if not 0 < errors < examples:
        return None
    counts, rate = wrong.sum(1), errors / examples
    binomial = block * rate * (1 - rate)
    found = counts.var(ddof=1)
    # Blocks of a random order of the images: draws without replacement.
    permuted = np.random.default_rng(seed).multivariate_hypergeometric([block] * blocks, errors, PERMUTATIONS)
    as_large = int((permuted.var(axis=1, ddof=1) >= found * (1 - 1e-12)).sum())
    between = found / block
    within = float((counts * (1 - counts / block)).sum()) / (blocks * (block - 1))
    correlation = (between - within) / (between + (block - 1) * within)
    effective = examples / max(1.0, 1 + (block - 1) * correlation)
    halves = int(counts[: blocks // 2].sum()), int(counts[blocks // 2 :].sum())
    ratio, p_value = float(found / binomial), (1 + as_large) / (1 + PERMUTATIONS)
    risk = beta_quantile(rate * effective + 1, effective * (1 - rate), _DELTA)
    return Independence(block, blocks, halves, ratio, p_value, float(correlation), float(effective), risk)
