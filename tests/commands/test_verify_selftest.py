"""``python -m lean_mnist.verify --selftest``: on somebody's Function, right and wrong, and its usage errors."""

import contextlib
import json
import sys
from pathlib import Path

import pytest

from lean_mnist.errors import ArgumentError, ConfigError, GradientMismatch
from lean_mnist.verify import main

FUNCTION = """
import torch


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, upstream):
        (x,) = ctx.saved_tensors
        return upstream * FACTOR * x


reference = torch.square


def inputs():
    return [torch.linspace(-1, 1, 12).reshape(4, 3).requires_grad_()]
"""


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["verify", *arguments])
    main()


@pytest.fixture
def square(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_bugs_planted_in_a_right_function_are_counted(
    square: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (square / "right_square.py").write_text(FUNCTION.replace("FACTOR", "2"))
    with contextlib.suppress(GradientMismatch):  # what escapes is in the report; the status says that something did
        _run(monkeypatch, "--selftest", "--target", "right_square:Square", "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["target"] == "right_square:Square"
    assert found["false_alarms"] == []
    assert found["score"] >= 0.9


def test_a_wrong_function_is_refused_before_anything_is_planted(
    square: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (square / "wrong_square.py").write_text(FUNCTION.replace("FACTOR", "1"))
    with pytest.raises(GradientMismatch, match="with nothing planted"):
        _run(monkeypatch, "--selftest", "--target", "wrong_square:Square")
    assert "FAILED" in capsys.readouterr().out


def test_the_faults_of_chosen_obligations_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _run(monkeypatch, "--selftest", "--only", "convergence.robbins-monro", "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["ok"]
    (fault,) = found["faults"]
    assert fault == {
        "fault": "Robbins and Monro: a lower ceiling", "found_by": ["convergence.robbins-monro"], "missed_by": []
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--target", "a:b"], ConfigError, "expected --selftest beside it"),
        (["--selftest", "--only", "loss", "--target", "a:b"], ConfigError, "--only: .* without --target"),
        (["--selftest", "--coq"], ConfigError, "--coq: .* without --selftest"),
        (["--selftest", "--target", "no_such_module:Function"], ArgumentError, "no_such_module"),
    ],
)
def test_usage_errors(
    arguments: list[str], error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(error, match=message):
        _run(monkeypatch, *arguments)
