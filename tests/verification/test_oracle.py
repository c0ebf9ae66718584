"""``chainrule`` on fractions against the proved definitions, executed: equal in every number, and unequal if wrong."""

import random
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lean_mnist.chainrule.activations import ACTIVATIONS, Activation, identity_backward
from lean_mnist.chainrule.arrays import primitives
from lean_mnist.chainrule.dense import dense_backward
from lean_mnist.chainrule.mlp import mlp_backward
from tests.support.exact_oracle import Case, answers, build, disagreements, missing, random_case
from tests.support.planting import Plant

pytestmark = pytest.mark.skipif(bool(missing()), reason=f"needs {missing()}")


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("oracle"))


def cases(seed: int, count: int, depth: int | None = None) -> list[Case]:
    rng = random.Random(seed)
    return [random_case(rng, depth) for _ in range(count)]


def test_the_chain_rule_is_the_proved_one(oracle: Path) -> None:
    different, compared = disagreements(oracle, cases(1, 300))
    assert different == []
    assert compared > 10_000


@pytest.mark.parametrize("depth", range(1, 7))
def test_every_depth(oracle: Path, depth: int) -> None:
    assert disagreements(oracle, cases(2, 20, depth))[0] == []


def test_one_network_by_hand(oracle: Path) -> None:
    """z = (5/6, −5/6), h = (5/6, 0), s = 5/42; then ds = 1, dz = (1/7, 0)."""
    half, third = Fraction(1, 2), Fraction(1, 3)
    x, weight, bias = ([[half, -third]], [[1, 2], [3, 4]], [1, -1])
    above = np.array([[Fraction(1, 7), -2]], dtype=object)
    case = Case("relu", np.array(x, dtype=object),
                [(np.array(weight, dtype=object), np.array(bias, dtype=object)), (above, None)],
                np.array([[1]], dtype=object))  # fmt: skip
    (answer,) = answers(oracle, [case])
    assert {name: array.tolist() for name, array in answer.arrays.items()} == {
        "logits": [[Fraction(5, 42)]],
        "d_x": [[Fraction(1, 7), Fraction(2, 7)]],
        "d_weight0": [[Fraction(1, 14), Fraction(-1, 21)], [0, 0]],
        "d_bias0": [Fraction(1, 7), 0],
        "d_weight1": [[Fraction(5, 6), 0]],
    }


def wrong_dense_backward(mistake: str) -> Any:
    def backward(tape: Any, d_z: Any, needs: Any = (True, True, True)) -> Any:
        right: Any = dense_backward(tape, d_z, needs)
        if mistake == "bias of one example":
            return right if right.bias_H is None else right._replace(bias_H=d_z[0] * 1)
        if mistake == "weight one part in a million":
            return right._replace(weight_HD=right.weight_HD * Fraction(1_000_001, 1_000_000))
        return right._replace(x_BD=right.x_BD * -1)

    return backward


@pytest.mark.parametrize("mistake", ["bias of one example", "weight one part in a million", "input of the wrong sign"])
def test_a_wrong_dense_backward_is_found(oracle: Path, plant: Plant, mistake: str) -> None:
    plant("chainrule.dense.dense_backward", wrong_dense_backward(mistake))
    assert disagreements(oracle, cases(3, 30))[0] != []


def test_a_forward_without_biases_is_found(oracle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def affine(self: Any, x: Any, weight: Any, bias: Any) -> Any:
        return x @ weight.T

    monkeypatch.setattr(type(primitives(np.array([Fraction(1)], dtype=object))), "affine", affine)
    assert disagreements(oracle, cases(4, 30))[0] != []


def _one_at_zero(h: Any, d_h: Any) -> Any:
    """ReLU's backward with the slope 1 at 0."""
    return np.where(h < 0, 0 * d_h, np.where(h == 0, d_h, d_h))


@pytest.mark.parametrize(
    ("name", "backward"),
    [("relu", identity_backward), ("relu", _one_at_zero), ("leaky-relu", identity_backward)],
    ids=["mask dropped", "slope 1 at 0", "leaky slope dropped"],
)
def test_a_wrong_activation_is_found(oracle: Path, plant: Plant, name: str, backward: Any) -> None:
    plant(f"chainrule.activations.ACTIVATIONS.{name}", ACTIVATIONS[name]._replace(backward=backward))
    assert disagreements(oracle, cases(5, 60))[0] != []


def test_a_gradient_doubled_in_deep_networks_is_found(oracle: Path, plant: Plant) -> None:
    def backward(tape: Any, layers: Any, activation: Activation, d_logits: Any, needs: Any = None) -> Any:
        right: Any = mlp_backward(tape, layers, activation, d_logits, needs)
        if len(layers) < 5:
            return right
        (weight, bias), *above = right.layers
        return right._replace(layers=((weight * 2, bias), *above))

    plant("chainrule.mlp.mlp_backward", backward)
    assert disagreements(oracle, cases(6, 10, 4))[0] == []
    assert disagreements(oracle, cases(6, 10, 5))[0] != []


NETWORK = "network relu 1 1 1\nx 1\nweight 1\nno-bias\nd_logits 1\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("network tanh 1 1 1\n", "line 1: expected relu, leaky-relu:SLOPE or identity, found tanh"),
        ("network relu 1 0 1\n", "line 1: expected a size of at least 1, found 0"),
        ("network relu 1 1\n", "line 1: expected network, an activation, and sizes"),
        (NETWORK.replace("x 1", "x 1/0"), "line 2: expected a fraction, found 1/0"),
        (NETWORK.replace("x 1", "x 0.5"), "line 2: expected a fraction, found 0.5"),
        (NETWORK.replace("x 1", "x inf"), "line 2: expected a fraction, found inf"),
        (NETWORK.replace("x 1", "x 1 2"), "line 2: expected x and 1 numbers"),
        (NETWORK.replace("no-bias\n", ""), "line 4: expected bias and 1 numbers"),
        (NETWORK.replace("d_logits 1\n", ""), "line 5: the network ends too soon"),
    ],
)
def test_bad_input_is_refused_in_one_line(oracle: Path, text: str, message: str) -> None:
    ran = subprocess.run([str(oracle)], input=text, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout, ran.stderr) == (2, "", f"oracle: {message}\n")
