"""What a failed check leaves behind: a bundle that asks the very step again, with the code that is there then."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lean_mnist import train
from lean_mnist.audit.bundle import reproduce_step, save_step_bundle
from lean_mnist.crosscheck import replay
from lean_mnist.crosscheck.bundles.bundle import load_bundle
from lean_mnist.errors import CheckpointError, GradientMismatch, HealthError
from lean_mnist.invocation import typed
from lean_mnist.mutants import mutant_named, planted
from lean_mnist.nn import FlatParameters
from lean_mnist.nn.step import compute_gradients
from lean_mnist.training.hooks import step as steps
from lean_mnist.training.objectives.build import build_model
from lean_mnist.training.run import run
from tests.support.training_cases import NAME, Result, call, digits_config, digits_run, load, named, records_in

FOLDER = Path("runs", NAME, "failures")
STEP_1 = FOLDER / "step-1.pt"


def failed_run(mutant: str, **changes: Any) -> str:
    """A run of two epochs, its steps as they are written, with a bug planted that stops it; its message."""
    with planted(mutant_named(mutant)), pytest.raises(GradientMismatch) as caught:
        run(digits_config(engine="eager", **changes))
    return str(caught.value)


def ask(path: Path, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *options: str) -> Result:
    return call(replay.main, [str(path), *options], patch, capsys)


@pytest.fixture
def bundle(here: Path) -> Path:
    """Of a run whose dW has two rows swapped."""
    failed_run("weight-rows-swapped")
    return STEP_1


def test_a_bundle_opens_with_torch_alone_and_holds_the_step(bundle: Path) -> None:
    content = torch.load(bundle)
    assert content["kind"] == "training step"
    assert content["step"] == 1
    assert content["message"].startswith("gradient check failed at step 1: layers.1.weight[")
    assert content["config"]["run_name"] == NAME
    assert content["seeds"] == {"run": 0, "screen": 0}
    assert content["versions"]["torch"] == torch.__version__
    assert content["architecture"] == {"sizes": [64, 128, 10], "activation": "relu", "bias": True}
    assert content["past"] == []
    batch = content["batches"][0]
    assert (tuple(batch["x"].shape), batch["labels"].dtype) == ((128, 64), torch.int64)
    # The weights are those of the step, and its gradients those that were found: two rows are swapped.
    model = build_model(digits_config(device="cpu"), 64, 10)
    assert all(torch.equal(content["weights"][name], p) for name, p in model.named_parameters())
    # Last bits depend on the layout: weights stand as the trainer keeps them, the planted dW is a tensor of its own.
    FlatParameters(model)
    right = compute_gradients(model, [(batch["x"], batch["labels"])]).gradients[1][0]
    found = content["gradients"]["layers.1.weight"]
    assert right is not None
    assert torch.equal(found[[1, 0, *range(2, 10)]], right)
    assert len(content["computed"][0]["d_pre_activations"]) == 2


def test_replay_fails_while_the_bug_is_there_and_says_that_it_is_mended_when_it_is_not(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with planted(mutant_named("weight-rows-swapped")):
        still = ask(bundle, monkeypatch, capsys)
    assert (still.status, still.err) == (3, "")
    recorded, bits, verdict = still.out.splitlines()
    assert recorded.startswith("recorded: gradient check failed at step 1: layers.1.weight[")
    assert bits == "today's gradients equal the recorded ones bit for bit"
    assert verdict.startswith("FAILED at step 1: layers.1.weight[")
    assert "likely row or column swap in layers.1.weight, dW = Σ dzᵀ h: rows 0 and 1 are swapped" in verdict
    mended = ask(bundle, monkeypatch, capsys)
    assert (mended.status, mended.err) == (0, "")
    _, bits, verdict = mended.out.splitlines()
    assert bits.startswith("today's gradients differ from the recorded ones: layers.0.weight by up to ")
    assert verdict.startswith("mended: the gradients of step 1 now agree with the reference")


@pytest.mark.parametrize(
    ("mutant", "changes", "words"),
    [
        ("weight-element-off", {"check": "screen"}, "one element"),  # what only probes have seen
        ("sum-for-mean", {"accumulate": 3, "label_smoothing": 0.1, "logit_penalty": 0.01}, "constant factor in the gr"),
        ("tanh-not-squared", {"activation": "tanh", "precision": "float64", "bias": True}, "derivative in"),
        ("node-upstream-clipped", {}, "gradcheck"),
        ("weight-not-cleared", {"check": "screen"}, "stale value"),  # which takes the call before
        ("weight-noise", {}, "nondeterminism"),
    ],
)
def test_bugs_of_every_sort_are_found_again(
    mutant: str, changes: dict[str, Any], words: str,
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    message = failed_run(mutant, **changes)
    (path,) = FOLDER.iterdir()
    assert message.endswith(f"; to ask again: {typed('python -m lean_mnist.crosscheck.replay', path)}")
    with planted(mutant_named(mutant)):
        still = ask(path, monkeypatch, capsys)
    assert still.status == 3, still.out
    assert words in still.out.splitlines()[-1]
    assert ask(path, monkeypatch, capsys).status == 0


def test_a_run_that_goes_on_keeps_its_first_failures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with planted(mutant_named("weight-scale-1.01")):
        finished = digits_run(tmp_path, check="full", check_every=2, on_divergence="warn", engine="eager")
    kept = sorted(path.name for path in (finished.folder / "failures").iterdir())
    assert kept == [f"step-{number}.pt" for number in range(1, steps.MOST + 1)]
    assert load(finished.folder / "failures" / "step-3.pt")["past"][1]["x"].shape == (128, 64)
    assert f"failures of the first {steps.MOST} failed steps: {finished.summary.folder}/failures" in str(
        finished.summary
    )
    warning = named(finished.records, "crosscheck/warning")[0]
    assert warning.endswith(f"-m lean_mnist.crosscheck.replay {finished.summary.folder}/failures/step-1.pt")


def test_a_gradient_that_is_not_finite_is_kept_too(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with planted(mutant_named("node-nan")), pytest.raises(HealthError) as caught:
        run(digits_config(engine="eager"))
    assert "step 1: the gradient of layers.1.bias is not finite: likely NaN in layers.1.bias, db = Σ dz" in str(
        caught.value
    )
    assert str(caught.value).endswith(f"; to ask again: {typed('python -m lean_mnist.crosscheck.replay', STEP_1)}")
    with planted(mutant_named("node-nan")):
        assert ask(STEP_1, monkeypatch, capsys).status == 3
    assert ask(STEP_1, monkeypatch, capsys).status == 0


def test_a_run_that_diverges_is_no_fault_of_its_gradients(here: Path) -> None:
    with pytest.raises(HealthError, match=r"the weights are as they were before this step$"):
        run(digits_config(lr=1e12, schedule="constant", epochs=3))
    assert not FOLDER.exists()


def test_a_run_without_a_failure_has_no_such_folder(here: Path) -> None:
    run(digits_config(epochs=1))
    assert not FOLDER.exists()


@pytest.mark.parametrize("function", ["fsync", "replace", "fdopen", "mkdir"])
def test_on_a_full_disk_nothing_is_half_written_and_the_failure_is_still_told(
    function: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    write = save_step_bundle

    def write_to_a_full_disk(*arguments: Any, **options: Any) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(os, function, full)
            write(*arguments, **options)

    if function == "mkdir":
        monkeypatch.setattr(Path, "mkdir", _only_failures_refused(Path.mkdir, full))
    else:
        monkeypatch.setattr(steps, "save_step_bundle", write_to_a_full_disk)
    with planted(mutant_named("weight-sign")):
        status, out, err = call(train.main, ["--dataset", "digits", "--run-name", NAME, "--quiet"], monkeypatch, capsys)
    assert (status, out) == (3, "")
    error = err.splitlines()[-1]
    assert error.startswith("error: gradient check failed at step 1: layers.1.weight[")
    assert error.endswith(f"; its bundle could not be written: {STEP_1}: No space left on device")
    assert not FOLDER.exists() or os.listdir(FOLDER) == []


def _only_failures_refused(mkdir: Callable[..., None], refuse: Callable[..., None]) -> Callable[..., None]:
    return lambda self, *arguments, **options: (refuse if self.name == "failures" else mkdir)(
        self, *arguments, **options
    )


def test_a_step_bundle_has_no_functions_to_exchange(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = ask(bundle, monkeypatch, capsys, "--function", "torch:square")
    assert (status, out) == (2, "")
    assert err == f"error: --function, --reference, --derivative-of: {bundle} is of a training step, which has none\n"


DAMAGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a field gone": (lambda c: c.pop("weights"), "a damaged bundle: object missing required field weights"),
    "of another kind": (
        lambda c: c.update(kind="cake"),
        "a bundle of a function or a training step, found one of 'cake'",
    ),
    "no weights": (lambda c: c.update(weights={}), "layers.0.weight: expected (128, 64) for "),
    "other weights": (
        lambda c: c["weights"].pop("layers.0.bias"),
        "layers.0.bias: expected (128,) for ",
    ),
    "no batch": (lambda c: c.update(batches=[]), "batches: expected at least one"),
    "another width": (
        lambda c: c["batches"][0].update(x=torch.zeros(128, 63)),
        "batches: expected x (B, 64) of ",
    ),
    "text for a batch": (lambda c: c.update(batches="text"), "batches: expected array, got str"),
    "gradients gone": (lambda c: c["gradients"].clear(), "layers.0.weight: expected its gradient"),
    "a label of no class": (lambda c: c["batches"][0]["labels"].fill_(10), "batches: expected labels from 0 to 9"),
    "labels of another kind": (
        lambda c: c["past"].append({"x": torch.zeros(1, 64)}),
        "expected x and labels",
    ),
    "another loss": (lambda c: c["loss_options"].update(label_smoothing=7.0), "architecture: "),
    "no such activation": (
        lambda c: c["architecture"].update(activation="step"),
        "architecture.activation: ",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_bundle_is_one_line(
    damage: str, bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    change, words = DAMAGES[damage]
    content = torch.load(bundle)
    change(content)
    torch.save(content, bundle)
    status, out, err = ask(bundle, monkeypatch, capsys)
    assert (status, out) == (2, "")
    assert err.startswith(f"error: {bundle}: ")
    assert words in err
    assert err.count("\n") == 1


def test_a_truncated_bundle_and_a_checkpoint_are_no_bundles(bundle: Path) -> None:
    whole = bundle.read_bytes()
    for length in (0, 10, len(whole) // 2):
        bundle.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="found a file that is none, or a damaged one"):
            load_bundle(bundle)
    with pytest.raises(CheckpointError, match=r"found another torch\.save file"):
        load_bundle(Path("checkpoints", NAME, "last.pt"))


def test_gradients_that_are_missing_are_told_from_those_that_differ(bundle: Path) -> None:
    content = load_bundle(bundle)
    content["gradients"]["layers.0.bias"] = None
    found = reproduce_step(bundle, content)
    assert found.differing["layers.0.bias"] != found.differing["layers.0.bias"]
    assert found.ok


def test_the_records_of_a_failed_step_are_as_before(bundle: Path) -> None:
    assert named(records_in(Path("runs", NAME)), "crosscheck/passed") == [0.0]
