"""The bridge to ``proofs/``: its theorems compiled by Coq, and for each obligation that one states the axioms beneath.

The sources are copied and compiled in a temporary folder: nothing that was compiled before is trusted, and nothing
half-written is left behind. ``proofs/obligations.txt`` says which theorems state which obligation, and
``proofs/assumptions.txt`` on which axioms they may rest.
"""

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lean_mnist.coq import allowed_axioms, own_proofs, surroundings
from lean_mnist.errors import ConfigError
from lean_mnist.verification.model import Theorem

NAME = r"[\w']+(?:\.[\w']+)*"  # of a theorem, an axiom or a file of Coq
_CLOSED, _AXIOMS = "Closed under the global context", "Axioms:"
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class CoqReport:
    """Result of asking Coq: its version, the theories compiled, the theorems of each obligation, by id.

    ``fault`` is empty unless something is wrong with the whole: then no theorem counts as checked.
    """

    version: str
    theories: int
    seconds: float
    theorems: Mapping[str, tuple[Theorem, ...]]
    fault: str = ""

    @property
    def axioms(self) -> list[str]:
        """All axioms beneath the theorems, sorted."""
        return sorted({axiom for found in self.theorems.values() for theorem in found for axiom in theorem.axioms})

    def as_plain(self) -> dict[str, Any]:
        """Plain values, for JSON; theorems stand beside their obligations."""
        return {**{key: value for key, value in vars(self).items() if key != "theorems"}, "axioms": self.axioms}


class _Failed(Exception):
    """A build, or a file of the proofs, that is not in order."""


def check_theorems(
    known: Iterable[str], chosen: Iterable[str], progress: Progress, proofs: Path | None = None
) -> CoqReport:
    """Compile the proofs, and check the theorems of the ``chosen`` obligations.

    All theories are compiled if all ``known`` obligations are chosen, else those that are needed. Raises
    ``ConfigError`` without Coq or without the proofs, which are those of this package's checkout if not given.
    """
    started, known, chosen = time.perf_counter(), set(known), set(chosen)
    version = _version()
    proofs = proofs or own_proofs()
    theories: list[str] = []
    theorems: dict[str, tuple[Theorem, ...]] = {}
    fault = ""
    try:
        named = _read_obligations(proofs, known)
        try:
            allowed = allowed_axioms(proofs)
        except (OSError, UnicodeDecodeError) as error:
            raise _Failed(f"assumptions.txt cannot be read: {error}") from None
        wanted = sorted({name for id_ in chosen for name in named.get(id_, ())})
        with tempfile.TemporaryDirectory(prefix="lean_mnist-proofs-") as folder:
            shutil.copytree(proofs, folder, ignore=_not_written, dirs_exist_ok=True)
            theories = sorted(str(file.relative_to(folder)) for file in Path(folder).glob("*/*.v"))
            needed = {"/".join(name.split(".")[:2]) + ".v" for name in wanted}
            missing = sorted(needed - set(theories))
            if missing:
                raise _Failed(f"obligations.txt names a theorem of {missing[0]}, and there is no such file")
            if chosen < known:
                theories = sorted(needed)
            if theories:
                _compile(Path(folder), theories, progress)
                found = _assumptions_of(wanted, Path(folder))
                theorems = {
                    id_: tuple(_judged(found[name], allowed) for name in named[id_]) for id_ in chosen if id_ in named
                }
    except _Failed as error:
        fault = str(error)
    return CoqReport(version, len(theories), time.perf_counter() - started, theorems, fault)


def _version() -> str:
    for program in ("coqc", "coq_makefile", "make"):
        if shutil.which(program) is None:
            raise ConfigError(
                f"--coq: {program} was not found on PATH (Debian: coq libcoq-coquelicot libcoq-bignums make)"
            )
    said = _run(["coqc", "--print-version"], Path.cwd()).stdout.split()
    return said[0] if said else "of unknown version"


def _run(command: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, env=surroundings(folder), capture_output=True, text=True, errors="replace"
    )


def _read_obligations(proofs: Path, known: set[str]) -> dict[str, list[str]]:
    """Full names of the theorems of each obligation."""
    named: dict[str, list[str]] = {}
    try:
        text = (proofs / "obligations.txt").read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _Failed(f"obligations.txt cannot be read: {error}") from None
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    for line in filter(None, lines):
        id_, _, name = line.partition(" ")
        name = name.strip().removeprefix("LeanMnist.")
        if id_ not in known:
            raise _Failed(f"obligations.txt: there is no obligation {id_}")
        if not re.fullmatch(NAME, name) or name.count(".") != 2:
            raise _Failed(f"obligations.txt: {id_}: expected folder.File.theorem, found {name!r}")
        named.setdefault(id_, []).append(name)
    if not named:
        raise _Failed("obligations.txt names no theorem")
    return named


def _not_written(folder: str, names: list[str]) -> list[str]:
    """Those that were compiled, not written by hand; of folders none."""
    return [n for n in names if not (n == "_CoqProject" or n.endswith(".v") or Path(folder, n).is_dir())]


def _compile(folder: Path, theories: Sequence[str], progress: Progress) -> None:
    every = sorted(str(file.relative_to(folder)) for file in folder.glob("*/*.v"))
    made = _run(["coq_makefile", "-f", "_CoqProject", *every, "-o", "Makefile"], folder)
    if made.returncode:
        raise _Failed(f"coq_makefile: {' '.join(made.stderr.split())}")
    command = ["make", f"-j{os.cpu_count() or 1}", *(theory + "o" for theory in theories)]
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        done = 0
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": said, "text": True, "errors": "replace"}
        with subprocess.Popen(command, cwd=folder, env=surroundings(folder), **pipes) as make:
            assert make.stdout is not None
            for line in make.stdout:
                if line.startswith("COQC "):
                    progress(min(done, len(theories) - 1), len(theories), f"Coq, {line.split()[1]}")
                    done += 1
        if make.returncode:
            said.seek(0)
            raise _Failed(f"the proofs do not compile: {_first_error(said.read())}")


def _first_error(said: str) -> str:
    """Coq's first error in one line: file, line and what it says."""
    found = re.search(
        r'File "([^"]*)", line (\d+), characters [^:]*:\s*Error:\s*(.*?)(?=\nmake|\nFile "|\Z)', said, re.DOTALL
    )
    if found is None:
        return " ".join(said.split())[:300]
    return f"{found[1].removeprefix('./')}, line {found[2]}: {' '.join(found[3].split())}"[:300]


def _assumptions_of(names: Sequence[str], folder: Path) -> dict[str, Theorem]:
    """Each theorem with its axioms; one that Coq refuses has a fault, and the others are asked again without it."""
    refused: dict[str, Theorem] = {}
    while True:
        asked = [name for name in names if name not in refused]
        if not asked:
            return refused
        query = folder / "query.v"
        modules = sorted({name.rpartition(".")[0] for name in asked})
        head = ["Require " + " ".join(f"LeanMnist.{module}" for module in modules) + ".",
                "Definition is_proof (statement : Prop) (_ : statement) := tt."]  # fmt: skip
        # One line a theorem, so that an error's line says whose it is. Nothing is imported: names are printed whole.
        lines = [
            f"Definition proof_{n} := is_proof _ (@LeanMnist.{name}). Print Assumptions LeanMnist.{name}."
            for n, name in enumerate(asked)
        ]
        query.write_text("\n".join([*head, *lines]) + "\n")
        answer = _run(["coqc", "-q", "-R", ".", "LeanMnist", "query.v"], folder)
        if answer.returncode == 0:
            found = _parsed(answer.stdout)
            if len(found) != len(asked):
                raise _Failed(f"Print Assumptions answered for {len(found)} theorems, expected {len(asked)}")
            return {**refused, **{name: Theorem(name, axioms) for name, axioms in zip(asked, found, strict=True)}}
        place = re.search(r'File "[^"]*query.v", line (\d+),.*?Error:\s*(.*)', answer.stderr, re.DOTALL)
        number = int(place[1]) - 1 - len(head) if place else -1
        if place is None or not 0 <= number < len(asked):
            raise _Failed(f"Coq did not answer: {' '.join(answer.stderr.split())[:300]}")
        refused[asked[number]] = Theorem(asked[number], fault=f"Coq says: {' '.join(place[2].split())[:200]}")


def _parsed(printed: str) -> list[tuple[str, ...]]:
    """Axioms of each theorem, from what ``Print Assumptions`` printed of one after the other."""
    found: list[list[str]] = []
    closed = True
    for line in printed.splitlines():
        if line in (_CLOSED, _AXIOMS):
            found.append([])
            closed = line == _CLOSED
        elif not line or (line[0] == " " and found and found[-1] and not closed):
            continue  # the rest of an axiom's type
        elif found and not closed and re.fullmatch(NAME + r"( :.*)?", line):
            found[-1].append(line.split()[0])
        else:
            raise _Failed(f"Print Assumptions answered {line[:200]!r}, expected axioms")
    return [tuple(axioms) for axioms in found]


def _judged(theorem: Theorem, allowed: set[str]) -> Theorem:
    """The theorem, with a fault if it rests on an axiom that is not allowed."""
    beyond = ", ".join(axiom for axiom in theorem.axioms if axiom not in allowed)
    fault = theorem.fault or (beyond and f"it rests on {beyond}, which assumptions.txt does not name")
    return replace(theorem, fault=fault)
