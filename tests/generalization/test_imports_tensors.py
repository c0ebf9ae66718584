"""Networks of named tensors: state_dict and safetensors, whole, out of order, damaged and hostile."""

import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch

from lean_mnist.errors import DataError
from lean_mnist.generalization.imports.network import network_from_tensors, scaling_of
from lean_mnist.generalization.imports.tensors import read_safetensors, read_state_dict
from lean_mnist.generalization.spaces.integers import IntegerNetwork
from lean_mnist.nn import MLP
from lean_mnist.training.checkpoints import write_checkpoint
from tests.support.import_cases import (
    IMAGES,
    Array,
    Runs,
    arrays_of,
    assert_same,
    halves,
    imported,
    labels_of,
    stored,
    torch_network,
)


def damaged_safetensors(path: Path, tensors: dict[str, Array], **changes: Any) -> Path:
    """A safetensors file by hand, with ``changes`` to its header: entries, text, size, tail."""
    header: dict[str, Any] = {}
    data = b""
    for name, array in tensors.items():
        place = [len(data), len(data) + array.nbytes]
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": place}
        data += array.tobytes()
    for name, entry in changes.get("entries", {}).items():
        header[name] = {**header[name], **entry} if isinstance(entry, dict) else entry
    text = changes.get("text", json.dumps(header).encode())
    path.write_bytes(struct.pack("<Q", changes.get("size", len(text))) + text + data + changes.get("tail", b""))
    return path


@pytest.mark.parametrize("bias", [True, False])
def test_state_dicts_and_safetensors(tmp_path: Path, bias: bool) -> None:
    model = torch_network(12, 7, 5, 3, bias=bias)
    torch.save(model.state_dict(), tmp_path / "a.pt")
    torch.save({"epoch": 3, "state_dict": model.state_dict()}, tmp_path / "b.pt")
    safetensors.numpy.save_file(arrays_of(model), tmp_path / "c.safetensors")
    for name in ("a.pt", "b.pt", "c.safetensors"):
        network = imported(tmp_path / name)
        assert_same(network, model)
        assert network.known == (True, True, True)
        assert network.model().state_dict().keys() == MLP((12, 7, 5, 3), bias=bias).state_dict().keys()
    assert (IntegerNetwork(halves(network.layers)).labels(IMAGES) == labels_of(model)).mean() > 0.98


def test_our_own_checkpoint(tmp_path: Path) -> None:
    model = MLP((12, 4, 3))
    normalization = {"kind": "standard", "mean": 3.0, "scale": 2.0}
    content = {"model": model.state_dict(), "architecture": model.architecture, "normalization": normalization}
    content |= {"metrics": {}, "crosscheck": {}, "data": {}, "config": {}}
    write_checkpoint(tmp_path / "best.pt", content)
    network = imported(tmp_path / "best.pt")
    assert network.scaling == scaling_of(3.0, 2.0)
    assert np.array_equal(network.layers[0][0], model.weights_and_biases()[0][0].detach().double().numpy())
    write_checkpoint(tmp_path / "tanh.pt", {**content, "architecture": {"activation": "tanh"}})
    with pytest.raises(DataError, match="a network with 'tanh', expected relu"):
        imported(tmp_path / "tanh.pt")
    write_checkpoint(tmp_path / "own.pt", {**content, "normalization": {**normalization, "kind": "per-image"}})
    with pytest.raises(DataError, match=r"own.pt: per-image normalisation, expected standard, centered or unit"):
        imported(tmp_path / "own.pt")


def test_stored_the_other_way_round(tmp_path: Path) -> None:
    model = torch_network(12, 7, 3)
    turned = {name: np.ascontiguousarray(a.T) for name, a in arrays_of(model).items()}
    network = network_from_tensors(turned, "turned", 12, 3)
    assert_same(network, model)


def test_order_is_found_by_shapes(tmp_path: Path) -> None:
    model = torch_network(12, 7, 5, 3)
    named = arrays_of(model)
    renamed = {
        {"0": "input", "2": "hidden", "4": "classifier"}[name.split(".")[0]] + "." + name.split(".")[1]: array
        for name, array in named.items()
    }
    assert_same(stored(tmp_path / "a.safetensors", dict(sorted(renamed.items()))), model)
    many = torch_network(*[12] + [4] * 11 + [3])  # layers.10 comes after layers.2
    assert_same(stored(tmp_path / "b.safetensors", dict(sorted(arrays_of(many).items()))), many)
    square = {f"{name}.weight": np.eye(4, dtype=np.float32) for name in ("b", "a")}
    last = {"c.weight": np.ones((3, 4), np.float32)}
    with pytest.raises(DataError, match="fit together in more than one order"):
        network_from_tensors({**last, **square}, "x", 4, 3)
    with pytest.raises(DataError, match="fit together in more than one order"):  # no order of its own: a, b or b, a?
        network_from_tensors({**square, **last}, "x", 4, 3, ordered=False)
    assert network_from_tensors({**square, **last}, "x", 4, 3).model().sizes == (4, 4, 4, 3)
    numbered = {f"fc{k}.weight": np.full((4, 4), k, np.float32) for k in (10, 9, 2)}
    network = network_from_tensors({**numbered, "a.weight": last["c.weight"]}, "x", 4, 3, ordered=False)
    assert [weight[0, 0] for weight, _ in network.layers] == [2, 9, 10, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"0.weight": np.full((7, 12), np.nan, np.float32)}, "0.weight holds infinities or NaN"),
        ({"2.bias": np.array([0, np.inf, 0], np.float32)}, "2.weight's bias holds infinities"),
        ({"2.bias": np.zeros(4, np.float32)}, "2.weight's bias has 4 numbers, expected 3"),
        ({"2.weight": np.zeros((3, 8), np.float32)}, r"2.weight has shape \(3, 8\), expected 7 inputs"),
        ({"1.running_mean": np.zeros(7, np.float32)}, "1.running_mean of shape .* belongs to no dense layer"),
        ({"1.weight": np.zeros(7, np.float32)}, r"1.weight of shape \(7,\) belongs to no dense layer"),
        ({"9.bias": np.zeros(7, np.float32)}, "9.bias has no 9.weight beside it"),
        ({"0.weight": np.zeros((7, 0), np.float32)}, "0.weight has shape"),
    ],
)
def test_tensors_that_are_no_network(change: dict[str, Array], message: str) -> None:
    with pytest.raises(DataError, match=message):
        network_from_tensors({**arrays_of(torch_network(12, 7, 3)), **change}, "x", 12, 3)
    with pytest.raises(DataError, match="gives 3 classes, expected 10"):
        network_from_tensors(arrays_of(torch_network(12, 7, 3)), "x", 12, 10)
    with pytest.raises(DataError, match="holds no layer"):
        network_from_tensors({}, "x", 12, 3)


def test_hostile_and_foreign_torch_files(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    torch.save({"model": Runs(os.system, f"touch {marker}")}, tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(b"PK\x03\x04 damaged")
    for name in ("a.pt", "b.pt"):
        with pytest.raises(DataError, match=r"objects other than tensors .*nothing in it was run|a damaged one"):
            read_state_dict(tmp_path / name)
    assert not marker.exists()
    for content, message in (
        ({"x": 3}, "'x' is a int, expected a dense tensor"),
        ([1], "holds no named tensors"),
        ({"a.weight": torch.zeros(2, 2, dtype=torch.int64)}, "a.weight is torch.int64, expected floating"),
    ):
        torch.save(content, tmp_path / "c.pt")
        with pytest.raises(DataError, match=message):
            read_state_dict(tmp_path / "c.pt")
    with pytest.raises(DataError, match="expected a checkpoint or a state_dict, found: No such file"):
        read_state_dict(tmp_path / "none.pt")


def test_bfloat16_safetensors(tmp_path: Path) -> None:
    exact = torch.tensor([1.5, -2.0, 0.0078125])
    from safetensors.torch import save_file

    save_file({"x": exact.bfloat16()}, tmp_path / "a.safetensors")
    assert read_safetensors(tmp_path / "a.safetensors").arrays["x"].tolist() == exact.tolist()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 1 << 40}, "damaged"),
        ({"text": b"{nonsense"}, "damaged"),
        ({"text": b"[1]"}, "damaged"),
        ({"text": b'{"a":1,"a":2}'}, "damaged"),
        ({"text": b"[" * 90_000}, "damaged"),
        ({"entries": {"a": 7}}, "damaged"),
        ({"entries": {"a": {"dtype": "I32"}}}, "a is I32, expected floating weights"),
        ({"entries": {"a": {"dtype": "F31"}}}, "a is F31, expected floating weights"),
        ({"entries": {"a": {"shape": [2, -2]}}}, "damaged"),
        ({"entries": {"a": {"shape": [2, 3]}}}, "damaged"),
        ({"entries": {"a": {"shape": [1 << 40, 1 << 40]}}}, "damaged"),
        ({"entries": {"a": {"data_offsets": [8, 24]}}}, "damaged"),
        ({"entries": {"a": {"data_offsets": [-1, 15]}}}, "damaged"),
        ({"entries": {"b": {"data_offsets": [0, 8]}}}, "damaged"),
        ({"tail": b"xy"}, "damaged"),
        ({"text": b'{"\x1b[2J\\n": 1}'}, r"a.safetensors: damaged \(header: "),
        ({"text": b'{"a' + b"a" * 300 + b'": {"dtype": "F32", "shape": [6], "data_offsets": [0, 24]}}'}, "damaged"),
        ({"text": b"9" * 90_000}, "damaged"),
        ({"text": b'{"__metadata__": [1]}'}, "damaged"),
    ],
)
def test_damaged_safetensors(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    tensors = {"a": np.ones((2, 2), np.float32), "b": np.ones(2, np.float32)}
    with pytest.raises(DataError, match=message):
        read_safetensors(damaged_safetensors(tmp_path / "a.safetensors", tensors, **changes))
    assert read_safetensors(damaged_safetensors(tmp_path / "a.safetensors", tensors)).arrays["b"].tolist() == [1, 1]
    (tmp_path / "short.safetensors").write_bytes(b"1234")
    with pytest.raises(DataError, match="damaged"):
        read_safetensors(tmp_path / "short.safetensors")
