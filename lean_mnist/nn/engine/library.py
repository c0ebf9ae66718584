"""Libraries of C: compiled for this machine when they are first used, and kept in the cache folder.

The compiler is the first of ``$CC``, ``cc``, ``gcc``, ``clang`` and that of the package ``ziglang``, which is a C
compiler in a wheel. A library that was kept is used again only if its source, compiler, options and processor are the
same, and its content is what was written.
"""

import contextlib
import ctypes
import functools
import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from lean_mnist.cache import cache_folder, keep, recall

# Sums keep their order and NaN its meaning; errno is not asked for, nor traps.
_OPTIONS = ["-std=gnu11", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC"]
_LIBRARIES = ["-lpthread", "-lm"]
_ARM = ("aarch64", "arm64")  # where -march=native is not known to every compiler
_SECONDS = 120  # a compilation may take


class CannotCompile(Exception):
    """There is no compiler, or it fails; the message says which, in one line."""


@functools.cache
def load_library(*sources: Path) -> ctypes.CDLL:
    """The library of these C files, the first of which is compiled and the others are included by it.

    Raises :class:`CannotCompile`.
    """
    compiler = find_compiler()
    options = [*_OPTIONS, "-mcpu=native" if "ziglang" in compiler or platform.machine() in _ARM else "-march=native"]
    options += [f"-I{folder}" for folder in dict.fromkeys(source.parent for source in sources[1:])]
    parts = [" ".join([*compiler, *options]), _compiler_stamp(compiler), platform.machine(), _processor()]
    digest = hashlib.sha256("\n".join(parts).encode())
    for source in sources:
        digest.update(source.read_bytes())
    name = f"{sources[0].stem}-{digest.hexdigest()}.so"
    try:
        if recall(name) is None:
            with tempfile.TemporaryDirectory(prefix="lean-mnist-") as temporary:
                built = Path(temporary, "library.so")
                _compile([*compiler, *options, str(sources[0]), "-o", str(built), *_LIBRARIES])
                keep(name, built.read_bytes())
                if recall(name) is None:  # nothing can be kept: it is compiled again next time
                    return ctypes.CDLL(str(built))
        return ctypes.CDLL(str(Path(cache_folder() or "", name)))
    except OSError as error:  # no folder for temporary files, or none that programs may be in
        raise CannotCompile(f"a library of C cannot be made and loaded: {error}") from error


def find_compiler() -> list[str]:
    """The command of a C compiler; raises :class:`CannotCompile` where there is none."""
    try:
        asked = shlex.split(os.environ.get("CC", ""))
    except ValueError as error:  # a quotation that does not end
        raise CannotCompile(f"CC names no command: {error}") from error
    if asked:
        if shutil.which(asked[0]) is None:
            raise CannotCompile(f"the C compiler that CC names, {asked[0]}, is not there")
        return asked
    for name in ("cc", "gcc", "clang"):
        if found := shutil.which(name):
            return [found]
    if importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "cc"]
    raise CannotCompile("there is no C compiler: install gcc or clang, or `pip install ziglang`")


def _compile(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotCompile(f"{command[0]}: {error}") from error
    if done.returncode:
        said = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip()[-200:])
        raise CannotCompile(f"{command[0]}: exit status {done.returncode}: {said}")


def _compiler_stamp(compiler: list[str]) -> str:
    """Text that differs from one version of a compiler to the next, without running it."""
    if "ziglang" in compiler:
        from importlib.metadata import version

        return version("ziglang")
    path = os.path.realpath(shutil.which(compiler[0]) or compiler[0])
    with contextlib.suppress(OSError):
        status = os.stat(path)
        return f"{path} {status.st_size} {status.st_mtime_ns}"
    return path


def _processor() -> str:
    """Name and abilities of the processor: the library uses them all."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(errors="replace").split("\n\n")[0].splitlines()
        return "\n".join(line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part")))
    return platform.processor()
