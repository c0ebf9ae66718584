"""Many trials, one line of JSON each, that can be broken off and gone on with."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from tests.support.faults.trainer import Trainer
from tests.support.faults.trials import delete, fail, failures, interrupt, kill_at_call, kill_at_random, race, tear
from tests.support.faults.workshop import SCENARIOS, Finding, Workshop

Trials = Mapping[str, Callable[[], Finding | None]]  # by their names, which stay the same from call to call


@dataclass(frozen=True)
class Outcome:
    """Findings of a campaign."""

    findings: tuple[Finding, ...]

    @property
    def bad(self) -> list[Finding]:
        """Those with something wrong."""
        return [finding for finding in self.findings if finding.wrong]

    @property
    def good(self) -> bool:
        """True if there were trials and nothing was wrong in any."""
        return bool(self.findings) and not self.bad

    def __str__(self) -> str:
        sessions, kills = (sum(getattr(f, name) for f in self.findings) for name in ("sessions", "kills"))
        lines = [
            f"{len(self.findings)} trials, {sessions} sessions, {kills} kills: {len(self.bad)} with something wrong"
        ]
        lines += [f"  {f.trial}: {' | '.join(f.wrong)}  [{f.told}]" for f in self.bad[:20]]
        return "\n".join(lines)


def kills(shop: Workshop, trials: int, seed: int) -> Trials:
    """SIGKILL at random instants."""
    return {f"kill {number}": partial(kill_at_random, shop, number, seed) for number in range(trials)}


def syscalls(shop: Workshop, every: int, scenarios: Iterable[str] = SCENARIOS) -> Trials:
    """SIGKILL before every system call that can change a file, or every so many."""
    return {
        f"syscall {scenario} {number}": partial(kill_at_call, shop, scenario, number)
        for scenario in scenarios
        for number in range(1, shop.calls[scenario] + 1, every)
    }


def tears(shop: Workshop, every: int, seed: int, power: bool, scenarios: Iterable[str] = SCENARIOS) -> Trials:
    """Writes done in part and then killed, or losses of power, at every system call or every so many."""
    return {
        f"{'power' if power else 'torn'} {scenario} {number}": partial(tear, shop, scenario, number, seed, power)
        for scenario in scenarios
        for number in range(1, shop.calls[scenario] + 1, every)
    }


def errors(shop: Workshop, every: int, scenarios: Iterable[str] = SCENARIOS) -> Trials:
    """Each error of each call in the run's folders, once and for good; or every so many of them."""
    return {
        f"error {scenario} {number} {code} {lasting}": partial(fail, shop, scenario, number, code, lasting)
        for scenario in scenarios
        for number, code, lasting in failures(shop, scenario)[::every]
    }


def interrupts(shop: Workshop, trials: int, seed: int) -> Trials:
    """Ctrl-C, once or twice, SIGTERM and SIGHUP at random instants."""
    return {f"interrupt {number}": partial(interrupt, shop, number, seed) for number in range(trials)}


def deletions(shop: Workshop, trials: int, seed: int) -> Trials:
    """Folders of the run deleted at random instants."""
    return {f"delete {number}": partial(delete, shop, number, seed) for number in range(trials)}


def races(shop: Workshop, trials: int, seed: int) -> Trials:
    """Two processes that start the same run at once, or resume it."""
    which = ("start", "start", "resume")
    return {f"race {n}": partial(race, shop, which[n % len(which)], n, seed) for n in range(trials)}


def campaign(trainer: Trainer, plan: Callable[[Workshop], Trials], out: Path | None = None, jobs: int = 1) -> Outcome:
    """Do all trials of a plan, except those that ``out`` has already; progress on standard error every ten seconds.

    With ``jobs`` so many processes share the trials.
    """
    memory = Path("/dev/shm")  # where fsync costs nothing
    place = Path(tempfile.mkdtemp(prefix="faults-", dir=memory if os.access(memory, os.W_OK) else None))
    out = out or place / "out.jsonl"
    try:
        workers = []
        for part in range(jobs):  # this process only waits: one that traces waits for whatever child there is
            if (worker := os.fork()) == 0:
                os._exit(_worker(trainer, plan, out, place, part, jobs))
            workers.append(worker)
        failed = sum(os.waitpid(worker, 0)[1] != 0 for worker in workers)
        findings = _read(out)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    if failed:
        raise RuntimeError(f"{failed} of {jobs} processes did not do their part")
    return Outcome(tuple(findings.values()))


def _worker(trainer: Trainer, plan: Callable[[Workshop], Trials], out: Path, place: Path, part: int, parts: int) -> int:
    try:
        shop = Workshop(trainer, place / f"shop-{part}")
        shop.prepare()
        trials = list(plan(shop).items())
        _do(dict(trials[part::parts]), _read(out), out)
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def _read(out: Path) -> dict[str, Finding]:
    if not out.exists():
        return {}
    values = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    return {v["id"]: Finding(v["trial"], tuple(v["wrong"]), v["told"], v["sessions"], v["kills"]) for v in values}


def _do(trials: Trials, done: Mapping[str, Finding], out: Path) -> None:
    started = said = time.monotonic()
    wrong = new = 0
    for number, (name, trial) in enumerate(trials.items()):
        if name not in done:
            finding = trial()
            new += 1
            if finding is None:
                continue
            wrong += bool(finding.wrong)
            with out.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"id": name, **asdict(finding)}) + "\n")
        if time.monotonic() - said > 10:
            said = time.monotonic()
            left = (said - started) / max(1, new) * (len(trials) - number - 1) / 60
            text = f"{number + 1} of {len(trials)} trials, {wrong} with something wrong, {left:.1f} min left"
            print(text, file=sys.stderr, flush=True)
