"""``python -m benchmarks.bit_flips``: is a bit that flips in memory found before it is learnt from?

A run of 784-128-10 is brought to several steps of its training. From each, again and again, one random bit of one
random number is flipped at one of the places below, the next steps are taken with all checks, and everything is put
back. What became of a flip is one of

- *caught at its step*: the step that would have used the number was not applied;
- *caught later*: a later step was not applied, but a wrong one had been;
- *no effect*: the weights are those of the undisturbed run, bit for bit;
- *rounding*: they are no farther from them than float32 takes these steps from float64's;
- *missed*: none of these.

Resident images and labels are those that the next steps gather: of the others a flip waits until they are. Steps are
taken one by one; the one *during* which a bit flips is computed as it is written, kernel by kernel.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from tqdm import tqdm

from lean_mnist.audit.step_audit import AuditResult, StepAudit
from lean_mnist.command_line import parse, run_command
from lean_mnist.data.batches import Batch
from lean_mnist.data.datasets import load_dataset
from lean_mnist.errors import LeanMnistError
from lean_mnist.nn.step import Step
from lean_mnist.nn.update import Update
from lean_mnist.training.config import Config
from lean_mnist.training.config.optimizers import build_optimizer
from lean_mnist.training.distributed import World
from lean_mnist.training.hooks.step import FailurePolicy
from lean_mnist.training.objectives.classification import Classification
from lean_mnist.training.state import RunState
from lean_mnist.training.trainer import Trainer

Check = Literal["off", "audit", "screen", "full"]
OUTCOMES = ("at its step", "later", "no effect", "rounding", "missed", "traceback")
STEPS = 6  # of a trial; the bit flips at the first
WARM_UP = (100, 600, 1500, 3000)  # steps before the trials


@dataclass(frozen=True)
class Arguments:
    """Flip single bits in memory while a network trains, and count which are caught."""

    trials: int = 1000
    """A place."""
    places: tuple[str, ...] = ()
    """Some of them; all if not given."""
    dataset: Literal["mnist", "digits"] = "mnist"
    """Data set that is learned."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Of the run."""
    check: Check = "full"
    """As of lean_mnist.train."""
    seed: int = 0
    """Of the run and of the flips."""
    threads: int = 1
    """PyTorch's threads; 0 leaves them as they are."""
    json: bool = False
    """Print one JSON document."""


def flip(tensor: Tensor, rng: random.Random) -> Callable[[], None]:
    """Flip a random bit of a random number of ``tensor``; returns what flips it back."""
    return flip_bit(tensor, rng.randrange(tensor.numel()), rng.randrange(8 * tensor.element_size()))


def flip_bit(tensor: Tensor, element: int, bit: int) -> Callable[[], None]:
    """Flip ``bit``, from 0, of number ``element`` of ``tensor``, in its memory's order; returns what flips it back."""
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    tensor = tensor.detach()
    if not tensor.is_contiguous():
        tensor = tensor.T
    width = tensor.element_size()
    words = tensor.view(-1).view(integers[width])
    mask = 1 << bit if width == 1 or bit < 8 * width - 1 else -(1 << bit)

    def turn() -> None:
        words[element] ^= mask

    turn()
    return turn


class _Watched(TorchDispatchMode):
    """Counts kernels, keeps the numbers that they made, and does ``action`` with these after kernel ``at``."""

    def __init__(self, at: int = -1, action: Callable[[list[Tensor]], None] = lambda made: None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count, self._at, self._action, self._made = 0, at, action, list[Tensor]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the kernel."""
        result = func(*args, **(kwargs or {}))
        parts = result if isinstance(result, (tuple, list)) else (result,)
        self._made += [part for part in parts if isinstance(part, Tensor) and part.is_floating_point()]
        self.count += 1
        if self.count - 1 == self._at:
            self._action(self._made)
        return result


class _BeforeLastGate:
    """Does ``actions``, each once, when all gates but the last have passed a step, which is due while there are any."""

    def __init__(self) -> None:
        self.actions: list[Callable[[], None]] = []

    def due(self, step: int) -> bool:
        """True if there is something to do."""
        return bool(self.actions)

    def on_gradients(self, step: Step) -> tuple[()]:
        """No records."""
        while self.actions:
            self.actions.pop()()
        return ()


class Patient:
    """A training run in this process, taken step by step, whose memory can be disturbed at every place of a step."""

    def __init__(self, config: Config) -> None:
        self.objective = Classification(config, load_dataset(config.dataset, config.data_dir), World())
        self.parameters, self.state = self.objective.parameters, RunState()
        self.optimizer = build_optimizer(config, [self.parameters.vector])
        self.update = Update(self.parameters.network, self.optimizer, config.clip_norm, self.parameters)
        policy = FailurePolicy(self.state.checks, stop=config.on_divergence == "stop")
        hooks, self.before_last_gate = self.objective.hooks(self.state, policy), _BeforeLastGate()
        before = self.before_last_gate
        if hooks.every_step:
            hooks = dataclasses.replace(hooks, every_step=[*hooks.every_step[:-1], before, *hooks.every_step[-1:]])
        else:
            hooks = dataclasses.replace(hooks, gates=[*hooks.gates[:-1], before, *hooks.gates[-1:]])
        self.trainer = Trainer(
            self.objective, self.update, hooks, self.state,
            emit=lambda record: None, save=lambda which: None, stop_requested=lambda: False,
        )  # fmt: skip
        self.during: list[Callable[[Any], Any]] = []  # computes the next step, once
        self.before_update: list[Callable[[], None]] = []  # done once, when the gates are passed
        self.after_gradients: list[Callable[[Any], None]] = []  # done once, with the step's result
        engine = self.trainer._engine
        step, update = engine.step, engine.update

        def stepped(batches: Any) -> Any:
            result = self.during.pop()(batches) if self.during else step(batches)
            while self.after_gradients:
                self.after_gradients.pop()(result)
            return result

        def updated(rate: float) -> None:
            while self.before_update:
                self.before_update.pop()()
            update(rate)

        engine.step, engine.update = stepped, updated  # type: ignore[method-assign]

    def batches(self) -> Iterator[Batch]:
        """Batches from where the run stands; the first of a later epoch after the last."""
        while True:
            for chunk in self.objective.batches.chunks(self.state.epoch, self.state.batch):
                yield from chunk
            self.state.end_epoch()

    def take(self, steps: int) -> None:
        """Take so many steps."""
        batches = self.batches()
        for _ in range(steps):
            self.trainer.take([next(batches)])

    def snapshot(self) -> dict[str, Any]:
        """Everything that the next steps depend on."""
        return copy.deepcopy(
            {
                "weights": self.parameters.vector.data,
                "optimizer": self.optimizer.state_dict(),
                "state": self.state.__dict__,
            }
        )

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Go back to a ``snapshot``."""
        self.before_update.clear()
        self.during.clear()
        self.after_gradients.clear()
        self.before_last_gate.actions.clear()
        self.parameters.vector.data.copy_(snapshot["weights"])
        self.parameters.vector_to_network()
        self.optimizer.load_state_dict(copy.deepcopy(snapshot["optimizer"]))
        checks = self.state.checks
        state = copy.deepcopy(snapshot["state"])
        checks.__dict__.update(state.pop("checks").__dict__)
        self.state.__dict__.update(state)
        if self.update.moved is not None:
            self.update.moved()

    def optimizer_tensors(self) -> list[Tensor]:
        """The optimizer's numbers."""
        state = self.optimizer.state_dict()["state"]
        return [value for values in state.values() for value in values.values() if isinstance(value, Tensor)]


Undo = list[Callable[[], None]]


class Flips:
    """The places: each method takes the steps of a trial with one bit flipped, and notes how to flip it back."""

    def __init__(self, patient: Patient, rng: random.Random) -> None:
        self._patient, self._rng, self.undo = patient, rng, Undo()

    def _flip(self, tensor: Tensor) -> None:
        self.undo.append(flip(tensor, self._rng))

    def _steps(self, batches: Iterator[Batch] | None = None, first: Callable[[Batch], None] | None = None) -> None:
        batches = self._patient.batches() if batches is None else batches
        for number in range(STEPS):
            batch = next(batches)
            if number == 0 and first is not None:
                first(batch)
            self._patient.trainer.take([batch])

    def weights_between_steps(self) -> None:
        self._steps(first=lambda batch: self._flip(self._patient.parameters.vector))

    def optimizer_between_steps(self) -> None:
        self._steps(first=lambda batch: self._flip(self._rng.choice(self._patient.optimizer_tensors())))

    def _rows(self) -> list[int]:
        """Examples of the first batch of the trial."""
        batches, state = self._patient.objective.batches, self._patient.state
        from lean_mnist.data.splits import generator_for

        order = torch.randperm(len(batches.split), generator=generator_for(batches.seed, "epoch", state.epoch))
        first = state.batch * batches.batch_size
        return order[first : first + batches.batch_size].tolist()

    def resident_images(self) -> None:
        self._flip(self._patient.objective.batches.split.images[self._rng.choice(self._rows())])
        self._steps()

    def resident_labels(self) -> None:
        row = self._rng.choice(self._rows())
        self._flip(self._patient.objective.batches.split.labels[row : row + 1])
        self._steps()

    def batch_features(self) -> None:
        self._steps(first=lambda batch: self._flip(batch[0]))

    def batch_labels(self) -> None:
        self._steps(first=lambda batch: self._flip(batch[1]))

    def _during(self, choose: Callable[[Batch, list[Tensor]], Tensor]) -> Callable[[Batch], None]:
        """Flip after one of the kernels of the first step, which is computed as it is written.

        ``choose`` has its batch and all that its kernels have made, to choose a tensor from.
        """
        compute = self._patient.trainer._engine._compute

        def disturbed(batches: list[Batch]) -> Any:
            with _Watched() as kernels:
                compute(batches)
            at = self._rng.randrange(kernels.count)
            with _Watched(at, lambda made: self._flip(choose(batches[0], made))):
                return compute(batches)

        return lambda batch: self._patient.during.append(disturbed)

    def weights_during_the_step(self) -> None:
        self._steps(first=self._during(lambda batch, made: self._patient.parameters.vector))

    def batch_features_during_the_step(self) -> None:
        self._steps(first=self._during(lambda batch, made: batch[0]))

    def values_between_layers(self) -> None:
        weights, gradient = self._patient.parameters.vector, self._patient.parameters.gradient
        others = {tensor.untyped_storage().data_ptr() for tensor in (weights, gradient)}

        def choose(batch: Batch, made: list[Tensor]) -> Tensor:
            ours = others | {batch[0].untyped_storage().data_ptr()}
            values = [value for value in made if value.numel() and value.untyped_storage().data_ptr() not in ours]
            values = values or [batch[0]]  # which is all that there is until the first is made
            return self._rng.choices(values, [value.numel() for value in values])[0]

        self._steps(first=self._during(choose))

    def _after(self, choose: Callable[[Any], Tensor]) -> None:
        self._patient.after_gradients.append(lambda result: self._flip(choose(result)))
        self._steps()

    def gradient(self) -> None:
        self._after(lambda result: self._patient.parameters.gradient)

    def weights_after_the_backward(self) -> None:
        self._after(lambda result: self._patient.parameters.vector)

    def optimizer_after_the_backward(self) -> None:
        self._after(lambda result: self._rng.choice(self._patient.optimizer_tensors()))

    def loss(self) -> None:
        self._after(lambda result: result.loss)

    def gradient_while_checked(self) -> None:
        self._patient.before_last_gate.actions.append(lambda: self._flip(self._patient.parameters.gradient))
        self._steps()

    def gradient_after_the_checks(self) -> None:
        self._patient.before_update.append(lambda: self._flip(self._patient.parameters.gradient))
        self._steps()

    def weights_after_the_checks(self) -> None:
        self._patient.before_update.append(lambda: self._flip(self._patient.parameters.vector))
        self._steps()


PLACES: dict[str, Callable[[Flips], None]] = {
    "weights, between steps": Flips.weights_between_steps,
    "optimizer's state, between steps": Flips.optimizer_between_steps,
    "resident images": Flips.resident_images,
    "resident labels": Flips.resident_labels,
    "batch's features, before the step": Flips.batch_features,
    "batch's labels, before the step": Flips.batch_labels,
    "weights, during the step": Flips.weights_during_the_step,
    "batch's features, during the step": Flips.batch_features_during_the_step,
    "values between the layers": Flips.values_between_layers,
    "gradient": Flips.gradient,
    "gradient, while it is checked": Flips.gradient_while_checked,
    "weights, after the backward": Flips.weights_after_the_backward,
    "optimizer's state, after the backward": Flips.optimizer_after_the_backward,
    "loss": Flips.loss,
    "gradient, after all checks": Flips.gradient_after_the_checks,
    "weights, after all checks": Flips.weights_after_the_checks,
}


@dataclass
class Row:
    """Outcomes of the flips at one place."""

    place: str
    outcomes: Counter[str] = field(default_factory=Counter)
    by: Counter[str] = field(default_factory=Counter)  # kinds of errors that caught them
    steps: Counter[int] = field(default_factory=Counter)  # steps after the flip's until it was caught
    examples: dict[str, str] = field(default_factory=dict)  # a message of each kind

    @property
    def trials(self) -> int:
        return sum(self.outcomes.values())

    def interval(self, outcome: str) -> tuple[float, float]:
        """Its rate's 95 % interval (Clopper and Pearson, 1934)."""
        from scipy.stats import binomtest

        found = binomtest(self.outcomes[outcome], self.trials).proportion_ci(method="exact")
        return float(found.low), float(found.high)


@dataclass
class Start:
    """State in which trials begin, and the one to which the undisturbed steps lead."""

    snapshot: dict[str, Any]
    undisturbed: Tensor
    rounding: float  # distance between float32 and float64 after these steps

    @classmethod
    def of(cls, patient: Patient, exact: Patient) -> Start:
        """The state of ``patient``; ``exact`` computes in float64, without checks."""
        snapshot = patient.snapshot()
        patient.take(STEPS)
        undisturbed = patient.parameters.vector.detach().clone()
        patient.restore(snapshot)
        exact.restore(snapshot)
        exact.take(STEPS)
        return cls(snapshot, undisturbed, float((exact.parameters.vector.detach() - undisturbed).norm()))


def trial(place: str, patient: Patient, start: Start, rng: random.Random, row: Row) -> None:
    """Flip one bit, take the steps, enter in ``row`` what became of it, and put everything back."""
    patient.restore(start.snapshot)
    flips, first = Flips(patient, rng), patient.state.step
    try:
        PLACES[place](flips)
    except LeanMnistError as error:
        late = patient.state.step - first
        row.outcomes["later" if late else "at its step"] += 1
        row.by[type(error).__name__] += 1
        row.steps[late] += 1
        row.examples.setdefault(type(error).__name__, str(error))
    except Exception as error:
        row.outcomes["traceback"] += 1
        row.examples.setdefault("traceback", repr(error))
    else:
        found = patient.parameters.vector.detach()
        if torch.equal(found, start.undisturbed):
            row.outcomes["no effect"] += 1
        else:
            distance = float((found.double() - start.undisturbed.double()).norm())
            row.outcomes["rounding" if distance <= start.rounding else "missed"] += 1
    for undo in reversed(flips.undo):
        undo()


def _config(arguments: Arguments, check: Check) -> Config:
    return Config(dataset=arguments.dataset, seed=arguments.seed, device=arguments.device, quiet=True, check=check)


# The audit of a step that fails explains it, and takes longer than everything else.
@mock.patch.object(StepAudit, "check", new=mock.Mock(return_value=AuditResult((), (), None, 0, 0.0)))
def measure(arguments: Arguments) -> list[Row]:
    """A row a place, its trials spread over the starts."""
    exact = Patient(dataclasses.replace(_config(arguments, "off"), precision="float64"))
    patient = Patient(_config(arguments, arguments.check))
    rng, rows = random.Random(arguments.seed), [Row(place) for place in arguments.places or PLACES]
    with tqdm(total=len(rows) * arguments.trials, unit="flip", file=sys.stderr, disable=arguments.json) as progress:
        for number, steps in enumerate(WARM_UP):
            patient.take(steps - patient.state.step)
            start = Start.of(patient, exact)
            for row in rows:
                for _ in range(number, arguments.trials, len(WARM_UP)):
                    trial(row.place, patient, start, rng, row)
                    progress.update()
            patient.restore(start.snapshot)
            patient.take(STEPS)
            assert torch.equal(patient.parameters.vector.detach(), start.undisturbed), "something was not put back"
    return rows


class Cost(NamedTuple):
    """Medians of microseconds of processor time a step: screened, with checksums as well, and the share these add."""

    screened: float
    with_checksums: float
    share: float


def cost(arguments: Arguments, blocks: int = 60, steps: int = 25) -> Cost:
    """Steps with and without checksums, by turns, none of which is audited."""
    checks: tuple[Check, Check] = "screen", "full"
    patients = [Patient(_config(arguments, check)) for check in checks]
    times: tuple[list[float], list[float]] = [], []
    for patient in patients:
        patient.take(4 * steps)
    for _ in tqdm(range(blocks), unit="block", file=sys.stderr, disable=arguments.json):
        for patient, found in zip(patients, times, strict=True):
            batches = patient.batches()
            chosen = [next(batches)]
            started = time.process_time()
            patient.trainer.take(chosen)
            for _ in range(steps):
                patient.trainer.take([next(batches)])
            found.append((time.process_time() - started) / (steps + 1))
    screened, full = times
    share = statistics.median(b / a - 1 for a, b in zip(screened, full, strict=True))
    return Cost(1e6 * statistics.median(screened), 1e6 * statistics.median(full), share)


def main() -> None:
    """Measure, and print a table."""
    arguments = parse(Arguments, sys.argv[1:], prog="python -m benchmarks.bit_flips")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    rows = measure(arguments)
    if arguments.json:
        print(json.dumps({"rows": [vars(row) for row in rows], "cost": cost(arguments)._asdict()}))
        return
    print(f"| place | flips | {' | '.join(OUTCOMES)} | missed, 95 % |")
    print("|---" * (len(OUTCOMES) + 3) + "|")
    for row in rows:
        low, high = row.interval("missed")
        counts = " | ".join(f"{row.outcomes[outcome]:,}" for outcome in OUTCOMES)
        print(f"| {row.place} | {row.trials:,} | {counts} | {low:.2%} to {high:.2%} |")
    found = cost(arguments)
    print(f"\na step {found.screened:.0f} µs, with checksums {found.with_checksums:.0f} µs: {found.share:.1%} more")
    for row in rows:
        late = {f"{steps} later": count for steps, count in sorted(row.steps.items()) if steps}
        print(f"{row.place}: {dict(row.by)} {late}", file=sys.stderr)
        for kind, message in row.examples.items():
            print(f"    {kind}: {message}", file=sys.stderr)


if __name__ == "__main__":
    run_command(main)
