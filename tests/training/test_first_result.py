"""The way to the first result: what a default run may not import, and what its summary does not wait for."""

from __future__ import annotations

import errno
import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lean_mnist import train
from lean_mnist.training.objectives.summary import Summary
from lean_mnist.training.run import run
from tests.support.training_cases import NAME, call, digits_config, surroundings

# Each takes a tenth of a second or more to import, or brings what does.
HEAVY = {
    "absl", "fsspec", "matplotlib", "mlflow", "mpmath", "onnx", "pandas", "scipy", "sklearn", "sympy", "torch._dynamo",
    "torch._inductor", "torch.fx.experimental.symbolic_shapes", "torch.utils.tensorboard",
    "tensorboard.compat.tensorflow_stub", "tensorboard.summary", "torchvision", "triton", "wandb",
}  # fmt: skip


@pytest.mark.parametrize("dataset", ["mnist", "digits"])
def test_a_run_imports_nothing_that_it_does_not_use(
    tmp_path: Path, tiny_mnist: Callable[..., Path], dataset: str
) -> None:
    """Epochs, audits with gradcheck, certificate, pictures, report and all."""
    code = (
        "import gc, sys; from lean_mnist.train import main; main();"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)), gc.isenabled(), gc.get_freeze_count() > 100_000)"
    )
    options = {"dataset": dataset, "data-dir": tiny_mnist(tmp_path), "epochs": 1, "batch-size": 10, "run-name": NAME}
    arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=surroundings(), cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "audited, 1 gradcheck, 0 failed" in " ".join(done.stdout.split())
    assert (tmp_path / "runs" / NAME / "report.html").exists()
    assert done.stdout.splitlines()[-1] == "[] True True"


def test_the_summary_is_told_before_pictures_and_report_are_made(here: Path) -> None:
    told: list[Summary] = []
    files = {"summary.json": True, "certificate.json": True, "report.html": False, "projector_sprites.png": False}

    def tell(summary: Summary) -> None:
        told.append(summary)
        assert {name: Path("runs", NAME, name).exists() for name in files} == files

    assert told == [] != [run(digits_config(epochs=1), tell=tell)] == told
    assert all(Path("runs", NAME, name).exists() for name in files)


def test_a_run_that_nobody_can_be_told_of_is_whole(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, "nobody takes it")

    arguments = ["--dataset", "digits", "--epochs", "1", "--run-name", NAME]
    monkeypatch.setattr(sys, "stdout", Full())
    found, _, err = call(train.main, arguments, monkeypatch, capsys)
    assert (found, err.splitlines()[-1]) == (2, "error: output: nobody takes it")
    assert Path("runs", NAME, "report.html").exists()
    assert Path("checkpoints", NAME, "model_card.md").exists()
