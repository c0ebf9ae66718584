"""A module as a function of its inputs, parameters and buffers."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from lean_mnist.torch_internals import tensor_stores


class TensorPlaces:
    """The places where a module keeps its parameters and buffers, each under every name that it has there."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        places = defaultdict[int, list[tuple[dict[str, Any], str]]](list)
        for part in module.modules():
            for store in tensor_stores(part):
                for key, x in store.items():
                    places[id(x)].append((store, key))
        self.tensors: dict[str, Tensor] = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        self._places = {name: places[id(x)] for name, x in self.tensors.items()}

    def set(self, tensors: Mapping[str, Tensor]) -> None:
        """Put ``tensors`` in the places that have these names, where they stay while a backward runs."""
        for name, x in tensors.items():
            for store, key in self._places[name]:
                store[key] = x


class ModuleFunction:
    """A function of the arguments of ``call``, then of the tensors in ``places`` that ``names`` says.

    Where the arguments have ``keywords``, it takes them in this order. Every call is given copies of the buffers.
    """

    def __init__(
        self, call: Callable[..., Any], places: TensorPlaces, names: Sequence[str], keywords: Sequence[str] | None
    ) -> None:
        self._call, self._places, self._names, self._keywords = call, places, list(names), keywords
        self._buffers = {name for name, _ in places.module.named_buffers()}

    @property
    def own(self) -> int:
        """The number of its arguments that are parameters and buffers, the last."""
        return len(self._names)

    def put(self, *values: Any) -> None:
        """Set the parameters and buffers that the last of ``values`` are, which a backward may read again."""
        named = zip(self._names, values[len(values) - self.own :], strict=True)
        self._places.set({name: x.clone() if name in self._buffers else x for name, x in named})

    def __call__(self, *values: Any) -> Any:
        """The result of the call."""
        self.put(*values)
        given = values[: len(values) - self.own]
        if self._keywords is None:
            return self._call(*given)
        return self._call(**dict(zip(self._keywords, given, strict=True)))
