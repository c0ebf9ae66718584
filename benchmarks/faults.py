"""Long runs of the harness that kills, tears, starves and watches the trainer; ``docs/faults.md`` explains them.

python -m benchmarks.faults soak --hours 2 --out soak.jsonl
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.support.faults.soak import soak


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    what = parser.add_subparsers(dest="what", required=True)
    soaking = what.add_parser("soak", help="one process trains, is killed, resumes, certifies for hours")
    soaking.add_argument("--hours", type=float, default=2.0)
    soaking.add_argument("--out", type=Path, required=True, help="JSON lines, one a round, the verdict last")
    soaking.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        verdict = soak(arguments.hours, arguments.out, Path(folder) / "soak", arguments.seed)
    print(verdict)
    sys.exit(not verdict.good)


if __name__ == "__main__":
    main()
