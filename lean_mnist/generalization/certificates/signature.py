"""Signatures of certificates by ``ssh-keygen -Y``: who wrote one. No cryptography is done here.

A signature is of a certificate's bytes, which hold the SHA-256 of weights and data, and stands beside it as
``certificate.json.sig``. Whose keys are trusted for it stands in a file of allowed signers (``man ssh-keygen``).
"""

import hashlib
import shutil
import subprocess
from pathlib import Path

from lean_mnist.errors import CertificateError
from lean_mnist.files import write_atomically
from lean_mnist.reading.files import read_bytes
from lean_mnist.reading.text import printable, shown

NAMESPACE = "lean_mnist-certificate"  # so that a signature for something else is none for a certificate
_LARGEST = 10_000_000  # bytes of a certificate, as its checker reads them; of a signature far more than it has


def sign(certificate: str | Path, key: str | Path) -> Path:
    """Sign the certificate with the private ``key``, write the signature beside it, and return its path.

    Raises ``CertificateError`` where ssh-keygen is missing or refuses; it asks for the key's passphrase itself.
    """
    content = read_bytes(certificate, "a certificate", CertificateError, largest=_LARGEST)
    done = _ssh_keygen(["sign", "-f", str(key)], content)
    if done.returncode != 0 or not done.stdout:
        raise CertificateError(f"--sign: {shown(key)} signs nothing: {_reason(done)}")
    path = signature_of(certificate)
    write_atomically(path, done.stdout)
    return path


def verify(certificate: str | Path, signers: str | Path, signer: str | None = None) -> tuple[str, str]:
    """The signer of the certificate, ``signer`` or one whom the file of allowed ``signers`` names, and its SHA-256.

    Raises ``CertificateError`` where the signature is missing, of other bytes, or by nobody there.
    """
    content = read_bytes(certificate, "a certificate", CertificateError, largest=_LARGEST)
    path = signature_of(certificate)
    for place, what in ((path, "the certificate's signature"), (signers, "a file of allowed signers")):
        read_bytes(place, what, CertificateError, largest=_LARGEST)
    own = ["-f", str(signers), "-s", str(path)]
    if signer is None:
        found = _ssh_keygen(["find-principals", *own], b"")
        signer = found.stdout.decode("utf-8", "replace").split("\n")[0] if found.returncode == 0 else ""
        if not signer:
            raise CertificateError(f"{shown(path)}: signed with a key that {shown(signers)} does not allow")
    done = _ssh_keygen(["verify", "-I", signer, *own], content)
    if done.returncode != 0:
        by = printable(signer)
        raise CertificateError(f"{shown(path)}: no signature of this certificate by {by}: {_reason(done)}")
    return printable(signer), hashlib.sha256(content).hexdigest()


def signature_of(certificate: str | Path) -> Path:
    """The path of a certificate's signature."""
    return Path(f"{certificate}.sig")


def _ssh_keygen(arguments: list[str], content: bytes) -> subprocess.CompletedProcess[bytes]:
    program = shutil.which("ssh-keygen")
    if program is None:
        raise CertificateError("ssh-keygen: expected on the PATH to sign and to check signatures, found none")
    action, *options = arguments
    names = [] if action == "find-principals" else ["-n", NAMESPACE]
    return subprocess.run([program, "-Y", action, *options, *names], input=content, capture_output=True, check=False)


def _reason(done: subprocess.CompletedProcess[bytes]) -> str:
    said = (done.stderr or done.stdout).decode("utf-8", "replace").strip()
    return printable(said.split("\n")[0].strip() or f"ssh-keygen ended with status {done.returncode}")
