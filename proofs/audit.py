"""What the theorems rest on, compared with assumptions.txt: ``python3 audit.py``, after everything was compiled.

A headline theorem is one that is stated with the word ``Theorem``. Coq is asked for the axioms beneath each file's
headline theorems (``Print Assumptions``), and an axiom that assumptions.txt does not name is a failure, as is, wherever
it stands, any of the words by which something is assumed or left unproved. Exit status 0 only if there is none.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

UNPROVED = r"\b(?:Admitted|admit|give_up|bypass_check)\b"
_PREFIX = r"(?:\A|\.\s)\s*(?:(?:Local|Global|#\[[^]]*\])\s*)*"
ASSUMED = _PREFIX + r"((?:Axiom|Parameter|Conjecture|Declare\s+Module|Unset\s+\w+\s+Checking|Load)\w*)\b"


def without_comments(text: str) -> str:
    """``text`` with its comments, which nest, and its strings left out; an open one is ``Admitted``."""
    kept, depth = [], 0
    for part in re.split(r'(\(\*|\*\)|"[^"]*")', text):
        closes = part == "*)" and depth > 0  # else it is code, as in ``(simpl in *)``
        depth += (part == "(*") - closes
        if depth == 0 and not closes and not part.startswith('"'):
            kept.append(part)
    return " ".join(kept) if depth == 0 else "Admitted"


def axioms_beneath(theorems: dict[str, list[str]], folder: Path) -> dict[str, list[str]]:
    """The names of the axioms that each module's ``theorems`` rest on; raises ``RuntimeError`` with Coq's message."""
    # Nothing is imported, so that every axiom is printed with its file's name.
    lines = [f"Require {' '.join(theorems)}."]
    for number, (module, names) in enumerate(theorems.items()):
        together = ", ".join(f"@{module}.{name}" for name in names)
        lines += [f"Definition theorems_{number} := ({together}).", f'Goal True. idtac "== {module}". Abort.']
        lines += [f"Print Assumptions theorems_{number}."]
    with tempfile.TemporaryDirectory() as scratch:
        query = Path(scratch) / "query.v"
        query.write_text("\n".join(lines) + "\n")
        command = ["coqc", "-q", "-w", "none", "-R", str(folder), "LeanMnist", str(query)]
        answer = subprocess.run(command, capture_output=True, text=True)
    if answer.returncode:
        raise RuntimeError(" ".join((answer.stderr + answer.stdout).split()))
    found = {}
    for part in answer.stdout.split("== ")[1:]:
        module, head, *rest = part.strip().splitlines()
        if not (head == "Axioms:" and rest) and [head, *rest] != ["Closed under the global context"]:
            raise RuntimeError(f"{module}: Print Assumptions answered {part[:200]!r}, expected a list of axioms")
        # An axiom's name begins its line; its type goes on in lines that are indented.
        found[module] = sorted(line.split()[0] for line in rest if not line.startswith(" "))
    if found.keys() != theorems.keys():
        raise RuntimeError("Print Assumptions did not answer for every file")
    return found


def main(folder: Path) -> int:
    """Print a line for each file and one for each fault; the exit status."""
    lines = (folder / "assumptions.txt").read_text().splitlines()
    allowed = {line.split()[0] for line in lines if line.strip() and not line.startswith("#")}
    # A file of ours by a library file's name would let its own axioms pass for the library's.
    allowed -= {name for name in allowed if list(folder.rglob(f"{name.partition('.')[0]}.v"))}
    faults: list[str] = []
    theorems: dict[str, list[str]] = {}
    for file in sorted(folder.glob("*/*.v")):
        place, text = file.relative_to(folder), without_comments(file.read_text())
        assumed = re.findall(UNPROVED, text) + re.findall(ASSUMED, text)
        faults += [f"{place}: {' '.join(word.split())}" for word in assumed]
        if names := re.findall(r"\b(?:Theorem|Corollary|Proposition)\s+([\w']+)", text):
            theorems["LeanMnist." + ".".join(place.with_suffix("").parts)] = names
    found: dict[str, list[str]] = {}
    processes = min(os.cpu_count() or 1, len(theorems))
    shares = [dict(list(theorems.items())[start::processes]) for start in range(processes)]
    try:
        with ThreadPoolExecutor() as pool:
            for part in pool.map(lambda share: axioms_beneath(share, folder), shares):
                found |= part
    except RuntimeError as error:
        faults.append(str(error))
    for module, axioms in sorted(found.items()):
        machine = [name for name in axioms if name.startswith(("PrimInt63.", "Uint63."))]
        short = [name.rpartition(".")[2] for name in axioms if name not in machine]
        short += [f"{len(machine)} axioms of machine integers"] if machine else []
        print(f"{module}: {', '.join(theorems[module])}\n    rest on {', '.join(short) or 'no axiom'}")
        wrong = [name for name in axioms if name not in allowed]
        faults += [f"{module}: rests on {name}, which assumptions.txt does not name" for name in wrong]
    if not theorems:
        faults.append("no theorem was found")
    if faults:
        print(*(f"FAULT {fault}" for fault in faults), sep="\n", file=sys.stderr)
        return 1
    print(f"{sum(map(len, theorems.values()))} theorems; every axiom beneath them stands in assumptions.txt")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(__file__).resolve().parent))
