"""Network, and memory of batches, as a configuration asks for them."""

import itertools
from typing import Any

import torch

from lean_mnist.data.augmentation import Augmentation
from lean_mnist.data.batches import BatchRing, HotBatch
from lean_mnist.errors import ConfigError
from lean_mnist.nn import MLP
from lean_mnist.nn.engine.library import CannotCompile
from lean_mnist.nn.engine.native import load_kernels
from lean_mnist.nn.quantized import network_of
from lean_mnist.nn.step import RING_DEPTH
from lean_mnist.training.config import Config

# Dtype of the parameters that the optimizer moves, and of the steps' arithmetic.
MASTER_DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.float32}
STEP_DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}


def build_model(config: Config, features: int, classes: int) -> MLP:
    """The network of a configuration, with its initial weights."""
    form: dict[str, Any] = {"sizes": (features, *config.hidden, classes), "activation": config.activation}
    return network_of(
        form if config.quantize is None else {**form, "bits": config.quantize},
        bias=config.bias,
        initialization=config.initialization,
        scale=config.init_scale,
        seed=config.seed,
        dtype=MASTER_DTYPES[config.precision],
        label_smoothing=config.label_smoothing,
        logit_penalty=config.logit_penalty,
    ).to(config.device)


def build_augmentation(config: Config) -> Augmentation | None:
    """Augmentation that a configuration asks for; ``None`` if it asks for none."""
    if config.augment == "none":
        return None
    return Augmentation(
        shift=config.augment_shift,
        rotation=config.augment_rotation,
        scale=config.augment_scale,
        elastic=config.augment_elastic if config.augment == "elastic" else 0.0,
        smoothness=config.augment_smoothness,
    )


SMALL = 32 << 20  # products of a step's forward; below, PyTorch's threads wait for each other longer than they compute


def batch_memory(config: Config, examples: int, features: int) -> tuple[BatchRing | HotBatch | None, str]:
    """Memory of the engine's batches, ``None`` for steps taken as they are written, and why for want of a compiler.

    Several batches a step are taken as written, and a quantised network, which finds the grid of its weights in NumPy.
    Raises ``ConfigError`` where ``--engine native`` cannot be had.
    """
    reason = missing = ""
    if config.engine == "eager":
        return None, ""
    if config.accumulate > 1:
        reason = "--accumulate takes several batches a step"
    elif config.quantize is not None:
        reason = "a quantised network is computed by PyTorch"
    elif config.engine == "auto" and config.device == "cuda":
        return BatchRing(RING_DEPTH + 1), ""
    elif config.device == "cuda" or config.precision != "float32":
        reason = f"kernels in C are for float32 on a CPU, not for {config.precision} on {config.device}"
    else:
        try:
            load_kernels()
        except CannotCompile as error:
            reason = missing = str(error)
    if not reason:
        return HotBatch(min(config.batch_size, examples), features), ""
    if config.engine == "native":
        raise ConfigError(f"--engine native: {reason}")
    return None, missing


def pytorch_threads(config: Config, sizes: tuple[int, ...]) -> int | None:
    """Threads of PyTorch on a CPU: those asked for; one for small networks; ``None``: as many as it has."""
    products = config.batch_size * sum(before * after for before, after in itertools.pairwise(sizes))
    return config.threads or (1 if products < SMALL else None)
