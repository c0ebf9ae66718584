"""Trials: one fault each, then going on to the end, then a comparison with the run that nothing befell."""

from __future__ import annotations

import dataclasses
import errno
import functools
import os
import random
import shutil
import signal
import time
from collections.abc import Mapping
from pathlib import Path

from tests.support.faults.power import Disk
from tests.support.faults.processes import Child, Ended
from tests.support.faults.tracing import CALLS, GO_ON, KILL, READS, WRITES, Call, Decision, traced
from tests.support.faults.workshop import SCENARIOS, Counter, Finding, Workshop

SPACE = (errno.ENOSPC, errno.EDQUOT)
# Which calls can fail with it.
FAILURES: Mapping[int, tuple[str, ...]] = {
    **dict.fromkeys(SPACE, ("write", "pwrite64", "open", "mkdir", "rename", "fsync", "link", "creat")),
    errno.EIO: (
        "write",
        "pwrite64",
        "open",
        "mkdir",
        "rename",
        "fsync",
        "link",
        "close",
        "unlink",
        "read",
        "ftruncate",
    ),
    errno.EINTR: ("write", "open", "fsync", "flock", "read"),
}
SURVIVED = (errno.EINTR, 0)  # a program does not notice these, nor (0) a write that takes less than was asked for


def kill_at_random(shop: Workshop, number: int, seed: int) -> Finding:
    """SIGKILL at a random instant of a random scenario, and with a chance of a third again while it goes on."""
    lot = random.Random(f"kill {seed} {number}")
    scenario = lot.choices(SCENARIOS, (6, 3, 1))[0]
    folder, kills = shop.folder(scenario), 0
    told: list[str] = []
    ended = _killed(shop, scenario, folder, lot.uniform(0, 1.05 * shop.seconds[scenario]), told)
    wrong: list[str] = []
    while ended.killed:
        kills += 1
        if wrong or lot.random() > 1 / 3:
            break
        wrong += shop.judged(ended, ())
        again = _killed(shop, "resume", folder, lot.uniform(0, shop.seconds["start"]), told)
        if again.status == 2:  # nothing was saved before the first kill
            again = _killed(shop, "start", folder, lot.uniform(0, shop.seconds["start"]), told)
        ended = again
    return shop.finish(f"kill {number}", folder, ended, "; ".join(told), (0,), kills)


def _killed(shop: Workshop, scenario: str, folder: Path, seconds: float, told: list[str]) -> Ended:
    told.append(f"{scenario} killed after {seconds:.4f} s")
    child = Child(shop.action(scenario, folder), folder, shop.log)
    end = time.monotonic() + seconds
    while not child.over() and (left := end - time.monotonic()) > 0:
        time.sleep(min(left, 0.01))
    child.signal(signal.SIGKILL)
    return child.wait()


def kill_at_call(shop: Workshop, scenario: str, number: int) -> Finding:
    """SIGKILL before the system call of that number."""
    folder = shop.folder(scenario)
    counter = Counter(folder, lambda n, call: KILL if n == number else GO_ON)
    ended = traced(shop.action(scenario, folder), folder, shop.log, counter)
    return shop.finish(f"syscall {scenario} {number}", folder, ended, counter.last, (0,))


def tear(shop: Workshop, scenario: str, number: int, seed: int, power: bool) -> Finding:
    """Kill within a write, of which a random part is done; with ``power``, what was not made durable is lost, too."""
    lot = random.Random(f"tear {seed} {scenario} {number} {power}")
    folder, stash = shop.folder(scenario), shop.place / "stash"
    shutil.rmtree(stash, ignore_errors=True)
    stash.mkdir()
    disk = Disk(folder, stash)

    def decide(n: int, call: Call) -> Decision:
        if n < number or not (power or call.name in WRITES):
            disk.note(call)
            return GO_ON
        if call.name in WRITES and counter.inside(call) and call.arguments[2] > 1:
            return Decision(length=lot.randrange(1, call.arguments[2]), kill=True)
        return KILL

    counter = Counter(folder, decide)
    ended = traced(shop.action(scenario, folder), folder, shop.log, counter)
    lost = disk.lose_power(lot) if power and ended.killed else []
    shutil.rmtree(stash)
    name = "power" if power else "torn"
    return shop.finish(f"{name} {scenario} {number}", folder, ended, "; ".join([counter.last, *lost]), (0,))


def can_fail(call: Call, code: int) -> bool:
    """True if a call can fail with ``code`` (0: be a write that takes less than it was given)."""
    if code == 0:
        return call.name in WRITES and call.arguments[2] > 1
    if call.name == "openat" and (
        (code in SPACE and not call.creates)
        or (code == errno.EINTR and call.arguments[2] & os.O_DIRECTORY)  # Python's listdir does not try again
    ):
        return False
    return any(call.name.startswith(name) for name in FAILURES[code])


def fail(shop: Workshop, scenario: str, number: int, code: int, lasting: bool) -> Finding | None:
    """The call of that number, of those in the run's folders, fails with ``code``; with ``lasting`` all later ones do.

    ``None`` where that call cannot fail so.
    """
    folder = shop.folder(scenario)
    lot = random.Random(f"fail {scenario} {number} {code}")

    def decide(n: int, call: Call) -> Decision:
        if n < number or (n > number and not (lasting and counter.last)) or not can_fail(call, code):
            return GO_ON
        return Decision(fail=code) if code else Decision(length=lot.randrange(1, call.arguments[2]))

    counter = Counter(folder, decide, only_inside=True)
    ended = traced(shop.action(scenario, folder), folder, shop.log, counter, [*CALLS.values(), *READS.values()])
    if not counter.last:
        shutil.rmtree(folder)
        return None
    name = errno.errorcode.get(code, "short")
    trial = f"error {scenario} {number} {name}{' lasting' if lasting else ''}"
    return shop.finish(trial, folder, ended, counter.last, (0,) if code in SURVIVED else (0, 2))


def failures(shop: Workshop, scenario: str) -> list[tuple[int, int, bool]]:
    """Numbers of calls with each error that they can fail with, for ``fail``; of a file's reads the first alone."""
    plan, opened = [], set()
    for number, call in enumerate(shop.inside[scenario], 1):
        if call.name.startswith("open"):
            opened.discard(call.path)
        if call.name in READS:
            if call.path in opened:
                continue
            opened.add(call.path)
        for code in (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EINTR, 0):
            if can_fail(call, code):
                plan += [(number, code, False), *([(number, code, True)] if code not in SURVIVED else [])]
    return plan


def interrupt(shop: Workshop, number: int, seed: int) -> Finding:
    """A signal at a random instant, or Ctrl-C twice; then going on."""
    lot = random.Random(f"interrupt {seed} {number}")
    scenario = lot.choices(SCENARIOS, (6, 3, 1))[0]
    which = lot.choice(("SIGINT", "SIGINT twice", "SIGTERM", "SIGHUP"))
    folder, code = shop.folder(scenario), signal.Signals[which.split()[0]]
    before = _dates(folder)
    child = Child(shop.action(scenario, folder), folder, shop.log)
    instants = [lot.uniform(0, 1.05 * shop.seconds[scenario])]
    if "twice" in which:
        instants.append(lot.uniform(0, 0.2 * shop.seconds[scenario]))
    for seconds in instants:
        end = time.monotonic() + seconds
        while not child.over() and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.005))
        child.signal(code)
    ended = child.wait()
    told = f"{scenario}, {which} after {', '.join(f'{seconds:.4f} s' for seconds in instants)}"
    if ended.status == -code and (not shop.compared(folder) or before == _dates(folder)):  # had ended, or not begun
        ended = dataclasses.replace(ended, status=130, error="interrupted")
    return shop.finish(f"interrupt {number}", folder, ended, told, (0, 130))


def _dates(folder: Path) -> list[tuple[str, int]]:
    return sorted((str(path), path.stat().st_mtime_ns) for path in folder.rglob("*"))


def delete(shop: Workshop, number: int, seed: int) -> Finding:
    """The folders of a run deleted at a random instant: an error, or nothing is missing."""
    lot = random.Random(f"delete {seed} {number}")
    scenario = lot.choices(SCENARIOS, (6, 3, 1))[0]
    folder, over = shop.folder(scenario), shop.place / "over"
    over.unlink(missing_ok=True)

    def act() -> None:
        try:
            shop.action(scenario, folder)()
        finally:
            over.touch()

    child = Child(act, folder, shop.log)
    seconds = lot.uniform(0, 1.05 * shop.seconds[scenario])
    end = time.monotonic() + seconds
    while not child.over() and (left := end - time.monotonic()) > 0:
        time.sleep(min(left, 0.005))
    found = sorted(path for path in folder.glob("*/*") if path.is_dir())
    chosen = found if lot.random() < 0.3 else [path for path in found if lot.random() < 0.5]
    child.signal(signal.SIGSTOP)  # so that it is known whether the run was over
    during = not over.exists()
    for path in chosen if during else ():
        shutil.rmtree(path, ignore_errors=True)
    child.signal(signal.SIGCONT)
    ended = child.wait()
    names = ", ".join(str(path.relative_to(folder)) for path in chosen) or "nothing"
    told = f"{scenario}, after {seconds:.4f} s deleted {names}"
    wrong = list(shop.judged(ended, (0, 2)))
    if ended.status == 0 and not wrong and "lost" not in ended.error:  # before a resumed run began, which says so
        wrong += [f"status 0, but {what}" for what in shop.compared(folder)]
    shutil.rmtree(folder)
    return Finding(f"delete {number}", tuple(wrong), told)


def race(shop: Workshop, scenario: str, number: int, seed: int) -> Finding:
    """Two processes at once in one folder: one goes on to the end, and the other says in a line that it cannot."""
    lot = random.Random(f"race {seed} {scenario} {number}")
    folder = shop.folder(scenario)
    ready, go = os.pipe()
    small = min(0.003, 0.2 * shop.seconds[scenario])
    delays = (0.0, lot.choice((0.0, lot.uniform(0, small), lot.uniform(0, 0.2 * shop.seconds[scenario]))))

    def start_together(seconds: float) -> None:
        os.close(go)
        os.read(ready, 1)
        time.sleep(seconds)

    children = [
        Child(shop.action(scenario, folder), folder, shop.place / f"log-{n}", functools.partial(start_together, delay))
        for n, delay in enumerate(delays)
    ]
    os.close(ready)
    os.close(go)
    both = sorted((child.wait() for child in children), key=lambda ended: ended.status)
    wrong = [line for ended in both for line in shop.judged(ended, (0, 2))]
    statuses = [ended.status for ended in both]
    told = (
        f"statuses {statuses}, the second {delays[1]:.4f} s later: {' | '.join(ended.error.strip() for ended in both)}"
    )
    if statuses != [0, 2] and (scenario == "start" or statuses != [0, 0]):  # two that resume may come one after another
        wrong.append("expected one 0 and one 2")
    wrong += shop.compared(folder)
    shutil.rmtree(folder)
    return Finding(f"race {scenario} {number}", tuple(wrong), told, sessions=2)
