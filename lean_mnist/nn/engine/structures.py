"""The structures of ``kernels.c``, and the addresses of tensors in them."""

import ctypes
import math
from ctypes import c_double, c_float, c_int64, c_uint64, c_void_p
from typing import Any

from torch import Tensor

from lean_mnist.data.batches import PlannedBatches

MOST_THREADS, BLOCK, SUMMED_ROWS, SCRATCH = 64, 4096, 64, 67  # as in the C files


class Layer(ctypes.Structure):
    """One dense layer: its sizes, parameters, gradients and tape."""

    _fields_ = [
        ("inputs", c_int64), ("units", c_int64),
        ("weight", c_void_p), ("bias", c_void_p), ("d_weight", c_void_p), ("d_bias", c_void_p),
        ("h", c_void_p), ("z", c_void_p), ("d_z", c_void_p), ("d_h", c_void_p),
    ]  # fmt: skip


class Network(ctypes.Structure):
    """The network, its loss, and the examples of the present batch."""

    _fields_ = [
        ("depth", c_int64), ("activation", c_int64), ("examples", c_int64),
        ("layers", ctypes.POINTER(Layer)), ("labels", c_void_p), ("loss", c_void_p),
        ("leaky_slope", c_float), ("label_smoothing", c_float), ("logit_penalty", c_float),
        ("background", c_float), ("marks", c_void_p), ("weight_sums", c_void_p),
        ("scratch", c_void_p), ("longest", c_int64),
    ]  # fmt: skip


class Source(ctypes.Structure):
    """Examples in memory, and the order in which they come."""

    _fields_ = [
        ("images", c_void_p), ("labels", c_void_p), ("order", c_void_p), ("count", c_int64),
        ("batch_size", c_int64), ("remaining", c_int64),
        ("mean", c_float), ("scale", c_float), ("clip", c_float),
        ("noted", c_void_p), ("image_sums", c_void_p), ("label_factor", c_uint64), ("feature_sums", c_void_p),
    ]  # fmt: skip


class UpdateRule(ctypes.Structure):
    """Parameters, gradient and momentum as one vector each, and the numbers of the update."""

    _fields_ = [
        ("parameters", c_void_p), ("gradient", c_void_p), ("momentum", c_void_p), ("size", c_int64),
        ("momentum_factor", c_float), ("weight_decay", c_float), ("clip_norm", c_float),
        ("nesterov", c_int64), ("squares", c_void_p), ("sums", c_void_p),
    ]  # fmt: skip


class Work(ctypes.Structure):
    """Some steps to be taken, and what came of them."""

    _fields_ = [
        ("network", ctypes.POINTER(Network)), ("source", ctypes.POINTER(Source)),
        ("update", ctypes.POINTER(UpdateRule)),
        ("screen", c_void_p), ("screen_state", c_void_p), ("rates", c_void_p),
        ("steps", c_int64), ("seconds", c_double), ("losses", c_void_p),
        ("screen_seconds", c_double), ("hold", c_int64),
        ("taken", c_int64), ("status", c_int64), ("finite", c_int64 * MOST_THREADS),
    ]  # fmt: skip


DONE, NOT_FINITE, STOOD_OUT, BAD_BATCH, HELD = range(5)  # of Work.status


def address(tensor: Tensor | None) -> int | None:
    """Of its memory; ``None`` for none."""
    return None if tensor is None else tensor.data_ptr()


def address_from(tensor: Tensor, index: int) -> int:
    """Of the number at ``index`` of a vector; a slice would be an operation."""
    return tensor.data_ptr() + index * tensor.element_size()


def pointer_to(structure: ctypes.Structure | None) -> Any:
    """For a field that points to it; a null pointer for none. Whoever asks keeps the structure."""
    return None if structure is None else ctypes.pointer(structure)


def source_of(batches: PlannedBatches) -> Source:
    """Examples of these batches, in their order."""
    source, normalization = Source(), batches.normalization
    source.images, source.labels = address(batches.images), address(batches.labels)
    source.order, source.count = address_from(batches.order, batches.begin), batches.labels.shape[0]
    source.batch_size, source.remaining = batches.batch_size, batches.end - batches.begin
    source.mean, source.scale = normalization.mean, normalization.scale
    source.clip = math.inf if normalization.clip is None else normalization.clip
    return source
