"""A step's gradients, computed and played: the same numbers, where the optimizer reads them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lean_mnist.chainrule import dense
from lean_mnist.errors import ArgumentError
from lean_mnist.nn import MLP, FlatParameters, flatten_parameters
from lean_mnist.nn.step import RING_DEPTH
from lean_mnist.training.gradients import StepGradients
from tests.support.planting import Plant

SIZES = (7, 5, 4, 3)


def _batches(count: int, size: int = 6) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(3)
    return [
        (torch.randn(size, 7, generator=generator), torch.randint(3, (size,), generator=generator))
        for _ in range(count)
    ]


def _by_autograd(model: MLP, batch: tuple[torch.Tensor, torch.Tensor]) -> list[torch.Tensor]:
    return list(torch.autograd.grad(model.loss(*batch), list(model.parameters())))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("replay", [True, False])
@pytest.mark.parametrize("traced", [True, False])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_they_are_those_of_the_module_bit_for_bit(activation: str, traced: bool, replay: bool, bias: bool) -> None:
    model = MLP(SIZES, activation, bias=bias, label_smoothing=0.1)
    parameters = FlatParameters(model)
    gradients = StepGradients(model, parameters, traced=traced, replay=replay)
    for batch in [*_batches(5), *_batches(2, size=2), *_batches(2)]:
        found = gradients([batch])
        assert torch.equal(found.loss, model.loss(*batch).detach())
        for parameter, expected in zip(model.parameters(), _by_autograd(model, batch), strict=True):
            assert torch.equal(parameter.grad, expected)
        if traced:
            assert torch.equal(found.tapes[0].inputs[0], batch[0])
        with torch.no_grad():
            parameters.vector -= 0.1 * parameters.gradient


def test_what_was_remembered_is_not_written_over_too_soon() -> None:
    model = MLP(SIZES)
    gradients = StepGradients(model, FlatParameters(model), traced=True, replay=True)
    batches = _batches(RING_DEPTH + 1)
    gradients([batches[0]])  # records
    kept = [gradients([batch]) for batch in batches]
    for (x, labels), step in zip(batches, kept, strict=True):
        assert torch.equal(step.batches[0][0], x)
        assert torch.equal(step.batches[0][1], labels)
        assert torch.equal(step.tapes[0].pre_activations[-1], model(x))


def test_several_batches_are_averaged_by_their_sizes() -> None:
    model = MLP(SIZES)
    gradients = StepGradients(model, FlatParameters(model), traced=False, replay=True)
    first, second = _batches(1, size=6)[0], _batches(1, size=2)[0]
    found = gradients([first, second])
    whole = torch.cat([first[0], second[0]]), torch.cat([first[1], second[1]])
    assert torch.allclose(found.loss, model.loss(*whole))
    for parameter, expected in zip(model.parameters(), _by_autograd(model, whole), strict=True):
        assert torch.allclose(parameter.grad, expected, atol=1e-7)


def test_a_backward_that_gives_its_own_tensors_is_recorded_as_it_is(plant: Plant) -> None:
    right = dense.dense_backward

    def doubled(tape: Any, d_z: Any, needs: Any, *into: Any) -> Any:
        found = right(tape, d_z, needs, *into)
        return found._replace(weight_HD=2 * found.weight_HD)

    model, batches = MLP(SIZES), _batches(3)
    expected = [_by_autograd(model, batch)[0] for batch in batches]
    plant("chainrule.dense.dense_backward", doubled)
    parameters = FlatParameters(model)
    gradients = StepGradients(model, parameters, traced=False, replay=True)
    for batch, weight in zip(batches, expected, strict=True):
        gradients([batch])
        assert torch.allclose(next(model.parameters()).grad, 2 * weight)


def test_in_bfloat16_the_optimizer_has_all_digits() -> None:
    model = MLP(SIZES)
    parameters = FlatParameters(model, torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert {p.dtype for p in parameters.network.parameters()} == {torch.bfloat16}
    gradients = StepGradients(parameters.network, parameters, traced=True, replay=True)
    for x, labels in _batches(3):
        found = gradients([(x.bfloat16(), labels)])
        assert found.loss.dtype == torch.float32
        whole = torch.cat([g.T.reshape(-1) if g.dim() == 2 else g for g in _by_autograd(model, (x, labels))])
        assert 0 < (parameters.gradient - whole).norm() < 0.05 * whole.norm()
        with torch.no_grad():
            parameters.vector += 1e-4  # less than a rounding of most weights
        parameters.vector_to_network()
        for own, rounded in zip(model.parameters(), parameters.network.parameters(), strict=True):
            assert torch.equal(own.bfloat16(), rounded)


def test_a_flat_network_is_the_same_network() -> None:
    model = MLP(SIZES)
    before, vector = {k: v.clone() for k, v in model.state_dict().items()}, flatten_parameters(model)
    flat = FlatParameters(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(flatten_parameters(model), vector)
    with torch.no_grad():
        flat.vector.zero_()
    assert all(not value.any() for value in model.state_dict().values())
    with pytest.raises(ArgumentError, match="one dtype and device"):
        FlatParameters(torch.nn.ModuleList([MLP(SIZES), MLP(SIZES, dtype=torch.float64)]))
