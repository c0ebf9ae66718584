"""One number of a gradient: by the chain rule, by a central difference, and by PyTorch's own layers."""

import torch

from lean_mnist import MLP, load_dataset

data = load_dataset("digits")
x, y = data.train.images[:32].flatten(1).double() / data.maximum, data.train.labels[:32]
network = MLP((64, 16, 10), activation="tanh", seed=0, dtype=torch.float64)
(weight, bias), (last, last_bias) = network.parameter_pairs()

network.loss(x, y).backward()
gradient = weight.grad
assert gradient is not None
row, column = divmod(int(gradient.abs().argmax()), weight.shape[1])
by_hand = gradient[row, column].item()

step = 1e-5
losses = []
with torch.no_grad():
    for moved in (step, -2 * step, step):  # to one side, to the other, and back
        weight[row, column] += moved
        losses.append(network.loss(x, y).item())
difference = (losses[0] - losses[1]) / (2 * step)

plain = torch.nn.functional.linear(torch.tanh(torch.nn.functional.linear(x, weight, bias)), last, last_bias)
(other,) = torch.autograd.grad(torch.nn.functional.cross_entropy(plain, y), [weight])
print(f"d loss / d weight[{row}, {column}], the largest of {weight.numel():,}:")
print(f"  by the chain rule     {by_hand:+.12f}")
print(f"  central difference    {difference:+.12f}")
print(f"  by PyTorch's autograd {other[row, column].item():+.12f}")
