"""The screen: silent on right steps, however trained; every link that is broken is found, at a glance and close up."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from lean_mnist.audit.batched import with_bias
from lean_mnist.audit.local_checks import ComputedStep
from lean_mnist.audit.randomised import BLOCK, Probes, RandomisedCheck, RandomisedResult
from lean_mnist.data.datasets import load_digits
from lean_mnist.nn import MLP, FlatParameters
from lean_mnist.nn.step import Batch
from tests.support.activations import TORCH_ACTIVATIONS
from tests.support.crosscheck_cases import autograd_step, descend, random_batch, random_model

Fault = Callable[["Step"], None]  # tampers with a step
SIZES, B = (100, 24, 16, 10), 40
CLOSE, GLANCE = 1, 50  # close_look_every; step 2 is then a glance


class Step:
    """One step of ``model`` on ``batches``, with its traces and gradients there to be tampered with."""

    def __init__(self, model: MLP, batches: Sequence[Batch]) -> None:
        self.model, self.batches = model, batches
        self.loss, self.traces = autograd_step(model, batches)

    @property
    def trace(self) -> Any:
        return self.traces[0]

    def grad(self, layer: int, what: str = "weight") -> Any:
        return getattr(self.model.layers[layer], what).grad

    def screened(self, screen: RandomisedCheck | None = None, number: int = 2) -> RandomisedResult:
        step = ComputedStep.of(self.model, self.batches, self.traces, self.loss)
        return (screen or RandomisedCheck(1)).check(number, step)

    def descend(self, rate: float) -> None:
        descend(self.model, rate)


def a_step(
    seed: int = 0,
    activation: str = "relu",
    dtype: torch.dtype = torch.float32,
    parts: tuple[int, ...] = (B,),
    **options: Any,
) -> Step:
    batches = [random_batch(seed + i, part, SIZES, dtype) for i, part in enumerate(parts)]
    return Step(random_model(seed, SIZES, activation, dtype, **options), batches)


# -- right steps ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [CLOSE, GLANCE])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("activation", TORCH_ACTIVATIONS)
def test_right_steps_pass(activation: str, dtype: torch.dtype, every: int) -> None:
    close = []
    for options in ({}, {"bias": False}, {"label_smoothing": 0.1}, {"logit_penalty": 0.1}):
        step = a_step(3, activation, dtype, **options)
        screen = RandomisedCheck(5, every)
        for number in range(2, 8):
            result = step.screened(screen, number)
            assert result.passed, (options, result.failures)
            assert 0 < result.share <= 1
            close.append(result.per_row)
            step.descend(0.2)
            step = Step(step.model, [random_batch(number, 1 + 7 * number, SIZES, dtype)])
    assert all(close) if every == CLOSE else sum(close) < len(close) / 4


@pytest.mark.parametrize("parts", [(1,), (20, 20), (5, 1, 34)])
def test_batches_of_any_size_and_accumulated_ones_pass(parts: tuple[int, ...]) -> None:
    results = [a_step(seed, parts=parts).screened() for seed in range(5)]
    assert all(result.passed for result in results), results
    assert sum(result.per_row for result in results) >= (5 if len(parts) > 1 else 0)


@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
def test_down_to_a_loss_of_nothing(activation: str) -> None:
    """Where the gradient cancels, a glance may take a closer look, and nothing is refused."""
    train = load_digits().train
    x, labels = train.images[:20].flatten(1).float() / 16, train.labels[:20]
    model, looks = MLP((64, 32, 10), activation, seed=1), []
    screen = RandomisedCheck()
    for number in range(2, 200):
        step = Step(model, [(x, labels)])
        result = step.screened(screen, number)
        assert result.passed, (number, float(step.loss), result.failures)
        looks.append(result.per_row)
        if float(step.loss) > 3e-2:
            step.descend(0.5)
        else:
            with torch.no_grad():
                for parameter in model.layers[-1].parameters():
                    parameter.mul_(1.04)
    assert float(step.loss) < 1e-6
    assert sum(looks) < len(looks) / 4


def test_exact_zeros_and_saturation_pass() -> None:
    for scale in (0.0, 1e-30, 1e4):
        for every in (CLOSE, GLANCE):
            model = random_model(0, SIZES)
            x, labels = random_batch(0, B, SIZES)
            result = Step(model, [(x * scale, labels)]).screened(RandomisedCheck(0, every))
            assert result.passed, (scale, result.failures)


def test_frozen_parameters() -> None:
    step = a_step()
    for parameter in step.model.layers[0].parameters():
        parameter.requires_grad_(False)
    step = Step(step.model, [random_batch(0, B, SIZES)])
    assert step.screened().passed
    step.model.layers[1].weight.grad = None
    assert [f.tensor for f in step.screened().failures] == ["layers.1.weight"]


# -- wrong steps ------------------------------------------------------------------------------------------------------


def on(change: Any, tensor: Any) -> Fault:
    """A fault: ``change`` made in place to what ``tensor(step)`` gives."""

    def plant(step: Any) -> None:
        with torch.no_grad():
            change(tensor(step))

    return plant


def scaled(factor: float) -> Any:
    return lambda t: t.mul_(factor)


def put(value: Any, *index: Any) -> Any:
    return lambda t: t.index_put_(tuple(torch.tensor(i) for i in index), torch.tensor(value))


def mask_dropped(step: Any) -> None:
    """The second layer's inputs are differentiated through without their mask, and all that follows from it."""
    t = step.trace
    t.d_pre_activations[0].copy_(t.d_inputs[1])
    step.model.layers[0].weight.grad.copy_(t.d_pre_activations[0].T @ t.inputs[0])
    step.model.layers[0].bias.grad.copy_(t.d_pre_activations[0].sum(0))


def activation_wrong(step: Any) -> None:
    """An activation that is wrong, and what the next layer makes of it."""
    t, (weight, bias) = step.trace, step.model.weights_and_biases()[1]
    with torch.no_grad():
        t.inputs[1][4, 4] = 9.0
        t.pre_activations[1].copy_(torch.addmm(bias, t.inputs[1], weight.T))
        weight.grad.copy_(t.d_pre_activations[1].T @ t.inputs[1])


def another_weight(step: Any) -> None:
    """The forward used other weights than those there now."""
    with torch.no_grad():
        step.model.layers[1].weight[3, 4] += 0.01


FAULTS: dict[str, tuple[Fault, str]] = {
    "weight gradient, scale 1.0001": (on(scaled(1.0001), lambda s: s.grad(0)), "layers.0.weight"),
    "weight gradient, sign": (on(scaled(-1.0), lambda s: s.grad(1)), "layers.1.weight"),
    "weight gradient, one element": (on(put(0.0, 7, 50), lambda s: s.grad(0)), "layers.0.weight"),
    "weight gradient, NaN": (on(put(math.nan, 7, 50), lambda s: s.grad(0)), "layers.0.weight"),
    "weight gradient, infinity": (on(put(math.inf, 7, 5), lambda s: s.grad(1)), "layers.1.weight"),
    "last layer's weight gradient, scale 1.001": (on(scaled(1.001), lambda s: s.grad(2)), "layers.2.weight"),
    "bias gradient, scale 1.001": (on(scaled(1.001), lambda s: s.grad(0, "bias")), "layers.0.bias"),
    "bias gradient, one element": (on(put(0.0, 3), lambda s: s.grad(2, "bias")), "layers.2.bias"),
    "backward product": (on(scaled(1.001), lambda s: s.trace.d_inputs[1]), "the gradient of the input of layer 1"),
    "softmax gradient": (on(put(0.0, 4, 4), lambda s: s.trace.d_pre_activations[-1]), "the gradient of the logits"),
    "forward product": (on(put(1.0, 4, 4), lambda s: s.trace.pre_activations[1]), "the output of layer 1"),
    "activation": (activation_wrong, "the activation after layer 0"),
    "derivative": (mask_dropped, "the gradient of the output of layer 0"),
    "weights": (another_weight, "the output of layer 1"),
    "loss": (on(scaled(1.0001), lambda s: s.loss), "loss"),
    "loss, NaN": (on(scaled(math.nan), lambda s: s.loss), "loss"),
}


@pytest.mark.parametrize("every", [CLOSE, GLANCE])
@pytest.mark.parametrize("name", FAULTS)
def test_a_broken_link_is_found_and_named(name: str, every: int) -> None:
    plant, tensor = FAULTS[name]
    for seed in range(5):
        step = a_step(seed)
        plant(step)
        result = step.screened(RandomisedCheck(seed, every))
        assert not result.passed
        assert result.per_row
        assert tensor in [failure.tensor for failure in result.failures], result.failures
        assert not result.share <= 1


@pytest.mark.parametrize("bias", [True, False])
def test_flat_parameters_are_read_where_they_are(bias: bool) -> None:
    model = random_model(0, SIZES, bias=bias)
    for weight, own in model.weights_and_biases():
        joined = weight if own is None else torch.cat([weight, own[:, None]], 1)
        assert torch.equal(with_bias(weight, own), joined)
    flat = FlatParameters(model)
    for weight, own in flat.network.weights_and_biases():
        joined = weight if own is None else torch.cat([weight, own[:, None]], 1)
        assert torch.equal(with_bias(weight, own), joined)
        assert with_bias(weight, own).data_ptr() == weight.data_ptr()


@pytest.mark.parametrize("part", [0, 1])
def test_a_fault_in_either_of_two_accumulated_batches_is_found(part: Any) -> None:
    step = a_step(parts=(20, 20))
    with torch.no_grad():
        step.traces[part].d_pre_activations[1][3] = 0
    assert not step.screened().passed


def test_the_message_names_tensor_link_and_rows() -> None:
    step = a_step()
    step.grad(0)[[3, 5]] *= 1.01
    (failure,) = step.screened().failures
    assert failure.rows == (3, 5)
    assert str(failure).startswith("layers.0.weight: dW = Σ dzᵀ h does not hold (rows 3, 5): ")
    assert str(failure).endswith(" times what rounding explains")


@pytest.mark.parametrize("every", [CLOSE, GLANCE])
def test_one_wrong_element_of_any_row_is_found_with_any_probe(every: int) -> None:
    """Off by a thousandth of its row's norm, in any row whose norm is a tenth of the usual or more."""
    model = random_model(0, (784, 128, 10))
    step = Step(model, [random_batch(0, 64, (784, 128, 10))])
    screen, generator = RandomisedCheck(0, every), torch.Generator().manual_seed(0)
    gradient = step.grad(0)
    norms = gradient.norm(dim=1)
    rows = (norms > 0.1 * norms.square().mean().sqrt()).nonzero().flatten()
    assert len(rows) > 100
    for number in range(2, 202):
        row = int(rows[torch.randint(len(rows), (), generator=generator)])
        column = int(torch.randint(784, (), generator=generator))
        right = float(gradient[row, column])
        gradient[row, column] += 1e-3 * float(norms[row])
        result = step.screened(screen, number)
        gradient[row, column] = right
        assert [failure.tensor for failure in result.failures] == ["layers.0.weight"], (number, row, column)
        assert result.failures[0].rows == (row,)


# -- probes -----------------------------------------------------------------------------------------------------------


def test_probes_are_fresh_and_known_again() -> None:
    like = torch.zeros(1)
    probes = Probes(3, [(4, 5), (2, 4)], like)
    seen = {step: probes.of(step) for step in (1, 2, BLOCK, 2 * BLOCK)}
    assert [(p.v.shape, p.u.shape) for p in seen[1]] == [((4,), (5,)), ((2,), (4,))]
    assert len({float(p.u[0]) for found in seen.values() for p in found}) == 8
    again = Probes(3, [(4, 5), (2, 4)], like).of(BLOCK)
    assert all(torch.equal(a.u, b.u) and torch.equal(a.v, b.v) for a, b in zip(again, seen[BLOCK], strict=True))
    assert not torch.equal(Probes(4, [(4, 5), (2, 4)], like).of(1)[0].u, seen[1][0].u)


def test_no_entry_of_a_probe_is_near_0_and_signs_are_even() -> None:
    entries = torch.cat([torch.cat(p) for p in map(tuple, Probes(0, [(300, 700)], torch.zeros(1)).of(1))])
    assert float(entries.abs().min()) >= 0.5
    assert float(entries.abs().max()) < 1.5
    assert 400 < int((entries > 0).sum()) < 600


def test_a_step_can_be_replayed() -> None:
    step = a_step()
    first, again, other = step.screened(), step.screened(), step.screened(number=3)
    assert (first.share, first.seed) == (again.share, again.seed)
    assert first.share != other.share
