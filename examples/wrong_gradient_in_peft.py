"""A wrong gradient in code that many use: ``HadaWeightCP`` of peft 0.21.2, which trains LoHa adapters of convolutions.

    pip install peft==0.21.2
    python examples/wrong_gradient_in_peft.py

The weight's change is a product of two tensors of low rank, each of three factors. Central differences of its own
forward show that its backward gives the first matrix of each, ``w1a`` and ``w2a``, a gradient made of the other one.
"""

import torch
from peft.tuners.loha.layer import HadaWeightCP

from lean_mnist.crosscheck import check_function

NAMES = ["t1", "w1a", "w1b", "t2", "w2a", "w2b"]
SHAPES = [(4, 4, 3, 3), (4, 8), (4, 6)] * 2


def main() -> None:
    """Print each factor's slope by differences beside the one that the backward gives, then the report."""
    generator = torch.Generator().manual_seed(0)
    factors = [torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in SHAPES]
    output = HadaWeightCP.apply(*factors)
    upstream = torch.randn(output.shape, generator=generator, dtype=torch.float64)
    gradients = torch.autograd.grad(output, factors, upstream)

    print("slope along a random direction   by differences   by its backward")
    step = 1e-6
    for index, (name, factor, gradient) in enumerate(zip(NAMES, factors, gradients, strict=True)):
        direction = torch.randn(factor.shape, generator=generator, dtype=torch.float64)
        above, below = list(factors), list(factors)
        above[index], below[index] = factor + step * direction, factor - step * direction
        difference = (HadaWeightCP.apply(*above) - HadaWeightCP.apply(*below)) / (2 * step)
        expected, found = (upstream * difference).sum().item(), (gradient * direction).sum().item()
        wrong = "" if abs(expected - found) < 1e-4 * abs(expected) else "   wrong"
        print(f"{name:30} {expected:16.3f} {found:17.3f}{wrong}")

    print()
    print(check_function(HadaWeightCP.apply, None, factors, names=NAMES, seed=0, fast=True))


if __name__ == "__main__":
    main()
