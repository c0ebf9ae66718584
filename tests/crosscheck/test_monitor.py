"""``GradientMonitor``: silent on right models, loud on wrong ones, in an ordinary training loop."""

import threading
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.autograd import Function

from lean_mnist.crosscheck.monitor import GradientMonitor
from lean_mnist.crosscheck.report import Verdict
from lean_mnist.errors import ArgumentError, GradientMismatch
from tests.support.function_corpus import Attention, Float32Only, LinearReLU, RMSNorm, SwiGLU, rms_norm

WIDTH, TOKENS = 8, 7


class Norm(nn.Module):
    def __init__(self, width: int, function: Any = RMSNorm) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.5, 1.5, width))
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function.apply(x, self.weight)


class SelfAttention(nn.Module):
    def __init__(self, width: int, function: Any = Attention) -> None:
        super().__init__()
        self.qkv, self.function = nn.Linear(width, 3 * width), function

    def forward(self, x: Any, *, scale: float = 1.0) -> Any:
        return scale * self.function.apply(*self.qkv(x).chunk(3, -1))


class FeedForward(nn.Module):
    def __init__(self, width: int, function: Any = SwiGLU) -> None:
        super().__init__()
        self.up, self.down, self.function = nn.Linear(width, 4 * width), nn.Linear(2 * width, width), function

    def forward(self, x: Any) -> Any:
        return self.down(self.function.apply(*self.up(x).chunk(2, -1)))


class Block(nn.Module):
    def __init__(self, norm: Any = RMSNorm, attention: Any = Attention, swiglu: Any = SwiGLU) -> None:
        super().__init__()
        self.norm = Norm(WIDTH, norm)
        self.attention = SelfAttention(WIDTH, attention)
        self.dropout = nn.Dropout(0.2)
        self.feed = FeedForward(WIDTH, swiglu)

    def forward(self, x: Any) -> Any:
        x = x + self.dropout(self.attention(self.norm(x), scale=0.5))
        return x + self.feed(x)


def language_model(**functions: Any) -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(TOKENS, WIDTH), Block(), Block(**functions), nn.Linear(WIDTH, TOKENS))


class Loop:
    """Somebody else's training loop. ``steps`` counts what the optimizer was allowed to do."""

    def __init__(self, model: Any, seed: int = 0, accumulate: int = 1) -> None:
        self.model, self.accumulate, self.steps = model, accumulate, 0
        self.optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
        self.generator = torch.Generator().manual_seed(seed)

    def run(self, steps: int) -> Any:
        for _ in range(steps):
            self.optimizer.zero_grad()
            for _ in range(self.accumulate):
                tokens = torch.randint(0, TOKENS, (3, 5), generator=self.generator)
                F.cross_entropy(self.model(tokens).flatten(0, 1), tokens.flatten()).backward()
            self.optimizer.step()
            self.steps += 1
        return self


def spoilt(function: Any, backward: Any) -> Any:
    """``function`` with ``backward(ctx, gradients)`` after its own."""

    class Spoilt(function):  # type: ignore[misc]
        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Any:
            gradients = function.backward(ctx, g)
            return tuple(backward(ctx, [gradients] if isinstance(gradients, torch.Tensor) else list(gradients)))

    return Spoilt


def at(index: Any, change: Any) -> Any:
    def backward(ctx: Any, gradients: Any) -> Any:
        gradients[index] = change(gradients[index])
        return gradients

    return backward


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_right_model_trains_as_if_nobody_were_looking(accumulate: int) -> None:
    alone, watched = language_model(), language_model()
    torch.manual_seed(1)
    Loop(alone, accumulate=accumulate).run(6)
    states = [torch.get_rng_state()]
    torch.manual_seed(1)
    with GradientMonitor(watched, every=2, seed=0) as monitor:
        Loop(watched, accumulate=accumulate).run(6)
    states.append(torch.get_rng_state())
    assert torch.equal(*states)
    for a, b in zip(alone.parameters(), watched.parameters(), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a.grad, b.grad)
    assert monitor.forwards == 6 * accumulate
    assert {report.step for report in monitor.history} == set(range(0, 6 * accumulate, 2))
    kinds = ("norm (Norm)", "attention (SelfAttention)", "feed (FeedForward)")
    assert [report.module for report in monitor.history if report.step == 0] == [f"1.{kind}" for kind in kinds]
    # One a turn from then on, those first that were not checked yet.
    turns = [f"{block}.{kind}" for block in (2, 1) for kind in kinds]
    later = [report.module for report in monitor.history if report.step > 0]
    assert later == turns[: len(later)]
    assert len(later) == 3 * accumulate - 1
    assert all(report.ok and report.checked for report in monitor.history), list(map(str, monitor.history))


FAULTS = {
    "norm's weight": ({"norm": spoilt(RMSNorm, at(1, lambda v: 1.01 * v))}, "2.norm", "weight"),
    "norm's input": ({"norm": spoilt(RMSNorm, at(0, torch.neg))}, "2.norm", "input 0"),
    "a gate": ({"swiglu": spoilt(SwiGLU, at(0, lambda v: 0.9 * v))}, "2.feed", "up.weight"),
    "a value": ({"attention": spoilt(Attention, at(2, lambda v: v.roll(1, -2)))}, "2.attention", "qkv.weight"),
    "not a number": ({"norm": spoilt(RMSNorm, at(1, lambda v: v * torch.nan))}, "2.norm", "weight"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_before_the_optimizer_steps(name: str) -> None:
    functions, path, tensor = FAULTS[name]
    model = language_model(**functions)
    before = [p.detach().clone() for p in model.parameters()]
    loop = Loop(model)
    monitor = GradientMonitor(model, seed=0)
    with pytest.raises(GradientMismatch) as raised:
        loop.run(3)
    assert loop.steps == 0
    assert str(raised.value).startswith(f"{path} (")
    named = [line.split(":")[0] for line in str(raised.value).splitlines() if "ERROR  finite differences" in line]
    assert f"  ERROR  finite differences, {tensor}" in named
    assert [report.module.split()[0] for report in monitor.history if not report.ok] == [path]
    for p, old in zip(model.parameters(), before, strict=True):
        assert torch.equal(p, old)


def test_the_path_of_every_failing_module() -> None:
    wrong = [spoilt(RMSNorm, at(1, torch.neg)) for _ in range(2)]
    blocks = [Block(norm=function) for function in wrong]
    model = nn.Sequential(nn.Embedding(TOKENS, WIDTH), *blocks, nn.Linear(WIDTH, TOKENS))
    GradientMonitor(model)
    with pytest.raises(GradientMismatch) as raised:
        Loop(model).run(1)
    assert "1.norm (Norm), forward 0: FAILED" in str(raised.value)
    assert "2.norm (Norm), forward 0: FAILED" in str(raised.value)


class Late(RMSNorm):
    """Wrong from the seventh backward on."""

    calls = 0

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        Late.calls += 1
        dx, dw = RMSNorm.backward(ctx, g)
        return dx, dw * (0.5 if Late.calls > 6 else 1.0)


def test_a_fault_that_comes_later_is_found_at_the_next_scheduled_step() -> None:
    Late.calls = -1000  # the monitor's own replays call it as well
    model = nn.Sequential(nn.Embedding(TOKENS, WIDTH), Norm(WIDTH, Late), nn.Linear(WIDTH, TOKENS))
    GradientMonitor(model, every=4)
    loop = Loop(model).run(3)
    Late.calls = 1000
    with pytest.raises(GradientMismatch, match=r"1 \(Norm\), forward 4"):
        loop.run(3)
    assert loop.steps == 4


class Stale(Function):
    """Keeps its input on the class: wrong as soon as two forwards come before a backward."""

    kept: Any = None

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Any:
        Stale.kept = x.detach()
        ctx.save_for_backward(w)
        return x * w

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return g * ctx.saved_tensors[0], (g * Stale.kept).flatten(0, -2).sum(0)


def test_what_a_replay_does_not_give_again_is_stale() -> None:
    model = nn.Sequential(nn.Embedding(TOKENS, WIDTH), Norm(WIDTH, Stale), nn.Linear(WIDTH, TOKENS))
    GradientMonitor(model, every=1)
    Loop(model).run(1)
    tokens = torch.arange(5)[None] % TOKENS
    first = model(tokens).square().mean()
    model(tokens.flip(1)[:, :3])
    model(tokens * 0)
    with pytest.raises(GradientMismatch, match=r"ERROR  replay, weight: the step's gradient is not what the same call"):
        first.backward()


def test_a_reference_adds_the_last_digits() -> None:
    model = language_model()
    reference: dict[str | type[nn.Module], Any] = {Norm: lambda norm, x: rms_norm(x, norm.weight)}
    with GradientMonitor(model, reference=reference) as monitor:
        Loop(model).run(1)
    assert sum("reference: gradient of weight" in report.details() for report in monitor.history) == 1
    model = language_model(norm=spoilt(RMSNorm, at(1, lambda v: v.bfloat16().to(v.dtype))))
    for key in ("2.norm", Norm):
        with (
            GradientMonitor(model, reference={key: reference[Norm]}),
            pytest.raises(GradientMismatch, match="precision"),
        ):
            Loop(model).run(1)
    with (
        GradientMonitor(model, reference={"2.norm": lambda norm, x: rms_norm(x, norm.weight)[:1]}),
        pytest.raises(GradientMismatch, match="the reference's"),
    ):
        Loop(model).run(1)


def test_warn_or_call_instead_of_raising() -> None:
    model = language_model(norm=spoilt(RMSNorm, at(1, torch.neg)))
    with GradientMonitor(model, on_mismatch="warn"), pytest.warns(UserWarning, match=r"2.norm \(Norm\)"):
        assert Loop(model).run(1).steps == 1
    seen: list[Any] = []
    with GradientMonitor(model, on_mismatch=seen.append):
        Loop(model).run(1)
    assert [report.module for report in seen] == ["2.norm (Norm)"]


def test_detach_leaves_nothing_behind() -> None:
    model = language_model(norm=spoilt(RMSNorm, at(1, torch.neg)))
    monitor = GradientMonitor(model)
    tokens = torch.zeros(1, 2, dtype=torch.long)
    loss = model(tokens).sum()
    with pytest.warns(UserWarning, match="nothing was checked in 1 forwards"):
        monitor.detach()
    loss.backward()
    Loop(model).run(1)
    assert not monitor.history
    for part in model.modules():
        assert not part._forward_hooks
        assert not part._forward_pre_hooks


def test_forwards_without_gradients_and_with_errors_do_not_count() -> None:
    model = language_model()
    with GradientMonitor(model, every=2) as monitor:
        with torch.no_grad():
            model(torch.zeros(1, 2, dtype=torch.long))
        with pytest.raises(IndexError):
            model(torch.full((1, 2), 99))
        Loop(model).run(2)
    assert monitor.forwards == 3
    assert {report.step for report in monitor.history} == {2}
    assert all(report.ok for report in monitor.history)


def test_a_schedule_is_a_function_of_the_forward() -> None:
    model = language_model()
    with GradientMonitor(model, every=lambda number: number in (1, 3)) as monitor:
        Loop(model).run(5)
    assert {report.step for report in monitor.history} == {1, 3}


def test_backwards_that_never_come_are_let_go() -> None:
    model = language_model()
    with GradientMonitor(model, every=1) as monitor:
        for _ in range(40):
            model(torch.zeros(1, 2, dtype=torch.long))
        assert len(monitor._pending) <= 16
        Loop(model).run(1)
    assert {report.step for report in monitor.history} == {40}


class Fused(nn.Module):
    """A ReLU inside of the Function, batch normalisation, dropout and a buffer around it."""

    def __init__(self, function: Any = LinearReLU) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(12, 6)), nn.Parameter(torch.zeros(12))
        self.norm, self.dropout = nn.BatchNorm1d(12), nn.Dropout(0.3)
        self.register_buffer("shift", torch.ones(6))
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.norm(self.dropout(self.function.apply(x - self.shift, self.weight, self.bias)))


def running_mean(model: Fused) -> Any:
    assert model.norm.running_mean is not None
    return model.norm.running_mean.clone()


@pytest.mark.parametrize("seed", range(4))
def test_kinks_dropout_and_batch_normalisation(seed: int) -> None:
    torch.manual_seed(seed)
    model = Fused()
    with GradientMonitor(model, every=1, seed=seed) as monitor:
        for _ in range(3):
            x = torch.randn(16, 6).round()
            running = running_mean(model)
            loss = model(x).pow(4).mean() + model(x).sin().mean()
            state, mean = torch.get_rng_state(), running_mean(model)
            assert not torch.equal(mean, running)
            loss.backward()
            assert torch.equal(torch.get_rng_state(), state)
            assert torch.equal(running_mean(model), mean)
    assert len(monitor.history) == 6
    assert all(report.ok for report in monitor.history), list(map(str, monitor.history))
    assert all(report.checked for report in monitor.history)


def test_a_wrong_gradient_beside_kinks_and_dropout() -> None:
    torch.manual_seed(0)
    model = Fused(spoilt(LinearReLU, at(2, lambda v: v * 0)))
    GradientMonitor(model, seed=0)
    loss = model(torch.randn(16, 6)).sin().mul(torch.linspace(0, 1, 12)).mean()
    with pytest.raises(GradientMismatch, match=r"the model \(Fused\), forward 0: FAILED"):
        loss.backward()


class ReLU(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Any:
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return g * (ctx.saved_tensors[0] > 0)


class MaskedAttention(Function):
    """Causal, by a mask of minus infinity, where no rounding can be drawn anew."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Any:
        scores = q @ k.mT * q.shape[-1] ** -0.5
        later = torch.ones(scores.shape[-2:]).triu(1).bool()
        p = torch.softmax(scores.masked_fill(later, -torch.inf), -1)
        ctx.save_for_backward(q, k, v, p)
        return p @ v

    backward = Attention.backward  # type: ignore[assignment]


class Applies(nn.Module):
    def __init__(self, function: Any, *weights: Any) -> None:
        super().__init__()
        self.function, self.weights = function, nn.ParameterList(weights)

    def forward(self, x: Any) -> Any:
        return self.function.apply(*(x * weight for weight in self.weights))


SPOILT = {
    "right": None,
    "sign": torch.neg,
    "scale 1.01": lambda v: 1.01 * v,
    "last rows": lambda v: torch.cat([v[:-1], 0 * v[-1:]]),
    "mask dropped": lambda v: v + (v == 0),
    "a term": lambda v: v + 0.3 * v.square().mean().sqrt(),
}


@pytest.mark.parametrize("fault", SPOILT)
def test_exact_zeros_before_a_relu_excuse_nothing(fault: Any) -> None:
    function = spoilt(ReLU, at(0, SPOILT[fault])) if SPOILT[fault] else ReLU
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, WIDTH), nn.Dropout(0.3), Applies(function, torch.linspace(0.5, 1.5, WIDTH)))
    with GradientMonitor(model, every=1, seed=1, on_mismatch=lambda report: None) as monitor:
        for _ in range(3):
            model(torch.randn(9, 6)).sin().mean().backward()
    assert [report.ok for report in monitor.history] == [fault == "right"] * 3, "".join(map(str, monitor.history))
    assert all("perturbed point" in report.details() for report in monitor.history)


@pytest.mark.parametrize("fault", ["right", "sign", "scale 1.01", "last rows"])
def test_masks_of_minus_infinity_and_gradients_that_nearly_cancel(fault: Any) -> None:
    function = spoilt(MaskedAttention, at(1, SPOILT[fault])) if SPOILT[fault] else MaskedAttention
    torch.manual_seed(2)
    weights = [torch.linspace(0.5, 1.5, WIDTH) for _ in range(3)]
    model = nn.Sequential(nn.Linear(6, WIDTH), Applies(function, *weights))
    with GradientMonitor(model, every=1, seed=2, on_mismatch=lambda report: None) as monitor:
        for scale in (0.03, 0.1, 1.0):
            model(scale * torch.randn(2, 5, 6)).sin().mean().backward()
    assert [report.ok for report in monitor.history] == [fault == "right"] * 3, "".join(map(str, monitor.history))


@pytest.mark.parametrize("wrong", [False, True])
def test_under_autocast(wrong: bool) -> None:
    model = language_model(swiglu=spoilt(SwiGLU, at(1, torch.neg)) if wrong else SwiGLU)
    tokens = torch.arange(6)[None] % TOKENS
    with GradientMonitor(model, on_mismatch=lambda report: None, seed=0) as monitor:
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(model(tokens).flatten(0, 1).float(), tokens.flatten())
        loss.backward()
    assert all(report.checked for report in monitor.history)
    named = {report.module for report in monitor.history if not report.ok}
    assert named == ({"2.feed (FeedForward)"} if wrong else set()), "".join(map(str, monitor.history))


@pytest.mark.parametrize("wrong", [False, True])
def test_a_function_that_takes_float32_alone(wrong: bool) -> None:
    function = spoilt(Float32Only, lambda ctx, g: [1.1 * g[0]]) if wrong else Float32Only

    class Activation(nn.Module):
        def forward(self, x: Any) -> Any:
            return function.apply(x)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), Activation(), nn.Linear(6, 1))
    with GradientMonitor(model, on_mismatch=lambda report: None, seed=0) as monitor:
        model(torch.randn(9, 5)).square().mean().backward()
    assert [report.ok for report in monitor.history] == [not wrong]
    assert "by differences in float32" in monitor.history[0].details()


def test_custom_nodes_of_the_parents_own_forward() -> None:
    class Wraps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Norm(WIDTH)

        def forward(self, x: Any) -> Any:
            return self.inner(wrong.apply(x, torch.ones(WIDTH)))

    wrong = spoilt(RMSNorm, at(0, torch.neg))
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), Wraps())
    GradientMonitor(model)
    with pytest.raises(GradientMismatch) as raised:
        model(torch.randn(3, WIDTH)).square().sum().backward()
    assert str(raised.value).startswith("1 (Wraps)")
    assert "1.inner" not in str(raised.value)


def test_a_shared_module_and_frozen_parameters() -> None:
    torch.manual_seed(0)
    norm = Norm(WIDTH)
    norm.weight.requires_grad_(False)
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), norm, nn.Linear(WIDTH, WIDTH), norm)
    with GradientMonitor(model, every=1) as monitor:
        for _ in range(2):
            model(torch.randn(3, WIDTH)).sin().sum().backward()
    assert [report.ok for report in monitor.history] == [True, True]


class Generates(nn.Module):
    """Gives something else every time, by a counter that nobody can replay."""

    function: Any = RMSNorm

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.calls = Norm(WIDTH), 0

    def forward(self, x: Any) -> Any:
        self.calls += 1
        return self.function.apply(x * self.calls, torch.ones(WIDTH)) * self.calls


WRONG_INPUT = spoilt(RMSNorm, at(0, torch.neg))


@pytest.mark.parametrize("wrong", [False, True])
def test_of_a_call_that_does_not_repeat_itself_the_functions_are_checked_alone(wrong: bool) -> None:
    class Repeats(Generates):
        function = WRONG_INPUT if wrong else RMSNorm

    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), Repeats())
    with GradientMonitor(model, on_mismatch=lambda report: None) as monitor:
        model(torch.randn(3, WIDTH)).sum().backward()
    (report,) = monitor.history
    assert report.verdict is (Verdict.FAILED if wrong else Verdict.PASSED)
    assert "finite differences, input 0 of" in report.details()


@pytest.mark.parametrize("wrong", [False, True])
def test_what_cannot_be_copied_is_shared(wrong: bool) -> None:
    model: Any = nn.Sequential(nn.Linear(WIDTH, WIDTH), Norm(WIDTH, WRONG_INPUT if wrong else RMSNorm))
    model[1].cache = model[0](torch.randn(2, WIDTH))
    model[1].lock = threading.Lock()
    model[1].handles = {"operator": torch.ops.aten.add, "lock": model[1].lock}
    with GradientMonitor(model, on_mismatch=lambda report: None) as monitor:
        model(torch.randn(3, WIDTH)).sum().backward()
    assert [report.verdict for report in monitor.history] == [Verdict.FAILED if wrong else Verdict.PASSED]


def test_a_model_without_custom_functions_is_warned_of_once() -> None:
    model = nn.Linear(3, 3)
    with GradientMonitor(model, every=1):
        with pytest.warns(
            UserWarning, match=r"no torch.autograd.Function is behind what the forward of Linear returns"
        ):
            model(torch.randn(2, 3)).sum().backward()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model(torch.randn(2, 3)).sum().backward()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": torch.sin}, "model: expected a torch.nn.Module, found builtin"),
        ({"every": 0}, "every: expected a whole number of at least 1, or a function, found 0"),
        ({"every": "often"}, "every: expected a whole number"),
        ({"on_mismatch": "stop"}, "on_mismatch: expected 'raise', 'warn' or a function, found 'stop'"),
        ({"reference": {"3.norm": rms_norm}}, "reference: Sequential has no submodule '3.norm'"),
        ({"reference": rms_norm}, "reference: expected a dict by type, path or name, found function"),
        ({"reference": {nn.Linear: nn.Linear(1, 1).weight}}, "reference of <class .*Linear'>: expected a function"),
        ({"intended": "x"}, "intended: expected a dict by type, path or name, found str"),
        ({"entries": [nn.Linear(1, 1)]}, "entries: Linear is no part of the model"),
        ({"entries": nn.Linear(1, 1)}, "entries: expected a list of modules, found Linear"),
        ({"seed": "one"}, r"seed: expected a whole number from -2\^63 to below 2\^63, found 'one'"),
    ],
)
def test_options(options: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        GradientMonitor(**{"model": nn.Sequential(nn.Linear(2, 2)), **options})


def test_only_scheduled_steps_cost_anything() -> None:
    model = language_model()
    with GradientMonitor(model, every=1000) as monitor:
        loop = Loop(model).run(1)
        checked = len(monitor.history)
        for part in model.modules():
            assert part is model or not part._forward_hooks
        loop.run(2)
        assert len(monitor.history) == checked
