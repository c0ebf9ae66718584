"""Long runs of the harness that kills, tears, starves and watches the trainer; ``docs/faults.md`` explains them.

python -m benchmarks.faults kills --trials 1000 --out kills.jsonl
python -m benchmarks.faults syscalls --out syscalls.jsonl
python -m benchmarks.faults torn --out torn.jsonl
python -m benchmarks.faults power --out power.jsonl
python -m benchmarks.faults errors --out errors.jsonl
python -m benchmarks.faults interrupts --trials 300 --out interrupts.jsonl
python -m benchmarks.faults deletions --trials 300 --out deletions.jsonl
python -m benchmarks.faults races --trials 600 --out races.jsonl
python -m benchmarks.faults soak --hours 2 --out soak.jsonl

A campaign that was broken off goes on where ``--out`` ends.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import torch

from tests.support.faults.campaign import campaign, deletions, errors, interrupts, kills, races, syscalls, tears
from tests.support.faults.ours import TRAINERS
from tests.support.faults.soak import soak
from tests.support.faults.tracing import why_not
from tests.support.faults.workshop import SCENARIOS

PLANS = {
    "kills": "SIGKILL at random instants, also of what goes on after one",
    "syscalls": "SIGKILL before each system call that can change a file",
    "torn": "writes done in part, then SIGKILL",
    "power": "losses of power: what was not synchronised is lost in part",
    "interrupts": "Ctrl-C, once or twice, SIGTERM and SIGHUP at random instants",
    "deletions": "folders of the run deleted at random instants",
    "races": "two processes that start the same run, or resume it, at once",
    "errors": "ENOSPC, EDQUOT, EIO at each call in the run's folders, once and for good; EINTR, short writes",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    what = parser.add_subparsers(dest="what", required=True)
    for name, text in PLANS.items():
        plan = what.add_parser(name, help=text)
        plan.add_argument("--out", type=Path, help="JSON lines, one a trial; goes on where it ends")
        plan.add_argument("--seed", type=int, default=0)
        plan.add_argument("--trials", type=int, default=1000, help="of those at random instants")
        plan.add_argument("--trainer", choices=TRAINERS, default="train")
        plan.add_argument("--jobs", type=int, default=1, help="processes that share the trials")
        plan.add_argument("--every", type=int, default=1, help="take every so many of the system calls")
        plan.add_argument("--scenario", choices=SCENARIOS, action="append")
    soaking = what.add_parser("soak", help="one process trains, is killed, resumes, certifies for hours")
    soaking.add_argument("--hours", type=float, default=2.0)
    soaking.add_argument("--out", type=Path, required=True, help="JSON lines, one a round, the verdict last")
    soaking.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.what == "soak":
        with tempfile.TemporaryDirectory() as folder:
            verdict = soak(arguments.hours, arguments.out, Path(folder) / "soak", arguments.seed)
        print(verdict)
        sys.exit(not verdict.good)
    if missing := why_not():
        sys.exit(missing)
    scenarios, every, seed = arguments.scenario or SCENARIOS, arguments.every, arguments.seed
    outcome = campaign(
        TRAINERS[arguments.trainer],
        {
            "kills": lambda shop: kills(shop, arguments.trials, seed),
            "interrupts": lambda shop: interrupts(shop, arguments.trials, seed),
            "deletions": lambda shop: deletions(shop, arguments.trials, seed),
            "races": lambda shop: races(shop, arguments.trials, seed),
            "syscalls": lambda shop: syscalls(shop, every, scenarios),
            "torn": lambda shop: tears(shop, every, seed, False, scenarios),
            "power": lambda shop: tears(shop, every, seed, True, scenarios),
            "errors": lambda shop: errors(shop, every, scenarios),
        }[arguments.what],
        arguments.out,
        arguments.jobs,
    )
    print(outcome)
    sys.exit(not outcome.good)


if __name__ == "__main__":
    main()
