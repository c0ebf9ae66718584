"""``--quantize``: quantised networks through the trainer, its checks, checkpoints, certificate and summary."""

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lean_mnist.audit.bundle import reproduce_step
from lean_mnist.crosscheck.bundles.bundle import load_bundle
from lean_mnist.data.datasets import load_digits
from lean_mnist.errors import ArgumentError, CheckpointError, ConfigError, GradientMismatch, HealthError
from lean_mnist.generalization import checker
from lean_mnist.generalization.imports.certified import exact_layers
from lean_mnist.generalization.quantize import quantized_network, training_claims
from lean_mnist.generalization.solve import certified_risk
from lean_mnist.generalization.spaces.encoding import code_length, read_network
from lean_mnist.generalization.spaces.integers import IntegerNetwork
from lean_mnist.mutants import planting
from lean_mnist.nn.quantized import QuantizedMLP
from lean_mnist.training.arguments import read_arguments
from lean_mnist.training.checkpoints import load_checkpoint, read_checkpoint, write_checkpoint
from lean_mnist.training.config import Config
from lean_mnist.training.run import run
from tests.support.certificate_cases import certificate_beside
from tests.support.training_cases import (
    FinishedRun,
    digits_config,
    digits_run,
    identical,
    interrupted_at,
    load,
    without,
)

OPTIONS: dict[str, Any] = {"quantize": 2, "normalization": "unit", "hidden": (16,), "batch_size": 32, "check": "full"}


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    return digits_run(tmp_path_factory.mktemp("quantized"), epochs=2, **OPTIONS)


def test_every_check_of_the_run_passed(quantized: FinishedRun) -> None:
    checks = quantized.summary_json["checks"]
    assert (checks["verdict"], checks["screens"], checks["comparisons"], checks["gradchecks"]) == ("passed", 84, 1, 1)
    assert quantized.summary.test.accuracy > 0.5


@pytest.mark.parametrize(("bits", "least"), [(1, 0.75), (2, 0.85)])
def test_few_bits_learn(bits: int, least: float, here: Path) -> None:
    summary = run(
        digits_config(**{**OPTIONS, "quantize": bits, "bias": False, "epochs": 10, "check": "off", "lr": 0.05})
    )
    network = read_network(here / "runs" / "a-run" / "network.json")
    assert network.space.size_in_bits == 64 + bits * (64 * 16 + 160)
    assert summary.test.accuracy > least


def test_a_run_that_diverges_is_stopped(here: Path) -> None:
    with pytest.raises((HealthError, ArgumentError)):
        run(digits_config(**{**OPTIONS, "lr": 1e30}))


def test_the_checkpoint_knows_its_bits_and_gives_the_network_back(quantized: FinishedRun) -> None:
    assert load(quantized.best)["architecture"] == {
        "sizes": [64, 16, 10], "activation": "relu", "bias": True, "bits": 2, "rule": "normal",
    }  # fmt: skip
    model = load_checkpoint(quantized.best).model
    assert isinstance(model, QuantizedMLP)
    for weight, _ in model.weights_and_biases():
        assert len(weight.unique()) <= 4


def test_a_checkpoint_with_impossible_bits_is_refused(quantized: FinishedRun, tmp_path: Path) -> None:
    content = read_checkpoint(quantized.best)
    content["architecture"]["bits"] = 17
    write_checkpoint(tmp_path / "best.pt", content)
    with pytest.raises(CheckpointError, match=r"architecture\.bits: 17, expected a whole number"):
        load_checkpoint(tmp_path / "best.pt")


def test_its_certificate_is_of_the_exact_weights(quantized: FinishedRun) -> None:
    """It counts as whole numbers do, but that a tie is nobody's."""
    checked = checker.check(str(quantized.folder / "certificate.json"), [])
    assert checked.errors == quantized.summary_json["certificate"]["errors"]
    network, digits = read_network(quantized.folder / "network.json"), load_digits()
    logits, labels = IntegerNetwork(network, 16).logits(digits.test.images.numpy()), digits.test.labels.numpy()
    own = logits[np.arange(360), labels]
    assert checked.errors == 360 - int(((logits < own[:, None]).sum(1) == 9).sum())
    weights = np.frombuffer((quantized.folder / "certificate.weights").read_bytes(), "<f8")
    assert np.array_equal(weights[:1024], exact_layers(network).layers[0][0].ravel())
    found = certificate_beside(quantized.best, load_checkpoint(quantized.best))
    assert found is not None
    assert not found.why_not


def test_the_network_that_is_written_gives_the_counts_that_are_claimed(quantized: FinishedRun) -> None:
    network, digits, said = read_network(quantized.folder / "network.json"), load_digits(), quantized.summary_json
    integers = IntegerNetwork(network, 16)
    right = integers.correct(digits.train.images.numpy(), digits.train.labels.numpy())
    assert said["quantized"]["errors"] == 1437 - right
    assert said["quantized"]["bits"] == network.space.size_in_bits == 4 * 16 + 2 * (1024 + 160) + 16 * 26
    assert said["quantized"]["code_length"] == code_length(network)
    test_right = integers.correct(digits.test.images.numpy(), digits.test.labels.numpy())
    assert abs(360 - test_right - said["test_errors"]) <= 1, "float32 and whole numbers may differ at a tie"
    assert said["files"]["network"] == "runs/a-run/network.json"
    assert f"2 bits a weight, {network.space.size_in_bits:,} in all" in str(quantized.summary)


def test_claims_are_the_bounds_at_their_share(quantized: FinishedRun) -> None:
    found = quantized.summary_json["quantized"]
    shares = [(c["share"], c["bound"], c["delta"]) for c in found["claims"]]
    assert shares == [
        (share, bound, delta)
        for share, bound in (("union", "hoeffding"), ("union", "kl"), ("code length", "kl"))
        for delta in ("7/200", "1/1000000000")
    ]
    for claim in found["claims"]:
        bits = found["bits"] if claim["share"] == "union" else found["code_length"]
        assert claim["bits"] == bits
        risk = certified_risk(claim["bound"], found["errors"], 1437, claim["delta"], bits)
        assert Fraction(claim["risk"]) == risk


def test_no_enumerative_code_above_8_bits() -> None:
    digits = load_digits()
    network = quantized_network(QuantizedMLP((64, 4, 10), bits=9, bias=False), 16)
    found = training_claims(network, digits.train, 16)
    assert found.code_length is None
    assert {claim.share for claim in found.claims} == {"union"}
    assert "nothing (vacuous) by union and kl" in str(found)


def test_an_interrupted_run_goes_on_bit_for_bit(quantized: FinishedRun, here: Path) -> None:
    interrupted_at(17, lambda: run(digits_config(epochs=2, **OPTIONS)))
    config, path = read_arguments(["--resume"])
    again = FinishedRun(here, run(config, path))
    assert identical(load(again.best)["model"], load(quantized.best)["model"])
    timed = ("seconds", "examples_per_second", "share_of_time", "best_sha256")
    assert without(again.summary_json, *timed) == without(quantized.summary_json, *timed)


def clipped(tape: Any, d_w: torch.Tensor) -> torch.Tensor:
    """Another estimator: no gradient in the first unit, as if all its weights lay outside the grid."""
    return torch.cat([torch.zeros_like(d_w[:1]), d_w[1:]])


FAULTS: dict[str, Callable[[Any, torch.Tensor], torch.Tensor]] = {
    "scaled": lambda tape, d_w: d_w * 1.001,
    "rounding's own derivative": lambda tape, d_w: torch.zeros_like(d_w),
    "clipped": clipped,
    "transposed": lambda tape, d_w: d_w.t().reshape(d_w.shape),
}


@pytest.mark.parametrize("check", ["audit", "screen"])
@pytest.mark.parametrize("fault", list(FAULTS))
def test_a_planted_bug_in_the_straight_through_gradient_is_caught(fault: str, check: str, here: Path) -> None:
    with (
        planting("nn.quantized.quantize_backward", FAULTS[fault]),
        pytest.raises(GradientMismatch, match=r"gradient check failed at step \d+: .*layers\.[01]\.weight"),
    ):
        run(digits_config(**{**OPTIONS, "check": check, "epochs": 1}))
    (bundle,) = (here / "runs" / "a-run" / "failures").iterdir()
    mended = reproduce_step(bundle, load_bundle(bundle))
    assert mended.ok, mended
    assert mended.differing


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantize": 0}, "--quantize: expected from 1 to 16 bits a weight, found 0"),
        ({"quantize": 17}, "--quantize: expected from 1 to 16 bits a weight, found 17"),
        ({"quantize": 2}, "--quantize: expected --normalization unit, found standard"),
        (
            {"quantize": 2, "normalization": "unit", "activation": "tanh"},
            "--quantize: expected --activation relu, found tanh",
        ),
    ],
)
def test_what_cannot_be_quantised_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config(**options)
    assert str(caught.value) == message


def test_the_configuration_of_the_run_repeats_it(quantized: FinishedRun) -> None:
    written = json.loads((quantized.folder / "config.json").read_text(encoding="utf-8"))
    assert written["quantize"] == 2
