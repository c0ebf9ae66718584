"""A network as a vector, as a file, and back: bit for bit."""

import tempfile
from pathlib import Path

import torch

from lean_mnist import MLP
from lean_mnist.nn import FlatParameters

network = MLP((784, 128, 10), seed=1)
flat = FlatParameters(network)  # from here on the parameters are views of one vector
print(f"{flat.vector.numel():,} numbers; the first layer's weights are the first {network.layers[0].weight.numel():,}")

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder, "network.pt")
    torch.save({"architecture": network.architecture, "model": network.state_dict()}, path)
    saved = torch.load(path)  # plain values and tensors: nothing in the file is run

again = MLP(**saved["architecture"])
again.load_state_dict(saved["model"])
same = torch.equal(FlatParameters(again).vector, flat.vector)
print(f"read back: {'the same, bit for bit' if same else 'different'}")
