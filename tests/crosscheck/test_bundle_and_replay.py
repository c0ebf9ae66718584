"""A bundle holds the question; replaying it asks the same again, and says so by its exit status."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import Function

from lean_mnist import check
from lean_mnist.crosscheck import FunctionReport, check_function, replay
from lean_mnist.crosscheck.bundles.bundle import load_bundle
from lean_mnist.crosscheck.bundles.names import import_path, resolve
from lean_mnist.errors import ArgumentError, CheckpointError, ConfigError
from tests.support.function_corpus import RIGHT, Softmax, layer_norm

REPOSITORY = Path(__file__).parents[2]


class WrongSquare(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Any:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return g * ctx.saved_tensors[0]


def square(x: Any) -> Any:
    return x * x


HERE = ["--function", f"{__name__}:WrongSquare.apply", "--reference", f"{__name__}:square"]


def bundle(
    tmp_path: Path, function: Any = WrongSquare.apply, reference: Any = square, inputs: Any = None, **options: Any
) -> Any:
    inputs = [torch.randn(4, 3, requires_grad=True)] if inputs is None else inputs
    report = check_function(function, reference, inputs, seed=7, **options)
    report.save_bundle(tmp_path / "check.pt")
    return report, tmp_path / "check.pt"


def test_a_bundle_opens_with_torch_alone_and_its_safe_default(tmp_path: Path) -> None:
    x = torch.randn(4, 3, requires_grad=True)
    report, path = bundle(tmp_path, inputs=[x], names=["x"])
    content = torch.load(path)
    assert content["function"] == f"{__name__}:WrongSquare.apply"
    assert content["reference"] == f"{__name__}:square"
    assert torch.equal(content["inputs"][0], x)
    assert (content["seed"], content["verdict"], content["report"]) == (7, "failed", report.details())
    assert content["options"]["names"] == ["x"]
    assert content["versions"]["torch"] == torch.__version__


def test_replay_prints_the_same_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report, path = bundle(tmp_path)
    with pytest.raises(SystemExit) as stop:
        replay.main([str(path), *HERE])
    assert stop.value.code == 3
    recorded, replayed = capsys.readouterr().out.split("\n", 1)
    assert recorded.startswith("recorded: failed, with lean_mnist ")
    assert replayed.rstrip() == report.details()


def test_replay_of_a_right_function_and_of_a_mended_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    right = RIGHT["layer norm"]
    _, path = bundle(tmp_path, right.function, layer_norm, right.inputs(0))
    corpus = "tests.support.function_corpus"
    replay.main([str(path), "--function", f"{corpus}:LayerNorm.apply", "--reference", f"{corpus}:layer_norm"])
    assert "passed (seed 7)" in capsys.readouterr().out
    _, path = bundle(tmp_path)
    replay.main([str(path), "--function", "torch:square", *HERE[2:]])
    assert "without its reference" not in capsys.readouterr().out


def test_the_command(tmp_path: Path) -> None:
    _, path = bundle(tmp_path)
    command = [sys.executable, "-m", "lean_mnist.crosscheck.replay"]
    done = subprocess.run([*command, path, *HERE], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert "ERROR  gradient of input 0" in done.stdout
    with pytest.raises(CheckpointError, match=r"none.pt: expected a repro bundle, found: No such file") as raised:
        replay.main([str(tmp_path / "none.pt")])
    assert raised.value.exit_status == 2


def test_without_a_reference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, path = bundle(tmp_path, reference=None)
    assert load_bundle(path)["reference"] is None
    with pytest.raises(SystemExit):
        replay.main([str(path), *HERE[:2]])
    assert "reference" not in capsys.readouterr().out.splitlines()[1]
    _, path = bundle(tmp_path)
    with pytest.raises(SystemExit):
        replay.main([str(path), *HERE[:2]])
    said = f"without its reference, {__name__}:square: give --reference module:name to compare with one"
    assert said in capsys.readouterr().out


def test_what_has_no_importable_name_must_be_given(tmp_path: Path) -> None:
    _, path = bundle(tmp_path, lambda x: WrongSquare.apply(x))
    assert load_bundle(path)["function"] is None
    with pytest.raises(ArgumentError, match="is of a function without an importable name; nothing is imported"):
        replay.main([str(path)])
    _, path = bundle(tmp_path, WrongSquare.apply, lambda x: x * x)
    assert load_bundle(path)["reference"] is None


def altered(path: Path, **entries: Any) -> Path:
    torch.save({**torch.load(path), **entries}, path)
    return path


def test_nothing_is_imported_or_called_because_a_bundle_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A module beside the bundle, and a function of the standard library, neither of which the user named."""
    _, path = bundle(tmp_path)
    (tmp_path / "trap.py").write_text("open('sprung', 'w').close()\ndef f(x):\n    return x\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("trap:f", "os:getcwd", "trap:f\x1b[2J\n\u202e"):
        altered(path, function=name, reference=name, options={"names": ["x\x1b]0;title\x07"]})
        with pytest.raises(ArgumentError, match=f"says that it is of {name[:6]}") as raised:
            replay.main([str(path)])
        assert raised.value.exit_status == 2
        assert str(raised.value).endswith("name the function yourself, --function module:name")
        assert str(raised.value).isprintable()
    # The user's own function is called, with the file's words escaped, and still not the file's reference.
    replay.main([str(path), "--function", "torch:square"])
    said = capsys.readouterr().out
    assert "x\\x1b]0;title\\x07" in said
    assert "without its reference, trap:f\\x1b[2J\\n\\u202e: give" in said
    assert all(line.isprintable() for line in said.splitlines())
    assert not (tmp_path / "sprung").exists()
    assert "trap" not in sys.modules


@pytest.mark.parametrize("name", ["cProfile:run", "shutil:rmtree", "trap:f", "trap.py:f"])
def test_a_name_in_a_bundle_is_a_label_wherever_its_inputs_are_used(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, path = bundle(tmp_path)
    (tmp_path / "trap.py").write_text("open('sprung', 'w').close()\ndef f(x):\n    return x\n")
    (tmp_path / "victim").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    altered(path, function=name, reference=name, derivative_of=name, has_derivative_of=True)
    assert check_function(torch.square, None, path, fast=True).ok
    check.main([str(path), "torch:square"])
    replay.main([str(path), "--function", "torch:square"])
    altered(path, function=name, inputs=[str(tmp_path / "victim")], requires_grad=[False])
    for command in (check.main, replay.main):
        with pytest.raises((ArgumentError, ConfigError), match="name"):
            command([str(path)])
    assert all(line.isprintable() for line in capsys.readouterr().out.splitlines())
    assert (tmp_path / "victim").is_dir()
    assert not (tmp_path / "sprung").exists()
    assert "trap" not in sys.modules


@pytest.mark.parametrize(
    "entries",
    [
        {"inputs": 3},
        {"inputs": []},
        {"requires_grad": [True, True]},
        {"inputs": ["x"]},
        {"options": {"function": "os:system"}},
        {"options": {"names": 3}},
        {"options": {"skip": "all"}},
        {"seed": "1"},
    ],
    ids=str,
)
def test_bundles_that_ask_no_question(tmp_path: Path, entries: dict[str, Any]) -> None:
    _, path = bundle(tmp_path)
    with pytest.raises(CheckpointError, match="a damaged bundle"):
        replay.main([str(altered(path, **entries)), *HERE])


def test_inputs_that_cannot_be_kept(tmp_path: Path) -> None:
    report = check_function(lambda x, f: f(x), lambda x, f: f(x), [torch.randn(3, requires_grad=True), torch.sin])
    with pytest.raises(ArgumentError, match="save_bundle: input 1: expected a tensor or a plain value, found builtin"):
        report.save_bundle(tmp_path / "check.pt")
    with pytest.raises(ArgumentError, match="expected a report made by check_function"):
        FunctionReport((), 0).save_bundle(tmp_path / "check.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "found a file that is none, or a damaged one"),
        (b"not a bundle at all", "found a file that is none, or a damaged one"),
        ({"a": 1}, "another torch.save file"),
        ({"format": "lean_mnist repro bundle", "format_version": 9}, "format version 1, found 9"),
        ({"format": "lean_mnist repro bundle", "format_version": 1}, "a damaged bundle: object missing required field"),
    ],
)
def test_files_that_are_no_bundles(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "file.pt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(CheckpointError, match=message):
        load_bundle(path)


def test_import_paths() -> None:
    assert import_path(torch.square) == "torch:square"
    assert import_path(torch.nn.functional.layer_norm) == "torch.nn.functional:layer_norm"
    assert import_path(Softmax.apply) == "tests.support.function_corpus:Softmax.apply"
    assert resolve("tests.support.function_corpus:Softmax.apply", "function") == Softmax.apply
    assert import_path(lambda x: x) is None
    for path, message in (
        ("torch", "expected module:name or file.py:name, found 'torch'"),
        ("no_such_module:f", "cannot import no_such_module"),
        ("torch:no_such_name", "torch has no no_such_name"),
        ("torch:pi", "expected a function, found torch:pi, a float"),
    ):
        with pytest.raises(ArgumentError, match=message):
            resolve(path, "function")


def smooth(x: Tensor) -> Tensor:
    return torch.sigmoid(4 * x)


class Step(Function):
    """A step with the derivative of ``smooth``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Any:
        ctx.save_for_backward(x)
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        s = smooth(ctx.saved_tensors[0])
        return 4 * s * (1 - s) * g


def test_what_a_gradient_is_meant_to_be_is_asked_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report, path = bundle(tmp_path, Step.apply, None, derivative_of=smooth)
    assert report.ok
    command = [str(path), "--function", f"{__name__}:Step"]
    replay.main([*command, "--derivative-of", f"{__name__}:smooth"])
    assert "passed (seed 7)" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        replay.main(command)
    assert (
        f"without the function whose derivative it is meant to be, {__name__}:smooth: give" in capsys.readouterr().out
    )
    report, path = bundle(tmp_path, Step.apply, None, intended="surrogate")
    replay.main(command)
    assert "NOTE  intended: surrogate" in capsys.readouterr().out
