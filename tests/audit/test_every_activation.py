"""Every activation, in every check: a slope that is a thousandth too steep is found, and the right one passes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from lean_mnist.audit.gradcheck_piece import gradcheck_piece
from lean_mnist.audit.local_checks import ComputedStep, Identity, local_checks
from lean_mnist.audit.randomised import RandomisedCheck
from lean_mnist.audit.reference import NetworkLoss
from lean_mnist.audit.step_audit import StepAudit
from lean_mnist.chainrule.activations import ACTIVATIONS, Activation
from lean_mnist.crosscheck import check_function
from lean_mnist.enclosure.enclose import enclose_model_gradients
from lean_mnist.mutants import planting
from lean_mnist.nn import functional
from lean_mnist.nn.step import put_gradients
from lean_mnist.verification.report import verify
from tests.support.activations import TORCH_ACTIVATIONS
from tests.support.crosscheck_cases import layers_of, random_batch, random_model

SIZES, EXAMPLES = (20, 16, 10), 32
Check = Callable[[str], bool]  # of an activation as it is installed: does it pass?


@contextmanager
def too_steep(name: str) -> Iterator[None]:
    """The backward of an activation, off by a factor of 1.001."""
    right = ACTIVATIONS[name]

    def wrong(saved: Any, d_h: Any) -> Any:
        return right.backward(saved, d_h) * 1001 / 1000

    with planting(f"chainrule.activations.ACTIVATIONS.{name}", Activation(name, right.forward, wrong)):
        yield


def step_of(name: str) -> tuple[Any, list[Any], ComputedStep]:
    """A step in float64, its gradients in ``.grad``."""
    model = random_model(1, SIZES, name, torch.float64)
    batches = [random_batch(2, EXAMPLES, SIZES, torch.float64)]
    result = put_gradients(model, batches)
    return model, batches, ComputedStep.of(model, batches, result.tapes, result.loss)


def reference(name: str) -> bool:
    model, batches, step = step_of(name)
    assert step.loss is not None
    return StepAudit(model).check(batches, step.loss, compare_gradients=True, gradcheck=False).passed


def exact_local_checks(name: str) -> bool:
    found = {check.identity: check.residual().share for check in local_checks(step_of(name)[2])}
    return found[Identity.DERIVATIVE] <= 1


def randomised_check(name: str) -> bool:
    return RandomisedCheck(0).check(7, step_of(name)[2]).passed


def gradcheck(name: str) -> bool:
    model = random_model(1, SIZES, name, torch.float64)
    return gradcheck_piece(NetworkLoss.of(model), layers_of(model), *random_batch(2, 8, SIZES, torch.float64)).passed


def enclosure(name: str) -> bool:
    """Right gradients lie within a millionth of the exact ones; those of a wrong slope are proved not to."""
    model, ((x, labels),), _ = step_of(name)
    with planting(f"chainrule.activations.ACTIVATIONS.{name}", RIGHT[name]):
        exact = enclose_model_gradients(model, x, labels)
    first, *_ = exact.bounds({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    return first.relative < 1e-6


def function(name: str) -> bool:
    z = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    return check_function(lambda z: functional.activate(z, name), TORCH_ACTIVATIONS[name], [z]).ok


def obligation(name: str) -> bool:
    return verify(f"gradient.{name}").ok


RIGHT = dict(ACTIVATIONS)
CHECKS = (reference, exact_local_checks, randomised_check, gradcheck, enclosure, function, obligation)


def test_the_tables_have_the_same_activations() -> None:
    assert set(TORCH_ACTIVATIONS) == set(ACTIVATIONS)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", TORCH_ACTIVATIONS)
def test_a_slope_that_is_too_steep_is_found(name: str, check: Check) -> None:
    assert check(name)
    with too_steep(name):
        assert not check(name)
