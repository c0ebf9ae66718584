"""What the theorems rest on, compared with assumptions.txt: ``python3 audit.py``, after everything was compiled.

A headline theorem is one that is stated with the word ``Theorem``. Coq is asked for the axioms beneath each file's
headline theorems (``Print Assumptions``), and an axiom that assumptions.txt does not name is a failure, as is, wherever
it stands, any of the words by which something is assumed or left unproved. Exit status 0 only if there is none.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

UNPROVED = r"\b(?:Admitted|admit|give_up|bypass_check)\b"
_PREFIX = r"(?:\A|\.\s)\s*(?:(?:Local|Global|#\[[^]]*\])\s*)*"
ASSUMED = _PREFIX + r"((?:Axiom|Parameter|Conjecture|Declare\s+Module|Unset\s+\w+\s+Checking|Load)\w*)\b"


def without_comments(text: str) -> str:
    """``text`` with its comments, which nest, and its strings left out."""
    kept, depth = [], 0
    for part in re.split(r'(\(\*|\*\)|"[^"]*")', text):
        depth += (part == "(*") - (part == "*)")
        if depth == 0 and part != "*)" and not part.startswith('"'):
            kept.append(part)
    return " ".join(kept)


def axioms_beneath(names: list[str], folder: Path) -> list[str]:
    """The names of the axioms that the theorems ``names`` rest on; raises ``RuntimeError`` with Coq's message."""
    theorems = "(" + ", ".join(f"@{name}" for name in names) + ")"
    with tempfile.TemporaryDirectory() as scratch:
        query = Path(scratch) / "query.v"
        modules = sorted({name.rpartition(".")[0] for name in names})
        # Nothing is imported, so that every axiom is printed with its file's name.
        lines = [f"Require {' '.join(modules)}.", f"Definition theorems := {theorems}.", "Print Assumptions theorems."]
        query.write_text("\n".join(lines) + "\n")
        command = ["coqc", "-q", "-R", str(folder), "LeanMnist", str(query)]
        answer = subprocess.run(command, capture_output=True, text=True)
    if answer.returncode:
        raise RuntimeError(" ".join((answer.stderr + answer.stdout).split()))
    printed = answer.stdout.strip()
    if printed == "Closed under the global context":
        return []
    head, *rest = printed.splitlines()
    if head != "Axioms:":
        raise RuntimeError(f"Print Assumptions answered {printed[:200]!r}, expected a list of axioms")
    # An axiom's name begins its line; its type goes on in lines that are indented.
    return sorted(line.split()[0] for line in rest if not line.startswith(" "))


def main(folder: Path) -> int:
    """Print a line for each file and one for each fault; the exit status."""
    lines = (folder / "assumptions.txt").read_text().splitlines()
    allowed = {line.split()[0] for line in lines if line.strip() and not line.startswith("#")}
    faults, count, used = [], 0, set()
    for file in sorted(folder.glob("*/*.v")):
        place, text = file.relative_to(folder), without_comments(file.read_text())
        faults += [
            f"{place}: {' '.join(word.split())}" for word in re.findall(UNPROVED, text) + re.findall(ASSUMED, text)
        ]
        theorems = re.findall(r"\bTheorem\s+([\w']+)", text)
        if not theorems:
            continue
        module = "LeanMnist." + ".".join(place.with_suffix("").parts)
        try:
            axioms = axioms_beneath([f"{module}.{name}" for name in theorems], folder)
        except RuntimeError as error:
            faults.append(f"{place}: {error}")
            continue
        count += len(theorems)
        used |= set(axioms)
        faults += [
            f"{place}: rests on {name}, which assumptions.txt does not name" for name in axioms if name not in allowed
        ]
        print(f"{place}: {', '.join(theorems)}\n    {', '.join(axioms) or 'no axiom'}", flush=True)
    if not count and not faults:
        faults.append("no theorem was found")
    if faults:
        print(*(f"FAULT {fault}" for fault in faults), sep="\n", file=sys.stderr)
        return 1
    print(f"{count} theorems rest on {len(used)} axioms, all of them in assumptions.txt")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(__file__).resolve().parent))
