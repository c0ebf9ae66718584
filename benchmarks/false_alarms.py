"""``python -m benchmarks.false_alarms``: does the randomised check of every step ever object to a right step?

Trains small networks on scikit-learn's digits until the loss is practically 0, with ragged batches, features that are
exactly 0, every activation, and saturated units, and checks every step batched, per row, and, where something stands
out in the batched check, in float64. Prints the number of steps, of those where something stood out, of alarms, the
largest residual as a share of its threshold, and the 95 % upper bound on the rate of false alarms (for none in n steps,
``1 − 0.05^(1/n)``, Clopper and Pearson, 1934).
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass

import torch
from tqdm import tqdm

from lean_mnist.audit.local_checks import ComputedStep
from lean_mnist.audit.randomised import RandomisedCheck
from lean_mnist.chainrule.activations import ACTIVATIONS
from lean_mnist.command_line import parse, run_command
from lean_mnist.data.batches import Batches
from lean_mnist.data.datasets import load_digits
from lean_mnist.data.normalization import Normalization
from lean_mnist.nn import MLP
from lean_mnist.nn.step import StepTape

# Activation by turns, and every third seed with inputs or weights that saturate it.
_BATCH, _SIZES = 50, (64, 48, 32, 10)


@dataclass(frozen=True)
class Arguments:
    """Count false alarms of the every-step screen."""

    seeds: int = 12
    """Independent runs; each has its own weights, order, probes, and one of the activations."""
    steps: int = 9000
    """Steps a run."""
    json: bool = False
    """Print one JSON document."""


@dataclass(frozen=True)
class Run:
    seed: int
    activation: str
    saturated: bool
    steps: int
    stood_out: int
    alarms: int
    largest_share: float
    final_loss: float


def run_seed(seed: int, steps: int, progress: tqdm[None]) -> Run:
    """Train and screen one network."""
    activation = list(ACTIVATIONS)[seed % len(ACTIVATIONS)]
    saturated = seed % 3 == 2
    digits = load_digits()
    kind = "unit" if seed % 2 else "standard"  # with "unit", background features are exactly 0
    batches = Batches(digits.train, Normalization.fit(kind, digits.train.images, 16), _BATCH, seed)
    model = MLP(_SIZES, activation, seed=seed)
    if saturated:
        with torch.no_grad():
            for layer in model.layers:
                layer.weight.mul_(8)  # type: ignore[operator]
    optimizer = torch.optim.SGD(model.parameters(), lr=3e-4 if saturated else 0.02, momentum=0.9)
    screen = RandomisedCheck(seed, per_row_every=1)  # every step in every way it can be refused
    stood_out, alarms, largest, step, epoch, loss = 0, 0, 0.0, 0, 0, torch.zeros(())
    while step < steps:
        for x, labels in batches.epoch(epoch):
            optimizer.zero_grad()
            tape = StepTape(labels)
            loss = model.loss(x, labels, tape=tape)
            loss.backward()
            assert torch.isfinite(loss), f"seed {seed} diverged at step {step}: not a case of this benchmark"
            step += 1
            result = screen.check(step, ComputedStep.of(model, [(x, labels)], [tape], loss.detach()))
            largest, stood_out = max(largest, result.share), stood_out + result.stood_out
            if not result.passed:
                alarms += 1
                tqdm.write(f"seed {seed}, step {step}: {'; '.join(map(str, result.failures))}", file=sys.stderr)
            optimizer.step()
            progress.update()
            if step == steps:
                break
        epoch += 1
    return Run(seed, activation, saturated, step, stood_out, alarms, largest, float(loss))


def main() -> None:
    """Run every seed and print a table."""
    arguments = parse(Arguments, sys.argv[1:], prog="python -m benchmarks.false_alarms")
    torch.set_num_threads(1)  # small products; threads would only wait for each other
    with tqdm(total=arguments.seeds * arguments.steps, unit="step", file=sys.stderr) as progress:
        runs = [run_seed(seed, arguments.steps, progress) for seed in range(arguments.seeds)]
    steps, alarms = sum(run.steps for run in runs), sum(run.alarms for run in runs)
    bound = _upper_bound(alarms, steps)
    if arguments.json:
        print(
            json.dumps({"steps": steps, "alarms": alarms, "upper_bound_95": bound, "runs": [asdict(r) for r in runs]})
        )
        return
    print("seed  activation  saturated   steps  stood out  alarms  largest share  final loss")
    for run in runs:
        print(
            f"{run.seed:>4}  {run.activation:<10}  {'yes' if run.saturated else 'no':<9}  {run.steps:>6}"
            f"  {run.stood_out:>9}  {run.alarms:>6}  {run.largest_share:>13.3f}  {run.final_loss:>10.1e}"
        )
    print(f"{alarms} alarms in {steps:,} steps; the rate is at most {bound:.1e} with 95 % confidence")


def _upper_bound(alarms: int, steps: int) -> float:
    from scipy.special import betaincinv

    return 1.0 if alarms == steps else float(betaincinv(alarms + 1, steps - alarms, 0.95))


if __name__ == "__main__":
    run_command(main)
