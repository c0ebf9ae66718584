"""784-10-10 networks of 1 to 16 bits a weight on MNIST: accuracy, size, and what certifies how much.

    python -m benchmarks.quantized --bits 1 2 3 4 8 16

Each network is a run of ``python -m lean_mnist.train --quantize BITS`` with the options below, with its checks. All
claims are at one δ, each for itself: by the test split, looked at once (Clopper–Pearson); and by all 60,000 training
examples, with δ shared among all networks of that many bits (Hoeffding's inequality, which is MLCERT's bound, and the
binomial relative entropy), or by the length of the network's word in an enumerative code. The *gap* is the accuracy on
the training examples less what they certify.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from lean_mnist.command_line import parse, run_command
from lean_mnist.generalization.checker import percent
from lean_mnist.generalization.quantize import TrainingClaims
from lean_mnist.training.config import Config
from lean_mnist.training.objectives.summary import Summary
from lean_mnist.training.run import run

DELTA = Fraction(1, 10**9)
OPTIONS: dict[str, Any] = {
    "dataset": "mnist",
    "hidden": (10,),
    "bias": False,
    "normalization": "unit",
    "epochs": 20,
    "lr": 0.05,
    "schedule": "cosine",
    "weight_decay": 2e-5,
}
HEAD = (
    "bits", "test accuracy", "holdout", "bits in all", "enumerative code", "training errors",
    "union, Hoeffding", "union, kl", "code, kl", "gap: Hoeffding", "gap: kl", "gap: code", "seconds",
)  # fmt: skip


@dataclass(frozen=True)
class Arguments:
    """Train quantised 784-10-10 networks on MNIST and print what is certified of each."""

    bits: tuple[int, ...] = (1, 2, 3, 4, 8, 16)
    """A network for each."""
    seed: int = 0


def main() -> None:
    """Train one network a number of bits and print a row for each."""
    arguments = parse(Arguments, sys.argv[1:], prog="python -m benchmarks.quantized")
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}", flush=True)
    for bits in arguments.bits:
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            places: dict[str, Any] = {"runs_dir": f"{folder}/runs", "checkpoints_dir": f"{folder}/checkpoints"}
            summary = run(Config(**OPTIONS, **places, quantize=bits, seed=arguments.seed, quiet=True))
            cells = row(bits, summary, time.perf_counter() - started)
        print(f"| {' | '.join(cells)} |", flush=True)


def row(bits: int, summary: Summary, seconds: float) -> list[str]:
    """One network's cells; certified accuracies are rounded down and gaps up."""
    found, certificate = summary.quantized, summary.certificate
    assert found is not None
    assert not isinstance(certificate, str), certificate
    holdout = certificate.risks["clopper-pearson", DELTA]
    measured = Fraction(found.errors, found.examples)
    risks = [_risk(found, *way) for way in (("union", "hoeffding"), ("union", "kl"), ("code length", "kl"))]
    return [
        str(bits),
        f"{summary.test.accuracy:.2%}",
        percent(1 - holdout, False),
        f"{found.bits:,}",
        "-" if found.code_length is None else f"{found.code_length:,}",
        f"{found.errors:,} of {found.examples:,}",
        *("-" if risk is None else percent(1 - risk, False) for risk in risks),
        *("-" if risk is None else percent(risk - measured, True) for risk in risks),
        f"{seconds:.0f}",
    ]


def _risk(found: TrainingClaims, share: str, bound: str) -> Fraction | None:
    risks = [c.risk for c in found.claims if (c.share, c.bound, c.delta) == (share, bound, DELTA)]
    return risks[0] if risks else None


if __name__ == "__main__":
    run_command(main)
