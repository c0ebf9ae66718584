"""Things that stand where a file is expected: pipes, devices, sockets, folders, links; and names that are no names."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.support.hostile.attack import Hostile, Sandbox

Place = Callable[[Path], object]


def fifo(path: Path) -> None:
    """A pipe into which nobody writes."""
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def link(target: str) -> Place:
    """A link to ``target``."""

    def make(path: Path) -> None:
        path.unlink(missing_ok=True)
        path.symlink_to(target)

    return make


def folder(path: Path) -> None:
    """A folder."""
    path.unlink(missing_ok=True)
    path.mkdir()


def bound(path: Path) -> None:
    """A socket."""
    path.unlink(missing_ok=True)
    here = os.getcwd()  # the names of sockets are short
    os.chdir(path.parent)
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


PLACES: dict[str, Place] = {
    "a pipe": fifo,
    "/dev/zero": link("/dev/zero"),
    "/dev/stdin": link("/dev/stdin"),
    "/dev/full": link("/dev/full"),
    "a folder": folder,
    "a socket": bound,
    "a loop of links": lambda path: link(path.name)(path),
    "/etc/passwd": link("/etc/passwd"),
    "/proc/self/environ": link("/proc/self/environ"),
}

COMMANDS: dict[str, tuple[str, ...]] = {
    "best.pt": ("evaluate", "checkpoints/a-run/best.pt"),
    "last.pt": ("train", "--resume", "checkpoints/a-run/last.pt"),
    "config.json": ("train", "--config", "runs/a-run/config.json"),
    "a bundle": ("replay", "step-1.pt"),
    "a bundle for check": ("check", "call.pt", "torch:square"),
    "a quantised network": ("certify", "network.json", "--dataset", "digits"),
    "an ONNX file": ("certify", "network.onnx", "--dataset", "digits", "--scaling", "0", "16"),
    "a safetensors file": ("certify", "network.safetensors", "--dataset", "digits", "--scaling", "0", "16"),
    "a state_dict": ("certify", "network.pt", "--dataset", "digits", "--scaling", "0", "16"),
    "a pickle": ("certify", "network.pkl", "--dataset", "digits"),
    "a packed pickle": ("certify", "network.pkl.gz", "--dataset", "digits"),
    "a certificate": ("certify", "--check", "runs/a-run/certificate.json"),
    "perceptron data": ("learners", "--test", "test.dat", "--train", "train.dat"),
    "images": ("train", "--epochs", "1", "--dataset", "mnist", "--data-dir", "data/MNIST/raw/train-images-idx3-ubyte"),
}
#: Files beside a certificate, which is what the command names.
BESIDE = ("certificate.weights", "certificate.images.idx", "certificate.labels.idx")


def _at(command: Sequence[str], make: Place) -> Callable[[Sandbox], Sequence[str]]:
    def build(sandbox: Sandbox) -> Sequence[str]:
        *options, last = command
        name = (
            next(part for part in command if "." in part or "/" in part)
            if not last.count(".") and "/" not in last
            else last
        )
        path = sandbox.work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if "raw" in path.parts:
            for other in ("train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
                (path.parent / other).write_bytes(b"\0\0\x08\x01\0\0\0\x01\0")
            make(path)
            return *options, "data"
        make(path)
        return command

    return build


def _beside(name: str, make: Place) -> Callable[[Sandbox], Sequence[str]]:
    def build(sandbox: Sandbox) -> Sequence[str]:
        make(sandbox.run / name)
        return "certify", "--check", "runs/a-run/certificate.json"

    return build


def _in_run(make: Place, run: str, name: str, *command: str) -> Callable[[Sandbox], Sequence[str]]:
    def build(sandbox: Sandbox) -> Sequence[str]:
        make(sandbox.work / "runs" / run / name)
        return command

    return build


def _named(name: str) -> Callable[[Sandbox], Sequence[str]]:
    def build(sandbox: Sandbox) -> Sequence[str]:
        path = sandbox.work / name
        path.write_bytes(b"nothing\n")
        return "evaluate", name

    return build


def _linked(name: str, folder: str) -> Callable[[Sandbox], Sequence[str]]:
    """A finished run that is resumed, one of its files a link to a file outside, which has to stay."""

    def build(sandbox: Sandbox) -> Sequence[str]:
        target, path = sandbox.outside / "linked", sandbox.work / folder / "a-run" / name
        target.write_bytes(path.read_bytes() if path.is_file() else b"theirs")
        link(str(target))(path)
        (sandbox.run / "summary.json").unlink(missing_ok=name == "summary.json")
        return "train", "--resume", "checkpoints/a-run/last.pt"

    return build


def _says(command: Sequence[str]) -> str:
    last = command[-1]
    if "raw" in last:
        return Path(last).name
    return Path(next(part for part in reversed(command) if "." in part)).name if command[0] != "check" else "call.pt"


_NAMES = ("a\nb.pt", "\x1b[31mred.pt", "\u202etp.tseb", "é.pt", "%s%n.pt", "x" * 200 + ".pt")
HOSTILE = [
    *(
        Hostile(f"{place} in place of {what}", _at(command, make), says=_says(command))
        for what, command in COMMANDS.items()
        for place, make in PLACES.items()
        if what in ("best.pt", "a certificate", "config.json") or place in ("a pipe", "/dev/zero", "a folder")
    ),
    *(
        Hostile(f"{place} in place of {name}", _beside(name, PLACES[place]), says=name)
        for name in BESIDE
        for place in ("a pipe", "/dev/zero", "a folder", "/etc/passwd")
    ),
    Hostile(
        "a pipe in place of metrics.jsonl",
        _in_run(fifo, "half", "metrics.jsonl", "train", "--resume", "checkpoints/half/last.pt"),
        says="metrics.jsonl",
    ),
    Hostile(
        "/dev/zero in place of metrics.jsonl",
        _in_run(link("/dev/zero"), "half", "metrics.jsonl", "train", "--resume", "checkpoints/half/last.pt"),
        says="metrics.jsonl",
    ),
    Hostile(
        "a pipe in place of evaluate's certificate",
        _in_run(fifo, "a-run", "certificate.json", "evaluate", "checkpoints/a-run/best.pt"),
        status=0,
        says="certificate",
    ),
    *(Hostile(f"a file called {name[:9]!a}", _named(name), says="") for name in _NAMES),
    *(
        Hostile(f"--resume with {name} linked outside", _linked(name, "runs"), says="", either=True)
        for name in ("metrics.jsonl", "summary.json", "certificate.json", "certificate.weights", "config.json")
    ),
    *(
        Hostile(f"--resume with {name} linked outside", _linked(name, "checkpoints"), says="", either=True)
        for name in ("best.pt", "last.pt")
    ),
]
