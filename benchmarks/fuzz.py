"""``python -m benchmarks.fuzz``: does any reader of files take altered ones other than with one of our one-line errors?

Every reader is given honest files with parts altered, a million if asked: bytes, and fields inside of their containers
with hashes and lengths mended as a forger would. It has to read them, or to refuse them with an error of
``lean_mnist.errors`` of one printable line, within a second of processor time and twice the file plus 64 MiB of memory,
and to print nothing else. Exit status: 0 if every input was taken so, 1 otherwise. The inputs follow from ``--seed``;
a run that was stopped goes on where ``--findings`` says that it was.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lean_mnist.command_line import parse, run_command
from lean_mnist.errors import ConfigError, check_choice

if TYPE_CHECKING:
    from benchmarks.fuzzing.probe import Target

CHUNK = 250  # inputs of one order to a worker
_RENEWED_AFTER = 300  # chunks of one target, so that memory which is not given back does not hide what an input takes
_DEAD_AFTER = 90.0  # seconds without a word from a worker


@dataclass(frozen=True)
class FuzzArguments:
    """Put altered files to every reader, and list what is not refused by one line."""

    inputs: int = 20_000
    """Over all readers, by their shares."""
    target: tuple[str, ...] = ()
    """Readers; all of them if not given."""
    seed: int = 0
    """Of the inputs."""
    workers: int = 2
    """Processes."""
    findings: Path = Path("fuzz")
    """Folder for inputs that were not taken well, one a kind, and for how far the run is."""
    only: int | None = None
    """Number of the one input to try, of the one --target; it is left in the folder of findings."""
    json: bool = False
    """Print one JSON document."""


@dataclass
class Tally:
    """Outcomes of the inputs of one reader."""

    inputs: int = 0
    accepted: int = 0
    processor_seconds: float = 0.0
    most_seconds: float = 0.0
    most_memory: int = 0
    findings: Counter[str] = field(default_factory=Counter)

    def add(self, other: dict[str, Any]) -> None:
        """Add the counts of a chunk."""
        self.inputs += other["inputs"]
        self.accepted += other["accepted"]
        self.processor_seconds += other["processor_seconds"]
        self.most_seconds = max(self.most_seconds, other["most_seconds"])
        self.most_memory = max(self.most_memory, other["most_memory"])
        self.findings.update(other["findings"])


def chosen(names: tuple[str, ...]) -> list[Target]:
    """The targets of these names; raises ``ConfigError`` for one that there is not."""
    from benchmarks.fuzzing.targets import TARGETS

    known = {target.name: target for target in TARGETS}
    for name in names:
        check_choice("--target", name, list(known), ConfigError)
    return [known[name] for name in names or known]


def chunks(targets: list[Target], inputs: int) -> list[tuple[str, int, int]]:
    """Target, first input and the one after the last of each chunk; the costliest targets first."""
    shares = sum(target.share for target in targets)
    orders = []
    for target in sorted(targets, key=lambda target: target.share):
        number = max(1, round(inputs * target.share / shares))
        orders += [(target.name, start, min(start + CHUNK, number)) for start in range(0, number, CHUNK)]
    return orders


def try_chunk(probe: Any, start: int, stop: int, folder: Path) -> dict[str, Any]:
    """Try these inputs; the first of each kind that is not taken well is written into ``folder``."""
    from benchmarks.fuzzing.probe import describe

    tally = Tally()
    for index in range(start, stop):
        content = probe.content(index)
        found = probe.attempt(content)
        tally.inputs += 1
        tally.accepted += found.accepted
        tally.processor_seconds += found.seconds
        tally.most_seconds = max(tally.most_seconds, found.seconds)
        tally.most_memory = max(tally.most_memory, found.memory)
        if found.fault is not None:
            kind = f"{probe.target.name}: {found.fault.value}: {found.where or found.words[:60]}"
            tally.findings[kind] += 1
            saved = folder / ("".join(c if c.isalnum() else "-" for c in kind)[:120] + f".{probe.target.file}")
            if not saved.exists():
                saved.write_bytes(content)
                saved.write_bytes(probe.smaller(content, found))
                about = {"target": probe.target.name, "index": index, **describe(found)}
                saved.with_name(f"{saved.name}.json").write_text(json.dumps(about, indent=1) + "\n")
    return {**vars(tally), "findings": dict(tally.findings)}


def _work(orders: Connection, seed: int, findings: Path) -> None:
    """A worker: takes chunks as they come and answers with what became of them."""
    import resource

    import torch

    from benchmarks.fuzzing.probe import Probe

    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))  # so that a bomb ends its worker and not the machine
    probe: Any = None
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        for name, start, stop in iter(orders.recv, None):
            if probe is None or probe.target.name != name:
                place = Path(tempfile.mkdtemp(dir=folder))
                try:
                    probe = Probe(chosen((name,))[0], place, seed)
                except Exception as error:
                    orders.send(f"{name}: cannot be prepared: {type(error).__name__}: {error}")
                    raise
            orders.send(try_chunk(probe, start, stop, findings))


class Worker:
    """A process that tries chunks of inputs, begun anew when it dies, hangs, or has done enough."""

    def __init__(self, seed: int, findings: Path) -> None:
        self._context, self._arguments = multiprocessing.get_context("spawn"), (seed, findings)
        self.order = ("", 0, 0)
        self._begin()

    def _begin(self) -> None:
        self.connection, theirs = self._context.Pipe()
        self._process = self._context.Process(target=_work, args=(theirs, *self._arguments), daemon=True)
        self._process.start()
        theirs.close()
        self.done, self.since = 0, time.monotonic()

    def give(self, order: tuple[str, int, int]) -> None:
        """Order the next chunk."""
        if self.done >= _RENEWED_AFTER:
            self.renew()
        self.order, self.since = order, time.monotonic()
        self.connection.send(order)

    def answer(self) -> dict[str, Any] | None:
        """Outcome of the chunk; ``None`` if the process died."""
        self.done += 1
        try:
            found = self.connection.recv()
        except (EOFError, ConnectionError):
            return None
        if isinstance(found, str):
            raise ConfigError(found)
        return found

    def renew(self) -> None:
        """End the process and begin another."""
        self._process.kill()
        self._process.join()
        self.connection.close()
        self._begin()

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()


def fuzz(arguments: FuzzArguments) -> Iterator[dict[str, Tally]]:
    """Try all inputs; yields the tallies by target after every chunk."""
    arguments.findings.mkdir(parents=True, exist_ok=True)
    state = arguments.findings / "progress.json"
    targets = chosen(arguments.target)
    done: dict[str, Any] = json.loads(state.read_text()) if state.exists() else {}
    key = f"seed {arguments.seed}"
    mine: dict[str, Any] = done.setdefault(key, {})
    tallies = {target.name: Tally() for target in targets}
    waiting = []
    for order in chunks(targets, arguments.inputs):
        if (own := " ".join(map(str, order))) in mine:
            tallies[order[0]].add(mine[own])
        else:
            waiting.append(order)
    workers = [Worker(arguments.seed, arguments.findings) for _ in range(min(arguments.workers, len(waiting)))]
    waiting.reverse()
    for worker in workers:
        worker.give(waiting.pop())
    busy = {worker.connection: worker for worker in workers}
    try:
        while busy:
            answered = [busy[each] for each in wait(list(busy), timeout=5) if isinstance(each, Connection)]
            hung = [each for each in busy.values() if time.monotonic() - each.since > _DEAD_AFTER * 4]
            for worker in {*answered, *hung}:
                del busy[worker.connection]
                found = worker.answer() if worker in answered else None
                name, start, stop = worker.order
                if found is None:  # halve the chunk until the one input is found
                    worker.renew()
                    if stop - start > 1:
                        middle = (start + stop) // 2
                        waiting += [(name, middle, stop), (name, start, middle)]
                    else:
                        found = {**vars(Tally(inputs=1)), "findings": {f"{name}: died or hung at input {start}": 1}}
                if found is not None:
                    tallies[name].add(found)
                    mine[f"{name} {start} {stop}"] = found
                if waiting:
                    worker.give(waiting.pop())
                    busy[worker.connection] = worker
            state.write_text(json.dumps(done))
            yield tallies
    finally:
        for worker in workers:
            worker.end()
    yield tallies


def table(tallies: dict[str, Tally], seconds: float) -> str:
    """One row a target, then the findings."""
    row = "{:<26} {:>9} {:>9} {:>10} {:>9} {:>8} {:>9}"
    lines = [row.format("reader", "inputs", "accepted", "inputs/s", "most s", "MiB", "findings")]
    for name, each in tallies.items():
        rate = each.inputs / each.processor_seconds if each.processor_seconds else 0.0
        counts = f"{each.inputs:,}", f"{each.accepted:,}", f"{rate:,.0f}", f"{each.most_seconds:.2f}"
        lines.append(row.format(name, *counts, each.most_memory >> 20, each.findings.total()))
    inputs, found = (
        sum(values) for values in zip(*((t.inputs, t.findings.total()) for t in tallies.values()), strict=True)
    )
    lines.append(f"{inputs:,} inputs in {seconds:,.0f} s, {found:,} not taken well; inputs/s are of processor time")
    lines += [f"{number:>7} × {kind}" for each in tallies.values() for kind, number in each.findings.most_common()]
    return "\n".join(lines)


def try_one(arguments: FuzzArguments, index: int) -> None:
    """Try one input of one target and print what becomes of it."""
    from benchmarks.fuzzing.probe import Probe, describe

    if len(arguments.target) != 1:
        raise ConfigError(f"--only: expected one --target, found {len(arguments.target)}")
    target = chosen(arguments.target)[0]
    with tempfile.TemporaryDirectory() as folder:
        probe = Probe(target, Path(folder), arguments.seed)
        content = probe.content(index)
        arguments.findings.mkdir(parents=True, exist_ok=True)
        kept = arguments.findings / f"{index}.{target.file}"
        kept.write_bytes(content)
        print(json.dumps({"input": str(kept), **describe(probe.attempt(content))}, indent=1))


def main() -> None:
    """Read the command line, try the inputs, print the table or the document."""
    arguments = parse(FuzzArguments, sys.argv[1:], prog="python -m benchmarks.fuzz")
    if arguments.only is not None:
        try_one(arguments, arguments.only)
        return
    begun, shown, tallies = time.perf_counter(), 0.0, dict[str, Tally]()
    for tallies in fuzz(arguments):
        if time.perf_counter() - shown > 10 and not arguments.json:
            shown = time.perf_counter()
            inputs, found = (sum(getattr(t, name) for t in tallies.values()) for name in ("inputs", "accepted"))
            bad = sum(each.findings.total() for each in tallies.values())
            print(f"{inputs:,} inputs, {found:,} accepted, {bad:,} not taken well", file=sys.stderr, flush=True)
    seconds = time.perf_counter() - begun
    if arguments.json:
        print(
            json.dumps(
                {name: {**vars(each), "findings": dict(each.findings)} for name, each in tallies.items()}, indent=2
            )
        )
    else:
        print(table(tallies, seconds))
    if any(each.findings for each in tallies.values()):
        sys.stdout.flush()
        sys.exit(1)


if __name__ == "__main__":
    run_command(main)
