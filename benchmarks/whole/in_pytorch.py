"""MNIST in PyTorch: 784-128-10, SGD with momentum, tensors in memory. Arguments: epochs, examples, seed."""

import gzip
import os
import sys

import numpy as np
import torch
from torch import nn

EPOCHS, EXAMPLES, SEED = (int(argument) for argument in sys.argv[1:])
BATCH, RATE, MOMENTUM, DECAY, SMOOTHING = 64, 0.05, 0.9, 5e-4, 0.05


def read(name, offset):
    with gzip.open(f"{os.environ['LEAN_MNIST_DATA']}/MNIST/raw/{name}.gz") as file:
        return torch.from_numpy(np.frombuffer(bytearray(file.read()), np.uint8, offset=offset))


def load(part, examples):
    images = read(f"{part}-images-idx3-ubyte", 16).view(-1, 784)[:examples]
    return (images.float() / 255 - 0.1307) / 0.3081, read(f"{part}-labels-idx1-ubyte", 8)[:examples].long()


torch.manual_seed(SEED)
x, y = load("train", EXAMPLES)
model = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))
optimizer = torch.optim.SGD(model.parameters(), RATE, MOMENTUM, weight_decay=DECAY, nesterov=True, fused=True)
steps = EPOCHS * -(-len(x) // BATCH)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps, cycle_momentum=False)
for _ in range(EPOCHS):
    for chosen in torch.randperm(len(x)).split(BATCH):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[chosen]), y[chosen], label_smoothing=SMOOTHING).backward()
        optimizer.step()
        schedule.step()

x, y = load("t10k", None)
with torch.no_grad():
    print(f"test accuracy {(model(x).argmax(1) == y).float().mean():.2%}")
