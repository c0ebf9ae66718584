"""Check of a Coq certificate by Coq, of a text that is written here: the file that is given is never compiled.

A Coq file can run programs, assume what it likes and give familiar words another meaning. So only the numbers at its
head are read. From them and the official test split the whole text is written again; it has to be the file, byte for
byte; and the text written here is what Coq compiles, in a folder of its own. What the theorem then rests on is compared
with ``proofs/assumptions.txt``.
"""

import contextlib
import functools
import itertools
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lean_mnist.coq import allowed_axioms, not_compiled, own_proofs, surroundings
from lean_mnist.data.datasets import load_dataset
from lean_mnist.errors import CertificateError, LeanMnistError
from lean_mnist.generalization.coq.theorem import LARGEST, MOST_SECONDS, CoqCertificate, coq_certificate, read_head
from lean_mnist.reading.files import read_bytes
from lean_mnist.reading.text import printable, shown

OLDEST, NEWEST = (8, 16), (8, 20)
UNCHECKED = "nothing was checked"
_PROGRESS = 5.0  # seconds between two lines


@dataclass(frozen=True)
class CheckedInCoq:
    """A Coq certificate that holds: what it says, and what checked it."""

    certificate: str
    network: str
    statement: list[str]
    coq: str  # its version
    axioms: int
    seconds: float

    def __str__(self) -> str:
        holds = f"{shown(self.certificate)}: holds; proved by Coq {self.coq} in {self.seconds:.1f} s"
        rests = f"network {self.network}; {self.axioms} axioms, all of them Coq's own and in proofs/assumptions.txt"
        return "\n".join([holds, *(f"  {line}" for line in (*self.statement, rests))])


def check_coq(path: str, data_dir: str, most_seconds: float = MOST_SECONDS) -> CheckedInCoq:
    """Check the Coq certificate at ``path``; raises ``CertificateError``, one line, unless everything is as it says.

    ``data_dir`` is searched for the data after the folder of ``LEAN_MNIST_DATA``. What would take Coq more than
    ``most_seconds`` is not begun. Progress goes to standard error.
    """
    begun = time.perf_counter()
    content = read_bytes(path, "a certificate in Coq", CertificateError, largest=LARGEST)
    try:
        certificate = _written_again(content, data_dir, most_seconds)
        coq, axioms = prove(certificate, own_proofs())
    except LeanMnistError as error:
        raise CertificateError(f"{shown(path)}: {error}") from None
    seconds = time.perf_counter() - begun
    return CheckedInCoq(path, certificate.network, certificate.statement(), coq, axioms, seconds)


def _written_again(content: bytes, data_dir: str, most_seconds: float) -> CoqCertificate:
    network, name, deltas = read_head(content)
    dataset = load_dataset(name, data_dir, download=False, says=False)
    certificate = coq_certificate(network, dataset, deltas, most_seconds)
    lines = itertools.zip_longest(content.split(b"\n"), certificate.text.encode().split(b"\n"), fillvalue=b"")
    for number, (found, own) in enumerate(lines, 1):
        if found != own:
            at = max(0, next((at for at, (a, b) in enumerate(zip(found, own, strict=False)) if a != b), 0) - 20)
            told = (printable(line[at : at + 60].decode("latin-1")) for line in (own, found))
            expected = "expected {!r}, which the head and the data lead to, found {!r}".format(*told)
            raise CertificateError(f"line {number}, place {at}: {expected}")
    if content != certificate.text.encode():
        raise CertificateError("line feeds at the end: expected as many as the head and the data lead to")
    return certificate


def prove(certificate: CoqCertificate, proofs: Path) -> tuple[str, int]:
    """Compile the text in a folder of its own; Coq's version, and how many axioms the theorem rests on.

    Raises ``CertificateError`` where there is no Coq, where a theory was not compiled as it is now, and where Coq does
    not accept the text.
    """
    coqc = shutil.which("coqc")
    if coqc is None:
        raise CertificateError(f"coqc: expected Coq on the PATH, found none; {UNCHECKED}")
    if stale := not_compiled(proofs):
        raise CertificateError(f"proofs: run make -C {shown(proofs)} first; {UNCHECKED} ({stale})")
    try:
        allowed = allowed_axioms(proofs)
    except (OSError, UnicodeDecodeError) as error:
        raise CertificateError(f"proofs: assumptions.txt cannot be read: {error}; {UNCHECKED}") from None
    with tempfile.TemporaryDirectory(prefix="lean_mnist-coq-") as folder:
        run = functools.partial(_run, coqc, Path(folder))

        def compiled(name: str, text: str, seconds: float, cost: str = "") -> str:
            """Compile ``text`` as the module ``Checked.name``; what Coq prints."""
            Path(folder, f"{name}.v").write_text(text, encoding="ascii")
            paths = ("-R", str(proofs.resolve()), "LeanMnist", "-Q", ".", "Checked")
            return run("-q", "-noglob", "-w", "none", *paths, f"{name}.v", seconds=seconds, cost=cost)

        found = re.search(r"version (\d+)\.(\d+)\S*", run("--version", seconds=60))
        if found is None or not OLDEST <= (int(found[1]), int(found[2])) <= NEWEST:
            versions = " to ".join(f"{major}.{minor}" for major, minor in (OLDEST, NEWEST))
            raise CertificateError(f"coqc: expected Coq {versions}, found {found and found[0]}; {UNCHECKED}")
        try:
            compiled("theories", "Require LeanMnist.certificates.Certificate.", seconds=300)
        except CertificateError as error:
            raise CertificateError(f"proofs: run make -C {shown(proofs)} first; {UNCHECKED} ({error})") from None
        compiled("certificate", certificate.text, seconds=300 + 20 * certificate.seconds, cost=certificate.cost)
        query = "Require Checked.certificate.\nPrint Assumptions Checked.certificate.certificate.\n"
        head, *rest = compiled("query", query, seconds=300).splitlines() or [""]
    # An axiom's name begins its line, with its module, as nothing is imported; its type goes on in lines that are
    # indented.
    axioms = {line.split()[0] for line in rest if not line.startswith(" ")}
    if head != "Axioms:" or not axioms or not axioms <= allowed:
        unknown = ", ".join(sorted(axioms - allowed)) or printable(head)
        raise CertificateError(f"theorem: expected axioms of proofs/assumptions.txt alone, found {printable(unknown)}")
    return found[0].removeprefix("version "), len(axioms)


def _run(coqc: str, folder: Path, *arguments: str, seconds: float, cost: str = "") -> str:
    """Run coqc in ``folder`` with none of the user's settings, and return what it prints; ``CertificateError`` if it
    fails."""
    start = functools.partial(subprocess.Popen, cwd=folder, env=surroundings(folder), stdin=subprocess.DEVNULL)
    with (
        tempfile.TemporaryFile("w+", dir=folder, encoding="utf-8", errors="replace") as output,
        start([coqc, *arguments], stdout=output, stderr=subprocess.STDOUT) as process,
    ):
        try:
            status = _wait(process, seconds, cost)
        except BaseException:
            process.kill()
            raise
        output.seek(0)
        printed = output.read(1_000_000)
    if status != 0:
        error = printed[printed.find("Error") :] if "Error" in printed else printed
        raise CertificateError(f"coqc: {printable(' '.join(error.split())) or f'ended with status {status}'}")
    return printed


def _wait(process: subprocess.Popen[Any], seconds: float, cost: str) -> int:
    """The exit status; progress on standard error if ``cost`` is given; ``CertificateError`` after so many seconds."""
    if cost:
        print(f"Coq counts and proves: {cost}", file=sys.stderr, flush=True)
    begun = time.monotonic()
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(_PROGRESS)
        passed = time.monotonic() - begun
        if passed > seconds:
            raise CertificateError(f"coqc: not done after {passed:.0f} s; {UNCHECKED}")
        if cost:
            print(f"  {passed:.0f} s so far", file=sys.stderr, flush=True)
