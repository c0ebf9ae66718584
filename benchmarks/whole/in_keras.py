"""MNIST in Keras on JAX: 784-128-10, SGD with momentum. Arguments: epochs, examples, seed."""

import gzip
import os
import sys

os.environ["KERAS_BACKEND"] = "jax"
import keras
import numpy as np

EPOCHS, EXAMPLES, SEED = (int(argument) for argument in sys.argv[1:])
BATCH, RATE, MOMENTUM, DECAY, SMOOTHING = 64, 0.05, 0.9, 5e-4, 0.05


def read(name, offset):
    with gzip.open(f"{os.environ['LEAN_MNIST_DATA']}/MNIST/raw/{name}.gz") as file:
        return np.frombuffer(file.read(), np.uint8, offset=offset)


def load(part, examples):
    images = read(f"{part}-images-idx3-ubyte", 16).reshape(-1, 784)[:examples]
    return (images.astype(np.float32) / 255 - 0.1307) / 0.3081, read(f"{part}-labels-idx1-ubyte", 8)[:examples]


keras.utils.set_random_seed(SEED)
x, y = load("train", EXAMPLES)
model = keras.Sequential([keras.Input((784,)), keras.layers.Dense(128, "relu"), keras.layers.Dense(10)])
steps = EPOCHS * -(-len(x) // BATCH)
warm = int(0.3 * steps)
schedule = keras.optimizers.schedules.CosineDecay(RATE / 25, steps - warm, warmup_target=RATE, warmup_steps=warm)
optimizer = keras.optimizers.SGD(schedule, MOMENTUM, nesterov=True, weight_decay=DECAY / (1 - MOMENTUM))  # decoupled
model.compile(optimizer, keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=SMOOTHING))
model.fit(x, keras.utils.to_categorical(y, 10), BATCH, EPOCHS, verbose=0)
x, y = load("t10k", None)
print(f"test accuracy {(model.predict(x, 1000, verbose=0).argmax(1) == y).mean():.2%}")
