"""The check of a step: no false alarm on right gradients, however trained; every planted bug found and named."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from lean_mnist.audit.gradcheck_piece import GradcheckResult, GradcheckVerdict
from lean_mnist.audit.randomised import RandomisedResult
from lean_mnist.audit.step_audit import AuditResult, StepAudit
from lean_mnist.crosscheck.comparison import Divergence
from lean_mnist.data.datasets import load_digits
from lean_mnist.nn import MLP
from lean_mnist.nn.step import Batch, Step, put_gradients
from lean_mnist.training.hooks.checks import CrossCheckHook
from lean_mnist.training.hooks.step import FailurePolicy
from lean_mnist.training.state import CheckSummary
from tests.support.activations import TORCH_ACTIVATIONS
from tests.support.crosscheck_cases import autograd_step, descend, random_batch, random_model

Wide = tuple[MLP, Tensor, Tensor, Tensor]
DEPTHS = {1: (20, 10), 2: (20, 16, 10), 3: (20, 16, 12, 10)}


def checked(model: MLP, batches: Sequence[Batch], *, gradcheck: bool = False) -> AuditResult:
    loss, _ = autograd_step(model, batches)
    return StepAudit(model).check(batches, loss, compare_gradients=True, gradcheck=gradcheck)


def worst(result: AuditResult) -> float:
    return max(divergence.share for divergence in result.divergences)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("batch", [1, 7, 128])
@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("activation", TORCH_ACTIVATIONS)
def test_right_gradients_pass(activation: str, depth: int, batch: int, dtype: torch.dtype) -> None:
    model = random_model(depth, DEPTHS[depth], activation, dtype)
    for step in range(2):  # untrained weights, then weights that have moved
        result = checked(model, [random_batch(step, batch, DEPTHS[depth], dtype)])
        assert result.passed, f"step {step}: {result.message}"
        descend(model, 0.5)


def test_the_loss_of_one_example_in_16_bits() -> None:
    """Its error and plain PyTorch's are single draws: one may be ten times the other by chance."""
    for seed in range(60):
        model = random_model(seed, DEPTHS[2], "gelu", torch.bfloat16)
        result = checked(model, [random_batch(seed, 1, DEPTHS[2], torch.bfloat16)])
        assert result.passed, f"seed {seed}: {result.message}"


@pytest.mark.parametrize("factor", [0.999, 1.001])
def test_a_wrong_loss_in_16_bits_is_found(factor: float) -> None:
    """However far its logits' rounding may put it from the reference, the loss of the step's own logits is exact."""
    model = random_model(0, DEPTHS[2], "gelu", torch.bfloat16)
    batch = random_batch(0, 32, DEPTHS[2], torch.bfloat16)
    result = put_gradients(model, [batch])
    for loss, passes in ((result.loss, True), (result.loss * factor, False)):
        audited = StepAudit(model).check([batch], loss, compare_gradients=True, gradcheck=False, tapes=result.tapes)
        assert audited.passed is passes, audited.message


def test_what_a_result_holds() -> None:
    model = random_model(0, DEPTHS[2])
    result = checked(model, [random_batch(0, 9, DEPTHS[2])], gradcheck=True)
    names = [name for name, _ in model.named_parameters()]
    assert [divergence.name for divergence in result.divergences] == ["loss", *names]
    assert result.gradcheck == GradcheckResult(GradcheckVerdict.PASSED)
    assert result.largest in result.divergences[1:]
    assert result.largest.share == max(divergence.share for divergence in result.divergences[1:])
    assert (result.passed, result.message, result.kinks) == (True, "", 0)
    assert result.seconds > 0


def test_only_what_is_due_is_done() -> None:
    model = random_model(0, DEPTHS[2])
    x, labels = random_batch(0, 9, DEPTHS[2])
    (loss, _), check = autograd_step(model, [(x, labels)]), StepAudit(model)
    only_gradcheck = check.check([(x, labels)], loss, compare_gradients=False, gradcheck=True)
    assert (only_gradcheck.divergences, only_gradcheck.largest) == ((), None)
    assert only_gradcheck.gradcheck is not None
    assert only_gradcheck.gradcheck.passed
    neither = check.check([(x, labels)], loss, compare_gradients=False, gradcheck=False)
    assert neither.gradcheck is None
    assert neither.passed


def test_the_model_and_its_gradients_are_left_alone() -> None:
    model = random_model(0, DEPTHS[2])
    x, labels = random_batch(0, 9, DEPTHS[2])
    loss, _ = autograd_step(model, [(x, labels)])
    before = [t.detach().clone() for p in model.parameters() for t in (p, p.grad) if t is not None]
    StepAudit(model).check([(x, labels)], loss, compare_gradients=True, gradcheck=True)
    for tensor, copy in zip([t for p in model.parameters() for t in (p, p.grad) if t is not None], before, strict=True):
        assert torch.equal(tensor.detach(), copy)


# Where right gradients are hard to tell from wrong ones.


def digits(examples: int, dtype: torch.dtype) -> Batch:
    train = load_digits().train
    return train.images[:examples].flatten(1).to(dtype) / 16, train.labels[:examples]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
@pytest.mark.parametrize("batch", [20, 7])
def test_down_to_a_loss_of_nothing(batch: int, activation: str, dtype: torch.dtype) -> None:
    """Late in training p − onehot(y) cancels to its last digits, in ours and in the reference's precision alike."""
    x, labels = digits(20, dtype)
    model, loss, step = MLP((64, 32, 10), activation, seed=1, dtype=dtype), math.inf, 0
    while loss > 1e-7:
        start = step * batch % 20
        result = checked(model, [(x[start : start + batch], labels[start : start + batch])])  # ragged at the end
        assert result.passed, f"step {step}, loss {loss:.1e}: {result.message}"
        loss = float(autograd_step(model, [(x, labels)])[0])
        if loss > 3e-2:
            descend(model, 1.0)
        else:  # every example is right, and from here on sharper logits are a quicker way down than the gradient
            with torch.no_grad():
                for parameter in model.layers[-1].parameters():
                    parameter.mul_(1.12)
        step += 1
        assert step < 1000


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("batch", [1, 2, 7])
def test_a_batch_that_is_all_but_certain(batch: int, activation: str, dtype: torch.dtype) -> None:
    """Logits whose margin of 8 to 20 makes p − onehot(y) as small as the rounding of p."""
    shares = {}
    for seed in range(20):
        model = random_model(seed, (16, 12, 10), activation, dtype)
        x, labels = random_batch(seed, batch, (16, 12, 10), dtype)
        labels[:] = labels[0]
        with torch.no_grad():
            list(model.parameters())[-1][labels[0]] += 8 + 12 * (seed / 20)
        shares[seed] = worst(checked(model, [(x, labels)]))
    assert not {seed: share for seed, share in shares.items() if not share <= 1}


@pytest.mark.parametrize("seed", range(3))
def test_in_double_precision_all_through_training(seed: int) -> None:
    """There the reference is no more precise than what it checks, and its error cannot be seen."""
    train = load_digits().train
    x, labels = (train.images.flatten(1).double() - 4.9) / 6, train.labels
    model = MLP((64, 32, 10), seed=seed, dtype=torch.float64)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    for step, chosen in enumerate(order.split(32)[:40]):
        result = checked(model, [(x[chosen], labels[chosen])])
        assert result.passed, f"step {step}: {result.message}"
        descend(model, 1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(5))
def test_gradients_that_cancel_over_the_batch(seed: int, dtype: torch.dtype) -> None:
    """Every example twice, under two labels between which the network wavers: the terms are large, the sum is not."""
    model = random_model(seed, (20, 16, 2), "relu", dtype)
    with torch.no_grad():
        for parameter, factor in zip(model.parameters(), (1, 1, 1e-3, 0), strict=True):
            parameter.mul_(factor)
    x, _ = random_batch(seed, 60, (20, 16, 2), dtype)
    batch = torch.cat([x, x]), torch.arange(2).repeat_interleave(60)
    result = checked(model, [batch])
    assert result.passed, result.message


@pytest.mark.parametrize("activation", TORCH_ACTIVATIONS)
@pytest.mark.parametrize("scale", [100.0, 1e4])
def test_saturated(activation: str, scale: float) -> None:
    """Logits of ten thousand and more, and activations without a slope."""
    for seed in range(5):
        model = random_model(seed, (20, 16, 10), activation)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(math.sqrt(scale))
        result = checked(model, [random_batch(seed, 33, (20, 16, 10))])
        assert result.passed, f"seed {seed}: {result.message}"


@pytest.mark.parametrize("activation", TORCH_ACTIVATIONS)
@pytest.mark.parametrize("what", ["inputs", "weights", "both", "half the inputs"])
def test_exact_zeros(activation: str, what: str) -> None:
    model, (x, labels) = random_model(0, (20, 16, 12, 10), activation), random_batch(0, 9, (20, 16, 12, 10))
    with torch.no_grad():
        for weight, bias in model.weights_and_biases():
            assert bias is not None
            bias.zero_()
            if what in ("weights", "both"):
                weight.zero_()
        if what in ("inputs", "both"):
            x.zero_()
        elif what == "half the inputs":
            x.clamp_(min=0)
    result = checked(model, [(x, labels)], gradcheck=True)
    assert result.passed, result.message
    if activation in ("relu", "leaky-relu") and what != "half the inputs":
        assert result.kinks == 9 * (16 + 12)


@pytest.mark.parametrize("options", [{"label_smoothing": 0.1}, {"label_smoothing": 1.0}, {"logit_penalty": 0.1}])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_options_of_the_loss(activation: str, options: Any) -> None:
    for seed in range(3):
        model = random_model(seed, (20, 16, 10), activation, **options)
        for step in range(4):
            result = checked(model, [random_batch(step, 33, (20, 16, 10))], gradcheck=step == 0)
            assert result.passed, f"seed {seed} step {step}: {result.message}"
            descend(model, 0.5)


@pytest.mark.parametrize("parts", [(5, 5, 5), (64, 64, 3), (1, 2, 3, 4), (128, 1)])
@pytest.mark.parametrize("bias", [True, False])
def test_accumulated_gradients_are_those_of_one_batch(parts: tuple[int, ...], bias: bool) -> None:
    for seed in range(3):
        model = random_model(seed, (20, 16, 10), bias=bias)
        for step in range(4):
            batches = [random_batch(100 * step + part, size, (20, 16, 10)) for part, size in enumerate(parts)]
            result = checked(model, batches)
            assert result.passed, f"seed {seed} step {step}: {result.message}"
            descend(model, 0.5)


@pytest.mark.parametrize("part", [64, 16, 1])
def test_a_unit_on_its_kink_takes_its_side_from_the_step(part: Any) -> None:
    """In single examples and in one batch sums are taken in different orders, and land on different sides of 0."""
    sizes, sides = (40, 8, 10), []
    for seed in range(5):
        model = random_model(seed, sizes)
        x, labels = random_batch(seed, 64, sizes)
        weight, bias = (t.detach() for t in model.weights_and_biases()[0] if t is not None)
        with torch.no_grad():
            weight[0, -1] = 1.0
            x[:, -1] = -(x[:, :-1].double() @ weight[0, :-1].double() + bias[0].double()).float()
        batches = list(zip(x.split(part), labels.split(part), strict=True))
        loss, traces = autograd_step(model, batches)
        hook = CrossCheckHook(model, lambda step: True, lambda step: False, FailurePolicy(CheckSummary()))
        records = list(hook.on_gradients(Step(1, model, batches, loss, torch.tensor(1.0), 0.1, traces)))
        assert [record.value for record in records if record.name == "crosscheck/kinks"] >= [64]
        sides += [trace.pre_activations[0][:, 0] > 0 for trace in traces]
    assert 0 < float(torch.cat(sides).double().mean()) < 1


# Bugs planted in the backward of a real 784-128-10 network, one stage at a time.

SIZES, B = (784, 128, 10), 100  # no multiple of 16
W1, B1, W2, B2 = "layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias"


def put(index: Any, value: Any) -> Any:
    def change(v: Tensor, c: dict[str, Tensor]) -> Any:
        v = v.clone()
        v[index] = value
        return v

    return change


def dropped_tail(v: Tensor, c: dict[str, Tensor]) -> Tensor:
    return torch.cat([v[: B // 16 * 16], torch.zeros_like(v[B // 16 * 16 :])])


def swapped(v: Tensor, c: dict[str, Tensor]) -> Tensor:
    return v[[1, 0, *range(2, len(v))]]


# A bug is a stage's name and what becomes of its value, given the value and everything computed so far.
BUGS: dict[str, dict[str, Callable[[Tensor, dict[str, Tensor]], Tensor]]] = {
    "sign": dict(dW1=lambda v, c: -v),
    "sign of all": dict(ds=lambda v, c: -v),
    "factor 2": dict(dW2=lambda v, c: 2 * v),
    "scale 1.01": dict(dW1=lambda v, c: 1.01 * v),
    "scale 1.001": dict(dW1=lambda v, c: 1.001 * v),
    "scale 1.0001": dict(dW1=lambda v, c: 1.0001 * v),
    "scale 1.0001 of a bias": dict(db2=lambda v, c: 1.0001 * v),
    "reshape for transpose": dict(dW1=lambda v, c: (c["x"].T @ c["dz"]).reshape(v.shape)),
    "two rows swapped": dict(dW1=swapped),
    "two rows swapped, second layer": dict(dW2=swapped),
    "sum for mean": dict(ds=lambda v, c: v * B),
    "mean twice": dict(ds=lambda v, c: v / B),
    "mask missing": dict(mask=lambda v, c: torch.ones_like(v)),
    "mask of the wrong tensor": dict(mask=lambda v, c: (c["dh"] > 0).float()),
    "mask shifted by 1e-3": dict(mask=lambda v, c: (c["z"] > 1e-3).float()),
    "mask of the neighbour": dict(mask=lambda v, c: v.roll(1, 1)),
    "bias gradient zero": dict(db1=lambda v, c: torch.zeros_like(v)),
    "bias gradient a mean": dict(db1=lambda v, c: c["dz"].mean(0)),
    "bias gradient the first row": dict(db2=lambda v, c: c["ds"][0]),
    "one-hot missing": dict(target=lambda v, c: torch.zeros_like(v)),
    "one-hot of the wrong class": dict(target=lambda v, c: v.roll(1, 1)),
    "label smoothing left in": dict(target=lambda v, c: 0.9 * v + 0.01),
    "one wrong label": dict(target=lambda v, c: torch.cat([v[:1].roll(1, 1), v[1:]])),
    "last row zero": dict(dW1=put(-1, 0.0)),
    "one element zero": dict(dW1=put((64, 392), 0.0)),
    "one element zero, second layer": dict(dW2=put((3, 77), 0.0)),
    "last column zero": dict(dW1=put((slice(None), -1), 0.0)),
    "one element NaN": dict(dW1=put((5, 5), math.nan)),
    "one element inf": dict(db2=put(9, math.inf)),
    "all rows written to row 0": dict(dW2=lambda v, c: torch.cat([v.sum(0, keepdim=True), 0 * v[1:]])),
    "weight decay leaked in": dict(dW1=lambda v, c: v + 1e-4 * c["W1"]),
    "bfloat16 accumulation": dict(dW1=lambda v, c: (c["dz"].bfloat16().T @ c["x"].bfloat16()).float()),
    "rounded to float16": dict(dW2=lambda v, c: v.half().float()),
    "tail of the batch dropped": dict(ds=dropped_tail),
    "tail of the batch dropped in one product": dict(dW1=lambda v, c: dropped_tail(c["dz"], c).T @ c["x"]),
    "last example dropped": dict(db1=lambda v, c: c["dz"][:-1].sum(0)),
    "wrong for large pre-activations": dict(mask=lambda v, c: v * (c["z"] < 3)),
    "transposed weight of the wrong layer": dict(dh=lambda v, c: v.flip(1)),
    "clipped": dict(dW1=lambda v, c: v.clamp(-1e-3, 1e-3)),
    "stale by one example": dict(h_kept=lambda v, c: v.roll(1, 0)),
    "missing fan-out": dict(dh=lambda v, c: c["ds"][:, :9] @ c["W2"][:9]),
    "upstream gradient ignored": dict(ds=lambda v, c: v.sign() / B),
}


def hand_backward(parameters: Iterable[Tensor], x: Tensor, labels: Tensor, bug: Any) -> list[Tensor]:
    """The gradients of 784-128-10 in plain PyTorch, with a bug planted in some stages."""
    c = dict(zip(("W1", "b1", "W2", "b2"), (p.detach() for p in parameters), strict=True), x=x)

    def stage(name: str, value: Any) -> Tensor:
        c[name] = bug[name](value, c) if name in bug else value
        return c[name]

    z = stage("z", torch.addmm(c["b1"], x, c["W1"].T))
    h = stage("h_kept", z.clamp(min=0))
    p = torch.softmax(torch.addmm(c["b2"], z.clamp(min=0), c["W2"].T), 1)
    target = stage("target", torch.nn.functional.one_hot(labels, 10).float())
    ds = stage("ds", (p - target) / B)
    dh = stage("dh", ds @ c["W2"])
    dz = stage("dz", dh * stage("mask", (z > 0).float()))
    return [stage("dW1", dz.T @ x), stage("db1", dz.sum(0)), stage("dW2", ds.T @ h), stage("db2", ds.sum(0))]


@pytest.fixture(scope="module")
def wide() -> Wide:
    model = random_model(0, SIZES)
    x, labels = random_batch(0, B, SIZES)
    return model, x, labels, model.loss(x, labels).detach()


def check_hand_written(wide: Wide, bug: Any) -> AuditResult:
    model, x, labels, loss = wide
    for parameter, gradient in zip(model.parameters(), hand_backward(model.parameters(), x, labels, bug), strict=True):
        parameter.grad = gradient
    return StepAudit(model).check([(x, labels)], loss, compare_gradients=True, gradcheck=False)


def test_the_hand_written_backward_without_a_bug_passes(wide: Wide) -> None:
    result = check_hand_written(wide, {})
    assert result.passed, result.message


@pytest.mark.parametrize("bug", BUGS)
def test_planted_bugs_are_found_and_the_right_tensors_named(bug: Any, wide: Wide) -> None:
    model, x, labels, _ = wide
    right = hand_backward(model.parameters(), x, labels, {})
    wrong = hand_backward(model.parameters(), x, labels, BUGS[bug])
    changed = {
        name
        for name, a, b in zip((W1, B1, W2, B2), right, wrong, strict=True)
        if not torch.allclose(a, b, rtol=0, atol=1e-6 * float(a.abs().max()))
    }
    assert changed
    result = check_hand_written(wide, BUGS[bug])
    assert {d.name for d in result.divergences if not d.passed} == changed, result.message
    assert not result.passed
    assert result.largest is not None
    assert result.largest.name in changed
    for name in changed:
        assert f"{name}[" in result.message


def test_the_message_names_the_place_and_both_values(wide: Wide) -> None:
    model = wide[0]
    result = check_hand_written(wide, dict(dW2=put((3, 77), 0.125)))
    right = hand_backward(model.parameters(), *wide[1:3], {})[2][3, 77]
    assert result.message.startswith("layers.1.weight[3, 77]: hand-written 0.125, reference ")
    assert result.largest is not None
    assert result.largest.reference == pytest.approx(float(right), rel=1e-4)


def test_the_tensor_nearest_to_the_loss_comes_first_with_its_diagnosis_and_the_rest_in_brief(wide: Wide) -> None:
    """What is computed from a wrong tensor inherits its fault, however much larger it looks there."""
    result = check_hand_written(wide, dict(dW1=lambda v, c: 100 * v, dW2=lambda v, c: 1.01 * v))
    first, diagnosis, rest = result.message.split("; ")
    assert first.startswith(f"{W2}[")
    assert diagnosis == f"likely constant factor in {W2}: 1.01 times the reference (everywhere)"
    assert rest.startswith(f"also wrong: {W1}[")
    assert rest.endswith("(divergence 9.90e+01)")
    result = check_hand_written(wide, dict(dW1=put((0, 0), math.nan), dW2=lambda v, c: 3 * v))
    assert result.message.startswith(W2)
    assert "\n" not in result.message


DIAGNOSES = {
    "sign": "sign",
    "factor 2": "constant factor",
    "reshape for transpose": "transpose",
    "two rows swapped": "row or column swap",
    "bias gradient zero": "zero",
    "last row zero": "zero",
    "one element zero": "zero",
    "one element NaN": "NaN",
    "all rows written to row 0": "zero",  # the rows of the last layer's dW sum to zero
    "weight decay leaked in": "missing term",
    "bfloat16 accumulation": "precision",
    "rounded to float16": "precision",
    "clipped": "clipping",
}


@pytest.mark.parametrize("bug", DIAGNOSES)
def test_without_traces_the_diagnosis_is_made_from_the_reference(bug: Any, wide: Wide) -> None:
    result = check_hand_written(wide, BUGS[bug])
    assert result.fault is not None
    assert result.fault.diagnosis.kind == DIAGNOSES[bug], result.message
    assert result.fault.tensor == result.failed[0].name


@pytest.mark.parametrize("missing", [W1, B1, W2, B2])
def test_a_missing_gradient_fails(missing: str, wide: Wide) -> None:
    model, x, labels, loss = wide
    assert check_hand_written(wide, {}).passed
    dict(model.named_parameters())[missing].grad = None
    result = StepAudit(model).check([(x, labels)], loss, compare_gradients=True, gradcheck=False)
    assert {d.name for d in result.divergences if not d.passed} == {missing}
    assert missing in result.message


@pytest.mark.parametrize("wrong", [1.0001, 0.5, -1.0, math.nan, math.inf])
def test_a_wrong_loss_is_named(wrong: Any, wide: Wide) -> None:
    model, x, labels, loss = wide
    check_hand_written(wide, {})
    result = StepAudit(model).check([(x, labels)], loss * wrong, compare_gradients=True, gradcheck=False)
    assert [d.name for d in result.divergences if not d.passed] == ["loss"]
    assert result.message.startswith("loss: hand-written ")


@pytest.mark.parametrize("other", ["batch", "labels", "weights"])
def test_gradients_of_another_step_fail(other: str, wide: Wide) -> None:
    model, x, labels, loss = wide
    check_hand_written(wide, {})
    if other == "weights":
        model = random_model(1, SIZES)
        for parameter, old in zip(model.parameters(), wide[0].parameters(), strict=True):
            parameter.grad = old.grad
    else:
        again = random_batch(1, B, SIZES)
        x, labels = (again[0], labels) if other == "batch" else (x, again[1])
    result = StepAudit(model).check([(x, labels)], loss, compare_gradients=True, gradcheck=False)
    assert {d.name for d in result.divergences if not d.passed} == {"loss", W1, B1, W2, B2}


def test_accumulating_without_clearing_fails(wide: Wide) -> None:
    model, x, labels, loss = wide
    autograd_step(model, [(x, labels)])
    model.loss(x, labels).backward()
    result = StepAudit(model).check([(x, labels)], loss, compare_gradients=True, gradcheck=False)
    assert {d.name for d in result.divergences if not d.passed} == {W1, B1, W2, B2}


@pytest.mark.parametrize("factor", [1 + 1e-4, 1 + 3e-5, 1 - 1e-4])
@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
def test_small_scale_errors_are_found_while_the_loss_is_large(activation: str, factor: float) -> None:
    for seed in range(3):
        model = random_model(seed, (64, 32, 10), activation)
        x, labels = random_batch(seed, 64, (64, 32, 10))
        loss, _ = autograd_step(model, [(x, labels)])
        for name, parameter in model.named_parameters():
            right = parameter.grad
            assert right is not None
            parameter.grad = right * factor
            result = StepAudit(model).check([(x, labels)], loss, compare_gradients=True, gradcheck=False)
            parameter.grad = right
            assert [d.name for d in result.divergences if not d.passed] == [name], f"seed {seed}: {result.message}"


@pytest.mark.parametrize("bug", [1.01, -1.0, 0.0])
def test_large_errors_are_found_when_the_loss_is_small(bug: Any) -> None:
    """The tolerance has grown with the cancellation, and must not have grown past this."""
    x, labels = digits(40, torch.float32)
    model = MLP((64, 32, 10), seed=0)
    while float(autograd_step(model, [(x, labels)])[0]) > 1e-2:
        descend(model, 0.5)
    with torch.no_grad():
        model.weights_and_biases()[-1][0].mul_(1.5)
    loss, _ = autograd_step(model, [(x, labels)])
    assert 1e-4 < float(loss) < 1e-3
    model.layers[0].weight.grad *= bug
    result = StepAudit(model).check([(x, labels)], loss, compare_gradients=True, gradcheck=False)
    assert [d.name for d in result.divergences if not d.passed] == [W1]


def test_gradchecks_verdict_counts() -> None:
    failed = AuditResult(
        (), (), GradcheckResult(GradcheckVerdict.FAILED, "gradcheck: x: hand-written 1, finite differences 2"), 0, 0.0
    )
    assert not failed.passed
    assert failed.message == "gradcheck: x: hand-written 1, finite differences 2"
    assert AuditResult((), (), GradcheckResult(GradcheckVerdict.KINK, "near"), 0, 0.0).passed
    assert AuditResult((), (), GradcheckResult(GradcheckVerdict.KINK, "near"), 0, 0.0).message == ""


def test_what_is_not_a_number_stays_the_largest_found() -> None:
    summary = CheckSummary()
    for step, value in enumerate((0.1, math.nan, 0.2), 1):
        found = Divergence("layers.0.weight", value, 1.0, (), 0.0, 0.0)
        summary.add_comparison(step, AuditResult((found, found), (), None, 0, 0.0))
        summary.add_screen(RandomisedResult((), value, True, False, 0, 0.0))
    assert math.isnan(summary.largest_divergence)
    assert summary.largest_at == "layers.0.weight, step 2"
    assert math.isnan(summary.largest_share)
    assert math.isnan(summary.largest_screen_share)
