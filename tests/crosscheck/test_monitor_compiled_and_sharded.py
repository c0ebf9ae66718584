"""``GradientMonitor`` on models that ``torch.compile`` compiled, and that FSDP2 sharded over two processes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lean_mnist.crosscheck.monitor.reasons import Reason
from lean_mnist.crosscheck.report import Verdict
from tests.support.fsdp import FSDP2_ON_CPU
from tests.support.monitored_models import WIDTH, Applied, monitored, network, sine

pytestmark = [  # the compiler's own
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
]


def compiled(how: str, backend: str, factor: float) -> Any:
    part: Any = Applied(sine(factor))
    if how == "inside":
        part = torch.compile(part, backend=backend)
        return network(part, nn.Linear(WIDTH, WIDTH))
    if how == "in place":
        part.compile(backend=backend)
        return network(part, nn.Linear(WIDTH, WIDTH))
    return torch.compile(network(part, nn.Linear(WIDTH, WIDTH)), backend=backend)


@pytest.mark.parametrize("factor", [1.0, 1.1])
@pytest.mark.parametrize("how", ["the model", "inside", "in place"])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_the_eager_twin_is_checked(how: str, backend: str, factor: float) -> None:
    torch.compiler.reset()
    monitor = monitored(compiled(how, backend, factor), steps=2)
    assert [report.module for report in monitor.history] == ["1 (Applied), eager twin of a compiled module"] * 2
    assert {report.verdict for report in monitor.history} == {Verdict.PASSED if factor == 1 else Verdict.FAILED}
    assert not monitor.summary().not_applicable


def test_gradients_and_random_numbers_are_those_of_a_model_that_nobody_watches() -> None:
    found = []
    for watched in (False, True):
        torch.compiler.reset()
        model: Any = network(Applied(sine()), nn.Dropout(0.5), nn.BatchNorm1d(WIDTH))
        model = torch.compile(model, backend="aot_eager")
        if watched:
            assert len(monitored(model, steps=0).history) == 0
        torch.manual_seed(1)
        loss = model(torch.randn(3, WIDTH)).sin().sum()
        torch.rand(7)  # as a loop may draw before its backward
        loss.backward()
        found.append([*(p.grad for p in model.parameters()), *model.buffers(), torch.get_rng_state()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_model_compiled_in_place_says_that_its_hooks_are_not_called() -> None:
    torch.compiler.reset()
    model = network(Applied(sine(1.1)))
    model.compile(backend="eager")
    summary = monitored(model).summary()
    assert not summary.checked
    assert summary.bypassed == ("the model (Sequential)",)


@FSDP2_ON_CPU
def test_two_ranks_of_fsdp2(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.support.sharded_process", str(tmp_path / "store"), str(rank)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]
    for process in processes:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0
        found = json.loads(output.splitlines()[-1])
        assert found["distributed"] == [0, {Reason.UNUSUAL_TENSORS.value: 1}]
        for factor, word in (("1.0", "passed"), ("1.1", "FAILED")):
            assert found[factor] == {"whole": [["1 (Linear)", word]] * 2, "part": [["1 (FSDPLinear)", word]] * 2}
