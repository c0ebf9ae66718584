"""The reader of the text files of MLCERT's perceptron experiments."""

from __future__ import annotations

import math
import struct
from fractions import Fraction
from pathlib import Path

import numpy as np

from lean_mnist.errors import DataError
from lean_mnist.generalization.learners.base import Examples
from lean_mnist.generalization.reading import read_bytes

_WHAT = "lines index,x1,..,xn,True|False"


def read_examples(path: str | Path) -> Examples:
    """The examples of a file of lines ``index,x_1,…,x_n,True|False``, the index counting down to 0.

    Each number is the float32 nearest to the decimal that is written, not to the float64 nearest to it. Raises
    ``DataError``, naming file and line, for anything else.
    """
    try:
        lines = read_bytes(path, _WHAT).decode("ascii").splitlines()
    except UnicodeDecodeError:
        raise DataError(f"{path}: cannot be read (not a text file), expected {_WHAT}") from None
    if not lines:
        raise DataError(f"{path}: empty, expected {_WHAT}")
    rows, labels, features = [], [], lines[0].count(",") - 1
    for number, line in enumerate(lines, 1):
        index, *fields = line.split(",")
        where = f"{path}, line {number}"
        if index != str(len(lines) - number):
            raise DataError(f"{where}: index {index!r}, expected {len(lines) - number}, counting down to 0")
        if len(fields) != features + 1 or features < 1:
            raise DataError(f"{where}: {len(fields)} fields after the index, expected {max(features, 1) + 1}")
        if fields[-1] not in ("True", "False"):
            raise DataError(f"{where}: label {fields[-1]!r}, expected True or False")
        rows.append([_nearest_float32(field, where) for field in fields[:-1]])
        labels.append(fields[-1] == "True")
    return Examples(np.array(rows, np.float32), np.array(labels))


def _nearest_float32(text: str, where: str) -> np.float32:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) <= 3.4e38:
        raise DataError(f"{where}: {text!r}, expected a finite number")
    near = np.float32(value)
    # Rounding twice goes wrong only where the float64 lies exactly between two float32: then the decimal decides.
    if struct.unpack("<Q", struct.pack("<d", value))[0] & 0x1FFFFFFF == 0x10000000:
        exact, around = Fraction(text), [np.nextafter(near, np.float32(end)) for end in (-math.inf, math.inf)]
        near = min((near, *around), key=lambda end: (abs(Fraction(float(end)) - exact), int(end.view(np.uint32)) & 1))
    return near
