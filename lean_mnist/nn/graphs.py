"""A computation on CUDA tensors, captured once as a graph and launched as a whole from then on.

Launching a kernel takes longer than a small kernel runs. A graph of them is launched at once, and the device goes from
one to the next by itself. It is what :mod:`lean_mnist.nn.recording` is for a processor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from lean_mnist.nn.recording import CannotRecord

Result = TypeVar("Result")
Result_co = TypeVar("Result_co", covariant=True)


class Repeatable(Protocol[Result_co]):
    """Something computed before that can be done again, on what then stands in the tensors that it reads."""

    @property
    def result(self) -> Result_co:
        """Its tensors, rewritten by every ``play``."""

    def play(self) -> None:
        """Do it again."""


class CudaGraph(Generic[Result]):
    """The kernels of ``compute()`` as one graph; :meth:`play` launches it on the current stream, without waiting.

    ``result`` is what ``compute`` returned; it holds numbers after the first ``play``. Inputs are the tensors that
    ``compute`` read, which must stay where they are. Capturing computes once, to let the libraries set themselves up;
    ``restored`` are tensors that this may change and that then get back what stood in them.
    Raises :class:`CannotRecord` where ``compute`` needs the host, for a number for instance.
    """

    def __init__(self, compute: Callable[[], Result], restored: Sequence[Tensor] = ()) -> None:
        before = [tensor.clone() for tensor in restored]
        current, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(current)
        with torch.no_grad(), torch.cuda.stream(aside):
            compute()
        current.wait_stream(aside)
        for tensor, old in zip(restored, before, strict=True):
            tensor.copy_(old)
        self._graph = torch.cuda.CUDAGraph()
        try:
            with torch.no_grad(), torch.cuda.graph(self._graph):
                self.result = compute()
        except RuntimeError as error:
            raise CannotRecord(str(error)) from error

    def play(self) -> None:
        """Launch the graph."""
        self._graph.replay()
