"""The batched check in C (``screen.c``), at every step of a chunk that the native engine takes.

It shows the same residuals beside the same limits as :mod:`.batched`, and decides as little: where something stands
out the chunk ends before that step's update, and the step is looked at by :mod:`.randomised`.
"""

import ctypes
import itertools
import math
from ctypes import c_double, c_float, c_int64, c_void_p
from pathlib import Path

import torch
from torch import Tensor

from lean_mnist.audit.batched import OrdinaryResiduals
from lean_mnist.audit.rounding import ELEMENTWISE_ULPS, underflow_of, unit_of
from lean_mnist.nn.engine import native
from lean_mnist.nn.engine.library import load_library
from lean_mnist.nn.engine.native import NativeEngine
from lean_mnist.nn.engine.structures import MOST_THREADS, address
from lean_mnist.nn.step import StepTape


class _LayerScreen(ctypes.Structure):
    _fields_ = [
        ("forward", c_float), ("gradient", c_float), ("together", c_float), ("backward", c_float),
        ("u", c_int64), ("v", c_int64), ("along", c_void_p), ("gradient_along", c_void_p), ("below", c_void_p),
        ("all_below", c_void_p), ("h_u", c_void_p), ("h", c_void_p),
    ]  # fmt: skip


class _OfThread(ctypes.Structure):
    _fields_ = [("likelihood", c_double), ("logit", c_float), ("share", c_float), ("changed", c_int64)]


class _State(ctypes.Structure):
    _fields_ = [
        ("layers", ctypes.POINTER(_LayerScreen)), ("probes", c_void_p), ("probe_size", c_int64),
        ("underflow", c_float), ("unit", c_float), ("ulps", c_float),
        ("feature_sums", c_void_p), ("compares_sums", c_int64), ("sums", c_void_p),
        ("of_thread", _OfThread * MOST_THREADS), ("changed", c_int64),
    ]  # fmt: skip


_SUMS_SIZE = 4 * 8 + 4 * 4  # bytes of a Sums of screen.c


class NativeScreen:
    """Screens the steps in the tape of one :class:`NativeEngine`.

    Raises :class:`~lean_mnist.nn.engine.library.CannotCompile`.
    """

    def __init__(self, engine: NativeEngine) -> None:
        here = Path(__file__).parent
        library = load_library(here / "screen.c", native.HERE / "step.h", native.HERE / "team.h")
        self.function = ctypes.cast(library.screen, c_void_p)
        self._engine, sizes, capacity = engine, engine.sizes, engine.capacity
        self._kept: list[Tensor] = []
        like = torch.zeros(0)

        def memory(*shape: int) -> int | None:
            self._kept.append(torch.zeros(*shape))
            return address(self._kept[-1])

        pairs = list(itertools.pairwise(sizes))
        self.shapes = [(after, before) for before, after in pairs]
        lengths = [before + 1 for before, _ in pairs] + [after for _, after in pairs]  # of u and of v, of each layer
        starts = list(itertools.accumulate(lengths, initial=0))
        ordinary = [OrdinaryResiduals.of(after, before, engine.has_bias, 0, like) for before, after in pairs]
        self._layers = (_LayerScreen * len(pairs))(
            *(
                _LayerScreen(
                    *ordinary[i][:4], starts[i], starts[len(pairs) + i], memory(before + 1),
                    memory(engine.threads.most, after), memory(engine.threads.most, after),
                    memory(engine.threads.most, after), memory(capacity), memory(capacity, before) if i else None,
                )
                for i, (before, after) in enumerate(pairs)
            )
        )  # fmt: skip
        sums = torch.zeros(engine.threads.most * len(pairs) * _SUMS_SIZE, dtype=torch.uint8)
        self._kept.append(sums)
        self._state = _State(
            self._layers, None, starts[-1], underflow_of(like), unit_of(like),
            ELEMENTWISE_ULPS, None, 0, address(sums),
        )  # fmt: skip
        self.state = c_void_p(ctypes.addressof(self._state))
        self._probes = like

    def watch_sums(self, feature_sums: Tensor) -> None:
        """Compare the rows of each batch with these sums, and what rests with the sums of the update."""
        self._kept.append(feature_sums)
        self._state.feature_sums, self._state.compares_sums = address(feature_sums), 1

    @property
    def changed_block(self) -> int | None:
        """The block that the last step found changed at rest, of parameters and then momentum; ``None`` for none.

        A batch that was changed is made again when its step is looked at, and then compared with its source.
        """
        return None if self._state.changed < 0 else int(self._state.changed)

    def use(self, probes: Tensor) -> None:
        """Probes ``(steps, Σ (D + 1 + H))`` of the steps to come."""
        assert probes.is_contiguous()
        assert probes.shape[1] == self._state.probe_size
        self._probes, self._state.probes = probes, address(probes)

    def share(self, tape: StepTape, loss: float) -> float | None:
        """The largest share that the step in ``tape`` shows, by the probes in use; ``None`` if it is not there.

        ``loss`` is the mean that the step reported.
        """
        if not self._engine.holds(tape) or tape.loss_B is None:
            return None
        mean = float(tape.loss_B.double().mean())
        if not abs(loss - mean) <= ELEMENTWISE_ULPS * unit_of(tape.loss_B) * (1 + abs(mean)):
            return math.nan
        watched = self._state.feature_sums, self._state.compares_sums
        self._state.feature_sums, self._state.compares_sums = None, 0
        try:
            return self._engine.screened(self.function, self.state)
        finally:
            self._state.feature_sums, self._state.compares_sums = watched
