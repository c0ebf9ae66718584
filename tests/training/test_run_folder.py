"""A run's folders: claimed by one process, locked while in use, taken over from a killed start, deleted underneath."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lean_mnist import pacbayes, train
from lean_mnist.errors import CheckpointError, ConfigError, LeanMnistError
from lean_mnist.invocation import typed
from lean_mnist.training.arguments import read_arguments
from lean_mnist.training.generations import Generations
from lean_mnist.training.run import run
from lean_mnist.training.run_folder import FolderLock, InUse, RunFolder
from lean_mnist.training.sinks.log_file import LogFile
from tests.support.training_cases import NAME, call, digits_config, interrupted_at, load, surroundings, tree
from tests.training.test_resume import resume

RUNS, CHECKPOINTS = Path("runs", NAME), Path("checkpoints", NAME)
DIGITS = ["--dataset", "digits", "--epochs", "2", "--run-name", NAME, "--quiet"]

# -- one process ------------------------------------------------------------------------------------------------------

# A process that waits for a line, claims a folder, says which, and holds it until its input ends.
CLAIM = """
import sys
from lean_mnist.training.config import Config
from lean_mnist.training.run_folder import RunFolder
name = sys.argv[1] or None
print("ready", flush=True)
sys.stdin.readline()
with RunFolder() as folder:
    try:
        print(folder.claim(Config(dataset="digits", run_name=name)), flush=True)
    except ValueError as error:
        print("refused", error, flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("name", [NAME, ""])
def test_of_many_that_race_for_a_name_one_gets_it(name: str, here: Path) -> None:
    command = [sys.executable, "-c", CLAIM, name]
    pipe = subprocess.PIPE
    racers = [subprocess.Popen(command, env=surroundings(), stdin=pipe, stdout=pipe, text=True) for _ in range(4)]

    def say(racer: subprocess.Popen[str]) -> str:
        assert racer.stdin is not None
        assert racer.stdout is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
        return racer.stdout.readline().strip()

    with ThreadPoolExecutor(4) as threads:
        for racer in racers:
            assert racer.stdout is not None
            assert racer.stdout.readline() == "ready\n"
        said = list(threads.map(say, racers))
    for racer in racers:
        racer.communicate()
    got = [line for line in said if not line.startswith("refused")]
    assert len(got) == len(set(got)) == (1 if name else 4)
    for line in set(said) - set(got):
        assert line.startswith(f"refused --run-name {NAME}: runs/{NAME} is in use by ")
    assert sorted(tree(here)) == ["checkpoints", "runs"]  # nothing was written, so nothing blocks a name


@pytest.mark.parametrize("arguments", [["--resume", NAME], DIGITS], ids=["resume", "start"])
def test_a_run_in_use_is_one_line_that_names_the_process(
    arguments: list[str], here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupted_at(3, lambda: run(digits_config()))
    with RunFolder() as other:
        other.place(digits_config(), NAME)
        other.reopen()
        before = tree(here)
        status, out, err = call(train.main, arguments, monkeypatch, capsys)
        assert tree(here) == before
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert f"runs/{NAME} is in use by process {os.getpid()} on " in err
    assert resume(NAME).state.epoch == 2


def test_a_lock_whose_file_was_removed_is_no_lock(tmp_path: Path) -> None:
    first = FolderLock(tmp_path)
    with pytest.raises(InUse, match=f"is in use by process {os.getpid()} on "):
        FolderLock(tmp_path)
    (tmp_path / ".lock").write_bytes(b"12\x1b[31m host\n")
    with pytest.raises(InUse, match="is in use by another process"):
        FolderLock(tmp_path)
    (tmp_path / ".lock").unlink()
    assert not first.is_held()
    second = FolderLock(tmp_path)
    first.release()
    assert second.is_held()
    (tmp_path / "file").touch()
    second.release()
    assert os.listdir(tmp_path) == ["file"]


def test_without_locks_a_folder_that_is_there_is_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can tell then whether another process has just made it."""
    monkeypatch.setattr("lean_mnist.training.run_folder.fcntl", None)
    CHECKPOINTS.mkdir(parents=True)
    with pytest.raises(ConfigError, match=f"checkpoints/{NAME} exists already"):
        run(digits_config())
    assert tree(CHECKPOINTS) == {}
    run(digits_config(epochs=1, run_name="another"))


# -- a start that came to nothing -------------------------------------------------------------------------------------


class Killed(BaseException):
    pass


@pytest.fixture
def killed(here: Path) -> Path:
    """What a process leaves that was killed after it had claimed its folders, while it wrote its first checkpoint."""
    for folder in (RUNS, CHECKPOINTS):
        folder.mkdir(parents=True)
        (folder / ".lock").write_text("1 elsewhere\n")
    (CHECKPOINTS / ".last.pt.abcd_123.tmp").write_bytes(b"half of it")
    return here


def test_a_run_killed_before_its_first_checkpoint_starts_over(killed: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no last\.pt yet, so there is nothing to go on from; "):
        read_arguments(["--resume", NAME])
    summary = run(digits_config(epochs=1))
    assert summary.folder == RUNS
    assert not [path for path in tree(killed) if Path(path).name.startswith(".")]


@pytest.mark.parametrize("folder", [RUNS, CHECKPOINTS])
def test_what_is_not_a_leftover_is_never_taken_over(folder: Path, killed: Path) -> None:
    (folder / "mine.txt").write_text("precious")
    before = tree(folder)
    del before[".lock"]
    with pytest.raises(ConfigError, match=f"{folder} exists already; choose another name, or --resume {NAME}"):
        run(digits_config())
    assert tree(folder) == before


def test_temporary_files_of_killed_writes_go_when_the_run_goes_on(here: Path) -> None:
    interrupted_at(3, lambda: run(digits_config()))
    kept = [RUNS / "mine.tmp", RUNS / ".mine.tmp", CHECKPOINTS / ".abcdefgh.tmp"]
    leftovers = [RUNS / ".summary.json.abcdefgh.tmp", CHECKPOINTS / ".last.previous.pt.link.tmp"]
    for path in kept + leftovers:
        path.touch()
    resume(NAME)
    assert [path.exists() for path in kept + leftovers] == [True] * 3 + [False] * 2


@pytest.mark.parametrize("command", [train, pacbayes])
@pytest.mark.parametrize("function", ["replace", "fsync", "mkdir"])
def test_a_start_on_a_full_disk_leaves_no_folder_that_has_the_name(
    function: str, command: Any, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(arguments[0]))

    with monkeypatch.context() as patch:
        patch.setattr(os, function, full)
        status, out, err = call(command.main, DIGITS, monkeypatch, capsys)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "No space left on device" in err
    assert ".tmp" not in err
    assert set(tree(here)) <= {"checkpoints", "runs"}


def test_a_checkpoints_folder_that_cannot_be_written_leaves_no_run(here: Path) -> None:
    Path("checkpoints").touch()
    with pytest.raises(ConfigError, match=r"checkpoints/a-run: expected a folder that can be written, found: "):
        run(digits_config())
    assert os.listdir("runs") == []


# -- deleted underneath -----------------------------------------------------------------------------------------------


def after_epoch(monkeypatch: pytest.MonkeyPatch, action: Callable[[], object]) -> None:
    """Do ``action`` when the first epoch has been saved."""
    save, count = RunFolder.flush, [0]

    def flush(folder: RunFolder) -> Any:
        count[0] += 1
        if count[0] == 3:
            action()
        return save(folder)

    monkeypatch.setattr(RunFolder, "flush", flush)


def remove(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


@pytest.mark.parametrize("folder", [RUNS, CHECKPOINTS])
def test_a_folder_deleted_underneath_ends_the_run_with_its_state_saved(
    folder: Path, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        after_epoch(patch, lambda: remove(folder))
        status, out, err = call(train.main, DIGITS, monkeypatch, capsys)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"error: {folder}")
    assert f"deleted while the run was using it; the state of step 22 is in checkpoints/{NAME}/last.pt" in err
    assert err.endswith(f"; to go on: {typed('python -m lean_mnist.train', '--resume', Path('checkpoints', NAME))}\n")
    assert load(CHECKPOINTS / "last.pt")["metrics"]["step"] == 22
    summary = resume(NAME)
    assert summary.state.best is not None
    assert all(path.exists() for path in summary.files.values())
    assert (RUNS / "config.json").exists()


def test_a_folder_that_another_process_has_put_in_its_place_is_left_alone(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exchange() -> None:
        CHECKPOINTS.rename("checkpoints/moved")
        CHECKPOINTS.mkdir()

    after_epoch(monkeypatch, exchange)
    with pytest.raises(LeanMnistError, match=f"checkpoints/{NAME}: another folder has taken its place; "):
        run(digits_config())
    assert os.listdir(CHECKPOINTS) == []


@pytest.mark.parametrize("folder", [RUNS, CHECKPOINTS])
def test_a_folder_deleted_at_the_very_end_is_told_of(
    folder: Path, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    end = Generations.end

    def ended(generations: Generations, logs: Any) -> None:
        end(generations, logs)
        remove(folder)

    monkeypatch.setattr(Generations, "end", ended)
    status, out, err = call(train.main, DIGITS, monkeypatch, capsys)
    assert (status, out) == (2, "")
    assert err == f"error: {folder}: deleted while the run was using it; what was in it is lost\n"


# -- log files --------------------------------------------------------------------------------------------------------


def test_a_log_that_cannot_be_written_names_its_file_and_loses_nothing_of_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "metrics.jsonl"
    log = LogFile(path)
    log.write(b"first\n")
    log.flush()
    write = os.write
    log.write(b"second\n")
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, content: write(descriptor, content[:3]))
        log._write()
    log.write(b"third\n")

    def full(*arguments: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space left") as caught:
            log.flush()
        assert caught.value.filename == str(path)
    log.close()
    assert path.read_bytes() == b"first\nsecond\nthird\n"
    LogFile(path, 13).close()
    assert path.read_bytes() == b"first\nsecond\n"


def test_a_log_is_no_pipe_and_no_link(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    for name in ("pipe", "link"):
        with pytest.raises(OSError) as caught:  # noqa: PT011
            LogFile(tmp_path / name)
        assert caught.value.filename == str(tmp_path / name)
    assert not (tmp_path / "target").exists()
