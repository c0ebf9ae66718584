"""Recordings: the same kernels on the same tensors, and nothing recorded that would do otherwise next time."""

from typing import Any

import pytest
import torch

from lean_mnist.nn.capture.kernels import CannotCapture, KernelCapture


def test_played_it_computes_with_what_stands_in_its_inputs() -> None:
    x, w = torch.randn(4, 3), torch.randn(2, 3)

    def compute() -> dict[str, torch.Tensor]:
        z = torch.addmm(torch.ones(2), x, w.T)
        h = torch.clamp_min(z, 0)
        p = torch.softmax(h, 1).mul_(2)
        return {"z": z, "p": p, "sum": p.sum(0), "picked": p.gather(1, torch.zeros(4, 1, dtype=torch.int64))[:, 0]}

    recording = KernelCapture(compute)
    for _ in range(3):
        x.normal_()
        w.normal_()
        recording.replay()
        for name, expected in compute().items():
            assert torch.equal(recording.result[name], expected), name


def test_what_is_cleared_and_written_into_is_so_at_every_play() -> None:
    labels, total = torch.tensor([0, 1]), torch.zeros(3)

    def compute() -> torch.Tensor:
        encoded = torch.zeros_like(torch.empty(2, 3)).scatter_(1, labels.unsqueeze(1), 1)
        torch.sum(encoded, 0, out=total)
        return encoded

    recording = KernelCapture(compute)
    labels.copy_(torch.tensor([2, 2]))
    recording.replay()
    assert recording.result.tolist() == [[0, 0, 1], [0, 0, 1]]
    assert total.tolist() == [0, 0, 2]


def test_several_tensors_of_one_kernel() -> None:
    x = torch.randn(5)
    recording = KernelCapture(lambda: torch.stack(torch._foreach_norm([x, 2 * x])))
    x.normal_()
    recording.replay()
    assert torch.equal(recording.result, torch.stack([x.norm(), (2 * x).norm()]))


def test_nan_is_played_like_any_number() -> None:
    x = torch.tensor([1.0, float("nan")])
    assert torch.isnan(KernelCapture(lambda: x * 2).result).tolist() == [False, True]


@pytest.mark.parametrize(
    ("compute", "why"),
    [
        (lambda x: x * float(x.sum()), "looks at a number"),
        (lambda x: x * torch.rand(3), "draws random numbers"),
        (lambda x: x.add_(1), "gave other numbers"),
    ],
)
def test_what_would_differ_next_time_is_refused(compute: Any, why: Any) -> None:
    x = torch.ones(3)
    with pytest.raises(CannotCapture, match=why):
        KernelCapture(lambda: compute(x))
