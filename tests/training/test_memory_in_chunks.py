"""Faults that begin, and bits that flip, within a chunk of steps in C: found at that very step, and said."""

from pathlib import Path
from typing import Any

import pytest

from lean_mnist.errors import GradientMismatch, MemoryFault
from lean_mnist.mutants.native import kernels_with
from lean_mnist.nn.engine import native
from tests.support.engine_cases import quick_compiler
from tests.support.training_cases import FinishedRun, digits_run, load, named

# The engine computes two steps three times to compare them before its first chunk, at which it takes three of them.
OPTIONS: dict[str, Any] = {
    "epochs": 1, "batch_size": 32, "log_every": 1000, "check_every": 1000, "gradcheck_every": 1000, "threads": 1,
}  # fmt: skip
STEP, LAYERS = 19, 2


def counted(condition: str, times: int = 1, before: int = 5) -> str:
    """A condition on ``n``, the number of the step; it is asked so many times at each, and at ``before`` more."""
    return f"({{ static int64_t asked; int64_t n = asked++ / {times} - {before}; {condition}; }})"


def planted(patch: pytest.MonkeyPatch, root: Path, right: str, old: str, new: str, **options: Any) -> FinishedRun:
    """A run with a fault in kernels.c."""
    quick_compiler(patch)
    assert right.count(old) == 1
    kernels = kernels_with(right, right.replace(old, new))
    patch.setattr(native, "load_kernels", lambda: kernels)
    return digits_run(root, **{**OPTIONS, **options})


BIAS = "for (int64_t i = 0; i < net->examples;) {"
DERIVATIVE, MEAN = "d_h,\n                            below->d_z", "1.0f / net->examples"
LATE: dict[str, tuple[str, str, str]] = {
    "a bias without an example": (BIAS, "i = 0", f"i = {counted(f'n >= {STEP}', LAYERS)}"),
    "half a derivative": (DERIVATIVE, "d_h,", f"{counted(f'if (n >= {STEP}) d_h[5] *= 0.5f; d_h')},"),
    "a mean over one more": (MEAN, "net->examples", f"(net->examples + {counted(f'n >= {STEP}', 32)})"),
}  # fmt: skip


@pytest.mark.parametrize("check", ["screen", "full"])
@pytest.mark.parametrize("name", LATE)
def test_a_fault_that_begins_later_is_refused_at_its_step(
    name: str, check: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(GradientMismatch, match=rf"^gradient check failed at step {STEP}: "):
        planted(monkeypatch, tmp_path, *LATE[name], check=check)
    assert load(tmp_path / "checkpoints" / "a-run" / "last.pt")["metrics"]["step"] == 0


@pytest.mark.parametrize("name", LATE)
def test_a_fault_that_is_gone_again_is_told_and_leaves_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (folder := tmp_path / "right").mkdir()
    right = digits_run(folder, **OPTIONS, check="full")
    place, old, new = LATE[name]
    (folder := tmp_path / "once").mkdir()
    once = planted(monkeypatch, folder, place, old, new.replace(">=", "=="), check="full")
    assert once.summary_json["checks"]["transient"] == 1
    (notice,) = named(once.records, "screen/transient")
    assert notice.startswith("something stood out in this step, and does not when it is computed again")
    assert once.summary.state.checks.screens == once.summary.state.step == right.summary.state.step
    for ours, theirs in zip(load(once.last)["model"].values(), load(right.last)["model"].values(), strict=True):
        assert (ours - theirs).abs().max() < 1e-5  # the kernels of the one are not optimised


@pytest.mark.parametrize("check", ["screen", "full"])
@pytest.mark.parametrize("options", [
    {}, {"threads": 2}, {"optimizer": "adam"}, {"normalization": "per-image"}, {"accumulate": 2}, {"augment": "affine"},
    {"engine": "eager"}, {"clip_pixels": 1.0, "clip_norm": 0.5, "momentum": 0.0, "nesterov": False},
], ids=str)  # fmt: skip
def test_every_step_is_screened_however_it_is_taken(options: dict[str, Any], check: str, tmp_path: Path) -> None:
    run = digits_run(tmp_path, **{**OPTIONS, **options}, check=check)
    checks = run.summary.state.checks
    assert checks.screens == run.summary.state.step > 0
    assert checks.verdict == "passed"
    assert checks.transient == 0


# Bits that flip in C: right after the update of step n is noted, or after its batch is made.
AFTER_UPDATE = "work->taken = step + 1;\n            if"
FLIP = "if (n == {step}) ((uint32_t *){where})[9] ^= 1u << 22; 0"


def after_update(where: str, step: int) -> tuple[str, str, str]:
    flip = counted(FLIP.format(step=step, where=where), before=1)
    return AFTER_UPDATE, "step + 1;", f"step + 1 + {flip};"


IN_BATCH = "else rows_forward_and_backward(net, begin, end, scratch);"
WEIGHTS, MOMENTUM = "work->update->parameters", "work->update->momentum"
AT_REST: dict[str, tuple[str, str]] = {
    "weights": (WEIGHTS, r"layers\.0\.weight\[0, 0\] to "),
    "momentum": (MOMENTUM, r"the optimizer's momentum_buffer of layers\.0\.weight\[0, 0\] to "),
}


@pytest.mark.parametrize("step", [STEP, 42], ids=["within", "after the last step"])
@pytest.mark.parametrize("name", AT_REST)
def test_a_bit_that_flips_between_two_steps_of_a_chunk_is_found(
    name: str, step: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    where, found = AT_REST[name]
    number = min(step + 1, 42)
    with pytest.raises(MemoryFault, match=rf"^step {number}: {found}.* was changed in memory"):
        planted(monkeypatch, tmp_path, *after_update(where, step), check="full")


def test_with_warn_the_run_goes_on_and_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = planted(monkeypatch, tmp_path, *after_update(WEIGHTS, STEP), check="full", on_divergence="warn")
    assert run.summary.state.step == 42
    assert run.summary_json["checks"]["failures"] == 1
    assert run.summary_json["checks"]["first_failure"].startswith(f"step {STEP + 1}: layers.0.weight[0, 0] to ")
    (warning,) = named(run.records, "memory/warning")
    assert "was changed in memory" in warning


@pytest.mark.parametrize("what", ["((uint32_t *)net->layers[0].h)[9] ^= 1u << 22", "net->labels[3] ^= 1"])
def test_a_batch_that_changes_before_its_step_is_made_again(
    what: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    flip = counted(f"if (n == {STEP}) {what}; begin")
    run = planted(monkeypatch, tmp_path, IN_BATCH, "begin", flip, check="full")
    assert run.summary_json["checks"]["transient"] == 1
    assert run.summary_json["checks"]["failures"] == 0
