"""System calls of a child process, stopped before they are done, by ``ptrace`` and a ``seccomp`` filter (x86-64 Linux).

``traced`` runs an action in a child of which every thread is followed. At each call of a chosen set it asks what to
do: go on, kill the process before the call, let the call fail without being done, or shorten a write, and then go on or
kill. Nothing but ``ctypes`` is needed.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import platform
import signal
import struct
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.support.faults.processes import Child, Ended, watched

# Numbers on x86-64 of the calls that can change a file, or what another process sees of it.
CALLS = {
    "write": 1, "open": 2, "close": 3, "pwrite64": 18, "writev": 20, "sendfile": 40, "fcntl": 72, "flock": 73,
    "fsync": 74, "fdatasync": 75, "truncate": 76, "ftruncate": 77, "rename": 82, "mkdir": 83, "rmdir": 84, "creat": 85,
    "link": 86, "unlink": 87, "symlink": 88, "chmod": 90, "fchmod": 91, "exit_group": 231, "openat": 257,
    "mkdirat": 258, "unlinkat": 263, "renameat": 264, "linkat": 265, "symlinkat": 266, "fchmodat": 268, "splice": 275,
    "sync_file_range": 277, "utimensat": 280, "fallocate": 285, "pwritev": 296, "renameat2": 316,
    "copy_file_range": 326, "pwritev2": 328,
}  # fmt: skip
READS = {"read": 0, "pread64": 17}
NAMES = {number: name for name, number in {**CALLS, **READS}.items()}

# Where the path stands among a call's arguments (the first of two), or the descriptor.
_PATH = {
    **dict.fromkeys(("open", "creat", "truncate", "rename", "mkdir", "rmdir", "link", "unlink", "chmod"), 0),
    **dict.fromkeys(("openat", "mkdirat", "unlinkat", "renameat", "renameat2", "linkat", "fchmodat", "utimensat"), 1),
    "symlink": 1, "symlinkat": 2,
}  # fmt: skip
_SECOND_PATH = {"rename": 1, "renameat": 3, "renameat2": 3, "link": 1, "linkat": 3}
_NO_DESCRIPTOR = ("exit_group",)
WRITES = ("write", "pwrite64")  # whose third argument is a length


@dataclass(frozen=True)
class Call:
    """A system call that is about to be done."""

    name: str
    arguments: tuple[int, ...]
    path: str  # of the file that it is about, or ""
    second: str = ""  # where something is renamed or linked to
    creates: bool = False
    empties: bool = False

    def __str__(self) -> str:
        return f"{self.name} {self.path}{' -> ' + self.second if self.second else ''}"


@dataclass(frozen=True)
class Decision:
    """Fate of a call."""

    fail: int = 0  # errno with which it fails, not being done
    length: int | None = None  # of a write: so many bytes and no more
    kill: bool = False  # the process, before the call, or after it where it is shortened


GO_ON, KILL = Decision(), Decision(kill=True)

_TRACEME, _CONT, _GETREGS, _SETREGS, _SYSCALL, _SETOPTIONS = 0, 7, 12, 13, 24, 0x4200
_SYSGOOD, _FORK, _VFORK, _CLONE, _SECCOMP, _EXITKILL = 1, 2, 4, 8, 0x80, 0x100000
_OPTIONS = _SYSGOOD | _FORK | _VFORK | _CLONE | _SECCOMP | _EXITKILL
_EVENT_SECCOMP = 7
_WALL = 0x40000000
_REGISTERS = struct.Struct("27Q")  # struct user_regs_struct
_RETURN, _COUNT, _NUMBER = 10, 12, 15  # rax, rdx, orig_rax
_ARGUMENTS = (14, 13, 12, 7, 9, 8)  # rdi, rsi, rdx, r10, r8, r9
_AT_FDCWD = (1 << 32) - 100


@functools.cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    libc.ptrace.restype = ctypes.c_long
    return libc


def _ptrace(request: int, process: int, data: object = None) -> None:
    if _libc().ptrace(request, process, None, data) == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class _Registers:
    """Registers of a stopped thread."""

    def __init__(self, thread: int) -> None:
        self._thread, self._buffer = thread, ctypes.create_string_buffer(_REGISTERS.size)
        _ptrace(_GETREGS, thread, self._buffer)
        self.values = list(_REGISTERS.unpack(self._buffer.raw))

    def set(self, **changes: int) -> None:
        """Set ``number``, ``result`` or ``count``."""
        places = {"number": _NUMBER, "result": _RETURN, "count": _COUNT}
        for name, value in changes.items():
            self.values[places[name]] = value % 2**64
        _ptrace(_SETREGS, self._thread, ctypes.create_string_buffer(_REGISTERS.pack(*self.values), _REGISTERS.size))


def traced(
    action: Callable[[], object],
    folder: Path,
    log: Path,
    decide: Callable[[Call], Decision],
    calls: Iterable[int] = CALLS.values(),
) -> Ended:
    """``action`` in a child; ``decide`` is asked before each of its ``calls`` (by number), in all its threads."""

    def first() -> None:
        _ptrace(_TRACEME, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        _filter(sorted(calls))

    child = Child(action, folder, log, first)
    with watched(child):
        try:
            child.ended_with(_follow(child.process, folder, decide))
        except BaseException:
            os.kill(child.process, signal.SIGKILL)
            raise
    return child.wait()


def _follow(process: int, folder: Path, decide: Callable[[Call], Decision]) -> int:
    """Follow the stops of a process until it has ended; returns its wait status."""
    os.waitpid(process, _WALL)
    _ptrace(_SETOPTIONS, process, _OPTIONS)
    _ptrace(_CONT, process, 0)
    pending: dict[int, tuple[int, Decision]] = {}  # shortened writes of threads, with the length that was asked for
    while True:
        thread, status = os.waitpid(-1, _WALL)
        if not os.WIFSTOPPED(status):
            if thread == process:
                return status
            continue
        number, event, request, deliver = os.WSTOPSIG(status), status >> 16, _CONT, 0
        try:
            if number == signal.SIGTRAP and event == _EVENT_SECCOMP:
                registers = _Registers(thread)
                decision = decide(_call(thread, folder, registers.values))
                if decision.length is not None:
                    pending[thread] = registers.values[_COUNT], decision
                    registers.set(count=decision.length)
                    request = _SYSCALL
                elif decision.kill:
                    os.kill(process, signal.SIGKILL)
                    continue
                elif decision.fail:
                    registers.set(number=-1, result=-decision.fail)
            elif number == signal.SIGTRAP | 0x80 and thread in pending:
                asked, decision = pending.pop(thread)
                if decision.kill:
                    os.kill(process, signal.SIGKILL)
                    continue
                _Registers(thread).set(count=asked)
            elif event == 0 and number not in (signal.SIGTRAP, signal.SIGSTOP):
                deliver = number
            _ptrace(request, thread, deliver)
        except OSError as error:  # it was killed while it stood still
            if error.errno not in (errno.ESRCH, errno.ENOENT):
                raise


def _call(thread: int, folder: Path, registers: list[int]) -> Call:
    name = NAMES.get(registers[_NUMBER], f"call {registers[_NUMBER]}")
    arguments = tuple(registers[place] for place in _ARGUMENTS)
    if name in _PATH:
        place, at = _PATH[name], "at" in name.replace("creat", "").replace("truncate", "")
        path = _joined(thread, folder, arguments, place, at)
        second = _joined(thread, folder, arguments, _SECOND_PATH[name], at) if name in _SECOND_PATH else ""
        flags = arguments[place + 1] if name in ("open", "openat") else 0
        made = name == "creat"
        return Call(name, arguments, path, second, made or bool(flags & os.O_CREAT), made or bool(flags & os.O_TRUNC))
    if name in _NO_DESCRIPTOR or name.startswith("call "):
        return Call(name, arguments, "")
    return Call(name, arguments, _of_descriptor(thread, arguments[0]))


def _joined(thread: int, folder: Path, arguments: tuple[int, ...], place: int, at: bool) -> str:
    with open(f"/proc/{thread}/mem", "rb", buffering=0) as memory:
        memory.seek(arguments[place])
        text = b""
        while b"\0" not in text and len(text) < 8192 and (more := memory.read(min(256, 4096 - memory.tell() % 4096))):
            text += more
    path = os.fsdecode(text.partition(b"\0")[0])
    if os.path.isabs(path):
        return path
    start = str(folder)
    if at and arguments[place - 1] % 2**32 != _AT_FDCWD % 2**32:  # below an open folder
        start = _of_descriptor(thread, arguments[place - 1])
    return os.path.normpath(os.path.join(start, path))


def _of_descriptor(thread: int, descriptor: int) -> str:
    try:
        return os.readlink(f"/proc/{thread}/fd/{descriptor % 2**32}")
    except OSError:
        return ""


def _filter(calls: list[int]) -> None:
    """Stop this process and its threads at each of ``calls`` from now on, or at all where there are none."""
    jumps = [
        struct.pack("=HBBI", 0x15, 0, 1, number) + struct.pack("=HBBI", 0x06, 0, 0, 0x7FF00000) for number in calls
    ]
    allow = struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000 if calls else 0x7FF00000)
    program = struct.pack("=HBBI", 0x20, 0, 0, 0) + b"".join(jumps) + allow
    code = ctypes.create_string_buffer(program, len(program))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))

    argument = Program(len(program) // 8, ctypes.cast(code, ctypes.c_void_p))
    libc = _libc()
    zero = ctypes.c_ulong(0)
    if libc.prctl(38, ctypes.c_ulong(1), zero, zero, zero) or libc.prctl(
        22, ctypes.c_ulong(2), ctypes.byref(argument), zero, zero
    ):
        raise OSError(ctypes.get_errno(), "seccomp")


@functools.cache
def why_not() -> str:
    """Why system calls cannot be followed here, or nothing."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"system calls are followed on x86-64 Linux alone, not on {platform.machine()} {sys.platform}"
    seen: list[str] = []

    def refuse(call: Call) -> Decision:
        seen.append(call.name)
        return Decision(fail=errno.EEXIST)

    calls = (CALLS["mkdir"], CALLS["mkdirat"])
    with tempfile.TemporaryDirectory() as folder:
        try:
            traced(lambda: os.mkdir("never"), Path(folder), Path(folder) / "log", refuse, calls)
        except OSError as error:
            return f"ptrace is not permitted here: {error.strerror}"
    return "" if seen else "ptrace shows no system call here"
