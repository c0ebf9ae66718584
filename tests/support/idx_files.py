"""IDX files for tests: a writer, independent of the package's reader."""

import gzip
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


def write_idx(path: str | os.PathLike[str], array: npt.NDArray[Any]) -> None:
    """Write a uint8 or int32 ``array`` as an IDX file; gzip if the name ends in ``.gz``."""
    code, dtype = {"uint8": (0x08, ">u1"), "int32": (0x0C, ">i4")}[array.dtype.name]
    content = struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape)
    content += np.ascontiguousarray(array, dtype=dtype).tobytes()
    Path(path).write_bytes(gzip.compress(content, mtime=0) if os.fspath(path).endswith(".gz") else content)
