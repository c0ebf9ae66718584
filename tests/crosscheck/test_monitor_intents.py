"""``ignore``, ``intended`` and ``derivative_of`` of ``GradientMonitor``, and the same said by a Function itself."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lean_mnist.crosscheck.monitor import GradientMonitor
from lean_mnist.crosscheck.report import Verdict
from lean_mnist.errors import ArgumentError, GradientMismatch
from tests.support.monitored_models import WIDTH, Applied, function, monitored, network, sine, straight_through

STE = straight_through()


class Quantised(Applied):
    pass


class Norm(Applied):
    pass


SAID: dict[str, Any] = {
    "intended, by name": {"intended": {"STE": "surrogate"}},
    "intended, by Function": {"intended": {STE: "surrogate"}},
    "intended, by module type": {"intended": {Quantised: "surrogate"}},
    "intended, by path": {"intended": {"1": "surrogate"}},
}
IGNORED: dict[str, Any] = {
    "ignored, by name": {"ignore": ["STE"]},
    "ignored, by Function": {"ignore": [STE]},
    "ignored, by module type": {"ignore": [Quantised]},
    "ignored, by path": {"ignore": ["1"]},
}


@pytest.mark.parametrize("said", [*SAID, *IGNORED])
def test_an_intended_gradient_trains_on_in_silence(said: str) -> None:
    model = network(Quantised(STE), Norm(sine()))
    with GradientMonitor(model, every=1, **(SAID | IGNORED)[said]) as monitor:
        for _ in range(2):
            model(torch.randn(8, WIDTH)).sum().backward()
    assert {report.module for report in monitor.history} == {"2 (Norm)"}
    word = "ignored" if said in IGNORED else "surrogate"
    assert monitor.summary().intended == {word: ("STE in 1",)}
    assert f"\n  {word}: STE in 1\n" in str(monitor.summary())


def test_a_path_stands_for_what_is_inside_of_it() -> None:
    model = network(nn.Sequential(Norm(sine()), nn.Sequential(Quantised(STE))))
    monitor = monitored(model, ignore=["1.1"])
    assert [report.module for report in monitor.history] == ["1.0 (Norm)"]
    assert monitor.summary().intended == {"ignored": ("STE in 1.1.0",)}


def test_a_function_says_it_itself() -> None:
    model = network(Quantised(straight_through(intended="surrogate")))
    with GradientMonitor(model) as monitor:
        model(torch.randn(8, WIDTH)).sum().backward()
    assert monitor.summary().intended == {"surrogate": ("STE in 1",)}


def test_without_a_word_it_stops_the_training() -> None:
    model = network(Quantised(STE))
    GradientMonitor(model)
    with pytest.raises(GradientMismatch):
        model(torch.randn(8, WIDTH)).sum().backward()


@pytest.mark.parametrize("factor", [1.0, 1.1])
@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)])
def test_other_functions_of_the_same_module_are_checked(factor: float, order: slice) -> None:
    model = network(Quantised(*[STE, sine(factor)][order]))
    (report,) = monitored(model, intended={"STE": "surrogate"}).history
    assert report.verdict is (Verdict.PASSED if factor == 1 else Verdict.FAILED)
    assert "finite differences, input 0 of Sine" in report.details()
    assert "STE" not in report.details()


def test_where_one_of_them_cannot_be_judged_nothing_is_said_of_all() -> None:
    lossy = function(lambda ctx, x: x.double().float(), lambda ctx, g: g, "Lossy")
    noisy = function(lambda ctx, x: x + torch.rand(()), lambda ctx, g: g * torch.nan, "NotFinite")
    (report,) = monitored(network(Quantised(STE, lossy, sine())), intended={"STE": "surrogate"}).history
    assert report.verdict is not Verdict.FAILED
    (report,) = monitored(network(Quantised(STE, noisy)), intended={"STE": "surrogate"}).history
    assert report.verdict is Verdict.FAILED


def _step(ctx: Any, x: Tensor) -> Tensor:
    ctx.save_for_backward(x)
    return (x > 0).to(x.dtype)


def surrogate(factor: float = 1.0, **attributes: Any) -> Any:
    """A step whose gradient is that of the sigmoid, as of spiking neurons, times ``factor``."""

    def backward(ctx: Any, g: Tensor) -> Tensor:
        s = torch.sigmoid(ctx.saved_tensors[0])
        return factor * g * s * (1 - s)

    return function(_step, backward, "Spike", **attributes)


@pytest.mark.parametrize("factor", [1.0, 1.1])
@pytest.mark.parametrize("how", ["name", "attribute", "path", "type"])
def test_the_gradient_of_a_smooth_function(factor: float, how: str) -> None:
    of_module = lambda module, x: torch.sigmoid(x)  # noqa: E731
    options: dict[str, Any] = {
        "name": {"derivative_of": {"Spike": torch.sigmoid}},
        "attribute": {},
        "path": {"derivative_of": {"1": of_module}},
        "type": {"derivative_of": {Quantised: of_module}},
    }
    attributes = {"derivative_of": staticmethod(torch.sigmoid)} if how == "attribute" else {}
    model = network(Quantised(surrogate(factor, **attributes)), nn.Linear(WIDTH, 2))
    (report,) = monitored(model, **options[how]).history
    assert report.verdict is (Verdict.PASSED if factor == 1 else Verdict.FAILED), report.details()


def test_of_a_function_in_an_ignored_module_both_keys_are_met() -> None:
    monitor = monitored(network(Quantised(STE)), ignore=["1", "STE"])
    assert monitor.summary().never_met == ()


def test_a_key_that_nobody_met_is_told() -> None:
    monitor = monitored(network(Norm(sine())), ignore=["Sin", "7"], intended={Quantised: "surrogate"})
    assert monitor.summary().never_met == ("Quantised", "Sin", "7")
    assert "named in an option and never met: Quantised, Sin, 7" in str(monitor.summary())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ignore": "STE"}, "ignore: expected a list of types, paths and names of Functions, found one of them"),
        ({"ignore": [3]}, "ignore: expected types, paths and names of Functions, found 3"),
        ({"intended": {int: "x"}}, "intended: expected types, paths and names"),
        ({"intended": {"STE": ""}}, "intended: expected words that say why, found ''"),
        ({"derivative_of": {"STE": "smooth"}}, "derivative_of: expected functions, found str"),
        ({"at_most": 0}, "at_most: expected a share above 0 and up to 1, found 0"),
    ],
)
def test_options(options: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        GradientMonitor(network(), **options)
