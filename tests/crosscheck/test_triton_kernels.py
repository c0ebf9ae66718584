"""Kernels in Triton need nothing special: a right one passes, and five faults are found, in every precision."""

import importlib.util
import os
from typing import Any

import pytest
import torch

from lean_mnist.crosscheck import Verdict, check_function

NO_TRITON = importlib.util.find_spec("triton") is None
NO_GPU = not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1"
pytestmark = pytest.mark.skipif(NO_TRITON or NO_GPU, reason="needs Triton, and a GPU or TRITON_INTERPRET=1")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
if NO_TRITON or NO_GPU:
    FAULTS: Any = ["any"]
else:
    from tests.support.triton_kernels import DEVICE, EPS, FAULTS, RMSNorm


def checked(dtype: torch.dtype, fault: str, with_reference: bool = True, **options: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(shape, generator=generator).to(DEVICE, dtype).requires_grad_() for shape in ((5, 24), (24,))]

    def function(x: Any, w: Any) -> Any:
        return RMSNorm.apply(x, w, fault)

    def reference(x: Any, w: Any) -> Any:
        return x * (x.square().mean(-1, keepdim=True) + EPS).rsqrt() * w

    return check_function(function, reference if with_reference else None, inputs, seed=1, replays=2, **options)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_right_kernel(dtype: torch.dtype) -> None:
    for with_reference in (True, False):
        report = checked(dtype, "", with_reference, vary_batch=(0,))
        assert report.ok, report.details()


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_faulty_kernel(dtype: torch.dtype, fault: str) -> None:
    report = checked(dtype, fault)
    assert report.verdict is Verdict.FAILED, report.details()
