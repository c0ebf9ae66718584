"""Network, batches and capture as a configuration asks for them."""

from __future__ import annotations

from typing import Any

import torch

from lean_mnist.data.augmentation import Augmentation
from lean_mnist.nn import MLP
from lean_mnist.nn.capture.cuda_graph import CudaGraph
from lean_mnist.nn.quantized import network_of
from lean_mnist.training.bursts import Capture
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
    """How a configuration deforms the images it trains on; ``None`` if it does not."""
    if config.augment == "none":
        return None
    return Augmentation(
        shift=config.augment_shift,
        rotation=config.augment_rotation,
        scale=config.augment_scale,
        elastic=config.augment_elastic if config.augment == "elastic" else 0.0,
        smoothness=config.augment_smoothness,
    )


def capture_for(config: Config, world: World) -> Capture | None:
    """How several steps become one graph: on one CUDA device, where their kernels are always the same.

    Not in float64, as a learning rate on the device is a float32 there.
    """
    same = config.replay and config.accumulate == 1 and config.optimizer == "sgd" and config.quantize is None
    suited = config.device == "cuda" and config.precision != "float64" and world.size == 1
    return CudaGraph if same and suited else None
