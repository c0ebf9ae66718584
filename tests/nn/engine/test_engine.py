"""Steps of the engines: the gradients of the module, where the optimizer reads them; captured and as written."""

import functools
from typing import Any

import pytest
import torch

from lean_mnist.chainrule import dense
from lean_mnist.data.batches import BatchRing
from lean_mnist.errors import ArgumentError
from lean_mnist.nn import MLP, FlatParameters, flatten_parameters
from lean_mnist.nn.engine.native import NativeEngine
from lean_mnist.nn.step import RING_DEPTH, Batch, StepEngine, put_flat_gradients
from lean_mnist.nn.update import SGD, Update
from tests.support.planting import Plant

SIZES = (7, 5, 4, 3)


class Steps:
    """An engine for a network, and a source of batches for it: in the engine's ring if it captures."""

    def __init__(self, model: MLP, *, capture: bool, dtype: torch.dtype | None = None) -> None:
        self.model, self.parameters = model, FlatParameters(model, dtype)
        self.ring = BatchRing(RING_DEPTH + 1) if capture else None
        optimizer = SGD([self.parameters.vector], 0.1, 0.0, False, 0.0)
        update = Update(self.parameters.network, optimizer, flat=self.parameters)
        self.engine: StepEngine
        if self.ring is None:
            compute = functools.partial(put_flat_gradients, self.parameters)
            self.engine = StepEngine(compute, update, lambda: False)
        else:
            self.engine = NativeEngine(self.parameters, update, lambda: False, self.ring)

    def batches(self, count: int, size: int = 6) -> list[Batch]:
        """``count`` batches of random examples, a chunk each; all of a ring's depth hold."""
        generator = torch.Generator().manual_seed(3)
        dtype = next(self.parameters.network.parameters()).dtype
        found: list[Batch] = []
        for _ in range(count):
            x = torch.randn(size, 7, generator=generator).to(dtype)
            batch = x, torch.randint(3, (size,), generator=generator)
            found.append(batch if self.ring is None else self._in_ring(self.ring, batch))
        return found

    def _in_ring(self, ring: BatchRing, batch: Batch) -> Batch:
        x, labels = batch
        _, _, (static,) = ring.take([len(labels)], lambda m: (x.new_empty(m, x.shape[1]), labels.new_empty(m)))
        static[0].copy_(x)
        static[1].copy_(labels)
        return static


def _by_autograd(model: MLP, batch: Batch) -> list[torch.Tensor]:
    return list(torch.autograd.grad(model.loss(*batch), list(model.parameters())))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("capture", [True, False])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_they_are_those_of_the_module_bit_for_bit(activation: str, capture: bool, bias: bool) -> None:
    model = MLP(SIZES, activation, bias=bias, label_smoothing=0.1)
    steps = Steps(model, capture=capture)
    for _ in range(3):
        for batch in [*steps.batches(2), *steps.batches(1, size=2)]:
            found = steps.engine.step([batch])
            assert torch.equal(found.loss, model.loss(*batch).detach())
            for parameter, expected in zip(model.parameters(), _by_autograd(model, batch), strict=True):
                assert parameter.grad is not None
                assert torch.equal(parameter.grad, expected)
            assert torch.equal(found.tapes[0].inputs[0], batch[0])
            assert found.tapes[0].static == capture
            with torch.no_grad():
                steps.parameters.vector.sub_(0.1 * steps.parameters.gradient)


@pytest.mark.parametrize("sizes", [(7, 32, 16, 3), (7, 5, 4, 3), (7, 1, 3), (7, 3)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_replay_gives_the_gradient_of_what_stands_in_the_ring(sizes: tuple[int, ...], bias: bool) -> None:
    captured, eager = (Steps(MLP(sizes, bias=bias), capture=capture) for capture in (True, False))
    for _ in range(4):
        for ours, theirs in zip(captured.batches(2, 5), eager.batches(2, 5), strict=True):
            ours[0].add_(1)
            captured.engine.step([ours])
            eager.engine.step([(theirs[0] + 1, theirs[1])])
            assert torch.equal(captured.parameters.gradient, eager.parameters.gradient)


def test_a_chunk_is_one_step_after_the_other() -> None:
    results = []
    for capture in (True, False):
        steps = Steps(MLP(SIZES), capture=capture)
        losses = []
        for _ in range(2):
            chunk = steps.engine.chunk(steps.batches(3), [0.1, 0.2, 0.05])
            assert not chunk.stopped
            assert len(chunk.tapes) == 3
            losses += chunk.losses
        results.append((losses, steps.parameters.vector.detach().clone()))
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("capture", [True, False])
def test_a_chunk_ends_before_a_step_that_is_not_finite(capture: bool) -> None:
    steps = Steps(MLP(SIZES), capture=capture)
    for batch in steps.batches(3):
        steps.engine.step([batch])
    batches = steps.batches(3)
    batches[1][0][0, 0] = torch.inf
    chunk = steps.engine.chunk(batches, [0.1] * 3)
    assert len(chunk.losses) == len(chunk.tapes) == 1
    assert torch.isfinite(steps.parameters.vector).all()


def test_tapes_hold_for_the_depth_of_the_ring() -> None:
    model = MLP(SIZES)
    steps = Steps(model, capture=True)
    steps.engine.step(steps.batches(1))  # captures
    batches = steps.batches(RING_DEPTH + 1)
    kept = [steps.engine.step([batch]) for batch in batches]
    for (x, labels), step in zip(batches, kept, strict=True):
        assert torch.equal(step.tapes[0].inputs[0], x)
        assert torch.equal(step.tapes[0].labels_B, labels)
        assert torch.equal(step.tapes[0].pre_activations[-1], model(x))


def test_batches_that_are_in_no_ring_are_computed_as_written() -> None:
    captured, eager = (Steps(MLP(SIZES), capture=capture) for capture in (True, False))
    for batch in eager.batches(3):
        result = captured.engine.step([batch])
        eager.engine.step([batch])
        assert not result.tapes[0].static
        assert torch.equal(captured.parameters.gradient, eager.parameters.gradient)


@pytest.mark.parametrize("capture", [True, False])
def test_several_batches_are_averaged_by_their_sizes(capture: bool) -> None:
    model = MLP(SIZES)
    steps = Steps(model, capture=capture)
    first, second = steps.batches(1, size=6)[0], steps.batches(1, size=2)[0]
    found = steps.engine.step([first, second])
    whole = torch.cat([first[0], second[0]]), torch.cat([first[1], second[1]])
    assert torch.allclose(found.loss, model.loss(*whole))
    assert [tape.upstream for tape in found.tapes] == [0.75, 0.25]
    for parameter, expected in zip(model.parameters(), _by_autograd(model, whole), strict=True):
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, expected, atol=1e-7)


def test_a_backward_that_gives_its_own_tensors_is_captured_as_it_is(plant: Plant) -> None:
    right: Any = dense.dense_backward

    def doubled(tape: Any, d_z: Any, needs: Any) -> Any:
        found = right(tape, d_z, needs)
        return found._replace(weight_HD=2 * found.weight_HD)

    model = MLP(SIZES)
    steps = Steps(model, capture=True)
    batches = steps.batches(3)
    expected = [_by_autograd(model, batch)[0] for batch in batches]
    plant("chainrule.dense.dense_backward", doubled)
    for _ in range(2):
        for batch, weight in zip(batches, expected, strict=True):
            steps.engine.step([batch])
            found = next(model.parameters()).grad
            assert found is not None
            assert torch.allclose(found, 2 * weight)


@pytest.mark.parametrize("change", [
    lambda found: found._replace(weight_HD=found.weight_HD.contiguous()),
    lambda found: found._replace(bias_H=found.weight_HD[:, 0]),
    lambda found: found._replace(bias_H=found.bias_H.add_(1)),
], ids=["by rows", "shared memory", "changed in place"])  # fmt: skip
def test_gradients_in_any_memory_are_gathered(plant: Plant, change: Any) -> None:
    right: Any = dense.dense_backward
    plant("chainrule.dense.dense_backward", lambda *arguments: change(right(*arguments)))
    captured, eager = (Steps(MLP((7, 32, 3)), capture=capture) for capture in (True, False))
    for _ in range(2):
        for ours, theirs in zip(captured.batches(3), eager.batches(3), strict=True):
            captured.engine.step([ours])
            eager.engine.step([theirs])
            assert torch.equal(captured.parameters.gradient, eager.parameters.gradient)


def test_gradients_of_other_sizes_are_refused() -> None:
    parameters = FlatParameters(MLP(SIZES))
    with pytest.raises(ArgumentError, match="gradients: expected 79 numbers, found 3"):
        parameters.gradients_to_vector([torch.zeros(3)])


def test_in_bfloat16_the_optimizer_has_all_digits() -> None:
    model = MLP(SIZES)
    steps = Steps(model, capture=True, dtype=torch.bfloat16)
    parameters = steps.parameters
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert {p.dtype for p in parameters.network.parameters()} == {torch.bfloat16}
    for x, labels in steps.batches(3):
        found = steps.engine.step([(x, labels)])
        assert found.loss.dtype == torch.float32
        expected = _by_autograd(model, (x.float(), labels))
        whole = torch.cat([g.T.reshape(-1) if g.dim() == 2 else g for g in expected])
        assert 0 < (parameters.gradient - whole).norm() < 0.05 * whole.norm()
        with torch.no_grad():
            parameters.vector.add_(1e-4)  # less than a rounding of most weights
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
