"""MNIST in JAX: 784-128-10, SGD with momentum, all epochs in one compiled scan. Arguments: epochs, examples, seed."""

import gzip
import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

EPOCHS, EXAMPLES, SEED = (int(argument) for argument in sys.argv[1:])
BATCH, RATE, MOMENTUM, DECAY, SMOOTHING = 64, 0.05, 0.9, 5e-4, 0.05


def read(name, offset):
    with gzip.open(f"{os.environ['LEAN_MNIST_DATA']}/MNIST/raw/{name}.gz") as file:
        return np.frombuffer(file.read(), np.uint8, offset=offset)


def load(part, examples):
    images = read(f"{part}-images-idx3-ubyte", 16).reshape(-1, 784)[:examples]
    return (images.astype(np.float32) / 255 - 0.1307) / 0.3081, read(f"{part}-labels-idx1-ubyte", 8)[:examples]


def predict(w, x):
    return jax.nn.relu(x @ w["w1"] + w["b1"]) @ w["w2"] + w["b2"]


def loss(w, x, y):
    targets = optax.smooth_labels(jax.nn.one_hot(y, 10), SMOOTHING)
    return optax.softmax_cross_entropy(predict(w, x), targets).mean()


@jax.jit
def train(x, y, key):
    steps = len(x) // BATCH
    schedule = optax.cosine_onecycle_schedule(EPOCHS * steps, RATE)
    optimizer = optax.chain(optax.add_decayed_weights(DECAY), optax.sgd(schedule, MOMENTUM, nesterov=True))

    def step(carry, chosen):
        w, state = carry
        updates, state = optimizer.update(jax.grad(loss)(w, x[chosen], y[chosen]), state, w)
        return (optax.apply_updates(w, updates), state), None

    def epoch(carry, key):
        order = jax.random.permutation(key, len(x))[: steps * BATCH].reshape(steps, BATCH)
        return jax.lax.scan(step, carry, order)[0], None

    first, second, order = jax.random.split(key, 3)
    w1 = jax.random.normal(first, (784, 128)) * (2 / 784) ** 0.5
    w2 = jax.random.normal(second, (128, 10)) * (2 / 128) ** 0.5
    w = {"w1": w1, "b1": jnp.zeros(128), "w2": w2, "b2": jnp.zeros(10)}
    return jax.lax.scan(epoch, (w, optimizer.init(w)), jax.random.split(order, EPOCHS))[0][0]


w = train(*load("train", EXAMPLES), jax.random.key(SEED))
x, y = load("t10k", None)
print(f"test accuracy {(jax.jit(predict)(w, x).argmax(1) == y).mean():.2%}")
