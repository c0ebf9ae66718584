"""Hostile files put to the commands, each in a process of its own that is watched; ``python -m`` this with a group.

A process imports what the commands need, makes an honest run, and forks for every attack. In the fork an audit hook
counts what a file must never bring about: programs started, trap modules imported, files written, moved or removed
outside of the folder. Processor time and memory are bounded, and what reaches the terminal is looked at.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

SECONDS = 3  # of processor time; what is over is killed
WAITING = 20  # seconds by the clock, for what hangs without computing
MEMORY = 64 << 20  # besides twice the largest file that was given
RUN, HALF = "a-run", "half"
_STARTS = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "os.startfile", "pty.spawn")
_CHANGES = (
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.mkdir",
    "os.symlink",
    "os.link",
    "os.truncate",
    "os.chmod",
    "os.chown",
    "shutil.rmtree",
    "shutil.move",
    "shutil.copyfile",
)


@dataclass(frozen=True)
class Hostile:
    """A hostile file: ``build`` puts it into a sandbox and returns the command line that is led to it.

    It has to end with ``status`` and one line with ``says`` in it (of the output where the status is 0). ``says`` is
    the name of the last file on the command line if not given. ``either`` allows another status, too, where it does no
    harm: that the file is read, or, 3, that what is in it fails a check.
    """

    name: str
    build: Callable[[Sandbox], Sequence[str]]
    says: str | None = None
    status: int = 2
    either: bool = False
    other: int = 0


@dataclass(frozen=True)
class Sandbox:
    """``work``, the present folder of the attack, with an honest run; ``outside``, which nobody may touch."""

    work: Path
    outside: Path

    @property
    def best(self) -> Path:
        """The run's selected checkpoint."""
        return self.work / "checkpoints" / RUN / "best.pt"

    @property
    def last(self) -> Path:
        """The checkpoint that the run continues from."""
        return self.work / "checkpoints" / RUN / "last.pt"

    @property
    def half(self) -> Path:
        """The checkpoint of another run, which was interrupted in the middle."""
        return self.work / "checkpoints" / HALF / "last.pt"

    @property
    def run(self) -> Path:
        """The run's folder."""
        return self.work / "runs" / RUN

    def content(self, path: Path) -> dict[str, Any]:
        """Contents of a checkpoint."""
        import torch

        loaded: dict[str, Any] = torch.load(path, weights_only=True)
        return loaded

    def forge(self, path: Path, change: Callable[[dict[str, Any]], Any], *, hashed: bool = True) -> Path:
        """Change the content of a checkpoint and write the hash of what is there now, unless that takes for ever."""
        import torch

        from lean_mnist.training.checkpoints import content_hash

        content = self.content(path)
        change(content)
        content.pop("content_sha256", None)
        digest = "0" * 64
        with contextlib.suppress(Exception):
            digest = content_hash(content) if hashed else digest
        torch.save({**content, "content_sha256": digest}, path)
        return path


@dataclass
class Found:
    """Outcome of an attack."""

    status: int
    output: str
    errors: str
    seconds: float
    memory: int
    largest: int  # bytes of the largest file that was given
    events: list[str] = field(default_factory=list)  # what the audit hook and the folder outside say
    command: tuple[str, ...] = ()


COMMANDS = {
    "train": "lean_mnist.train",
    "evaluate": "lean_mnist.evaluate",
    "certify": "lean_mnist.certify",
    "check": "lean_mnist.check",
    "replay": "lean_mnist.crosscheck.replay",
    "learners": "lean_mnist.learners",
    "pacbayes": "lean_mnist.pacbayes",
}


def _audited(event: str, arguments: tuple[Any, ...], allowed: Sequence[str], report: int) -> None:
    said = ""
    if event in _STARTS or event.startswith("socket.connect"):
        said = f"{event} {arguments!r}"
    elif event == "import" and str(arguments[0]).startswith("trap"):
        said = f"import {arguments[0]}"
    elif event in _CHANGES or (event == "open" and _writes(*arguments)):
        paths = [
            os.path.abspath(os.fsdecode(each)) for each in arguments[:2] if isinstance(each, (str, bytes, os.PathLike))
        ]
        paths = paths[:1] if event == "open" else paths
        outside = [
            path for path in paths if not path.startswith(tuple(allowed)) and path not in ("/dev/null", os.devnull)
        ]
        said = f"{event} {outside}" if outside else ""
    if said:
        os.write(report, f"{said[:300]}\n".encode("utf-8", "backslashreplace"))


def _writes(path: Any, mode: Any, flags: Any) -> bool:
    written = isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND))
    return isinstance(path, (str, bytes, os.PathLike)) and written


def _child(command: Sequence[str], sandbox: Sandbox, output: int, errors: int, report: int) -> None:
    """Run the command here, and end this process with its status."""
    from lean_mnist.command_line import run_command

    os.chdir(sandbox.work)
    os.dup2(output, 1)
    os.dup2(errors, 2)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.environ.pop("LEAN_MNIST_DATA", None)
    # What this package and Python themselves keep, whatever the file, is not the file's doing.
    os.environ["LEAN_MNIST_CACHE"], sys.dont_write_bytecode = "", True
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 2))
    resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    module = importlib.import_module(COMMANDS[command[0]])
    sys.argv = [f"lean_mnist.{command[0]}", *command[1:]]
    sys.path.insert(0, "")
    allowed = (str(sandbox.work), tempfile.gettempdir() + "/pymp-")
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    os.write(report, f"{resident}\n".encode())
    sys.addaudithook(lambda event, arguments: _audited(event, arguments, allowed, report))
    status = 0
    try:
        run_command(module.main)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def attack(hostile: Hostile, honest: Path) -> Found:
    """Build the hostile file beside a copy of the honest run, and lead its command to it."""
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
        sandbox = Sandbox(Path(folder, "work"), Path(folder, "outside"))
        shutil.copytree(honest, sandbox.work)
        sandbox.outside.mkdir()
        (sandbox.outside / "kept").write_text("as it was\n")
        (sandbox.work / "trap.py").write_text(
            f"open({str(sandbox.outside / 'ran')!r}, 'w').close()\ndef run(*a): pass\n"
        )
        command = tuple(map(str, hostile.build(sandbox)))
        before = _tree(sandbox.outside)
        largest = max(
            path.stat().st_size for path in sandbox.work.rglob("*") if path.is_file() and not path.is_symlink()
        )
        streams = [os.open(Path(folder, name), os.O_RDWR | os.O_CREAT) for name in ("stdout", "stderr", "report")]
        child = os.fork()
        if child == 0:
            try:
                _child(command, sandbox, *streams)
            finally:
                os._exit(1)
        status, usage = _waited(child)
        output, errors, report = (_read(stream) for stream in streams)
        resident, *events = report.splitlines()
        if _tree(sandbox.outside) != before:
            events.append("the folder outside is not as it was")
        output, errors = output.replace(folder, "…"), errors.replace(folder, "…")
        memory = usage.ru_maxrss * 1024 - int(resident)
        seconds = usage.ru_utime + usage.ru_stime
        asked = tuple(part.replace(folder, "…") for part in command)
        return Found(status, output, errors, seconds, memory, largest, events, asked)


def _read(stream: int) -> str:
    with open(stream, "rb") as file:
        file.seek(0)
        return file.read(1 << 20).decode("utf-8", "backslashreplace")


def _waited(child: int) -> tuple[int, Any]:
    handle = os.pidfd_open(child)
    try:
        if not select.select([handle], [], [], WAITING)[0]:
            os.kill(child, signal.SIGKILL)
    finally:
        os.close(handle)
    _, status, usage = os.wait4(child, 0)
    return os.waitstatus_to_exitcode(status), usage


def _tree(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def faults(hostile: Hostile, found: Found) -> list[str]:
    """Faults in how the attack ended; empty if it was refused as it should."""
    wrong = list(found.events)
    last = next((part for part in reversed(found.command) if not part.startswith("-")), "")
    says = Path(last).name if hostile.says is None else hostile.says
    if found.status < 0:
        wrong.append(f"killed by {signal.Signals(-found.status).name} after {found.seconds:.1f} s of processor time")
    elif found.status != hostile.status and not (hostile.either and found.status == hostile.other):
        wrong.append(f"status {found.status}, expected {hostile.status}")
    if found.memory > 2 * found.largest + MEMORY:
        wrong.append(f"{found.memory >> 20} MiB of memory for a file of {found.largest:,} bytes")
    lines = [line for line in found.errors.splitlines() if not line.startswith("warning: ")]
    if found.status == 2 and (len(lines) != 1 or not lines[0].startswith("error: ") or len(lines[0]) > 4_100):
        wrong.append(f"expected one line, found {found.errors[:400]!r}")
    if any(not line.isprintable() for stream in (found.output, found.errors) for line in stream.split("\n")):
        wrong.append(f"prints what is not printable: {(found.output + found.errors)[:400]!r}")
    if found.status == 2 and says not in found.errors.replace(ascii(says)[1:-1], says):
        wrong.append(f"expected {says!r} in {found.errors[:400]!r}")
    if found.status == 0 and hostile.status == 0 and says not in found.output:
        wrong.append(f"expected {says!r} in {found.output[:400]!r}")
    return wrong


def make_honest(folder: Path) -> None:
    """A finished and an interrupted run on ``digits`` in ``folder``, by which modules are imported."""
    from tests.support.training_cases import digits_run, interrupted_at

    folder.mkdir()
    options: dict[str, Any] = {"hidden": (4,), "epochs": 1, "limit_train": 64, "validation_size": 16, "check": "off"}
    digits_run(folder, **options)
    interrupted_at(5, lambda: digits_run(folder, **{**options, "epochs": 3, "batch_size": 16, "run_name": HALF}))
    for previous in folder.rglob("*.previous.pt"):  # from which a run would go on where the last is refused
        previous.unlink()


def main(group: str, only: str = "") -> None:
    """Make all attacks of the module ``group`` and print what each came to, a line of JSON each."""
    import torch

    torch.set_num_threads(1)
    entries: Sequence[Hostile] = importlib.import_module(f"tests.support.hostile.{group}").HOSTILE
    with tempfile.TemporaryDirectory(prefix="honest-") as place:
        honest = Path(place, "work")
        make_honest(honest)
        for warm in (("evaluate", "checkpoints/a-run/best.pt"), ("certify", "--check", "runs/a-run/certificate.json")):
            _warm(warm, honest)
        _import_all()
        for hostile in entries:
            if only in hostile.name:
                begun, found = time.perf_counter(), attack(hostile, honest)
                wall = time.perf_counter() - begun
                line = {"name": hostile.name, "faults": faults(hostile, found), "wall": wall, "found": asdict(found)}
                print(json.dumps(line), flush=True)


def _warm(command: Sequence[str], honest: Path) -> None:
    """Run an honest command in this process, in silence."""
    module = importlib.import_module(COMMANDS[command[0]])
    argv, sys.argv, here = sys.argv, ["x", *command[1:]], Path.cwd()
    os.chdir(honest)
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            module.main()
    finally:
        sys.argv = argv
        os.chdir(here)


def _import_all() -> None:
    names = (
        "onnx",
        "google.protobuf.message",
        "safetensors.torch",
        "torch.quantization",
        "torch._jit_internal",
        "lean_mnist.audit.bundle",
        "lean_mnist.crosscheck.function_check",
        "lean_mnist.generalization.imports.certified",
        "lean_mnist.generalization.learners.experiments",
        "lean_mnist.training.objectives.pac_bayes",
    )
    for name in (*names, *COMMANDS.values()):
        importlib.import_module(name)


if __name__ == "__main__":
    main(*sys.argv[1:])
