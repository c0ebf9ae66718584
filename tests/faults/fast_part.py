"""The fast part of every campaign, for the tests: a process of its own, because a child is forked for each trial.

python -m tests.faults.fast_part [FAULT CAMPAIGN …]

Of this package's trainer; or of the planted one with that fault, each campaign until something is found. Prints JSON.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

from tests.faults.planted import Fault, Planted
from tests.support.faults.campaign import Trials, deletions, errors, interrupts, kills, races, syscalls, tears
from tests.support.faults.trainer import Trainer
from tests.support.faults.workshop import Workshop

OURS: dict[str, Callable[[Workshop], Trials]] = {
    "kills": lambda shop: kills(shop, 12, 0),
    "syscalls": lambda shop: syscalls(shop, 41),
    "torn": lambda shop: tears(shop, 151, 0, False),
    "power": lambda shop: tears(shop, 120, 0, True),
    "errors": lambda shop: errors(shop, 211),
    "interrupts": lambda shop: interrupts(shop, 5, 0),
    "deletions": lambda shop: deletions(shop, 4, 0),
    "races": lambda shop: races(shop, 3, 0),
}
PLANTED: dict[str, Callable[[Workshop], Trials]] = {
    "syscalls": lambda shop: syscalls(shop, 4),
    "torn": lambda shop: tears(shop, 9, 0, False),
    "power": lambda shop: tears(shop, 7, 0, True),
    "errors": lambda shop: errors(shop, 9),
    "races": lambda shop: races(shop, 6, 0),
}


def fast_part(*arguments: str) -> dict[str, list[dict[str, Any]]]:
    """Call this module with ``arguments``; returns the findings of each campaign."""
    command, place = [sys.executable, "-m", "tests.faults.fast_part", *arguments], Path(__file__).parents[2]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, list[dict[str, Any]]] = json.loads(done.stdout)
    return found


def do(trials: Trials, until_found: bool) -> list[dict[str, Any]]:
    """Findings of trials, of all or of those up to the first with something wrong."""
    found = []
    for trial in trials.values():
        if (finding := trial()) is not None:
            found.append(asdict(finding))
            if finding.wrong and until_found:
                break
    return found


def main() -> None:
    trainer: Trainer
    if len(sys.argv) > 1:
        trainer, plans = Planted(Fault[sys.argv[1]]), {name: PLANTED[name] for name in sys.argv[2:]}
    else:
        import torch

        from tests.support.faults.ours import OurTrainer

        torch.set_num_threads(1)
        trainer, plans = OurTrainer(), OURS
    place = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    try:
        shop = Workshop(trainer, place / "shop")
        shop.prepare()
        found = {name: do(plan(shop), until_found=len(sys.argv) > 1) for name, plan in plans.items()}
    finally:
        shutil.rmtree(place)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
