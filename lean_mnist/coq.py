"""The theories in ``proofs/`` beside the package, and the surroundings in which Coq is run on them."""

import os
from pathlib import Path

PROOFS = Path(__file__).resolve().parents[1] / "proofs"


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
