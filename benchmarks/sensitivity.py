"""``python -m benchmarks.sensitivity``: how small an error of a gradient do the checks of a step still see?

On 784-128-10 with batches of 64, at the start, in the middle and at the end of a training run, errors are added to one
gradient at a time: *dense*, Gaussian, of norm 1e-5 times the tensor's; and *element*, one entry off by 1e-3 times the
norm of its row (of the whole tensor, for a bias). Each is put to the two parts of the audit, the comparison with the
reference and the local checks run exactly, and to the randomised check of every step, with probes of its own each time.
Prints the share caught, its lower 95 % bound (Clopper and Pearson, 1934), and what the comparison allows, which grows
as ``softmax − onehot`` cancels. The data are scikit-learn's digits, enlarged to 28 × 28.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from tqdm import tqdm

from lean_mnist.audit.local_checks import ComputedStep, largest_share
from lean_mnist.audit.randomised import RandomisedCheck
from lean_mnist.audit.step_audit import ReferenceValues, StepAudit
from lean_mnist.command_line import parse, run_command
from lean_mnist.data.datasets import load_digits
from lean_mnist.nn import MLP
from lean_mnist.nn.step import StepTape, put_gradients

SIZES, BATCH = (784, 128, 10), 64
PHASES = {"start": 0, "middle": 60, "end": 600}  # after so many steps
DENSE, ELEMENT = "dense", "element"
RELATIVE = {DENSE: 1e-5, ELEMENT: 1e-3}


@dataclass(frozen=True)
class Arguments:
    """Measure what share of small planted errors the audit and the screen catch."""

    trials: int = 250
    """For each kind of error, tensor and phase of training; twelve times as many of each kind in all."""
    batches: int = 10
    """Different batches a phase, over which the trials are spread."""
    seed: int = 0
    """Of weights, batches, errors and probes."""
    size: float = 1.0
    """Errors this many times as large as is said above."""
    quiet: bool = False
    """No progress bar."""
    json: bool = False
    """Print one JSON document."""


@dataclass(frozen=True)
class Row:
    """The outcome for one kind of error in one tensor at one phase."""

    error: str
    phase: str
    tensor: str
    loss: float  # the largest of the phase's batches
    trials: int
    comparison: int  # caught by it
    links: int
    audit: int  # by either of them
    screen: int
    allowed: float  # what the comparison allows, relative to the tensor's norm: the largest over the batches
    right_steps_refused: int  # of the unspoilt steps, by either


@dataclass(frozen=True)
class Phase:
    name: str
    model: MLP
    batches: list[tuple[Tensor, Tensor]]


def enlarged_digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's digits as 784 features of mean 0 and deviation 1, and their labels."""
    train = load_digits().train
    images = F.interpolate(train.images[:, None].float() / 16, size=(28, 28), mode="bilinear", align_corners=False)
    x = images.flatten(1)
    return (x - x.mean()) / x.std(), train.labels


def phases(seed: int, batches: int) -> Iterator[Phase]:
    """The network at the start, in the middle and at the end of its training, each with batches to look at."""
    x, labels = enlarged_digits()
    generator = torch.Generator().manual_seed(seed)
    model, step = MLP(SIZES, seed=seed), 0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    def batch() -> tuple[Tensor, Tensor]:
        chosen = torch.randperm(len(x), generator=generator)[:BATCH]
        return x[chosen], labels[chosen]

    for name, steps in PHASES.items():
        while step < steps:
            optimizer.zero_grad()
            put_gradients(model, [batch()])
            optimizer.step()
            step += 1
        yield Phase(name, model, [batch() for _ in range(batches)])


def spoil(gradient: Tensor, error: str, size: float, generator: torch.Generator) -> Tensor:
    """A copy of ``gradient`` with a random error of relative size ``size`` times that of its kind."""
    spoilt = gradient.clone()
    relative = size * RELATIVE[error]
    if error == DENSE:
        noise = torch.randn(gradient.shape, generator=generator)
        return spoilt + noise * (relative * gradient.norm() / noise.norm())
    rows = spoilt if spoilt.dim() == 2 else spoilt[None]
    norms = rows.norm(dim=1)
    alive = (norms > 0).nonzero().flatten()
    row = int(alive[torch.randint(len(alive), (), generator=generator)])
    column = int(torch.randint(rows.shape[1], (), generator=generator))
    sign = 1 if torch.rand((), generator=generator) < 0.5 else -1
    rows[row, column] += sign * relative * norms[row]
    return spoilt


def measure(trials: int, batches: int, seed: int, size: float, progress: tqdm[None] | None = None) -> list[Row]:
    """Every kind of error in every tensor at every phase."""
    rows = []
    number = 0  # of the screened step: each has probes of its own
    generator = torch.Generator().manual_seed(seed + 1)
    screen = RandomisedCheck(seed)
    for phase in phases(seed, batches):
        model = phase.model
        counts: dict[tuple[str, str], list[int]] = {}
        allowed: dict[str, float] = {}
        largest_loss, refused = 0.0, 0
        for at, (x, labels) in enumerate(phase.batches):
            model.zero_grad(set_to_none=True)
            loss, _, (tape,) = put_gradients(model, [(x, labels)])
            largest_loss = max(largest_loss, float(loss))
            reference = StepAudit(model).reference_values([(x, labels)], [tape])
            right = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

            untouched = reference.compare(loss, list(right.values()))
            number += 1
            verdicts = _verdicts(screen, number, reference, model, right, (x, labels), tape, loss)
            refused += any(verdicts)
            for index, name in enumerate(right):
                allowed[name] = max(allowed.get(name, 0.0), untouched[index + 1].allowed)
                for error in RELATIVE:
                    found = counts.setdefault((error, name), [0] * 5)
                    for _ in range(at, trials, batches):
                        gradients = {**right, name: spoil(right[name], error, size, generator)}
                        number += 1
                        verdicts = _verdicts(screen, number, reference, model, gradients, (x, labels), tape, loss)
                        for place, caught in enumerate((True, *verdicts)):
                            found[place] += caught
                        if progress is not None:
                            progress.update()
        for (error, name), caught_by in counts.items():
            tried, comparison, links, audit, seen = caught_by
            rows.append(
                Row(
                    error, phase.name, name, largest_loss, tried, comparison, links, audit, seen, allowed[name], refused
                )
            )
    return rows


def _verdicts(
    screen: RandomisedCheck,
    number: int,
    reference: ReferenceValues,
    model: MLP,
    gradients: dict[str, Tensor],
    batch: tuple[Tensor, Tensor],
    tape: StepTape,
    loss: Tensor,
) -> tuple[bool, bool, bool, bool]:
    """Refusals of these gradients by comparison, links, the audit that is both, and the screen."""
    comparison = not all(d.passed for d in reference.compare(loss, list(gradients.values())))
    for name, parameter in model.named_parameters():
        parameter.grad = gradients[name]
    step = ComputedStep.of(model, [batch], [tape], loss)
    links = not largest_share(step) <= 1
    screened = screen.check(number, step)
    return comparison, links, comparison or links, not screened.passed


COUNTS = ("trials", "comparison", "links", "audit", "screen")


def total(rows: list[Row], error: str) -> dict[str, int]:
    """Trials with one kind of error, and how many of them each check caught."""
    chosen = [row for row in rows if row.error == error]
    return {name: sum(int(getattr(row, name)) for row in chosen) for name in COUNTS}


def lower_bound(caught: int, trials: int) -> float:
    """The probability of being caught is at least this, with 95 % confidence."""
    from scipy.special import betaincinv

    return 0.0 if caught == 0 else float(betaincinv(caught, trials - caught + 1, 0.05))


def table(rows: list[Row]) -> list[str]:
    """For a terminal: one line a kind, phase and tensor, and the totals."""
    lines = ["error    phase   tensor           loss     allowed  trials  comparison  links     audit     screen"]
    for row in sorted(rows, key=lambda row: row.error):
        shares = "  ".join(f"{getattr(row, name) / max(1, row.trials):8.2%}" for name in COUNTS[1:])
        lines.append(
            f"{row.error:<7}  {row.phase:<6}  {row.tensor:<15}  {row.loss:.1e}  {row.allowed:.1e}  {row.trials:>6}  "
            f"  {shares}"
        )
    for error in RELATIVE:
        found = total(rows, error)
        trials = found.pop("trials")
        said = ", ".join(
            f"{name} {caught / max(1, trials):.2%} (at least {lower_bound(caught, trials):.2%})"
            for name, caught in found.items()
        )
        lines.append(f"{error}, {RELATIVE[error]:g}, {trials:,} trials: {said}")
    refused = {row.phase: row.right_steps_refused for row in rows}
    lines.append(f"right steps refused: {sum(refused.values())}")
    return lines


def main() -> None:
    """Measure and print."""
    arguments = parse(Arguments, sys.argv[1:], prog="python -m benchmarks.sensitivity")
    torch.set_num_threads(1)  # small products; threads would only wait for each other
    count = arguments.trials * len(PHASES) * len(RELATIVE) * 2 * (len(SIZES) - 1)
    with tqdm(total=count, unit="trial", file=sys.stderr, disable=arguments.quiet) as progress:
        rows = measure(arguments.trials, arguments.batches, arguments.seed, arguments.size, progress)
    if arguments.json:
        totals = {error: total(rows, error) for error in RELATIVE}
        print(json.dumps({"size": arguments.size, "totals": totals, "rows": [asdict(row) for row in rows]}))
        return
    print("\n".join(table(rows)))


if __name__ == "__main__":
    run_command(main)
