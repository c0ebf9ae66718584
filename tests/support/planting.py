"""The type of the fixture ``plant``."""

from typing import Any, Protocol


class Plant(Protocol):
    """Replaces something inside the package until the test ends; arguments as of ``lean_mnist.mutants.planting``."""

    def __call__(self, target: str, replacement: Any) -> None: ...
