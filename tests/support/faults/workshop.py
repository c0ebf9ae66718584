"""Place where trials are made: folders, the state that a trainer must reach, and what is judged after a fault."""

from __future__ import annotations

import dataclasses
import gc
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.faults.processes import Child, Ended
from tests.support.faults.tracing import CALLS, GO_ON, KILL, READS, Call, Decision, traced
from tests.support.faults.trainer import Trainer, differences

SCENARIOS = ("start", "resume", "again")  # a new run; one that was killed half-way; one that had ended


@dataclass(frozen=True)
class Finding:
    """A trial and what was wrong with it; good where nothing was."""

    trial: str
    wrong: tuple[str, ...]
    told: str = ""  # what happened, for who repeats it
    sessions: int = 1
    kills: int = 0


@dataclass
class Workshop:
    """Folders for trials of a trainer, the state it must reach, and folders from which a scenario begins."""

    trainer: Trainer
    place: Path
    expected: Mapping[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)  # that each scenario takes
    calls: dict[str, int] = field(default_factory=dict)  # system calls in each scenario that can change a file
    inside: dict[str, list[Call]] = field(default_factory=dict)  # those, and reads, in the run's folders
    _number: int = 0

    def __post_init__(self) -> None:
        """Two runs that nothing befalls, which must agree; then one killed half-way."""
        self.place.mkdir(parents=True, exist_ok=True)
        (self.place / "tmp").mkdir()
        os.environ["TMPDIR"] = str(self.place / "tmp")
        self._import()
        states = []
        for scenario in ("start", "start", "again"):
            folder = self.folder(scenario)
            ended = Child(self.action(scenario, folder), folder, self.log).wait()
            wrong = self.trainer.complaint(ended.status, ended.error)
            if ended.status or wrong:
                raise RuntimeError(f"{scenario}: the run that nothing befell ended with {ended}: {wrong}")
            states.append(self.trainer.state(folder))
            self.seconds[scenario] = ended.seconds
            shutil.rmtree(self.place / "again", ignore_errors=True)
            shutil.move(folder, self.place / "again")
        for state in states[1:]:
            if different := list(differences(states[0], state)):
                raise RuntimeError(f"two runs that nothing befell differ: {'; '.join(different)}")
        self.expected = states[0]

    def _import(self) -> None:
        """One run in this process, so that its children find everything imported."""
        folder, before = self.folder("start"), Path.cwd()
        os.chdir(folder)
        try:
            self.trainer.start(folder)
        except SystemExit as stop:
            if stop.code:
                raise RuntimeError(f"the run that nothing befell ended with status {stop.code}") from None
        finally:
            os.chdir(before)
        shutil.rmtree(folder)
        gc.collect()
        gc.freeze()  # what is there already is none of a child's garbage

    @property
    def log(self) -> Path:
        return self.place / "log"

    def prepare(self) -> None:
        """Count the system calls of each scenario, and keep a run killed after two thirds of its first ones."""
        self.calls["start"] = self._count("start")
        folder = self.folder("start")
        self.kill_at(folder, "start", self.calls["start"] * 2 // 3)
        shutil.move(folder, self.place / "resume")
        for scenario in ("resume", "again"):
            self.calls[scenario] = self._count(scenario)
            folder = self.folder(scenario)
            self.seconds[scenario] = Child(self.action(scenario, folder), folder, self.log).wait().seconds
            shutil.rmtree(folder)

    def folder(self, scenario: str) -> Path:
        """A new folder, as the scenario finds it."""
        self._number += 1
        folder = self.place / f"trial-{self._number}"
        if scenario == "start":
            folder.mkdir()
        else:
            shutil.copytree(self.place / scenario, folder)
        return folder

    def action(self, scenario: str, folder: Path) -> Callable[[], None]:
        """The scenario's actions."""
        act = self.trainer.start if scenario == "start" else self.trainer.resume
        return lambda: act(folder)

    def _count(self, scenario: str) -> int:
        calls: list[Call] = []

        def note(number: int, call: Call) -> Decision:
            calls.append(call)
            return GO_ON

        numbers = []
        for only_inside, which in ((False, CALLS), (True, {**CALLS, **READS})):
            folder = self.folder(scenario)
            calls.clear()
            counter = Counter(folder, note, only_inside)
            traced(self.action(scenario, folder), folder, self.log, counter, which.values())
            shutil.rmtree(folder)
            numbers.append(counter.number)
        self.inside[scenario] = calls
        return numbers[0]

    def kill_at(self, folder: Path, scenario: str, at: int) -> Ended:
        """Kill a scenario before its call number ``at``, counted from 1."""
        counter = Counter(folder, lambda number, call: KILL if number == at else GO_ON)
        return traced(self.action(scenario, folder), folder, self.log, counter)

    def finish(
        self, trial: str, folder: Path, ended: Ended, told: str, allowed: tuple[int, ...] = (), kills: int = 0
    ) -> Finding:
        """Judge how a session ended, go on to the end, compare, and clean up."""
        wrong = list(self.judged(ended, allowed))
        sessions = 1
        if ended.status != 0 or not wrong:
            more, last = self._go_on(folder) if ended.status else (0, ended)
            sessions += more
            wrong += self.judged(last, (0,)) if more else []
            wrong += self.compared(folder) if last.status == 0 else []
        shutil.rmtree(folder, ignore_errors=True)
        leftovers = os.listdir(self.place / "tmp")
        for name in leftovers if not ended.status else ():
            wrong.append(f"left in the folder for temporary files: {name}")
        for name in leftovers:
            path = self.place / "tmp" / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return Finding(trial, tuple(wrong), told, sessions, kills or int(ended.killed))

    def judged(self, ended: Ended, allowed: tuple[int, ...]) -> Iterator[str]:
        if ended.hung:
            yield f"hung: {ended.error.strip()[-300:]}"
        elif ended.killed:
            if complaint := self.trainer.complaint(0, ended.error):
                yield f"before it was killed it said: {complaint}"
        else:
            if ended.status not in allowed:
                yield f"status {ended.status}, expected {' or '.join(map(str, allowed))}: {ended.error.strip()[-300:]}"
            if complaint := self.trainer.complaint(ended.status, ended.error):
                yield complaint

    def _go_on(self, folder: Path) -> tuple[int, Ended]:
        """Resume, or start where nothing can be resumed."""
        ended = Child(self.action("resume", folder), folder, self.log).wait()
        if ended.status != 2:
            return 1, ended
        again = Child(self.action("start", folder), folder, self.log).wait()
        if again.status == 2:
            said = f"{ended.error.strip()} | {again.error.strip()}"
            return 2, dataclasses.replace(again, error=f"stuck, neither --resume nor the same command goes on: {said}")
        return 2, again

    def compared(self, folder: Path) -> list[str]:
        """Differences of the final state from what it must be."""
        try:
            return list(differences(self.expected, self.trainer.state(folder)))[:6]
        except Exception as error:
            return [f"its state cannot be read: {type(error).__name__}: {error}"]


class Counter:
    """Counts the calls of a process from the first in ``folder`` on, and decides by their number."""

    def __init__(self, folder: Path, decide: Callable[[int, Call], Decision], only_inside: bool = False) -> None:
        self._folder, self._decide, self._only_inside, self.number = str(folder), decide, only_inside, 0
        self.last = ""

    def __call__(self, call: Call) -> Decision:
        if (self._only_inside or not self.number) and not self.inside(call):
            return GO_ON
        self.number += 1
        decision = self._decide(self.number, call)
        if decision is not GO_ON and not self.last:
            self.last = f"call {self.number}: {call}"
        return decision

    def inside(self, call: Call) -> bool:
        """True if the call is about something in the folder."""
        return call.path.startswith(self._folder) or call.second.startswith(self._folder)
