"""``python -m lean_mnist.check``: inputs as text, tables, files for programs, and one line for a mistake."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

from lean_mnist import check
from lean_mnist.crosscheck.cases.language import Given, parse_inputs
from lean_mnist.errors import ArgumentError, LeanMnistError

MINE = """
import torch
import beside


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return beside.FACTOR * g * x


class Tiled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        d = 2 * g * x
        if len(d) > 8:
            d[8:] = 0
        return d


class Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return torch.sigmoid(x) * (1 - torch.sigmoid(x)) * g


def nll(x, y, weight=1.0):
    return weight * torch.nn.functional.nll_loss(x, y)


def positive(x):
    if len(x) == 1:
        raise ValueError("too short")
    return x.sin()


class Norm(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))

    def forward(self, x):
        return Square.apply(x) * self.weight


norm, plain_norm = Norm(), torch.nn.LayerNorm(3)
number = 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mine_checked.py").write_text(MINE)
    (tmp_path / "beside.py").write_text("FACTOR = 1\n")
    (tmp_path / "broken_on_import.py").write_text("import torch\nx = 1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for name in ("mine_checked", "beside", "broken_on_import"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def run(*arguments: str, status: int = 0) -> None:
    if not status:
        check.main(arguments)
        return
    with pytest.raises(SystemExit) as stop:
        check.main(arguments)
    assert stop.value.code == status


def test_one_case_prints_its_report(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("mine_checked:Square", "--inputs", "x=randn(4,3,req)", "--seed", "7", "--reference", "torch:square", status=3)
    said = capsys.readouterr().out
    assert said.startswith("FAILED (seed 7)\n  ERROR  gradient of x[")
    assert "constant factor: 1/2 times" in said
    run("torch:square", "--inputs", "randn(4,3,req)", "--reference", "torch:square")
    assert capsys.readouterr().out.startswith("passed (seed ")


@pytest.mark.parametrize("name", ["mine_checked.py:Square", "./mine_checked.py:Square.apply"])
def test_a_file_beside_which_its_imports_are_found(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", sys.path[1:])
    run(name, "--inputs", "randn(4,3,req)", "--skip", "gradcheck", status=3)


def test_a_table_names_the_size_that_is_wrong(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--sizes", "4", "8", "9", "--dtypes", "float32", "float64", "--layouts", "contiguous", "transposed"]
    files = ["--json", "out.json", "--junit", "out.xml"]
    run("mine_checked:Tiled", "--inputs", "randn(4,3,req)", "--seed", "1", *sizes, *files, status=3)
    head, *rows = capsys.readouterr().out.split("\n\n")[0].splitlines()
    assert head.split() == ["size", "dtype", "layout", "verdict"]
    assert len(rows) == 12
    assert [row.split()[3] for row in rows] == ["passed"] * 8 + ["FAILED"] * 4
    assert all("finite differences" in row for row in rows[8:])
    document = json.loads((folder / "out.json").read_text())
    assert (document["version"], document["ok"], len(document["cases"])) == (1, False, 12)
    assert document["cases"][8]["report"]["verdict"] == "FAILED"
    suites = ElementTree.parse(folder / "out.xml").getroot().findall("testsuite")
    assert len(suites) == 12
    assert suites[0].get("failures") == "0"
    failure = suites[8].find("testcase[@name='finite differences']/failure")
    assert failure is not None
    assert "next: mend the backward" in (failure.text or "")


def test_sizes_without_numbers_are_those_around_powers_of_two(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("mine_checked:nll", "--inputs", "randn(4,8,req) randint(0,8,(4,)) weight=2.0", "--sizes", "--skip", "gradcheck")
    rows = capsys.readouterr().out.splitlines()[1:]
    assert [row.split() for row in rows] == [[str(n), "passed"] for n in check.DEFAULT_SIZES]


def test_a_module_is_checked_with_its_parameters(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("mine_checked:plain_norm", "--inputs", "randn(4,3,req)", "--dtypes", "float32", "float64")
    capsys.readouterr()
    run("mine_checked:norm", "--inputs", "x=randn(4,3,req)", "--json", "out.json", status=3)
    report = json.loads((folder / "out.json").read_text())["cases"][0]["report"]
    assert set(report["judged_by"]) == {"x", "weight"}
    assert {f["subject"] for f in report["findings"] if f["rule"] == "finite differences" and f["next_step"]} == {"x"}


def test_what_cannot_be_asked_is_not_passed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("mine_checked:positive", "--inputs", "randn(4,3,req)", "--sizes", "1", "4", "--junit", "out.xml", status=3)
    assert "1     not asked  function: its forward raised ValueError: too short" in capsys.readouterr().out
    assert ElementTree.parse(folder / "out.xml").getroot()[0].get("errors") == "1"


def test_gradients_that_are_meant(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["mine_checked:Step", "--inputs", "randn(4,3,req)", "--seed", "1"]
    run(*asked, status=3)
    run(*asked, "--intended", "surrogate")
    run(*asked, "--derivative-of", "torch:sigmoid")
    run(*asked, "--derivative-of", "torch:tanh", status=3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "subject: expected, found none"),
        (["mine_checked:Square"], '--inputs: expected the arguments to check it at, such as "randn(4,8,req)"'),
        (["mine_checked"], "function: expected module:name or file.py:name, found 'mine_checked'"),
        (["mine_checked:Sqare"], "function: mine_checked has no Sqare (did you mean 'Square'?)"),
        (["mine_checked:number"], "function: expected a function, found mine_checked:number, a int"),
        (["no_such_module:f"], "function: cannot import no_such_module (No module named 'no_such_module')"),
        (["no_such.py:f"], "function: no_such.py: no such file"),
        (["broken_on_import:f"], "(ZeroDivisionError: division by zero, at broken_on_import.py, line 2)"),
        (["broken_on_import.py:f"], "(ZeroDivisionError: division by zero, at broken_on_import.py, line 2)"),
        (["torch.nn:LayerNorm"], "function: expected a function or a module, found torch.nn:LayerNorm, a class"),
        (["torch:sin", "torch:cos"], "'torch:cos': unexpected argument; only a bundle (.pt) is followed by a function"),
        (["torch:sin", "--inputs", "randn(3,req)", "--dtypes", "float31"], "found 'float31' (did you mean 'float32'?)"),
        (["torch:sin", "--inputs", "randn(3,req)", "--device", "gpu"], "expected one that can be used, found 'gpu'"),
        (["torch:sin", "--inputs", "randn(3,req)", "--skip", "gradchek"], "(did you mean 'gradcheck'?)"),
        (["torch:sin", "--inputs", "randn(req)", "--sizes", "3"], "sizes: expected a first checked input with a dim"),
        (["torch:sin", "--inputs", "randn(3,req)", "--sizes", "-3"], "expected numbers of at least 0, found -3"),
        (["torch:sin", "--inputs", "randn(3,req,float32)", "--dtypes", "float64"], "dtypes: expected a floating"),
        (["torch:sin", "--inputs", "randn(3,req)", "--json", "none/x.json"], "--json: none: no such folder"),
        (["torch:sin", "--inputs", "randn(3,req) 3"], "function: its forward raised TypeError"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(folder: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(LeanMnistError) as raised:
        run(*arguments)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert raised.value.exit_status == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "inputs: expected at least one, such as randn(4,8,req), found none"),
        ("rand(4,8)", "inputs: expected req among the sizes of an input to be checked, as in randn(4,8,req)"),
        ("randn(4,8,rek)", "inputs, at 11: expected a size, req or a dtype, found 'rek' (did you mean 'req'?)"),
        ("x=randm(4,req)", "inputs, at 3: expected one of randn, rand, randint, zeros, ones, arange, a number or"),
        ("randn(4,8,req", "inputs, at 14: expected ',', found the end"),
        ("randn(4 8,req)", "inputs, at 9: expected ',', found '8'"),
        ("randn(4,8.5,req)", "inputs, at 9: expected a whole number of at least 0, found '8.5'"),
        ("randn(-4,req)", "inputs, at 7: expected a whole number of at least 0, found '-4'"),
        ("randint(4,8,req)", "inputs, at 1: expected randint(low, high, (sizes)) with low < high"),
        ("randint(8,4,(3,))", "inputs, at 1: expected randint(low, high, (sizes)) with low < high"),
        ("randn(4,(3,),req)", "inputs, at 1: expected randn(4,8) or randn((4,8)), not both"),
        ("randn(4,req,int64)", "inputs, at 1: expected req with a floating dtype alone"),
        ("randn(4,req); import os", "inputs, at 13: expected an input, found ';'"),
        ("__import__('os')", "inputs, at 1: expected one of randn"),
        ("(1,True,'a", 'inputs, at 9: expected an input, found "\'"'),
        ("(1 2)", "inputs, at 4: expected ',', found '2'"),
        ("x=", "inputs, at 3: expected a value, found the end"),
    ],
)
def test_mistakes_in_inputs_have_their_place(text: str, message: str) -> None:
    with pytest.raises(ArgumentError) as raised:
        parse_inputs(text)
    assert str(raised.value).startswith(message)


def test_inputs_of_every_kind() -> None:
    text = (
        "x=randn(4, 8, req) rand((2,3),float64), zeros(2) ones(req,bfloat16) randint(9,(4,)) arange(5) 1e-5 -3 'mean'"
    )
    given = parse_inputs(f"{text} (1,2.5,None) eps=True")
    made: list[Any] = [item.make(torch.Generator().manual_seed(0), None, "contiguous", "cpu") for item in given]
    tensors = [x for x in made if isinstance(x, torch.Tensor)]
    assert [tuple(x.shape) for x in tensors] == [(4, 8), (2, 3), (2,), (), (4,), (5,)]
    dtypes = (torch.float32, torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.int64)
    assert tuple(x.dtype for x in tensors) == dtypes
    assert [x.requires_grad for x in tensors] == [True, False, False, True, False, False]
    assert made[6:] == [1e-5, -3, "mean", (1, 2.5, None), True]
    assert (given[0].name, given[-1].name) == ("x", "eps")
    assert parse_inputs("randn(req)") == (Given(maker="randn", requires_grad=True),)
    transposed = given[0].make(torch.Generator(), torch.float64, "transposed", "cpu")
    assert (transposed.stride(), transposed.dtype) == ((1, 4), torch.float64)
    assert given[5].resized(5, 3).make(torch.Generator(), None, "contiguous", "cpu").tolist() == [0, 1, 2]


def test_the_command(folder: Path) -> None:
    command = [sys.executable, "-m", "lean_mnist.check", "mine_checked:Square", "--inputs"]
    for text, status, words in (
        ("randn(4,3,req)", 3, "FAILED (seed "),
        ("randn(4,3", 2, "error: inputs, at 10: expected"),
    ):
        done = subprocess.run([*command, text], capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stderr
        assert words in done.stdout + done.stderr
