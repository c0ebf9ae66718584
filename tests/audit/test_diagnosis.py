"""A step with one link changed: that link is named as the first cause, with its class, and a right step has none."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from lean_mnist.audit.diagnosis import StepFault, explain_gradcheck, first_fault
from lean_mnist.audit.local_checks import ComputedStep, largest_share
from lean_mnist.audit.reference import NetworkLoss
from lean_mnist.data.datasets import load_digits
from lean_mnist.nn import MLP
from lean_mnist.nn.step import RING_DEPTH, StepResult, StepTape, put_gradients
from tests.support.activations import TORCH_ACTIVATIONS
from tests.support.crosscheck_cases import descend, layers_of, random_batch, random_model

Change = Callable[[Any, Any], Any]  # of a tensor and its step, the tensor in its place
SIZES, B = (20, 24, 16, 10), 32
LOGITS, DERIVATIVE, INPUT = "the gradient of the logits", "the gradient of the output of layer 1", "layer 2"


def steps_of(model: MLP, count: int = 3, batches: int = 1, seed: int = 0, rate: float = 0.1) -> Any:
    """The last of ``count`` steps of plain descent, as recorded, with the calls before it."""
    past: deque[StepTape] = deque(maxlen=RING_DEPTH)
    for step in range(count):
        data = [random_batch(100 * seed + 10 * step + part, B + part, SIZES, next(model.parameters()).dtype)
                for part in range(batches)]  # fmt: skip
        model.zero_grad(set_to_none=True)
        result = put_gradients(model, data)
        tapes = result.tapes
        found = ComputedStep.of(model, data, tapes, result.loss, tuple(past))
        if step + 1 < count:
            past.extend(tapes)
            descend(model, rate)
    return found


def changed(
    step: Any,
    weight: Change | None = None,
    bias: Change | None = None,
    d_s: Change | None = None,
    d_z: Change | None = None,
    d_h: Change | None = None,
    again: str = "same",
) -> ComputedStep:
    """``step`` with one of its tensors replaced by what a function makes of it, and what follows left as it was."""
    trace, gradients = step.tapes[0], list(step.gradients)
    if weight is not None:
        gradients[1] = (weight(gradients[1][0], step), gradients[1][1])
    if bias is not None:
        gradients[1] = (gradients[1][0], bias(gradients[1][1], step))
    if d_s is not None:
        trace.d_pre_activations[2] = d_s(trace.d_pre_activations[2], step)
    if d_z is not None:
        trace.d_pre_activations[1] = d_z(trace.d_pre_activations[1], step)
    if d_h is not None:
        trace.d_inputs[2] = d_h(trace.d_inputs[2], step)
    run = StepResult(torch.tensor(0.0), gradients, list(step.tapes))
    repeat = {"same": lambda: run, "right": step.again}[again]
    changed_step: ComputedStep = replace(step, gradients=gradients, again=repeat)
    return changed_step


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batches", [1, 3])
@pytest.mark.parametrize("activation", TORCH_ACTIVATIONS)
def test_a_right_step_has_no_fault(activation: str, batches: int, dtype: torch.dtype) -> None:
    for seed in range(3):
        model = random_model(seed, SIZES, activation, dtype, label_smoothing=0.1, logit_penalty=0.01)
        assert first_fault(steps_of(model, batches=batches, seed=seed)) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
def test_a_right_step_has_no_fault_where_that_is_hard_to_tell(activation: str, dtype: torch.dtype) -> None:
    """Late in training, in one example, saturated, in exact zeros, and where everything cancels over the batch."""
    hard = []
    digits = load_digits().train
    x, labels = digits.images[:40].flatten(1).to(dtype) / 16, digits.labels[:40]
    model = MLP((64, 32, 10), activation, seed=1, dtype=dtype)
    for step in range(150):
        model.zero_grad(set_to_none=True)
        put_gradients(model, [(x, labels)])
        descend(model, 0.5)
        if step % 10 == 9:
            hard += [(model, [(x, labels)]), (model, [(x[:1], labels[:1])]), (model, [(x[:13], labels[:13])] * 3)]
            for wrong in _shares_of(hard):
                assert not wrong
            hard.clear()
    for factor in (0.0, 10.0, 100.0):
        scaled = random_model(2, SIZES, activation, dtype)
        with torch.no_grad():
            for p in scaled.parameters():
                p.mul_(factor)
        hard.append((scaled, [random_batch(3, B, SIZES, dtype)]))
    wavering = random_model(4, (20, 16, 2), activation, dtype)
    with torch.no_grad():
        for parameter, factor in zip(wavering.parameters(), (1, 1, 1e-3, 0), strict=True):
            parameter.mul_(factor)
    twice = random_batch(5, 60, (20, 16, 2), dtype)[0]
    # Sorted by label, so that partial sums climb to half of all terms before the other half cancels them.
    hard.append((wavering, [(torch.cat([twice, twice]), torch.arange(2).repeat_interleave(60))]))
    assert not [share for share in _shares_of(hard) if share]


def _shares_of(cases: Any) -> Iterator[float]:
    """The share of each case that is above 1, or 0."""
    for model, batches in cases:
        model.zero_grad(set_to_none=True)
        result = put_gradients(model, batches)
        share = largest_share(ComputedStep.of(model, batches, result.tapes, result.loss))
        yield 0 if share <= 1 else share


def before(step: Any) -> Any:
    return step.past[-1]


def put(values: Tensor, index: Any, value: float) -> Tensor:
    values = values.clone()
    values[index] = value
    return values


CAUSES: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "sign": ({"weight": lambda g, s: -g}, "sign", "layers.1.weight", ""),
    "mean for sum": ({"weight": lambda g, s: g / B}, "constant factor", "layers.1.weight", "1/32 times"),
    "decay": ({"weight": lambda g, s: g + 1e-3 * s.layers[1][0].detach()}, "missing term", "layers.1.weight",
              "0.001 times layers.1.weight was added"),
    "stale input": ({"weight": lambda g, s: s.tapes[0].d_pre_activations[1].T @ before(s).inputs[1]},
                    "stale value", "layers.1.weight", "formed with the input of the call before"),
    "stale gradient": ({"weight": lambda g, s: before(s).d_pre_activations[1].T @ before(s).inputs[1]},
                       "stale value", "layers.1.weight", "this is the gradient of the call before"),
    "two calls ago": ({"weight": lambda g, s: s.past[0].d_pre_activations[1].T @ s.past[0].inputs[1]},
                      "stale value", "layers.1.weight", "two calls before"),
    "not cleared": ({"weight": lambda g, s: g + before(s).d_pre_activations[1].T @ before(s).inputs[1]},
                    "stale value", "layers.1.weight", "1 times the gradient of the call before was added"),
    "tail lost": ({"weight": lambda g, s: s.tapes[0].d_pre_activations[1][:24].T
                   @ s.tapes[0].inputs[1][:24]}, "missing term", "layers.1.weight",
                  "examples 24..31 are missing from the sum"),
    "example twice": ({"weight": lambda g, s: g + torch.outer(s.tapes[0].d_pre_activations[1][5],
                                                              s.tapes[0].inputs[1][5])},
                      "missing term", "layers.1.weight", "example 5 is counted 2 times"),
    "float16": ({"weight": lambda g, s: g.half().float()}, "precision", "layers.1.weight", "float16"),
    "one element": ({"weight": lambda g, s: put(g, (3, 7), 0.0)}, "zero", "layers.1.weight", "one element, [3, 7]"),
    "NaN": ({"weight": lambda g, s: put(g, (3, 7), torch.nan)}, "NaN", "layers.1.weight", "1 of 384 values"),
    "no gradient": ({"weight": lambda g, s: None}, "zero", "layers.1.weight", "the gradient is zero"),
    "first example": ({"bias": lambda g, s: s.tapes[0].d_pre_activations[1][0]}, "missing term",
                      "layers.1.bias", "examples 1..31 are missing"),
    "no one-hot": ({"d_s": lambda d, s: torch.softmax(s.tapes[0].pre_activations[2], 1) / B}, "missing term",
                   LOGITS, "1 times the one-hot targets was added"),
    "sum for mean": ({"d_s": lambda d, s: d * B}, "constant factor", LOGITS, "32 times the reference (32 is a size"),
    "other labels": ({"d_s": lambda d, s: d + torch.nn.functional.one_hot(s.tapes[0].labels_B, 10) / B
                      - torch.nn.functional.one_hot((s.tapes[0].labels_B + 1) % 10, 10) / B},
                     "row or column swap", LOGITS, "the targets are those of other classes"),
    "clipped": ({"d_s": lambda d, s: d.clamp(-0.01, 0.01)}, "clipping", LOGITS, "clipped to -0.01 … 0.01"),
    "other softmax": ({"d_s": lambda d, s: d + (torch.softmax(2 * s.tapes[0].pre_activations[2], 1)
                                                - torch.softmax(s.tapes[0].pre_activations[2], 1)) / B},
                      "derivative", LOGITS, "other probabilities"),
    "unmasked": ({"d_z": lambda d, s: s.tapes[0].d_inputs[2].clone()}, "mask", DERIVATIVE, "not masked"),
    "mask of z > 0.1": ({"d_z": lambda d, s: d * (s.tapes[0].pre_activations[1] > 0.1)}, "mask", DERIVATIVE,
                        "another mask"),
    "stale mask": ({"d_z": lambda d, s: s.tapes[0].d_inputs[2] * (before(s).pre_activations[1] > 0)},
                   "stale value", DERIVATIVE, "the derivative is that of the call before"),
    "units lost": ({"d_h": lambda d, s: s.tapes[0].d_pre_activations[2][:, :6]
                    @ s.layers[2][0].detach()[:6]}, "missing term", INPUT, "units 6..9 are missing"),
    "weight of another step": ({"d_h": lambda d, s: s.tapes[0].d_pre_activations[2]
                                @ (s.layers[2][0].detach() + 0.02 * torch.randn(10, 16))}, "stale value", INPUT,
                               "that of another step"),
}  # fmt: skip


@pytest.mark.parametrize("name", CAUSES)
def test_the_first_broken_link_is_named(name: str) -> None:
    torch.manual_seed(0)
    change, kind, tensor, words = CAUSES[name]
    found = first_fault(changed(steps_of(random_model(0, SIZES)), **change))
    assert found is not None
    assert (found.diagnosis.kind, tensor in found.tensor, words in str(found)) == (kind, True, True), str(found)


def fault_of(step: ComputedStep) -> StepFault:
    """The first fault of a step that has one."""
    found = first_fault(step)
    assert found is not None
    return found


def test_everything_below_a_cause_is_right_for_what_it_was_given() -> None:
    """The logits' gradient doubled before all that follows: nothing else is blamed."""
    model = random_model(0, SIZES)
    step = steps_of(model)
    trace = step.tapes[0]
    for values in (trace.d_pre_activations, trace.d_inputs):
        values[:] = [2 * v if v is not None else None for v in values]
    doubled = [(2 * w, 2 * b) for w, b in step.gradients]
    run = StepResult(torch.tensor(0.0), doubled, [trace])
    found = fault_of(replace(step, gradients=doubled, again=lambda: run))
    assert found.tensor == LOGITS
    assert "2 times the reference" in found.diagnosis.text


def test_what_does_not_repeat_itself_is_nondeterminism() -> None:
    step = changed(steps_of(random_model(0, SIZES)), weight=lambda g, s: 1.5 * g, again="right")
    found = fault_of(step)
    assert found.diagnosis.kind == "nondeterminism"
    assert "run again, gives another result; this time: 1.5 times the reference" in found.diagnosis.text


OTHER_SLOPES: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": lambda z: 1 - torch.tanh(z),
    "sigmoid": lambda z: torch.sigmoid(-z),
}


@pytest.mark.parametrize("activation", OTHER_SLOPES)
def test_smooth_derivatives_that_are_other_functions(activation: str) -> None:
    step = steps_of(random_model(0, SIZES, activation))
    tape = step.tapes[0]
    wrong = tape.d_inputs[2] * OTHER_SLOPES[activation](tape.pre_activations[1])
    found = fault_of(changed(step, d_z=lambda d, s: wrong))
    assert found.diagnosis.kind == "derivative", str(found)
    assert "another function in place of the derivative" in found.diagnosis.text


def test_accumulated_batches_and_a_lost_one() -> None:
    step = steps_of(random_model(0, SIZES), batches=3)
    only = step.tapes[0]
    found = fault_of(changed(step, weight=lambda g, s: only.d_pre_activations[1].T @ only.inputs[1]))
    assert (found.diagnosis.kind, found.tensor) == ("missing term", "layers.1.weight")
    assert f"examples {B}..{3 * B + 2} are missing" in found.diagnosis.text


def test_an_upstream_gradient_that_is_ignored() -> None:
    step = steps_of(random_model(0, SIZES), batches=2)
    share = step.tapes[0].upstream
    found = fault_of(changed(step, d_s=lambda d, s: d / share))
    assert (found.diagnosis.kind, found.tensor) == ("upstream ignored", f"{LOGITS} of batch 0")


def test_a_replay_leaves_gradients_alone() -> None:
    model = random_model(0, SIZES)
    step = steps_of(model)
    kept = [p.grad for p in model.parameters()]
    values = [None if g is None else g.clone() for g in kept]
    again = step.again()
    assert all(p.grad is g for p, g in zip(model.parameters(), kept, strict=True))
    assert all(a is not None and b is not None and torch.equal(a, b) for a, b in zip(kept, values, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(again.gradients[0], step.gradients[0], strict=True))


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_gradchecks_piece_of_a_right_network_has_no_fault(activation: str) -> None:
    model = MLP(SIZES, activation, seed=0)
    layers = layers_of(model)
    assert explain_gradcheck(NetworkLoss.of(model), layers, *random_batch(0, B, SIZES)) is None
