"""``python -m benchmarks.oracle``: the chain rule against the proved definitions, executed on fractions.

First random networks of 1 to 6 layers, with and without biases: ``chainrule`` on fractions must equal the oracle of
``proofs/gradients`` in every number. Then 784-128-10 on real MNIST images, in training: from the gradient of the logits
that a float32 step computed, the oracle computes the exact gradients, which must lie inside the balls that
``enclosure`` computes from it, and from which the step's own gradients must be no farther than the enclosure says.
Needs ``coqc``, ``ocamlfind`` and Zarith, and ``LEAN_MNIST_DATA``. Exit status 1 if anything differs.
"""

import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from lean_mnist.chainrule import mlp
from lean_mnist.chainrule.activations import ACTIVATIONS
from lean_mnist.command_line import parse, run_command
from lean_mnist.data.batches import Batches
from lean_mnist.data.datasets import load_dataset
from lean_mnist.data.normalization import Normalization
from lean_mnist.enclosure.ball import Ball
from lean_mnist.enclosure.enclose import bound_gradient
from lean_mnist.errors import ConfigError
from lean_mnist.nn import MLP
from lean_mnist.nn.step import put_gradients
from tests.support.enclosure_rational import fractions_of_tensor
from tests.support.exact_oracle import Case, answers, build, disagreements, missing, random_case

_AT_ONCE = 500  # networks that the oracle is given at a time


@dataclass(frozen=True)
class Arguments:
    """Compare the chain rule with the proved definitions, executed."""

    networks: int = 10_000
    """Random networks of fractions."""
    examples: int = 100
    """Real MNIST images, in batches of 20."""
    seed: int = 0
    """Of networks, weights and batches."""
    json: bool = False
    """Print one JSON document."""


@dataclass(frozen=True)
class Networks:
    """Comparison on random networks: exactly equal numbers, and places that differ."""

    networks: int
    numbers: int
    seconds: float
    different: list[str]


@dataclass(frozen=True)
class Step:
    """One float32 training step on real images against the exact gradients."""

    step: int
    examples: int
    numbers: int
    outside: int  # exact numbers that are not inside their balls
    too_far: int  # float32 numbers that are farther from the exact ones than the enclosure says
    largest_error: float  # of a float32 number
    widest_ball: float
    seconds: float


def random_networks(oracle: Path, count: int, seed: int) -> Networks:
    """Compare on ``count`` networks of every depth from 1 to 6."""
    rng, started, numbers, different = random.Random(seed), time.perf_counter(), 0, list[str]()
    with tqdm(total=count, unit="network", file=sys.stderr) as progress:
        for first in range(0, count, _AT_ONCE):
            cases = [random_case(rng, 1 + number % 6) for number in range(first, min(first + _AT_ONCE, count))]
            found, compared = disagreements(oracle, cases)
            numbers, different = numbers + compared, different + found
            progress.update(len(cases))
    return Networks(count, numbers, time.perf_counter() - started, different)


def training_steps(oracle: Path, examples: int, seed: int) -> Iterator[Step]:
    """Compare every 50th step of a training run by plain SGD, on 20 images each."""
    data = load_dataset("mnist", "data", download=False)
    batches = Batches(data.train, Normalization.fit("standard", data.train.images, 255), 20, seed)
    model = MLP((784, 128, 10), seed=seed)
    compared = 0
    for number, (x, labels) in enumerate(batches.epoch(0), start=1):
        result = put_gradients(model, [(x, labels)])
        if number % 50 == 1:
            yield _compare(oracle, number, model, result.tapes[0].inputs[0], result.tapes[0].d_pre_activations[-1])
            compared += len(x)
            if compared >= examples:
                return
        with torch.no_grad():
            for parameter in model.parameters():
                assert parameter.grad is not None
                parameter.sub_(0.05 * parameter.grad)


def _compare(oracle: Path, number: int, model: MLP, x: Tensor, d_logits: Tensor | None) -> Step:
    started = time.perf_counter()
    assert d_logits is not None
    layers = [(w.detach(), None if b is None else b.detach()) for w, b in model.parameter_pairs()]
    exact_layers = [(fractions_of_tensor(w), None if b is None else fractions_of_tensor(b)) for w, b in layers]
    case = Case(model.activation, fractions_of_tensor(x), exact_layers, fractions_of_tensor(d_logits))
    (exact,) = answers(oracle, [case])

    balls = [(Ball.exact(weight), None if bias is None else Ball.exact(bias)) for weight, bias in layers]
    activation = ACTIVATIONS[model.activation]
    _, tape = mlp.mlp_forward(Ball.exact(x), balls, activation)
    enclosed = mlp.mlp_backward(tape, balls, activation, Ball.exact(d_logits))
    numbers = outside = too_far = 0
    largest = widest = 0.0
    for index, (pair, ball_pair) in enumerate(zip(model.parameter_pairs(), enclosed.layers, strict=True)):
        for name, parameter, ball in zip(("weight", "bias"), pair, ball_pair, strict=True):
            if parameter is None:
                continue
            assert ball is not None
            assert parameter.grad is not None
            values = exact.arrays[f"d_{name}{index}"].ravel()
            bound = Fraction(bound_gradient(name, parameter.grad, ball).largest)
            errors = [abs(Fraction(c) - e) for c, e in zip(parameter.grad.ravel().tolist(), values, strict=True)]
            numbers += len(values)
            outside += _outside(ball, values)
            too_far += sum(error > bound for error in errors)
            largest, widest = max(largest, float(max(errors))), max(widest, float(ball.rad.max()))
    return Step(number, len(x), numbers, outside, too_far, largest, widest, time.perf_counter() - started)


def _outside(ball: Ball, values: np.ndarray) -> int:
    pairs: Any = zip(ball.mid.ravel().tolist(), ball.rad.ravel().tolist(), values, strict=True)
    return sum(abs(value - Fraction(mid)) > Fraction(rad) for mid, rad, value in pairs)


def main() -> None:
    """Run both comparisons and print what they found."""
    arguments = parse(Arguments, sys.argv[1:], prog="python -m benchmarks.oracle")
    torch.set_num_threads(1)
    if missing():
        raise ConfigError(f"the oracle needs {missing()}, which is missing")
    with tempfile.TemporaryDirectory() as folder:
        oracle = build(Path(folder))
        networks = random_networks(oracle, arguments.networks, arguments.seed)
        steps = list(tqdm(training_steps(oracle, arguments.examples, arguments.seed), unit="step", file=sys.stderr))
    failed = bool(networks.different) or any(step.outside or step.too_far for step in steps)
    if arguments.json:
        print(json.dumps({"networks": asdict(networks), "steps": [asdict(step) for step in steps]}))
    else:
        print(f"{networks.networks} random networks: {networks.numbers} numbers, {networks.seconds:.0f} s")
        print(*(networks.different[:10] or ["all exactly equal"]), sep="\n")
        print("step  examples  numbers  outside  too far  largest error  widest ball  seconds")
        for s in steps:
            print(
                f"{s.step:>4}  {s.examples:>8}  {s.numbers:>7}  {s.outside:>7}  {s.too_far:>7}  "
                f"{s.largest_error:>13.2e}  {s.widest_ball:>11.2e}  {s.seconds:>7.1f}"
            )
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    run_command(main)
