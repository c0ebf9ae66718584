"""Runs in bfloat16: weights in float32 for the optimizer and on disk, checks in units of what steps are computed in."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lean_mnist.chainrule import dense
from lean_mnist.errors import GradientMismatch
from lean_mnist.training.run import run
from tests.support.planting import Plant
from tests.support.training_cases import digits_config, digits_run, load, named

OPTIONS: dict[str, Any] = {"precision": "bfloat16", "check": "full", "check_every": 10}


def test_a_run_learns_passes_its_checks_and_saves_float32(tmp_path: Path) -> None:
    finished = digits_run(tmp_path, epochs=4, **OPTIONS)
    assert finished.summary_json["test_accuracy"] > 0.9
    checks = finished.summary_json["checks"]
    assert checks["verdict"] == "passed"
    assert 1e-4 < checks["largest_divergence"] < 1e-2  # as far as eight bits go
    assert checks["close_looks"] < checks["screens"] / 4
    weights = load(finished.best)["model"]
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert any(not torch.equal(tensor, tensor.bfloat16().float()) for tensor in weights.values())


@pytest.mark.parametrize("check", ["audit", "screen"])
def test_a_gradient_that_is_wrong_beyond_its_rounding_is_caught(here: Path, plant: Plant, check: str) -> None:
    right = dense.dense_backward

    def wrong(tape: Any, d_z: Any, needs: Any = (True, True, True), *into: Any) -> Any:
        found = right(tape, d_z, needs, *into)
        if not isinstance(d_z, torch.Tensor) or found.weight_HD is None or found.weight_HD.shape != (128, 64):
            return found
        return found._replace(weight_HD=1.1 * found.weight_HD)

    plant("chainrule.dense.dense_backward", wrong)
    with pytest.raises(
        GradientMismatch, match=r"step 1: likely constant factor in layers\.0\.weight, dW = Σ dzᵀ h: 1\.\d+ times"
    ):
        run(digits_config(**{**OPTIONS, "check": check}))


def test_a_processor_without_bfloat16_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    finished = digits_run(tmp_path, epochs=1, precision="bfloat16")
    (notice,) = named(finished.records, "run/precision")
    assert notice == "this processor has no bfloat16 instructions; --precision float32 is likely to be faster"
