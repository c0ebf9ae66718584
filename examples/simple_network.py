"""A network of one hidden layer, trained by its hand-written gradients, in a loop of your own."""

import torch

from lean_mnist import MLP, load_dataset

data = load_dataset("digits")  # 8 x 8 pixels from 0 to 16
train, test = ((split.images.flatten(1) / data.maximum, split.labels) for split in (data.train, data.test))
network = MLP((64, 32, 10), activation="relu", seed=0)
optimizer = torch.optim.SGD(network.parameters(), lr=0.5, momentum=0.9)

for _ in range(100):
    loss = network.loss(*train)  # one node of PyTorch's graph, whose backward is the chain rule, written out
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

images, labels = test
accuracy = (network(images).argmax(1) == labels).double().mean().item()
print(f"loss {loss.item():.4f}, {accuracy:.1%} of {len(labels)} test images are read right")
