"""A computation on CUDA tensors, captured once as a graph: launching its kernels one by one takes longer than they."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic

import torch
from torch import Tensor

from lean_mnist.nn.capture.kernels import CannotCapture, Result


class CudaGraph(Generic[Result]):
    """The kernels of ``compute()`` as one graph; :meth:`replay` launches it on the current stream, without waiting.

    ``result`` is the return value of ``compute``; it holds numbers after the first replay. Inputs are the tensors that
    ``compute`` read, which must keep their memory. Capturing computes once, to let the libraries set themselves up;
    ``restored`` are tensors that this may change and whose content is then restored.
    Raises :class:`CannotCapture` where ``compute`` needs the host, for a number for instance.
    """

    def __init__(self, compute: Callable[[], Result], restored: Sequence[Tensor] = ()) -> None:
        before = [tensor.clone() for tensor in restored]
        current, other = torch.cuda.current_stream(), torch.cuda.Stream()
        other.wait_stream(current)
        with torch.no_grad(), torch.cuda.stream(other):
            compute()
        current.wait_stream(other)
        for tensor, old in zip(restored, before, strict=True):
            tensor.copy_(old)
        self._graph = torch.cuda.CUDAGraph()
        try:
            with torch.no_grad(), torch.cuda.graph(self._graph):
                self.result = compute()
        except RuntimeError as error:
            raise CannotCapture(str(error)) from error

    def replay(self) -> None:
        """Launch the graph."""
        self._graph.replay()
