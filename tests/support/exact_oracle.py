"""The gradient oracle of ``proofs/gradients``: the definitions that the theorems are about, executed on fractions.

``build`` compiles it; ``answers`` runs it on networks; ``disagreements`` names what ``chainrule`` computes otherwise.
"""

import itertools
import random
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from lean_mnist.chainrule import mlp
from lean_mnist.chainrule.activations import ACTIVATIONS

PROOFS = Path(__file__).parents[2] / "proofs"
SOURCES = ("Makefile", "_CoqProject", *(f"gradients/{name}.v" for name in ("Numbers", "Network", "Oracle")),
           "gradients/oracle/main.ml")  # fmt: skip
WRITTEN = {"relu": "relu", "leaky-relu": "leaky-relu:1/100", "identity": "identity"}  # as the oracle reads them


def missing() -> str:
    """The name of a program without which the oracle cannot be built; empty if none is missing."""
    for program in ("coqc", "make", "ocamlfind"):
        if not shutil.which(program):
            return program
    library = subprocess.run(["ocamlfind", "query", "zarith", "-format", "%d/q.cmi"], capture_output=True, text=True)
    return "" if Path(library.stdout.strip()).is_file() else "libzarith-ocaml-dev"


def build(folder: Path) -> Path:
    """The executable oracle, compiled in ``folder`` from the sources of this checkout."""
    for source in SOURCES:
        (folder / source).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROOFS / source, folder / source)
    made = subprocess.run(["make", "-C", str(folder), "oracle"], capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
    return folder / "gradients" / "oracle" / "oracle"


@dataclass(frozen=True)
class Case:
    """A network of fractions and the upstream gradient of its logits."""

    activation: str
    x_BD: Any
    layers: Sequence[tuple[Any, Any]]  # weight (H, D), and bias (H,) or None
    d_logits_BC: Any


@dataclass(frozen=True)
class Answer:
    """What is computed of a case: every array of it, by name, of fractions."""

    arrays: dict[str, Any]  # logits, d_x, and for each layer d_weight0, d_bias0, …


def random_case(rng: random.Random, depth: int | None = None) -> Case:
    """A network of 1 to 6 layers of 1 to 4 units, one number in eight 0, so that units do stand at the kink."""

    def draw(*shape: int) -> Any:
        numbers = np.empty(shape, dtype=object)
        for index in np.ndindex(shape):
            zero = rng.random() < 1 / 8
            numbers[index] = Fraction(0) if zero else Fraction(rng.randint(-30, 30), rng.randint(1, 13))
        return numbers

    sizes = [rng.randint(1, 4) for _ in range((depth or rng.randint(1, 6)) + 1)]
    biases = rng.choice(["all", "none", "some"])
    layers = []
    for features, units in itertools.pairwise(sizes):
        bias = biases == "all" or (biases == "some" and rng.random() < 0.5)
        layers.append((draw(units, features), draw(units) if bias else None))
    batch = rng.randint(1, 3)
    return Case(rng.choice(list(WRITTEN)), draw(batch, sizes[0]), layers, draw(batch, sizes[-1]))


def by_chainrule(case: Case) -> Answer:
    """Forward and backward of the case by ``chainrule.mlp``, on arrays of fractions."""
    activation = ACTIVATIONS[case.activation]
    logits, tape = mlp.mlp_forward(case.x_BD, case.layers, activation)
    gradients = mlp.mlp_backward(tape, case.layers, activation, case.d_logits_BC)
    arrays = {"logits": logits, "d_x": gradients.x_BD}
    for index, (weight, bias) in enumerate(gradients.layers):
        arrays[f"d_weight{index}"] = weight
        if bias is not None:
            arrays[f"d_bias{index}"] = bias
    return Answer(arrays)


def answers(oracle: Path, cases: Sequence[Case]) -> Iterator[Answer]:
    """What the oracle computes of each case."""
    text = "".join(line for case in cases for line in _lines(case))
    ran = subprocess.run([str(oracle)], input=text, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    printed = iter(ran.stdout.splitlines())
    for case in cases:
        arrays = {
            "logits": _read(next(printed), "logits", case.d_logits_BC.shape),
            "d_x": _read(next(printed), "d_x", case.x_BD.shape),
        }
        for index, (weight, bias) in enumerate(case.layers):
            arrays[f"d_weight{index}"] = _read(next(printed), "d_weight", weight.shape)
            if bias is None:
                assert next(printed) == "no-bias"
            else:
                arrays[f"d_bias{index}"] = _read(next(printed), "d_bias", bias.shape)
        yield Answer(arrays)
    assert next(printed, None) is None


def disagreements(oracle: Path, cases: Sequence[Case]) -> tuple[list[str], int]:
    """The places where ``chainrule`` differs from the oracle, and how many numbers were compared."""
    different, compared = [], 0
    for number, (case, expected) in enumerate(zip(cases, answers(oracle, cases), strict=True)):
        found = by_chainrule(case)
        if found.arrays.keys() != expected.arrays.keys():
            different.append(f"network {number}: {sorted(found.arrays)} instead of {sorted(expected.arrays)}")
            continue
        for name, exact in expected.arrays.items():
            ours = found.arrays[name]
            assert ours.shape == exact.shape, name
            compared += exact.size
            for index in np.ndindex(exact.shape):
                if ours[index] != exact[index]:
                    different.append(f"network {number}: {name}{list(index)}: {ours[index]} instead of {exact[index]}")
    return different, compared


def _lines(case: Case) -> Iterator[str]:
    units = [len(weight) for weight, _ in case.layers]
    yield f"network {WRITTEN[case.activation]} {' '.join(map(str, (*case.x_BD.shape, *units)))}\n"
    yield _written("x", case.x_BD)
    for weight, bias in case.layers:
        yield _written("weight", weight)
        yield "no-bias\n" if bias is None else _written("bias", bias)
    yield _written("d_logits", case.d_logits_BC)


def _written(keyword: str, array: Any) -> str:
    return f"{keyword} {' '.join(map(str, array.flat))}\n"


def _read(line: str, keyword: str, shape: tuple[int, ...]) -> Any:
    found, *numbers = line.split()
    assert found == keyword, line[:100]
    array = np.empty(len(numbers), dtype=object)
    array[:] = [Fraction(number) for number in numbers]
    return array.reshape(shape)
