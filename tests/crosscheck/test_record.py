"""Real calls of a training run, kept as bundles: what passes random inputs and is wrong on real ones fails."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lean_mnist import check
from lean_mnist.crosscheck import RULES, check_function, record
from lean_mnist.crosscheck.bundles.bundle import load_bundle
from lean_mnist.errors import ArgumentError, CheckpointError


class Saturating(torch.autograd.Function):
    """``x²`` whose backward is wrong between 8 and 60, where neither Gaussian numbers nor very large ones are."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Any:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return 2 * g * x.where((x < 8) | (x > 60), 8)


saturating = Saturating.apply  # as many programs keep it


class WrongWherePositive(torch.autograd.Function):
    """An integer output, a floating one, and twice the gradient where all of its upstream is positive."""

    @staticmethod
    def forward(x: Tensor, scale: float) -> Any:
        return x.argmax(1), scale * x.sin()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.scale = inputs[1]
        ctx.mark_non_differentiable(output[0])

    @staticmethod
    def backward(ctx: Any, _: Any, g: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return ctx.scale * g * x.cos() * (2.0 if bool((g > 0).all()) else 1.0), None


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Any:
        return saturating(self.linear(x))


def trained(folder: Path, **options: Any) -> Any:
    torch.manual_seed(0)
    model = Model()
    with record(folder, **options) as recording:
        for scale in (1.0, 30.0, 30.0):
            model(scale * torch.randn(6, 4)).sum().backward()
    return recording


def test_wrong_only_on_real_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random = [torch.randn(6, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()]
    assert check_function(Saturating.apply, torch.square, random, seed=1).ok
    recording = trained(tmp_path / "bundles", calls=2)
    assert [path.name for path in recording.paths] == [
        f"tests.crosscheck.test_record.Saturating-{k}.pt" for k in (0, 1)
    ]
    for reference in (torch.square, None):
        verdicts = [check_function(Saturating.apply, reference, path, seed=1).ok for path in recording.paths]
        assert verdicts == [True, False]
    name = f"{__name__}:Saturating"
    with pytest.raises(SystemExit) as stop:
        check.main([str(recording.paths[1]), name, "--seed", "1"])
    assert stop.value.code == 3
    assert capsys.readouterr().out.startswith("FAILED (seed 1)\n  ERROR  finite differences, input 0")
    with pytest.raises(SystemExit):
        check.main([str(tmp_path / "bundles"), name, "--reference", "torch:square"])
    rows = capsys.readouterr().out.splitlines()
    assert rows[0].split() == ["bundle", "verdict"]
    assert [row.split()[1] for row in rows[1:3]] == ["passed", "FAILED"]


def test_recorded_upstream_gradients_are_probes(tmp_path: Path) -> None:
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(2)).requires_grad_()
    with record(tmp_path, [WrongWherePositive]) as recording:
        WrongWherePositive.apply(x, 0.5)[1].mul(0.125).sum().backward()
        WrongWherePositive.apply(x, 2.0)  # of which no backward comes
    assert len(recording.paths) == 2
    first, second = (load_bundle(path)["options"] for path in recording.paths)
    assert torch.equal(first["upstream"][0][0], torch.full((5, 3), 0.125))
    assert second == {}

    def plain(x: Tensor, scale: float) -> Tensor:
        return scale * x.sin()

    skip = [name for name in RULES if name not in ("gradient", "output", "finite differences")]
    for reference in (None, plain):
        report = check_function(WrongWherePositive.apply, reference, recording.paths[0], seed=1, skip=skip)
        rule = "finite differences" if reference is None else "gradient"
        assert rule in {f.rule for f in report.failures}, report.details()
    assert check_function(WrongWherePositive.apply, plain, [x, 0.5], seed=1, skip=skip).ok
    given = [[torch.full((5, 3), 0.125)]]
    assert not check_function(WrongWherePositive.apply, plain, [x, 0.5], seed=1, skip=skip, upstream=given).ok


class Gathered(torch.autograd.Function):
    """The rows of ``x`` that two tensors in a list say, scaled; ``wrong`` forgets the scale."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, indices: list[Tensor], sizes: tuple[int, ...], scale: float, wrong: bool) -> Any:
        ctx.save_for_backward(x, torch.cat(indices))
        ctx.scale = 1.0 if wrong else scale
        return scale * x[torch.cat(indices)].reshape(sizes)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, rows = ctx.saved_tensors
        return torch.zeros_like(x).index_add(0, rows, ctx.scale * g.reshape(len(rows), -1)), None, None, None, None


@pytest.mark.parametrize("wrong", [False, True])
def test_arguments_in_lists_are_copied_and_read_again(tmp_path: Path, wrong: bool) -> None:
    x, indices = torch.randn(4, 3, requires_grad=True), [torch.tensor([0, 2]), torch.tensor([1])]
    with record(tmp_path, [Gathered]) as recording:
        y = Gathered.apply(x, indices, (3, 3), 2.0, wrong)
        indices[1].fill_(3)  # a program goes on with its buffers
        y.sum().backward()
    content = load_bundle(recording.paths[0])
    assert [i.tolist() for i in content["inputs"][1]] == [[0, 2], [1]]
    assert content["requires_grad"] == [True, *[False] * 5]
    assert check_function(Gathered.apply, None, recording.paths[0], seed=1).ok is not wrong


def test_functions_are_as_before_and_training_is_the_same(tmp_path: Path) -> None:
    forward, setup = Saturating.forward, WrongWherePositive.setup_context
    trained(tmp_path)
    assert (Saturating.forward, WrongWherePositive.setup_context) == (forward, setup)
    gradients = []
    for recorded in (False, True):
        torch.manual_seed(3)
        model = Model()
        if recorded:
            with record(tmp_path / "again"):
                model(torch.ones(2, 4)).sum().backward()
        else:
            model(torch.ones(2, 4)).sum().backward()
        assert model.linear.weight.grad is not None
        gradients.append(model.linear.weight.grad)
    assert torch.equal(gradients[0], gradients[1])


class Inherits(Saturating):
    """The forward of another class, and a backward of its own, which is right."""

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return 2 * g * ctx.saved_tensors[0]


class InheritsSetup(WrongWherePositive):
    """As ``Inherits``, of a Function whose context is set up apart."""


class CallsParent(Saturating):
    """A forward of its own that calls that of the class it is derived from."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Any:
        return Saturating.forward(ctx, x)


@pytest.mark.parametrize(
    ("parent", "child", "arguments"),
    [(Saturating, Inherits, ()), (WrongWherePositive, InheritsSetup, (2.0,)), (Saturating, CallsParent, ())],
)
def test_a_call_is_noted_as_one_of_the_class_that_is_called(
    tmp_path: Path, parent: Any, child: Any, arguments: tuple[Any, ...]
) -> None:
    def called(functions: list[Any], *classes: Any) -> list[str]:
        x = torch.ones(3, 2, requires_grad=True)
        with record(tmp_path, functions) as recording:
            for function in classes:
                found = function.apply(x, *arguments)
                (found[1] if arguments else found).sum().backward()
        return [path.name.split(".")[-2] for path in recording.paths]

    own, other = f"{child.__name__}-0", f"{parent.__name__}-0"
    for functions in ([parent, child], [child, parent, child], [child], []):
        assert called(functions, child) == [own]
        assert called(functions, parent, child) == ([own] if functions == [child] else [other, own])
    assert called([parent], child) == []
    assert called([parent], child, parent) == [other]
    assert "telling" not in "".join(f"{each.forward}{each.setup_context}" for each in (parent, child))


def test_nothing_of_the_recording_reaches_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError("full")

    monkeypatch.setattr("lean_mnist.crosscheck.bundles.record.write_bundle", full)
    recording = trained(tmp_path, calls=1)
    assert "0 calls recorded" in str(recording)
    assert "Saturating-0.pt: full" in str(recording)

    class TakesAnything(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, f: Any) -> Any:
            return f(x)

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Any:
            return g, None

    with record(tmp_path) as recording, pytest.raises(ZeroDivisionError):
        TakesAnything.apply(torch.ones(2, requires_grad=True), lambda x: x + 1 / 0)
    assert "1 not kept: TakesAnything has arguments that are neither tensors nor plain values" in str(recording)
    with record(tmp_path) as recording, torch.no_grad():
        Model()(torch.ones(2, 4))
    assert str(recording) == f"0 calls recorded in {tmp_path}"


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ([[torch.sin]], {}, "functions: expected classes of torch.autograd.Function, found <built-in"),
        ([Saturating], {}, "functions: expected a list of classes of torch.autograd.Function, found <class"),
        ([], {"calls": 0}, "calls: expected a whole number of at least 1, found 0"),
    ],
)
def test_mistakes(tmp_path: Path, arguments: Any, options: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message), record(tmp_path, *arguments, **options):
        pass


def test_functions_of_one_name_do_not_overwrite_each_other(tmp_path: Path) -> None:
    def scaled(factor: float) -> Any:
        class Scaled(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, x: Tensor) -> Any:
                return factor * x

            @staticmethod
            def backward(ctx: Any, g: Tensor) -> Any:
                return factor * g

        return Scaled

    made = [scaled(factor) for factor in (2.0, 3.0, 4.0)]
    with record(tmp_path, made, calls=2) as recording:
        for number, function in enumerate(made):
            function.apply(torch.full((2,), float(number), requires_grad=True)).sum().backward()
    assert len(set(recording.paths)) == 2
    assert [load_bundle(path)["inputs"][0].tolist() for path in recording.paths] == [[0.0, 0.0], [1.0, 1.0]]


def test_bundles_that_do_not_fit(tmp_path: Path) -> None:
    (path,) = trained(tmp_path, calls=1).paths
    cases: list[tuple[list[str], str]] = [
        ([str(path)], "expected the function to ask it of behind it, as module:name; none is called unnamed"),
        ([str(path), "torch:square", "--inputs", "randn(3,req)"], "has inputs of its own"),
        ([str(path), "torch:square", "--device", "cuda"], "has inputs of its own"),
        ([str(tmp_path), "torch:square"], "expected bundles of square, found 1 of other functions"),
        ([str(tmp_path / "none.pt"), "torch:square"], "none.pt: expected a repro bundle, found: No such file"),
    ]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            check.main(arguments)
    with pytest.raises(ArgumentError, match=r"upstream: expected the shapes \[\(6, 3\)\] of the outputs, found"):
        check_function(torch.square, None, [torch.ones(6, 3, requires_grad=True)], upstream=[[torch.ones(2)]])
    with pytest.raises(CheckpointError, match="found: No such file"):
        check_function(torch.square, None, tmp_path / "none.pt")
