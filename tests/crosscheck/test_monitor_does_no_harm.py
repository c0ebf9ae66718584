"""Nothing of ``GradientMonitor`` but ``GradientMismatch`` reaches the loop: what is not checked is counted."""

import contextlib
import copy
import pickle
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lean_mnist.crosscheck.monitor import GradientMonitor
from lean_mnist.crosscheck.monitor.reasons import Reason
from lean_mnist.crosscheck.report import Verdict
from lean_mnist.errors import GradientMismatch
from tests.support.monitored_models import WIDTH, Applied, function, monitored, network, sine, straight_through

RIGHT_OR_WRONG = pytest.mark.parametrize("factor", [1.0, 1.1])


def verdict(factor: float) -> Verdict:
    return Verdict.PASSED if factor == 1 else Verdict.FAILED


def reasons(monitor: GradientMonitor) -> dict[str, int]:
    """What was not checked, and why; nothing else happened."""
    summary = monitor.summary()
    assert not summary.checked
    return dict(summary.not_applicable)


class Frees(Applied):
    """Frees its input's storage, as memcnn does with what an inverse gives again."""

    def forward(self, x: Tensor) -> Any:
        y = super().forward(x)
        x.untyped_storage().resize_(0)
        return y


def test_a_storage_that_was_freed_is_not_read() -> None:
    saved = function(
        lambda ctx, x: (ctx.save_for_backward(x.tanh()), x.tanh())[1],
        lambda ctx, g: g * (1 - ctx.saved_tensors[0] ** 2),
    )
    monitor = monitored(network(Frees(saved)))
    assert reasons(monitor) == {Reason.FREED.value: 1}
    assert f"1 × {Reason.FREED.value} (first: 1: " in str(monitor.summary())


class Stops(nn.Module):
    """Its last Function gives ``None`` as the gradient of the second of its inputs."""

    def __init__(self, stop: Any) -> None:
        super().__init__()
        self.linear, self.first, self.second, self.stop = nn.Linear(WIDTH, WIDTH), Applied(), Applied(), stop
        self.first.functions, self.second.functions = (sine(),), (sine(),)

    def forward(self, x: Tensor) -> Any:
        h = self.linear(x)
        return self.stop.apply(self.first(h), self.second(h))


def test_a_gradient_of_none() -> None:
    stop = function(lambda ctx, x, y: x + y.detach(), lambda ctx, g: (g, None), "Stop")
    monitor = monitored(Stops(stop), intended={"Stop": "stops the gradient"})
    assert [(report.module, report.verdict) for report in monitor.history] == [
        ("first (Applied)", Verdict.PASSED),
        ("second (Applied)", Verdict.NOT_APPLICABLE),
    ]
    assert monitor.summary().not_applicable == {Reason.UPSTREAM.value: 1}
    model = Stops(stop)
    GradientMonitor(model)
    with pytest.raises(GradientMismatch, match=r"the model \(Stops\)"):  # nobody said that this is meant
        model(torch.randn(3, WIDTH)).sum().backward()


class Recomputing(nn.Module):
    """Computes its function again in the backward, as ODE adjoints and reversible networks do."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh())

        def forward(ctx: Any, inner: Any, x: Tensor, *parameters: Tensor) -> Any:
            ctx.inner, ctx.parameters = inner, parameters
            ctx.save_for_backward(x)
            return inner(x)

        @torch.enable_grad()
        def backward(ctx: Any, g: Tensor) -> Any:
            x = ctx.saved_tensors[0].detach().requires_grad_()
            gradients = torch.autograd.grad(ctx.inner(x), (x, *ctx.parameters), factor * g, allow_unused=True)
            return (None, *gradients)

        self.function = function(forward, backward, "Recompute")

    def forward(self, x: Tensor) -> Any:
        return self.function.apply(self.inner, x, *self.inner.parameters())


@RIGHT_OR_WRONG
def test_recomputation_finds_the_parameters_of_the_replay(factor: float) -> None:
    (report,) = monitored(network(Recomputing(factor))).history
    assert report.verdict is verdict(factor), report.details()


class Checkpointed(Applied):
    def __init__(self, factor: float, reentrant: bool) -> None:
        super().__init__(sine(factor))
        self.weight, self.reentrant = nn.Parameter(torch.linspace(0.5, 1, WIDTH)), reentrant

    def forward(self, x: Tensor) -> Any:
        inside = super().forward
        return checkpoint(lambda u: inside(u * self.weight) * u, x, use_reentrant=self.reentrant)


@RIGHT_OR_WRONG
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints(factor: float, reentrant: bool) -> None:
    alone, model = network(Checkpointed(factor, reentrant)), network(Checkpointed(factor, reentrant))
    torch.manual_seed(1)
    alone(torch.randn(3, WIDTH)).sum().backward()
    torch.manual_seed(1)
    (report,) = monitored(model).history
    assert report.verdict is verdict(factor), report.details()
    for a, b in zip(alone.parameters(), model.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert torch.equal(a.grad, b.grad)  # what is out of sight accumulates nothing


@RIGHT_OR_WRONG
def test_the_whole_model_in_a_checkpoint(factor: float) -> None:
    model = network(Applied(sine(factor)))
    monitor = GradientMonitor(model, on_mismatch=lambda report: None)
    checkpoint(model, torch.randn(3, WIDTH, requires_grad=True), use_reentrant=True).sum().backward()
    assert [report.verdict for report in monitor.history] == [verdict(factor)]


def scaled(factor: float) -> Any:
    """``w x``, whose gradient of ``w`` is ``factor`` times the right one."""

    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return x * w

    def backward(ctx: Any, g: Tensor) -> Any:
        x, w = ctx.saved_tensors
        return g * w, factor * (g * x).sum(0)

    return function(forward, backward, "Scaled")


class OutOfSight(nn.Module):
    """Its weight is no parameter of its own: an attribute, as where parameters are sharded flat, or in a list."""

    def __init__(self, factor: float, how: str) -> None:
        super().__init__()
        self.function, self.weights = scaled(factor), [nn.Parameter(torch.linspace(0.5, 1, WIDTH))]
        if how == "attribute":
            self.weights, self.weight = [], self.weights[0] * 1

    def forward(self, x: Tensor) -> Any:
        return self.function.apply(x, self.weights[0] if self.weights else self.weight)


@RIGHT_OR_WRONG
@pytest.mark.parametrize("how", ["attribute", "list"])
def test_a_weight_that_is_no_parameter_is_not_passed_over(factor: float, how: str) -> None:
    (report,) = monitored(network(OutOfSight(factor, how))).history
    assert report.verdict is verdict(factor), report.details()
    assert "of Scaled" in report.details()


def test_a_checkpoint_of_what_is_out_of_sight() -> None:
    class Parent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.weight = nn.Linear(WIDTH, WIDTH), nn.Parameter(torch.ones(WIDTH))
            self.child = Child(self.product)

        def product(self, x: Tensor) -> Any:
            return scaled(1.1).apply(x, self.weight)

        def forward(self, x: Tensor) -> Any:
            return self.child(self.linear(x))

    class Child(nn.Module):
        def __init__(self, product: Any) -> None:
            super().__init__()
            self.product = [product]

        def forward(self, x: Tensor) -> Any:
            return checkpoint(lambda u: self.product[0](u), x, use_reentrant=True)

    model = Parent()
    monitor = monitored(model)
    assert reasons(monitor) == {Reason.OUT_OF_SIGHT.value: 1}


class KeepsItsOutput(Applied):
    """Keeps a tensor with a graph, as spiking and recurrent networks do, which ``copy.deepcopy`` refuses."""

    def forward(self, x: Tensor) -> Any:
        self.state = super().forward(x)
        return self.state


class Bypass(KeepsItsOutput):
    __call__ = KeepsItsOutput.forward


@RIGHT_OR_WRONG
def test_a_module_that_keeps_a_tensor_with_a_graph(factor: float) -> None:
    monitor = monitored(network(KeepsItsOutput(sine(factor))), steps=2)
    assert [report.verdict for report in monitor.history] == [verdict(factor)] * 2


@RIGHT_OR_WRONG
def test_a_call_without_hooks_is_checked_with_what_is_around_it(factor: float) -> None:
    monitor = monitored(network(Bypass(sine(factor))))
    assert [(report.module, report.verdict) for report in monitor.history] == [
        ("the model (Sequential)", verdict(factor))
    ]
    assert monitor.summary().bypassed == ("1 (Bypass)",)


def test_a_monitor_that_sees_nothing_says_so() -> None:
    monitor = monitored(Bypass(sine()), steps=0)
    for _ in range(2):
        monitor.model(torch.randn(3, WIDTH, requires_grad=True)).sum().backward()
    assert "nothing was checked in 0 forwards" in str(monitor.summary())
    with pytest.warns(UserWarning, match=r"nothing was checked.*\n.*the model \(Bypass\)"):
        monitor.detach()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monitor.detach()  # said once


class TakesSparse(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.product = function(
            lambda ctx, a, x: (ctx.save_for_backward(a), a @ x)[1], lambda ctx, g: (None, ctx.saved_tensors[0].mT @ g)
        )

    def forward(self, a: Tensor, x: Tensor) -> Any:
        return self.product.apply(a, x) if self.kind == "sparse" else sine().apply(x) + a.size(0)


class GivesSparse(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.linear, self.inner = nn.Linear(WIDTH, WIDTH), TakesSparse(kind)

    def forward(self, x: Tensor) -> Any:
        if self.inner.kind == "sparse":
            a = torch.eye(len(x)).to_sparse()
        else:
            a = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)
        return self.inner(a, self.linear(x))


@pytest.mark.parametrize("kind", ["sparse", "nested"])
def test_sparse_and_nested_arguments(kind: str) -> None:
    assert reasons(monitored(GivesSparse(kind))) == {Reason.UNUSUAL_TENSORS.value: 1}


class Trained(Applied):
    """Leaves its trainer out of its copies, as Lightning's modules do."""

    def __init__(self, *functions: Any) -> None:
        super().__init__(*functions)
        self.trainer = NotToCopy()

    def __getstate__(self) -> Any:
        return {**vars(self), "trainer": None}


class NotToCopy:
    copied = False

    def __deepcopy__(self, _: Any) -> Any:
        NotToCopy.copied = True
        return self


@RIGHT_OR_WRONG
def test_what_a_module_leaves_out_of_its_copies_is_not_copied(factor: float) -> None:
    (report,) = monitored(network(Trained(sine(factor)))).history
    assert report.verdict is verdict(factor)
    assert not NotToCopy.copied


class Raises(Applied):
    """Raises from its second call on, the first one being the loop's."""

    def __init__(self, error: Exception) -> None:
        super().__init__(sine())
        self.error, self.raises = error, False

    def forward(self, x: Tensor) -> Any:
        if self.raises:
            raise self.error
        self.raises = True
        return super().forward(x)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.OutOfMemoryError("out of memory"), Reason.MEMORY),
        (AssertionError("no second call"), Reason.CALL_FAILED),
    ],
)
def test_a_call_that_cannot_be_made_again(error: Exception, reason: Reason) -> None:
    assert reasons(monitored(network(Raises(error)))) == {reason.value: 1}


def test_whatever_a_hook_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    def unforeseen(*_: Any, **__: Any) -> Any:
        raise KeyError("unforeseen")

    model = network(Applied(sine()))
    assert reasons(monitored(model, every=unforeseen)) == {Reason.UNFORESEEN.value: 1}
    for place in (
        "recorded_calls.RecordedCall.listen",
        "recorded_calls.StartedCall.returned",
        "forward_recording.floating",
        "gradient_monitor.ForwardRecording",
        "gradient_monitor.check_recorded",
        "call_check.ModuleCopy",
    ):
        with monkeypatch.context() as patch:
            patch.setattr(f"lean_mnist.crosscheck.monitor.{place}", unforeseen)
            assert set(reasons(monitored(model))) == {Reason.UNFORESEEN.value}, place
    assert monitored(model).summary().passed == 1


def test_warnings_that_are_errors_stay_outside() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monitored(nn.Linear(WIDTH, WIDTH), steps=2)


def test_parameters_that_change_during_the_backward_are_copied_from_then_on() -> None:
    model = network(nn.Sequential(nn.Linear(WIDTH, WIDTH), Bypass(sine())))

    def update(parameter: Tensor) -> None:  # an optimizer inside of the backward
        with torch.no_grad():
            parameter -= 0.1 * parameter.grad  # type: ignore[operator]
        parameter.grad = None

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(update)
    monitor = monitored(model, steps=2)
    assert [report.verdict for report in monitor.history] == [Verdict.NOT_APPLICABLE, Verdict.PASSED]
    assert monitor.summary().not_applicable == {Reason.CHANGED.value: 1}


def test_arguments_that_the_call_overwrites() -> None:
    class Overwrites(Applied):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x.mul_(2))

    class Copies(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 1

    assert reasons(monitored(network(Copies(), Overwrites(sine())))) == {Reason.CHANGED.value: 1}


class Branches(nn.Module):
    """Two results, which a loop may send back through in two backwards, or one of them in none."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.linear, self.first, self.second = nn.Linear(WIDTH, WIDTH), Applied(sine()), Applied(sine(factor, "Other"))

    def forward(self, x: Tensor) -> Any:
        return self.first(self.linear(x)), self.second(self.linear(x))


@RIGHT_OR_WRONG
def test_every_backward_through_a_forward_is_listened_to(factor: float) -> None:
    model = Branches(factor)
    monitor = monitored(model, steps=0)
    for y in model(torch.randn(3, WIDTH)):
        y.sum().backward()
    assert [report.verdict for report in monitor.history] == [Verdict.PASSED, verdict(factor)]


def test_a_call_through_which_no_backward_came_is_counted() -> None:
    model = Branches(1.1)
    monitor = monitored(model, steps=0)
    model(torch.randn(3, WIDTH))[0].sum().backward()
    summary = monitor.detach()
    assert (summary.passed, summary.failed) == (1, 0)
    assert summary.not_applicable == {Reason.NO_BACKWARD.value: 1}
    assert summary == monitor.detach()


def test_it_is_let_go_when_the_next_forward_begins() -> None:
    model = Branches(1.1)
    monitor = monitored(model, steps=0, every=100)
    model(torch.randn(3, WIDTH))[0].sum().backward()
    assert not monitor.summary().not_applicable
    model(torch.randn(3, WIDTH))
    assert monitor.summary().not_applicable == {Reason.NO_BACKWARD.value: 1}


@RIGHT_OR_WRONG
def test_it_goes_on_after_an_interrupt(factor: float) -> None:
    class Interrupted(Applied):
        interrupted = False

        def forward(self, x: Tensor) -> Any:
            if not self.interrupted:
                self.interrupted = True
                raise KeyboardInterrupt
            return super().forward(x)

    model = network(Applied(sine()), Interrupted(sine(factor, "Other")))
    monitor = monitored(model, steps=0, every=lambda number: number != 1)
    with pytest.raises(KeyboardInterrupt):
        model(torch.randn(3, WIDTH))
    model(torch.randn(3, WIDTH)).sum().backward()
    assert not any(part._forward_hooks for part in model[1:])
    for _ in range(2):
        model(torch.randn(3, WIDTH)).sum().backward()
    assert monitor.forwards == 4
    assert {report.verdict for report in monitor.history if report.module == "2 (Interrupted)"} == {verdict(factor)}


def test_a_model_that_calls_itself_is_one_forward() -> None:
    class Recursive(Applied):
        def forward(self, x: Tensor, depth: int = 2) -> Any:
            return super().forward(self(x, depth - 1) if depth else x)

    model = Recursive(sine())
    monitor = monitored(model, steps=0)
    model(torch.randn(3, WIDTH, requires_grad=True)).sum().backward()
    assert monitor.forwards == 1
    assert [report.verdict for report in monitor.history] == [Verdict.PASSED]


@RIGHT_OR_WRONG
def test_a_part_that_raised_and_was_caught(factor: float) -> None:
    class Catches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.refuses, self.linear, self.function = nn.Linear(1, 1), nn.Linear(WIDTH, WIDTH), sine(factor)

        def forward(self, x: Tensor) -> Any:
            with contextlib.suppress(RuntimeError):
                return self.refuses(x)
            return self.function.apply(self.linear(x))

    (report,) = monitored(Catches()).history
    assert report.verdict is verdict(factor)


def test_of_functions_that_are_not_called_again_nothing_is_said() -> None:
    class Alternates(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls, self.functions = 0, (sine(), sine(1.1, "Other"))

        def forward(self, x: Tensor) -> Any:
            self.calls += 1
            x = self.functions[0].apply(x * self.calls)
            return self.functions[1].apply(x) if self.calls == 1 else x

    (report,) = monitored(network(Alternates())).history
    assert report.verdict is Verdict.INCONCLUSIVE
    assert "Other is not called again" in report.details()


def test_where_differences_tell_nothing_the_summary_says_so() -> None:
    infinite = function(lambda ctx, x: x + torch.inf, lambda ctx, g: g, "Infinite")
    model = network(Applied(infinite, straight_through()))
    assert reasons(monitored(model, intended={"STE": "surrogate"})) == {Reason.NOTHING_TOLD.value: 1}


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_of_the_model_is_not_watched(copied: Any) -> None:
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH))
    with GradientMonitor(model, every=1) as monitor:
        copied(model)(torch.randn(3, WIDTH)).sum().backward()
        assert monitor.forwards == 0
        with pytest.warns(UserWarning, match="nothing is checked"):
            model(torch.randn(3, WIDTH))
    assert monitor.forwards == 1
    assert not monitor.summary().not_applicable


@pytest.mark.filterwarnings("ignore")
def test_a_trace_holds_nothing_of_the_monitor() -> None:
    model, x = network(Applied(sine())), torch.randn(3, WIDTH)
    with GradientMonitor(model, every=1) as monitor:
        traced = torch.jit.trace(model, x)
    assert torch.equal(traced(x), model(x))
    assert monitor.forwards == 0
