"""MNIST in Lightning: 784-128-10, SGD with momentum, batches from memory. Arguments: epochs, examples, seed."""

import gzip
import os
import sys

import lightning
import numpy as np
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

EPOCHS, EXAMPLES, SEED = (int(argument) for argument in sys.argv[1:])
BATCH, RATE, MOMENTUM, DECAY, SMOOTHING = 64, 0.05, 0.9, 5e-4, 0.05


def read(name, offset):
    with gzip.open(f"{os.environ['LEAN_MNIST_DATA']}/MNIST/raw/{name}.gz") as file:
        return torch.from_numpy(np.frombuffer(bytearray(file.read()), np.uint8, offset=offset))


def load(part, examples):
    images = read(f"{part}-images-idx3-ubyte", 16).view(-1, 784)[:examples]
    return (images.float() / 255 - 0.1307) / 0.3081, read(f"{part}-labels-idx1-ubyte", 8)[:examples].long()


class Network(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))

    def training_step(self, batch, _):
        x, y = batch
        return nn.functional.cross_entropy(self.layers(x), y, label_smoothing=SMOOTHING)

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), RATE, MOMENTUM, weight_decay=DECAY, nesterov=True, fused=True)
        steps = self.trainer.estimated_stepping_batches
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps, cycle_momentum=False)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


torch.manual_seed(SEED)
dataset = TensorDataset(*load("train", EXAMPLES))
batches = DataLoader(dataset, sampler=BatchSampler(RandomSampler(dataset), BATCH, False), batch_size=None)
network = Network()
lightning.Trainer(max_epochs=EPOCHS, accelerator="cpu", barebones=True).fit(network, batches)
x, y = load("t10k", None)
with torch.no_grad():
    print(f"test accuracy {(network.layers(x).argmax(1) == y).float().mean():.2%}")
