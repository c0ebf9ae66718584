"""Cases in processes of their own, one a package: what ends the process is an outcome of the case at which it ends."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from benchmarks.wild.case import Case
from benchmarks.wild.outcome import Observed, Outcome, judge


def run(cases: Iterable[Case], seed: int, limit: float, device: str) -> Iterator[Outcome]:
    """The outcomes of ``cases`` on ``device``; each may take ``limit`` seconds."""
    for _, group in groupby(cases, key=lambda case: case.package):
        left = list(group)
        while left:
            answered = 0
            for outcome in _in_process(left, seed, limit, device):
                answered += 1
                yield outcome
            left = left[answered:]


def _in_process(cases: Sequence[Case], seed: int, limit: float, device: str) -> Iterator[Outcome]:
    """Outcomes of one process, up to the case at which it ends: that one is a crash."""
    command = [sys.executable, "-m", "benchmarks.wild.process", str(seed), device]
    environment = {**os.environ, "TORCHDYNAMO_DISABLE": "1"}  # formulas under torch.compile are run eagerly
    lines: queue.Queue[str] = queue.Queue()
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("\n".join(case.key for case in cases))
        process.stdin.close()
        threading.Thread(target=_read, args=(process.stdout, lines), daemon=True).start()
        for case in cases:
            try:
                line = lines.get(timeout=limit)
                ended = "" if line else f"the process ended with status {process.wait()}"
            except queue.Empty:
                process.kill()
                ended = f"no answer in {limit:g} s"
            if ended:
                yield Outcome(case.package, case.name, Observed.CRASH, ended)
                return
            yield Outcome.from_json(line)


def _read(stream: Iterable[str], lines: queue.Queue[str]) -> None:
    """Outcomes as they come, and an empty line at the end; what else a package prints is left out."""
    for line in stream:
        if line.startswith("{"):
            lines.put(line)
    lines.put("")


def main() -> None:
    """Check the cases whose keys come on standard input, and print a line of JSON each."""
    import torch

    from benchmarks.wild.cases import all_cases

    torch.set_num_threads(1)
    torch.set_default_device(sys.argv[2])
    by_key = {case.key: case for case in all_cases()}
    for key in sys.stdin.read().splitlines():
        print(judge(by_key[key], int(sys.argv[1])).to_json(), flush=True)


if __name__ == "__main__":
    main()
