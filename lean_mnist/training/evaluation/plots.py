"""Pictures of a checkpoint as PNG files, for ``python -m lean_mnist.evaluate --plots FOLDER``."""

from __future__ import annotations

import io
from pathlib import Path

from lean_mnist.data.datasets import Dataset, Split
from lean_mnist.errors import ConfigError
from lean_mnist.figures import Picture
from lean_mnist.files import write_atomically
from lean_mnist.generalization.certificates.document import DEFAULT_DELTAS
from lean_mnist.generalization.pictures import risk_by_bits, risk_by_delta, risk_by_examples
from lean_mnist.generalization.quantize import quantized_network
from lean_mnist.nn import MLP
from lean_mnist.nn.quantized import QuantizedMLP
from lean_mnist.training.checkpoints import Checkpoint
from lean_mnist.training.evaluation.metrics import Evaluation, evaluate
from lean_mnist.training.evaluation.pictures import (
    first_layer_weights,
    misread_digits,
    reliability_diagram,
    risk_coverage_curve,
)


def write_plots(
    folder: str, checkpoint: Checkpoint, dataset: Dataset, split: Split, found: Evaluation, learned: Split | None
) -> list[Path]:
    """Draw the evaluation ``found`` of ``split`` into ``folder``, which is made if need be; returns the files.

    ``learned``: the examples that the network learned from, where they are known; for the bound by bits. Raises
    ``ConfigError`` where the folder cannot be made or matplotlib is missing.
    """
    delta = DEFAULT_DELTAS[0]
    pictures: dict[str, Picture | None] = {
        "reliability": reliability_diagram(found),
        "risk-by-coverage": risk_coverage_curve(found),
        "misread": misread_digits(split, found, dataset.maximum),
        "first-layer-weights": first_layer_weights(checkpoint.model, dataset.image_shape),
    }
    if split is dataset.test:  # a holdout; the others taught or selected
        pictures["bound-by-examples"] = risk_by_examples(found.errors, found.examples, delta)
        pictures["bound-by-delta"] = risk_by_delta(found.errors, found.examples, DEFAULT_DELTAS)
    if learned is not None:
        seen = evaluate(checkpoint.model, learned, checkpoint.normalization)
        bits = _bits(checkpoint.model)
        pictures["bound-by-bits"] = risk_by_bits(seen.errors, seen.examples, delta, bits)
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--plots {folder}: expected a folder that can be written, found: {error.strerror}") from None
    return [_write(Path(folder) / f"{name}.png", picture) for name, picture in pictures.items() if picture is not None]


def _bits(model: MLP) -> int:
    """Bits that write the network down, in the precision it has or as a quantised network."""
    if isinstance(model, QuantizedMLP):
        return quantized_network(model).space.size_in_bits
    return sum(8 * tensor.element_size() * tensor.numel() for tensor in model.parameters())


def _write(path: Path, picture: Picture) -> Path:
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(picture).save(content, "png")
    write_atomically(path, content.getvalue())
    return path
