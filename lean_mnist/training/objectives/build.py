"""Network, batches and capture as a configuration asks for them."""

from typing import Any

import torch

from lean_mnist.data.augmentation import Augmentation
from lean_mnist.nn import MLP
from lean_mnist.nn.capture.engine import ChunkCapture
from lean_mnist.nn.capture.kernels import CudaGraph
from lean_mnist.nn.quantized import network_of
from lean_mnist.training.config import Config
from lean_mnist.training.distributed import World

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


def captures_steps(config: Config) -> bool:
    """True if steps are captured: those of one batch, whose kernels are the same every time.

    A quantised network's are not: it finds the grid of its weights in NumPy.
    """
    return config.replay and config.accumulate == 1 and config.quantize is None


def chunk_capture(config: Config, world: World) -> ChunkCapture | None:
    """The capture of several steps with their updates: a graph, on one CUDA device, with our ``SGD``.

    Not in float64, as a learning rate on the device is a float32 there.
    """
    suited = config.device == "cuda" and config.optimizer == "sgd" and config.precision != "float64"
    return CudaGraph if captures_steps(config) and suited and world.size == 1 else None
