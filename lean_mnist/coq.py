"""The theories in ``proofs/`` beside the package, and the surroundings in which Coq is run on them."""

import hashlib
import os
from pathlib import Path

from lean_mnist.errors import ConfigError

PROOFS = Path(__file__).resolve().parents[1] / "proofs"


def own_proofs(proofs: Path = PROOFS) -> Path:
    """The folder ``proofs``; raises ``ConfigError`` outside of a checkout, where it may be anybody's."""
    try:
        ours = "name = lean_mnist" in (proofs.parent / "setup.cfg").read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        ours = False
    if not ours or not (proofs / "assumptions.txt").is_file():
        found = f"found none at {str(proofs)!a}; an installed package has no theories"
        raise ConfigError(f"proofs: expected the theories beside the package in a checkout of its repository, {found}")
    return proofs


def not_compiled(proofs: Path) -> str:
    """The first theory that was not compiled as it is now, by the MD5 in its ``.glob``, and why; empty if none.

    That each was compiled with what it needs, Coq sees itself.
    """
    for source in sorted(proofs.glob("*/*.v")):
        compiled, name = source.with_suffix(".vo"), source.relative_to(proofs)
        try:
            with source.with_suffix(".glob").open("rb") as file:
                digest = file.readline(100).decode("ascii", "replace").split()[1:]
            if compiled.stat().st_mtime_ns < source.stat().st_mtime_ns:
                return f"{name} is newer than {compiled.name}"
            if digest != [hashlib.md5(source.read_bytes(), usedforsecurity=False).hexdigest()]:
                return f"{compiled.name} was compiled from another {name}"
        except OSError as error:
            return f"{name} was not compiled: {Path(error.filename).name}: {error.strerror}"
    return ""


def allowed_axioms(proofs: Path) -> set[str]:
    """The axioms that ``assumptions.txt`` names; raises ``OSError`` or ``UnicodeDecodeError``.

    Coq prints an axiom by its file's name, and a theory of ours must not pass for a file of Coq's own library: of such
    a name none is allowed.
    """
    lines = [line.partition("#")[0].split() for line in (proofs / "assumptions.txt").read_text("utf-8").splitlines()]
    ours = {theory.stem for theory in proofs.glob("*/*.v")}
    return {words[0] for words in lines if words and words[0].partition(".")[0] not in ours}


def surroundings(home: Path) -> dict[str, str]:
    """Environment without a user's own settings, which might put other files in the place of these."""
    kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT", "TMPDIR") if name in os.environ}
    return {**kept, "HOME": str(home), "LC_ALL": "C.UTF-8"}
