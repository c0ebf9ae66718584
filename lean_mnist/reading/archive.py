"""Files of ``torch.save``: tensors and plain values, bounded before anything is allocated, and nothing of them run.

PyTorch's own reader builds what a file announces. This one walks the pickle (:mod:`lean_mnist.reading.pickles`) and
makes each tensor of the bytes that are there, on the CPU whatever device the file names.
"""

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lean_mnist.errors import LeanMnistError
from lean_mnist.reading.files import opened
from lean_mnist.reading.pickles import Refused, walk_pickle
from lean_mnist.reading.text import printable, shown
from lean_mnist.reading.zips import ZipFile

LARGEST = (1 << 32) - 1  # bytes of a file
_LARGEST_PICKLE = 1 << 23  # bytes of what is not tensors
_MOST_VALUES = 300_000  # in a file, those that it shares counted as often as they are found
_DEEPEST = 50
_EXPANDED = 1 << 24  # bytes
_MOST_DIMENSIONS = 32
_BEFORE_1_6 = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_LARGEST_EMPTY = 1 << 20  # product of the sides of a tensor without numbers, but for those of length 0
_PLAIN = (bool, int, float, str, type(None), torch.dtype, torch.Size)
_NOTHING_RAN = "it was refused and nothing in it was run"


def read_archive(path: str | Path, what: str, error: type[LeanMnistError], *, expanded: bool = False) -> Any:
    """The content of a file of ``torch.save`` at ``path``, where ``what`` is expected, as in "a checkpoint".

    It is a nest of lists, tuples, dicts (ordered ones, too) with texts and small whole numbers as keys, ``None``,
    numbers, texts, dtypes, ``torch.Size``, and dense tensors (parameters, too), without ``requires_grad``, on the CPU.
    All tensors together have at most twice the bytes of the file; with ``expanded``, 16 MiB more, and then the numbers
    of one may be fewer than its shape says. Raises ``error``, one line, for everything else.
    """
    with opened(path, what, error) as (file, size):
        if size > LARGEST:
            raise error(f"{shown(path)}: {size:,} bytes, expected {what} of at most {LARGEST:,}")
        if file.read(len(_BEFORE_1_6)) == _BEFORE_1_6:
            found = "one of an earlier version (torch.save(torch.load(path), path) converts it)"
            expected = f"expected {what} as PyTorch 1.6 and later write it"
            raise error(f"{shown(path)}: {expected}, found {found}; {_NOTHING_RAN}")
        try:
            zip_file = ZipFile(file, size)
            structure = zip_file.read(f"{zip_file.folder}/data.pkl", _LARGEST_PICKLE)
            most = 2 * size + (_EXPANDED if expanded else 0)
            content = walk_pickle(structure, _Tensors(zip_file, most if expanded else None))
            _check_bounds(content, most)
        except _OtherObject as name:
            found = f"holds objects other than tensors and plain values ({name})"
            raise error(f"{shown(path)}: {found}; {_NOTHING_RAN}") from None
        except Refused as reason:
            if str(reason).startswith("damaged"):
                raise error(f"{shown(path)}: expected {what}, found a file that is none, or a damaged one") from None
            raise error(f"{shown(path)}: refused, {reason}; expected {what}") from None
    return content


class _OtherObject(Refused):
    """The name of something that is neither a tensor nor a plain value."""


@dataclass(frozen=True)
class _Named:
    """A record of what a name stands for: a function of PyTorch's by its name, or the storages of a dtype."""

    name: str
    dtype: torch.dtype | None = None  # of the storages; None where they are of bytes


class _Storage(NamedTuple):
    bytes: Tensor  # uint8
    dtype: torch.dtype | None


_FLOAT8 = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu")  # not all everywhere
_STORAGES = {
    "Double": torch.float64, "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16,
    "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8,
    "Bool": torch.bool, "ComplexDouble": torch.complex128, "ComplexFloat": torch.complex64,
}  # fmt: skip
_UNNAMED = [getattr(torch, name) for name in ("uint16", "uint32", "uint64", *_FLOAT8) if hasattr(torch, name)]
_NAMES: dict[str, Any] = {
    **{str(dtype).replace(".", " "): dtype for dtype in (*_STORAGES.values(), *_UNNAMED)},
    **{f"torch {name}Storage": _Named("storage", dtype) for name, dtype in _STORAGES.items()},
    "torch.storage UntypedStorage": _Named("storage"),
    "torch._utils _rebuild_tensor_v2": _Named("tensor"),
    "torch._utils _rebuild_tensor_v3": _Named("tensor with dtype"),
    "torch._utils _rebuild_parameter": _Named("parameter"),
    "collections OrderedDict": _Named("dict"),
    "torch Size": _Named("size"),
}


class _Tensors:
    """Meaning of the names in a pickle of ``torch.save``: storages in ``zip_file``, tensors on them, few containers.

    With ``largest`` a tensor may be of so many bytes, though its numbers stand in fewer; else of those in its storage.
    """

    def __init__(self, zip_file: ZipFile, largest: int | None) -> None:
        self._zip, self._storages, self._largest = zip_file, dict[str, _Storage](), largest
        order = f"{zip_file.folder}/byteorder"
        if order in zip_file and zip_file.read(order, 10) != sys.byteorder.encode():
            raise Refused("it was written on a machine of another byte order")

    def named(self, name: str) -> Any:
        """A dtype itself; a record of anything else that a tensor or a dict needs."""
        if name not in _NAMES:
            raise _OtherObject(printable(name.replace(" ", ".")))
        return _NAMES[name]

    def persistent(self, identity: Any) -> _Storage:
        """The storage ``("storage", its type, its key, its device, its length)``, whatever the device."""
        kind, of, key, _, length = identity
        known = isinstance(of, _Named) and of.name == "storage"
        if not known or not (type(kind) is type(key) is str) or kind != "storage":
            raise Refused
        if key not in self._storages:
            content = self._zip.tensor(f"{self._zip.folder}/data/{key}")
            if of.dtype is torch.bool and bool((content > 1).any()):
                raise Refused("it holds truth values that are neither true nor false")
            self._storages[key] = _Storage(content, of.dtype)
        storage = self._storages[key]
        size = 1 if of.dtype is None else of.dtype.itemsize
        if storage.dtype is not of.dtype or not _is_size(length) or length * size != len(storage.bytes):
            raise Refused
        return storage

    def called(self, function: Any, arguments: tuple[Any, ...]) -> Any:
        """A tensor, an empty dict, a ``torch.Size``."""
        name = function.name if isinstance(function, _Named) else ""
        if name == "tensor":
            return self._tensor(*arguments)
        if name == "tensor with dtype":
            return self._tensor(*arguments[:6], *arguments[7:], dtype=arguments[6])
        if name == "parameter" and len(arguments) == 3 and isinstance(arguments[0], Tensor):
            return arguments[0]
        if name == "dict" and not arguments:
            return {}
        if name == "size" and len(arguments) == 1 and _are_sizes(arguments[0]):
            return torch.Size(arguments[0])
        raise Refused

    def built(self, target: Any, state: Any) -> None:
        """The attributes of an ordered dict, as of a ``state_dict``, are left out."""
        if type(target) is not dict or type(state) is not dict:
            raise Refused

    def _tensor(
        self, storage: Any, offset: Any, shape: Any, stride: Any, requires_grad: Any, hooks: Any, view: Any = None, *,
        dtype: Any = None,
    ) -> Tensor:  # fmt: skip
        """The dense tensor that lies in ``storage`` like this; ``view`` says whether it is to be conjugated."""
        if not isinstance(storage, _Storage):
            raise Refused
        dtype = storage.dtype if dtype is None else dtype
        if not isinstance(dtype, torch.dtype) or not _is_size(offset):
            raise Refused
        if not _are_sizes(shape) or not _are_sizes(stride) or len(shape) != len(stride):
            raise Refused
        numbers, held = math.prod(shape), len(storage.bytes) // dtype.itemsize
        most = held if self._largest is None else self._largest // dtype.itemsize
        last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True)) if numbers else offset - 1
        # One that has no numbers can still have a side of any length, and a sum over the others gives that many.
        if numbers > most or last >= held or math.prod(max(1, n) for n in shape) > max(numbers, _LARGEST_EMPTY):
            raise Refused(f"a tensor announces shape {printable(tuple(shape), 60)}, which its bytes do not fill")
        tensor = torch.empty(0, dtype=dtype).set_(storage.bytes.untyped_storage(), offset, shape, stride)
        if view is None:
            return tensor
        if type(view) is not dict or view.keys() != {"conj"} or view["conj"] is not True:
            raise Refused("it holds a view that is computed when it is used")
        return tensor.conj()


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value <= LARGEST


def _are_sizes(values: Any) -> bool:
    return isinstance(values, tuple) and len(values) <= _MOST_DIMENSIONS and all(map(_is_size, values))


def _check_bounds(content: Any, most_bytes: int) -> None:
    """Raise ``Refused`` for what is no plain value, lies too deep, or is found more often than it was written."""
    waiting, values = [(content, 0)], 0
    while waiting:
        value, depth = waiting.pop()
        values += 1
        if isinstance(value, Tensor):
            most_bytes -= value.nbytes
        elif type(value) in (dict, list, tuple):
            waiting += [(item, depth + 1) for item in (value.values() if type(value) is dict else value)]
        elif not isinstance(value, _PLAIN):
            raise Refused
        if depth > _DEEPEST or values + len(waiting) > _MOST_VALUES or most_bytes < 0:
            raise Refused("its values are nested too deeply or shared too often")
