"""The independent table of activations: slopes against autograd, bounds, and that it covers the chain rule's."""

import pytest
import torch

from lean_mnist.audit.diagnosis import first_fault
from lean_mnist.audit.local_checks import ComputedStep
from lean_mnist.audit.reference import REFERENCE_ACTIVATIONS
from lean_mnist.chainrule.activations import ACTIVATIONS
from lean_mnist.nn.step import put_gradients
from tests.support.crosscheck_cases import random_batch, random_model

Z = torch.cat([torch.linspace(-30, 30, 2001, dtype=torch.float64), torch.tensor([-700.0, -1e-9, 1e-9, 700.0])])


def test_every_activation_of_the_chain_rule_is_in_the_table() -> None:
    assert REFERENCE_ACTIVATIONS.keys() == ACTIVATIONS.keys()


@pytest.mark.parametrize("name", REFERENCE_ACTIVATIONS)
def test_slopes_are_the_derivatives_of_the_values(name: str) -> None:
    activation, z = REFERENCE_ACTIVATIONS[name], Z.clone().requires_grad_()
    (right,) = torch.autograd.grad(activation.value(z).sum(), z)
    torch.testing.assert_close(activation.slope(Z), right, rtol=1e-12, atol=1e-15)
    upstream = torch.randn(len(Z), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(activation.backward(Z, upstream), upstream * right, rtol=1e-12, atol=1e-15)
    assert bool((activation.slope_terms(Z) >= activation.slope(Z).abs()).all())


@pytest.mark.parametrize("name", REFERENCE_ACTIVATIONS)
def test_kinks_are_where_the_table_says(name: str) -> None:
    activation, zero = REFERENCE_ACTIVATIONS[name], torch.zeros(1, dtype=torch.float64)
    below, above = activation.slope(zero - 1e-12), activation.slope(zero + 1e-12)
    assert bool((above - below).abs() > 1e-6) is (activation.below_kink is not None)
    if activation.below_kink is not None:
        assert [float(activation.slope(zero)), float(below)] == [activation.below_kink] * 2
        assert torch.equal(activation.on_side(Z, Z > 0), activation.value(Z))


@pytest.mark.parametrize("name", REFERENCE_ACTIVATIONS)
def test_a_wrong_entry_is_found_by_right_steps(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table and the chain rule are two statements of one function: either can be wrong, and then they differ."""
    model, batch = random_model(0, (20, 16, 10), name), random_batch(0, 9, (20, 16, 10))
    result = put_gradients(model, [batch])
    step = ComputedStep.of(model, [batch], result.tapes, result.loss)
    assert first_fault(step) is None
    right = REFERENCE_ACTIVATIONS[name]
    wrong = right._replace(slope=lambda z: 1.001 * right.slope(z), own_backward=None)
    monkeypatch.setitem(REFERENCE_ACTIVATIONS, name, wrong)
    found = first_fault(step)
    assert found is not None
    assert found.tensor == "the gradient of the output of layer 0"
