"""Networks from elsewhere: data decide what files leave open, and the command certifies them."""

import json
import pickle
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from lean_mnist.certify import main as certify_command
from lean_mnist.data.datasets import load_dataset
from lean_mnist.errors import CertificateError, CheckpointError, ConfigError, DataError, LeanMnistError
from lean_mnist.generalization import checker
from lean_mnist.generalization.imports.certified import NetworkFile, import_network, kind_of, verify_on_data
from lean_mnist.generalization.imports.network import ImportedNetwork, network_from_tensors, scaling_of
from lean_mnist.generalization.spaces.integers import IntegerNetwork
from lean_mnist.generalization.spaces.network import QuantizedNetwork
from tests.support.import_cases import (
    B16,
    GEMM,
    IMAGES,
    UNIT,
    arrays_of,
    assert_same,
    halves,
    labels_of,
    parts,
    read_as,
    torch_network,
    written,
)
from tests.support.shared_data import folder_with


def square_network() -> tuple[torch.nn.Sequential, ImportedNetwork]:
    model = torch_network(12, 6, 6, 3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 1)
        model[-1].bias -= model(torch.from_numpy(IMAGES).flatten(1).float() / 255).mean(0)  # all classes occur
    return model, network_from_tensors(arrays_of(model), "x", 12, 3)


def with_second_layer_turned(network: ImportedNetwork) -> ImportedNetwork:
    first, (weight, bias), last = network.layers
    return ImportedNetwork((first, (weight.T, bias), last), network.known)


ALL = Fraction(1)


def test_data_decide_what_shapes_leave_open() -> None:
    model, network = square_network()
    assert network.known == (True, False, True)
    labels = labels_of(model)
    wrong = with_second_layer_turned(network)
    for candidate in (network, wrong):
        verified = verify_on_data(candidate, IMAGES, labels, ALL)
        assert isinstance(verified.network, ImportedNetwork)
        assert_same(verified.network, model)
        assert (verified.scaling, verified.readings) == (UNIT, 8)
    sideways = np.ascontiguousarray(IMAGES.transpose(0, 2, 1))
    turned = verify_on_data(wrong, sideways, labels, ALL)
    assert "images transposed" in turned.words
    assert isinstance(turned.network, ImportedNetwork)
    assert np.array_equal(read_as(turned.network, sideways), labels)  # of the images as they are given
    right = IntegerNetwork(halves(network.layers)).correct(IMAGES, labels)
    assert verify_on_data(halves(wrong.layers), IMAGES, labels, Fraction(right, 200)).words.startswith(
        "layers 1 transposed"
    )


def test_no_reading_or_more_than_one_is_an_error() -> None:
    model, network = square_network()
    labels, half = labels_of(model), Fraction(1, 2)
    with pytest.raises(
        DataError, match=r"no reading of 8 has accuracy 0.5 ± 0.001 on 200 examples; the best, .* has 1.0000"
    ):
        verify_on_data(network, IMAGES, labels, half)
    constant = network_from_tensors({"0.weight": np.zeros((3, 12)), "0.bias": np.eye(3)[0]}, "x", 12, 3)
    with pytest.raises(DataError, match=r"4 of 4 readings have accuracy 1 ± 0.001, such as .*; expected one"):
        verify_on_data(constant, IMAGES, np.zeros_like(labels), ALL)
    many = network_from_tensors({f"{k}.weight": np.eye(12) for k in range(10)}, "x", 12, 12)
    with pytest.raises(DataError, match="10 square layers, expected at most 8"):
        verify_on_data(many, IMAGES, labels, ALL)
    with pytest.raises(DataError, match=r"no reading of 8 has accuracy 1\.5"):
        verify_on_data(network, IMAGES, labels, Fraction(3, 2))
    with pytest.raises(CheckpointError, match=r"normalization.scale: 0.0, expected a finite number above 0"):
        scaling_of(0.0, 0.0)


def run_command(monkeypatch: pytest.MonkeyPatch, path: Path, *options: str) -> Path:
    """Certify ``path`` by the digits; the certificate's path, after a check of it."""
    monkeypatch.setattr("sys.argv", ["certify", str(path), "--dataset", "digits", *options])
    certify_command()
    found = path.parent / "certificate.json"
    checker.check(str(found), [])
    return found


def digits_network() -> tuple[torch.nn.Sequential, int]:
    """A network that compares an image with the mean of each class, and its errors on the test split."""
    data = load_dataset("digits", "")
    x, labels = data.train.images.flatten(1).double() / 16, data.train.labels
    means = torch.stack([x[labels == digit].mean(0) for digit in range(10)])
    first, second = torch.nn.Linear(64, 10), torch.nn.Linear(10, 10)
    model = torch.nn.Sequential(first, torch.nn.ReLU(), second).double()
    with torch.no_grad():
        first.weight.copy_(means.roll(1, 0))
        first.bias.copy_(20 - means.square().sum(1).roll(1, 0) / 2)
        second.weight.copy_(torch.eye(10).roll(1, 1))
        second.bias.zero_()
        predicted = model(data.test.images.flatten(1).double() / 16).argmax(1)
    return model, int((predicted != data.test.labels).sum())


@pytest.mark.parametrize("kind", [NetworkFile.ONNX, NetworkFile.SAFETENSORS, NetworkFile.STATE_DICT])
def test_the_command_certifies_a_network_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: NetworkFile
) -> None:
    model, errors = digits_network()
    scaling = ["--scaling", "0", "16"]
    if kind is NetworkFile.ONNX:
        path, scaling = written(tmp_path / "net.onnx", GEMM, parts(model, 16)), []
    elif kind is NetworkFile.SAFETENSORS:
        path = tmp_path / "net.safetensors"
        safetensors.numpy.save_file(arrays_of(model), path)
    else:
        path = tmp_path / "net.pt"
        torch.save(model.state_dict(), path)
    assert kind_of(str(path)) is kind
    document = json.loads(run_command(monkeypatch, path, *scaling, "--looks", "3").read_text())
    assert document["counts"]["errors"] == errors < 60
    assert document["history"]["looks"] == 3
    assert document["history"]["selected_by"] == checker.SELECTED_ELSEWHERE
    assert f"{errors} of 360 test examples" in capsys.readouterr().out
    # A square matrix is read either way, if the file leaves that open, and images upright or transposed.
    accuracy = ["--accuracy", f"{1 - errors / 360:.3f}"]
    document = json.loads(run_command(monkeypatch, path, *scaling, *accuracy).read_text())
    assert document["counts"]["errors"] == errors
    assert document["history"]["looks"] == (2 if kind is NetworkFile.ONNX else 4)


def test_the_command_rounds_a_network_and_counts_on_what_taught_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = digits_network()
    path = tmp_path / "net.pt"
    torch.save(model.state_dict(), path)
    found = run_command(monkeypatch, path, "--scaling", "0", "16", "--quantize", "4", "--code", "enumerative")
    document = json.loads(found.read_text())
    assert document["schema"] == checker.CODE
    assert document["data"]["split"] == "train"
    errors = document["counts"]["errors"]
    again = json.loads(run_command(monkeypatch, tmp_path / "network.json").read_text())
    assert again["counts"]["errors"] == errors < 300
    with pytest.raises(CertificateError, match=r"certificate\.json certifies another network, or this one by other me"):
        run_command(monkeypatch, tmp_path / "network.json", "--split", "test")
    assert json.loads(found.read_text()) == again
    (other := tmp_path / "other").mkdir()
    run_command(monkeypatch, tmp_path / "network.json", "--split", "test", "--out", str(other))
    tested = json.loads((other / found.name).read_text())
    assert tested["data"]["split"] == "test"
    network = import_network(str(tmp_path / "network.json"), NetworkFile.QUANTIZED, 64, 10)
    assert isinstance(network, QuantizedNetwork)
    data = load_dataset("digits", "").test
    right = IntegerNetwork(network, 16).correct(data.images.numpy(), data.labels.numpy())
    assert 360 - right <= tested["counts"]["errors"] <= 360 - right + 3  # ties count as errors


def test_the_command_certifies_a_network_of_mlcert(
    mlcert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = str(folder_with("MNIST/raw"))
    monkeypatch.setenv("LEAN_MNIST_DATA", root)
    options = ["--dataset", "mnist", "--out", str(tmp_path), "--accuracy", "0.6965"]
    monkeypatch.setattr("sys.argv", ["certify", str(mlcert / B16), *options])
    certify_command()
    document = json.loads((tmp_path / "certificate.json").read_text())
    assert document["counts"]["errors"] == 3035
    assert document["history"]["looks"] == 4
    checker.check(str(tmp_path / "certificate.json"), [root])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--scaling: expected MEAN SCALE for features .*, which .* does not state"),
        (["--scaling", "0", "0"], "normalization.scale: 0.0, expected a finite number above 0"),
        (["--scaling", "0", "16", "--split", "train"], "--split: expected test, or --quantize BITS"),
        (["--scaling", "0", "16", "--quantize", "17"], "bits: 17, expected a whole number from 1 to 16"),
        (["--scaling", "0", "16", "--looks", "0"], "--looks: expected at least 1, found 0"),
        (["--scaling", "0", "16", "--accuracy", "0.01"], "network: no reading of .* has accuracy 0.01"),
        (["--scaling", "0", "16", "--accuracy", "many"], "--accuracy: expected a number"),
        (["--scaling", "0", "16", "--out", "nowhere"], "--out: expected a folder to write into"),
    ],
)
def test_wrong_questions_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    path = tmp_path / "net.pt"
    torch.save(digits_network()[0].state_dict(), path)
    with pytest.raises(LeanMnistError, match=message) as caught:
        run_command(monkeypatch, path, *options)
    assert "\n" not in str(caught.value)


def test_what_is_quantised_or_stated_already_is_not_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "net.onnx", GEMM, parts(digits_network()[0], 16))
    with pytest.raises(CertificateError, match=r"--scaling: expected 0 16, as .*net.onnx states"):
        run_command(monkeypatch, path, "--scaling", "0", "255")
    matrix = np.zeros((64, 64), np.float16), np.zeros((64, 10), np.float16)
    path = tmp_path / "net.pkl"
    path.write_bytes(pickle.dumps(matrix, 3))
    with pytest.raises(CertificateError, match="--quantize: expected a network of floating weights, found a pickle"):
        run_command(monkeypatch, path, "--quantize", "2")
    torch.save({"format_version": 1}, tmp_path / "best.pt")
    with pytest.raises(CertificateError, match="--quantize: of a checkpoint expected with --out FOLDER"):
        run_command(monkeypatch, tmp_path / "best.pt", "--quantize", "2")
    with pytest.raises(ConfigError, match="expected for a network without a run, not for a checkpoint"):
        run_command(monkeypatch, tmp_path / "best.pt", "--split", "train")
