"""The batched check in C: what it shows is what Python's shows, on right steps, and on every one with a broken link."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from lean_mnist.audit.batched import BatchChecks, BatchedCheck
from lean_mnist.audit.local_checks import ComputedStep
from lean_mnist.audit.native_screen import NativeScreen
from lean_mnist.audit.randomised import Probes, RandomisedCheck
from lean_mnist.nn.step import StepResult
from tests.audit.test_randomised import FAULTS
from tests.audit.test_randomised import SIZES as WIDE
from tests.support.activations import TORCH_ACTIVATIONS
from tests.support.engine_cases import SIZES, WITHOUT, Case, all_options, compile_without


class Step:
    """One step of an engine in C, screened by both; its tape and gradients can be tampered with."""

    def __init__(self, case: Case, examples: int, seed: int = 0) -> None:
        self.case, self.model, self.batch = case, case.model, case.hot_batch(examples, seed)
        self.result: StepResult = case.engine.step([self.batch])
        self.loss, self.trace = self.result.loss, self.result.tapes[0]
        self.screen = NativeScreen(case.engine)

    def grad(self, layer: int, what: str = "weight") -> Any:
        return getattr(self.model.layers[layer], what).grad

    @property
    def computed(self) -> ComputedStep:
        return ComputedStep.of(self.model, [self.batch], [self.trace], self.loss)

    def shares(self, number: int = 7) -> tuple[float, float]:
        """Of both checks, by the same probes."""
        probes = Probes(1, self.screen.shapes, torch.zeros(0))
        self.screen.use(probes.rows(number))
        found = self.screen.share(self.trace, float(self.loss))
        assert found is not None
        checks = BatchChecks.of(self.computed)
        assert checks is not None
        batched = BatchedCheck(checks)
        batched.probes.copy_(probes.vector(number))
        batched.run(checks)
        return found, batched.share(float(checks.loss))


def tensors_of(step: Step) -> Sequence[Tensor]:
    """What a step computes, but the loss."""
    t, gradients = step.trace, [p.grad for p in step.model.parameters()]
    values = [*t.inputs[1:], *t.pre_activations, *gradients, *t.d_pre_activations, *t.d_inputs[1:]]
    return [value for value in values if value is not None]


@WITHOUT
@pytest.mark.parametrize("activation", TORCH_ACTIVATIONS)
def test_nothing_stands_out_of_right_steps(activation: str, without: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compile_without(monkeypatch, without)
    for sizes in SIZES:
        for options in all_options() if sizes[0] < 784 else ({},):
            case = Case(sizes, activation, examples=64, batch_size=64, threads=2, **options)
            for examples in (1, 6, 64):
                # In a network of a few units a step stands out now and then; the row-by-row check then decides.
                ordinary = 1.5 if min(sizes) > 8 else 3
                assert all(share <= ordinary for share in Step(case, examples, examples).shares())


@WITHOUT
@pytest.mark.parametrize("activation", TORCH_ACTIVATIONS)
def test_what_is_changed_shows_as_much_in_both(activation: str, without: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compile_without(monkeypatch, without)
    for options in all_options():
        case = Case(WIDE, activation, examples=40, batch_size=40, **options)
        for examples in (3, 16, 40):
            step = Step(case, examples)
            for number, tensor in enumerate(tensors_of(step)):
                place = (-1,) * tensor.dim()
                kept = float(tensor[place])
                tensor[place] += 0.02 * float(tensor.norm()) + 1e-4
                in_c, in_python = step.shares()
                tensor[place] = kept
                if in_python > 20:  # of what is little more than rounding each has its own
                    backward = number >= 11 - 3 * (not options["bias"])  # by the size of its own row, in C
                    about = {"rel": 4, "abs": 0} if backward else {"rel": 0.1}
                    if activation not in ("relu", "identity") or not math.isinf(
                        in_c
                    ):  # what rounds nothing is compared
                        assert in_c == pytest.approx(in_python, **about), (options, examples, number)
                    assert in_c > 0.25 * in_python


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", FAULTS)
def test_a_broken_link_stands_out_and_is_named(name: str, threads: int) -> None:
    plant, tensor = FAULTS[name]
    for seed in range(5):
        case = Case(WIDE, examples=40, batch_size=40, threads=threads)
        step: Any = Step(case, 40, seed)
        plant(step)
        in_c, in_python = step.shares(seed)
        assert not in_c <= 1
        assert not in_python <= 1
        check = RandomisedCheck(seed)
        check.stand_in(step.screen)
        result = check.check(2, step.computed)
        assert result.stood_out
        assert tensor in [failure.tensor for failure in result.failures], result.failures


def test_a_number_that_is_none_is_not_lost() -> None:
    step, found = Step(Case(WIDE, examples=40, batch_size=40), 40), 0
    for tensor in tensors_of(step):
        place = (0,) * tensor.dim()
        value = float(tensor[place])
        for wrong in (math.nan, math.inf):
            tensor[place] = wrong
            in_c, in_python = step.shares()
            assert not in_c <= 1
            found += not in_python <= 1
        tensor[place] = value
    assert found >= 20
    assert step.shares()[0] <= 1


def test_a_tape_that_is_not_in_the_engine_is_not_its_to_screen() -> None:
    case = Case()
    step = Step(case, 6)
    step.screen.use(Probes(1, step.screen.shapes, torch.zeros(0)).rows(2))
    assert step.screen.share(step.trace.copied(), float(step.loss)) is None
    case.chunk()
    assert step.screen.share(step.trace, float(step.loss)) is None
