"""The commands: one line on standard error for each bad input, exit statuses, and nothing touched."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lean_mnist import errors, evaluate, train
from lean_mnist.command_line import run_command
from lean_mnist.data.names import DATA_VARIABLE
from lean_mnist.invocation import typed
from lean_mnist.training.arguments import read_arguments
from lean_mnist.training.config import Config
from lean_mnist.training.config.places import find_checkpoint
from lean_mnist.training.config.presets import preset
from lean_mnist.training.run import run
from tests.support.training_cases import (
    NAME,
    FinishedRun,
    call,
    digits_config,
    records_in,
    stop_after,
    surroundings,
    tree,
)

DIGITS = ["--dataset", "digits"]

# Arguments, and what the line says. A folder "a-file" that is a file stands in the present folder.
BAD: list[tuple[list[str], str]] = [
    (["--epoch", "3"], "--epoch: no such option (did you mean '--epochs'?)"),
    (["--epochz=3"], "--epochz: no such option (did you mean '--epochs'?)"),
    (["--qqqqqqqq"], "--qqqqqqqq: no such option; --help lists them"),
    (["extra"], "'extra': unexpected argument"),
    (["--optimizer", "adm"], "--optimizer: expected one of sgd, adam, adamw, rmsprop, found 'adm' (did you mean 'ad"),
    (["--dataset", "digit"], "found 'digit' (did you mean 'digits'?)"),
    (["--activation", "rellu"], "(did you mean 'relu'?)"),
    (["--precision", "float16"], "--precision: expected one of float32, float64"),
    (["--epochs", "three"], "--epochs"),
    (["--epochs"], "--epochs"),
    (["--epochs", "0"], "--epochs: expected at least 1, found 0"),
    (["--epochs", "-1"], "--epochs"),
    (["--batch-size", "0"], "--batch-size: expected at least 1, found 0"),
    (["--batch-size=-8"], "--batch-size: expected at least 1, found -8"),
    (["--hidden", "0"], "--hidden: expected one or more widths of at least 1, found 0"),
    (["--hidden", "32", "x"], "--hidden"),
    (["--threads", "0"], "--threads: expected from 1 to 1024, found 0"),
    (["--threads", "9999"], "--threads: expected from 1 to 1024, found 9999"),
    (["--lr", "0"], "--lr: expected a number above 0, found 0.0"),
    (["--lr", "nan"], "--lr: expected a number above 0, found nan"),
    (["--validation-size", "0"], "--validation-size: expected at least 1, found 0"),
    ([*DIGITS, "--validation-size", "5000"], "validation-size: 5000, expected at most 1436"),
    ([*DIGITS, "--limit-train", "1437"], "limit-train: 1437, expected at most 1436"),
    ([*DIGITS, "--limit-train", "1400", "--validation-size", "38"], "validation-size: 38, expected at most 37"),
    ([*DIGITS, "--warmup-steps", "330"], "--warmup-steps: expected fewer than the run's 330 steps, found 330"),
    ([*DIGITS, "--device", "cuda"], "--device cuda: PyTorch finds no CUDA device here"),
    ([*DIGITS, "--run-name", "a/b"], "--run-name: expected the name of one folder, found 'a/b'"),
    ([*DIGITS, "--run-name", "a" * 201], "--run-name: expected a name of at most 200 bytes, found"),
    ([*DIGITS, "--run-name", "a\n\x1b[2J"], r"found 'a\n\x1b[2J'"),
    ([*DIGITS, "--run-name", "a\udcff"], r"--run-name: expected text in UTF-8, found a\udcff"),
    ([*DIGITS, "--runs-dir", "a\udcff"], r"--runs-dir: expected text in UTF-8, found a\udcff"),
    ([*DIGITS, "--runs-dir", "a" * 5000], "--runs-dir: expected at most 4096 characters, none of them null"),
    ([*DIGITS, "--hidden"], "--hidden: expected at least one argument"),
    ([*DIGITS, "--hidden", "--epochs", "1"], "--hidden: expected at least one argument"),
    ([*DIGITS, "--data-dir"], "--data-dir: expected one argument"),
    ([*DIGITS, "--epochs", "9" * 5000], "--epochs: expected a whole number, found '99999"),
    ([*DIGITS, "--epochs", "9" * 50], "--epochs: expected at most 9007199254740992, found 99999"),
    ([*DIGITS, "--hidden", "99999999999"], "--hidden: expected at most 98 widths of at most 16777216"),
    (["--resume", "x" * 5000], "File name too long"),
    (["--resume", "x\x1b\n"], r"--resume x\x1b\n: expected a run with"),
    ([*DIGITS, "--run-name", NAME], f"--run-name {NAME}: runs/{NAME} exists already"),
    ([*DIGITS, "--run-name", "new", "--runs-dir", "a-file"], "a-file/new: expected a folder that can be written"),
    (["--config", "nowhere.json"], "nowhere.json: expected a config.json that a run wrote, found: No such file"),
    (["--config", "."], ".: expected a config.json that a run wrote, found: a folder"),
    (["--config", "a-file"], "a-file: expected a config.json that a run wrote"),
    (["--config", f"runs/{NAME}/summary.json"], "no configuration field is called 'run' (did you mean"),
    (["--preset", "lean-ful"], "--preset: expected one of default, small-best, best, lean-full, lean-medium, mini, "),
    (["--preset"], "--preset: expected one argument"),
    (["--preset", "mini", "--resume", NAME], "--preset and --resume: each names what a run starts from"),
    (["--config", "x", "--resume"], "--config and --resume: each names what a run starts from"),
    (["--resume", "a-rum"], "--resume a-rum: expected a run with checkpoints/a-rum/last.pt, found none (did you mean "),
    (["--resume", "--checkpoints-dir", "empty"], "empty: no run to resume"),
    (["--resume", "a-file"], "a-file: expected a checkpoint, found a file that is none"),
    (["--resume", f"checkpoints/{NAME}/best.pt"], "best.pt: expected a last.pt"),
    (["--resume", NAME, "--epochs", "1"], "--epochs: this run was started with 2, found 1; "),
    ([*DIGITS, "--init-from", "a-rum"], "--init-from: a-rum: expected a run, as in checkpoints, its folder, or "),
    ([*DIGITS, "--init-from", NAME, "--hidden", "9"], "best.pt: layers.0.weight: expected (9, 64) for"),
    ([*DIGITS, "--init-from", "a-file"], "--init-from: a-file: expected a checkpoint, found a file that is none"),
    ([*DIGITS, "--init-from", "empty"], "--init-from: empty: expected a run, as in checkpoints"),
    (["--resume", NAME, "--lr", "0.5"], "--lr: this run was started with its default, found 0.5"),
    (["--resume", NAME, "--hidden", "128", "64"], "--hidden: this run was started with"),
    (["--resume", NAME, "--dataset", "mnist"], "--dataset: this run was started with digits, found mnist"),
    (["--resume", NAME, "--seed", "1"], "--seed: this run was started with 0, found 1"),
    (["--dataset", "mnist"], "Data set 'mnist' not found"),
    (["--dataset", "mnist", "--data-dir", "a-file"], "data-dir: "),
    (["--preset", "lean-medium"], "Data set 'mnist' not found"),
]  # fmt: skip


@pytest.fixture
def furnished(here: Path, short_run: FinishedRun) -> Path:
    """The present folder holds a finished run, a file and an empty folder."""
    for path, content in tree(short_run.root).items():
        if content is None:
            (here / path).mkdir()
        else:
            (here / path).write_bytes(content)
    (here / "a-file").write_text("some text\n", encoding="utf-8")
    (here / "empty").mkdir()
    return here


def _one_line(err: str) -> str:
    assert err.startswith("error: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1, err
    return err


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[ascii(" ".join(arguments))[:80] for arguments, _ in BAD])
def test_bad_input_gives_one_line_and_status_2_and_touches_nothing(
    arguments: list[str], message: str, furnished: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    before = tree(furnished)
    status, out, err = call(train.main, arguments, monkeypatch, capsys)
    assert (status, out) == (2, "")
    assert message in _one_line(err)
    assert tree(furnished) == before


@pytest.mark.parametrize("dataset", ["mnist", "auto"])
def test_a_variable_that_points_nowhere_is_an_error_for_whoever_needs_it(
    dataset: str, furnished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(DATA_VARIABLE, "nowhere")
    before = tree(furnished)
    status, out, err = call(train.main, ["--dataset", dataset], monkeypatch, capsys)
    assert (status, out) == (2, "")
    assert f"{DATA_VARIABLE}: nowhere is not a folder" in _one_line(err)
    assert tree(furnished) == before


def test_damaged_data_are_an_error_of_one_line(
    here: Path, tiny_mnist: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tiny_mnist(here / "data") / "MNIST" / "raw" / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:-1])
    before = tree(here)
    status, _, err = call(train.main, [], monkeypatch, capsys)
    assert status == 2
    assert "train-images-idx3-ubyte" in _one_line(err)
    assert tree(here) == before


def test_auto_without_mnist_says_so_in_two_lines_and_trains_on_digits(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = call(train.main, ["--epochs", "1", "--run-name", NAME], monkeypatch, capsys)
    first, second, *rest = err.splitlines()
    assert status == 0
    assert "'mnist' not found" in first
    assert "'digits' instead" in second
    assert [line.split()[:3] for line in rest] == [["digits", "epoch", "1/1"]]
    assert out.startswith("digits: test accuracy ")
    assert json.loads(Path("runs", NAME, "config.json").read_text(encoding="utf-8"))["dataset"] == "digits"
    assert not Path("data").exists()


def test_a_finished_run_exits_0_and_says_where_everything_is(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = call(train.main, [*DIGITS, "--epochs", "1", "--run-name", NAME], monkeypatch, capsys)
    assert status == 0
    for path in (f"checkpoints/{NAME}/best.pt", f"checkpoints/{NAME}/last.pt", f"runs/{NAME}"):
        assert path in out
        assert Path(path).exists()
    assert " audited, 1 gradcheck, 0 failed" in " ".join(out.split())
    status, out, err = call(train.main, [*DIGITS, "--epochs", "1", "--quiet"], monkeypatch, capsys)
    assert (status, out, err) == (0, "", "")


def test_with_json_the_summary_is_one_document(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*DIGITS, "--epochs", "1", "--run-name", NAME, "--quiet", "--json"]
    status, out, err = call(train.main, arguments, monkeypatch, capsys)
    assert (status, err) == (0, "")
    written = json.loads(Path("runs", NAME, "summary.json").read_text(encoding="utf-8"))
    assert json.loads(out) == {name: value for name, value in written.items() if name != "best_sha256"}


def test_threads_are_as_many_as_asked_for_while_it_trains(here: Path) -> None:
    before = torch.get_num_threads()
    summary = run(digits_config(epochs=1, threads=before + 1))
    assert torch.get_num_threads() == before
    assert summary.config.threads == before + 1
    assert json.loads(Path("runs", NAME, "config.json").read_text(encoding="utf-8"))["threads"] == before + 1
    assert json.loads(Path("runs", NAME, "summary.json").read_text(encoding="utf-8"))["threads"] == before + 1


def test_an_interrupted_run_exits_130_and_says_how_to_go_on(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 13)
        status, out, err = call(train.main, [*DIGITS, "--epochs", "2", "--run-name", NAME], patch, capsys)
    assert (status, out) == (130, "")
    line = err.splitlines()[-1]
    assert line == (
        "interrupted at step 13, epoch 2; everything is saved; to go on: "
        + typed("python -m lean_mnist.train", "--resume", f"checkpoints/{NAME}")
    )
    status, out, _ = call(train.main, line.split()[-2:], monkeypatch, capsys)
    assert status == 0
    assert out.startswith("digits: test accuracy")


def test_a_loss_that_is_not_finite_exits_3(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*DIGITS, "--lr", "1e30", "--schedule", "constant", "--quiet"]
    status, out, err = call(train.main, arguments, monkeypatch, capsys)
    assert (status, out) == (3, "")
    # What else stands there are warnings, of gradients that explode.
    lines = err.splitlines()
    assert [line.split(": ")[0] for line in lines] == ["warning"] * (len(lines) - 1) + ["error"]
    assert lines[-1].endswith("the weights are as they were before this step")


def test_a_full_disk_is_one_line_that_names_the_file(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(source: Any, target: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(source))

    monkeypatch.setattr(os, "replace", full)
    status, out, err = call(train.main, [*DIGITS, "--run-name", NAME], monkeypatch, capsys)
    assert (status, out) == (2, "")
    assert f"checkpoints/{NAME}/last.pt: No space left on device" in _one_line(err)
    assert sorted(tree(here)) == ["checkpoints", "runs"]  # and no folder that has the name


STATUSES = [
    (errors.LeanMnistError("what"), 2, "error: what\n"),
    (errors.DataUnavailable("what"), 2, "error: what\n"),
    (errors.HealthError("what"), 3, "error: what\n"),
    (errors.GradientMismatch("what"), 3, "error: what\n"),
    (errors.Interrupted("what"), 130, "what\n"),
    (KeyboardInterrupt(), 130, "interrupted\n"),
    (PermissionError(errno.EACCES, "Permission denied", "a/file"), 2, "error: a/file: Permission denied\n"),
    (OSError(errno.ENOSPC, "No space left on device"), 2, "error: output: No space left on device\n"),
    (OSError("odd"), 2, "error: output: odd\n"),
]


@pytest.mark.parametrize(("error", "status", "line"), STATUSES, ids=[repr(error) for error, _, _ in STATUSES])
def test_each_error_has_its_status_and_its_line(
    error: BaseException, status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as stopped:
        run_command(main)
    assert stopped.value.code == status
    assert capsys.readouterr() == ("", line)


def test_a_mistake_of_the_program_is_not_dressed_up() -> None:
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: print(1 // 0))


def test_a_reader_who_goes_away_is_no_error() -> None:
    code = "from lean_mnist.command_line import run_command; run_command(lambda: print('x' * 10**6))"
    program = subprocess.Popen(
        [sys.executable, "-c", code], env=surroundings(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert program.stdout is not None
    assert program.stderr is not None
    program.stdout.close()
    said = program.stderr.read()
    program.stderr.close()
    assert (program.wait(), said) == (1, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "checkpoint"),
        (
            ["nowhere.pt"],
            "nowhere.pt: expected a checkpoint, found: No such file or directory",
        ),
        (["a-rum"], "found none (did you mean 'a-run'?)"),
        (["nowhere.pt", "--split", "tests"], "(did you mean 'test'?)"),
        (["a-file"], "a-file: expected a checkpoint, found a file that is none"),
        (["empty"], "empty: expected a run, as in checkpoints"),
    ],
)
def test_evaluate_refuses_bad_input_in_one_line(
    arguments: list[str], message: str, furnished: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    status, out, err = call(evaluate.main, arguments, monkeypatch, capsys)
    assert (status, out) == (2, "")
    assert message in _one_line(err)


OVERRIDES: list[tuple[list[str], dict[str, Any]]] = [
    (["--epochs", "3", "--hidden", "64", "32"], {"epochs": 3, "hidden": (64, 32)}),
    (["--no-bias", "--no-nesterov", "--track-test"], {"bias": False, "nesterov": False, "track_test": True}),
    (["--lr=1e-3", "--run-name=x", "--checkpoints-dir=y"], {"lr": 1e-3, "run_name": "x", "checkpoints_dir": "y"}),
    (["--hidden", "5", "--run-name", "x", "--epochs", "3"], {"hidden": (5,), "run_name": "x", "epochs": 3}),
]


@pytest.mark.parametrize(("arguments", "values"), OVERRIDES, ids=[" ".join(arguments) for arguments, _ in OVERRIDES])
def test_options_override_what_a_run_starts_from(arguments: list[str], values: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(preset("mini").to_dict()), encoding="utf-8")
    for start, base in (
        ([], Config()),
        (["--preset", "lean-full"], preset("lean-full")),
        (["--config", str(path)], preset("mini")),
    ):
        config, resume = read_arguments([*start, *arguments])
        assert config == Config(**{**_fields(base), **values})
        assert resume is None


def _fields(config: Config) -> dict[str, Any]:
    return {**config.to_dict(), "hidden": config.hidden}


def test_an_option_given_its_default_overrides_too(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(Config(checkpoints_dir="elsewhere", runs_dir="elsewhere").to_dict()), encoding="utf-8")
    config, _ = read_arguments(["--config", str(path), "--runs-dir", "runs", "--checkpoints-dir", "checkpoints"])
    assert (config.runs_dir, config.checkpoints_dir) == ("runs", "checkpoints")


def test_a_repeated_run_gets_a_name_of_its_own_and_the_same_numbers(furnished: Path, short_run: FinishedRun) -> None:
    config, _ = read_arguments(["--config", f"runs/{NAME}/config.json"])
    assert config.run_name is None
    summary = run(config)
    assert summary.folder.name != NAME
    assert summary.folder.name.startswith("digits-")
    assert summary.test.confusion.equal(short_run.summary.test.confusion)
    losses = [record for record in short_run.records if record["name"] == "train/loss"]
    assert [record for record in records_in(summary.folder) if record["name"] == "train/loss"] == losses


def test_two_runs_of_one_second_have_folders_of_their_own(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lean_mnist.training.run_folder.time.strftime", lambda form: "now")
    names = [run(digits_config(run_name=None, epochs=1)).folder.name for _ in range(2)]
    assert names == ["digits-now", "digits-now-2"]


def test_a_run_is_found_by_name_folder_file_or_alone(furnished: Path) -> None:
    checkpoints, last = Path("checkpoints"), Path("checkpoints", NAME, "last.pt")
    other = checkpoints / "older" / "last.pt"
    other.parent.mkdir()
    other.write_bytes(last.read_bytes())
    os.utime(other, ns=(0, 0))
    for which in (NAME, str(last), str(last.parent), str(last.resolve()), ""):
        assert find_checkpoint(which, None, checkpoints).samefile(last)
    assert find_checkpoint("", "older", checkpoints).samefile(other)
    for arguments in (["--resume"], ["--resume", NAME], ["--resume", "--run-name", NAME], ["--quiet", "--resume"]):
        config, path = read_arguments(arguments)
        assert path is not None
        assert path.samefile(last)
        assert (config.run_name, config.checkpoints_dir) == (NAME, "checkpoints")


@pytest.mark.parametrize("which", [NAME, f"checkpoints/{NAME}", f"checkpoints/{NAME}/best.pt"])
def test_evaluate_takes_a_run_by_name_folder_or_file(
    which: str, furnished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = call(evaluate.main, [which, "--json"], monkeypatch, capsys)
    assert (status, err) == (0, "")
    assert json.loads(out)["checkpoint"] == f"checkpoints/{NAME}/best.pt"


@pytest.mark.parametrize("which", ["checkpoints", f"checkpoints/{NAME}"])
def test_a_folder_that_cannot_be_read_is_not_called_missing(
    which: str, furnished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The system refuses what is below ``which``, as it does to those without permission; a superuser has all."""
    ask, list_folder = os.stat, os.scandir

    def allowed(path: Any) -> Any:
        if Path(path).is_relative_to(which) and Path(path) != Path(which):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return path

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", lambda path, **more: ask(allowed(path), **more))
        patch.setattr(os, "scandir", lambda path: list_folder(allowed(Path(path, "x")).parent))
        for main, arguments in ((train.main, ["--resume", NAME]), (evaluate.main, [NAME])):
            status, out, err = call(main, arguments, patch, capsys)
            assert (status, out) == (2, "")
            assert "Permission denied" in _one_line(err)


@pytest.mark.parametrize("which", ["last.pt", "."])
def test_a_run_is_found_from_inside_its_folder(which: str, furnished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(furnished / "checkpoints" / NAME)
    config, path = read_arguments(["--resume", which])
    assert path is not None
    assert path.samefile("last.pt")
    assert config.run_name == NAME
    assert Path(config.checkpoints_dir).samefile("..")
