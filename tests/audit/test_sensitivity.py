"""How small an error the audit sees: 1e-5 of a tensor's norm, and one element off by 1e-3 of its row's.

``python -m benchmarks.sensitivity`` measures it on thousands of errors; here are a hundred, at every phase of training.
"""

import pytest
import torch
from torch import Tensor

from lean_mnist.audit.step_audit import StepAudit
from lean_mnist.nn import MLP
from lean_mnist.nn.step import Batch, StepTape, put_gradients
from tests.support.crosscheck_cases import descend, random_batch

SIZES, BATCH, TRIALS = (784, 128, 10), 64, 4  # of each kind, tensor and phase


def step_after(steps: int) -> tuple[MLP, Batch, StepTape, Tensor]:
    """A step of training on ten batches of random images, which are soon known by heart."""
    model = MLP(SIZES, seed=0)
    batches = [random_batch(seed, BATCH, SIZES) for seed in range(10)]
    for step in range(steps):
        model.zero_grad(set_to_none=True)
        put_gradients(model, [batches[step % 10]])
        descend(model, 0.1)
    model.zero_grad(set_to_none=True)
    loss, _, (trace,) = put_gradients(model, batches[:1])
    return model, batches[0], trace, loss


def spoilt(gradient: Tensor, error: str, generator: torch.Generator) -> Tensor:
    changed = gradient.clone()
    if error == "dense":
        noise = torch.randn(gradient.shape, generator=generator)
        return changed.add_(noise * (1e-5 * gradient.norm() / noise.norm()))
    rows = changed if changed.dim() == 2 else changed[None]
    norms = rows.norm(dim=1)
    row = int(norms.nonzero().flatten()[int(torch.randint(int((norms > 0).sum()), (), generator=generator))])
    rows[row, int(torch.randint(rows.shape[1], (), generator=generator))] += 1e-3 * norms[row]
    return changed


@pytest.mark.parametrize("steps", [0, 20, 200])
def test_small_errors_are_caught_at_every_phase_of_training(steps: int) -> None:
    model, (x, labels), trace, loss = step_after(steps)
    check = StepAudit(model)
    generator = torch.Generator().manual_seed(steps)

    def passes() -> bool:
        return check.check([(x, labels)], loss, compare_gradients=True, gradcheck=False, tapes=[trace]).passed

    assert passes()
    missed = []
    for name, parameter in model.named_parameters():
        right = parameter.grad
        assert right is not None
        for error in ("dense", "element"):
            for trial in range(TRIALS):
                parameter.grad = spoilt(right, error, generator)
                if passes():
                    missed.append((name, error, trial))
        parameter.grad = right
    assert not missed
    assert passes()


def test_the_comparison_alone_cannot_see_them_late_in_training() -> None:
    """softmax − onehot has cancelled: the gradient is uncertain by more than that, though no link of it is."""
    model, (x, labels), trace, loss = step_after(200)
    parameter = model.parameter_pairs()[0][0]
    assert parameter.grad is not None
    parameter.grad = spoilt(parameter.grad, "dense", torch.Generator().manual_seed(0))
    result = StepAudit(model).check([(x, labels)], loss, compare_gradients=True, gradcheck=False, tapes=[trace])
    assert all(divergence.passed for divergence in result.divergences)
    assert not result.passed
    assert "layers.0.weight, dW = Σ dzᵀ h" in result.message
