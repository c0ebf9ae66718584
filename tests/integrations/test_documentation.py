"""The blocks in docs/monitor.md and the fixture of docs/check_your_function.md, run as they stand."""

import re
import warnings
from pathlib import Path
from typing import Any

import pytest

from lean_mnist.errors import GradientMismatch

DOCS = Path(__file__).parents[2] / "docs"
MODEL, *BLOCKS = [
    block
    for page in ("monitor.md", "check_your_function.md")
    for block in re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)
]
# With a right backward the loops run to their end.
RIGHT = MODEL.replace(
    "return r * upstream  # wrong: r depends on x",
    "return r * upstream - r**3 * x * (upstream * x).mean(-1, keepdim=True)",
).replace("(r,) =", "r, x =").replace("save_for_backward(r)", "save_for_backward(r, x)")  # fmt: skip


def block(containing: Any) -> Any:
    (found,) = [b for b in BLOCKS if containing in b]
    return found


# What runs, the package it needs, and what it raises.
LOOPS = {
    "of one's own": (
        block("zero_grad"),
        None,
        r"^1 \(Norm\), forward 0: FAILED\n  ERROR  finite differences, input 0",
    ),
    "lightning": (block("lightning.Trainer"), "lightning", r"^model\.1 \(Norm\), forward 0: FAILED"),
    "huggingface": (block("TrainingArguments"), "transformers", r"^model\.1 \(Norm\), forward 0: FAILED"),
}


@pytest.mark.filterwarnings(
    "ignore:.*isinstance.treespec, LeafSpec.* is deprecated:FutureWarning",
    "ignore:The '.*_dataloader' does not have many workers",
    "ignore:The number of training batches",
    "ignore:'pin_memory' argument is set as true but no accelerator is found",
)
@pytest.mark.parametrize("right", [False, True])
@pytest.mark.parametrize("loop", LOOPS)
def test_the_loops(loop: Any, right: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, package, message = LOOPS[loop]
    if package is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)  # the trainers write logs
    assert RIGHT != MODEL
    names: dict[str, Any] = {"__name__": "documentation"}
    exec(RIGHT if right else MODEL, names)
    if right:
        exec(code, names)
    else:
        with pytest.raises(GradientMismatch, match=message):
            exec(code, names)


def test_the_fixture(gradient_check: Any) -> None:
    names: dict[str, Any] = {}
    exec(MODEL + block("def test_backward"), names)
    with pytest.raises(pytest.fail.Exception, match="ERROR  finite differences, input 0"):
        names["test_backward"](gradient_check)
