"""Names private to PyTorch stand in one module only."""

import ast
from pathlib import Path

import pytest

import lean_mnist

PACKAGE = Path(lean_mnist.__file__).parent


def private_names(source: str) -> list[str]:
    """Dotted names of ``torch`` in a module's source that have a part which begins with one underscore."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            found.append(ast.unparse(node))
        elif isinstance(node, ast.ImportFrom):
            found += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    dotted = (name.split(".") for name in found if name.startswith("torch."))
    return [".".join(parts) for parts in dotted if all(map(str.isidentifier, parts)) and any(map(is_private, parts))]


def is_private(part: str) -> bool:
    return part.startswith("_") and not part.startswith("__")


@pytest.mark.parametrize(
    "source", ["torch._C.f()", "import torch._dynamo", "from torch._C import f", "from torch.utils._pytree import f"]
)
def test_a_private_name_is_found(source: str) -> None:
    assert private_names(source)


def test_no_other_module_has_one() -> None:
    modules = [path for path in sorted(PACKAGE.rglob("*.py")) if path.name != "torch_internals.py"]
    found = {str(path.relative_to(PACKAGE)): private_names(path.read_text()) for path in modules}
    assert len(modules) > 100
    assert {path: names for path, names in found.items() if names} == {}
