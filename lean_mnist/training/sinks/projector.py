"""Files of TensorBoard's *Projector*, which reads no events: configuration, vectors, labels, pictures."""

import math
from pathlib import Path

import numpy as np

from lean_mnist.files import png, write_atomically
from lean_mnist.training.sinks.records import Embedding, Points

CONFIG = "projector_config.pbtxt"


def write(folder: Path, record: Embedding) -> None:
    """Write them into ``folder``, which is that of the events."""
    points: Points = record.value
    _, rows, columns = points.sprites.shape
    line = "\t".join(["%.5g"] * points.vectors.shape[1]) + "\n"
    labels = ["\t".join(points.labels), *map("\t".join, zip(*points.labels.values(), strict=True))]
    files = {
        "projector_vectors.tsv": "".join([line % tuple(vector) for vector in points.vectors.tolist()]).encode(),
        "projector_labels.tsv": ("\n".join(labels) + "\n").encode(),
        "projector_sprites.png": png(_sheet(points.sprites)),
        CONFIG: f"""embeddings {{
  tensor_name: "{record.name}"
  tensor_path: "projector_vectors.tsv"
  metadata_path: "projector_labels.tsv"
  sprite {{ image_path: "projector_sprites.png" single_image_dim: {columns} single_image_dim: {rows} }}
}}
""".encode(),
    }
    for name, content in files.items():
        write_atomically(folder / name, content)


def _sheet(sprites: np.ndarray) -> np.ndarray:
    """All sprites ``(n, rows, columns)`` row by row in one square picture, as the page expects them."""
    count, rows, columns = sprites.shape
    side = math.ceil(math.sqrt(count))
    sheet = np.full((side * side, rows, columns), 255, dtype=np.uint8)
    sheet[:count] = sprites
    return sheet.reshape(side, side, rows, columns).swapaxes(1, 2).reshape(side * rows, side * columns)
