"""Small honest files of every kind, made by the package itself where it writes such files."""

from __future__ import annotations

import dataclasses
import functools
import gzip
import io
import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lean_mnist.data.datasets import Dataset, Split, load_digits
from lean_mnist.nn import MLP, FlatParameters
from lean_mnist.training.config import Config

FEATURES, CLASSES = 64, 10


@functools.cache
def digits() -> Dataset:
    return load_digits()


def short_run(folder: Path, **options: Any) -> dict[str, bytes]:
    """A short training run in ``folder``; its files by their names."""
    from lean_mnist.training.run import run

    settings: dict[str, Any] = {
        "dataset": "digits",
        "hidden": (4,),
        "epochs": 1,
        "limit_train": 64,
        "validation_size": 16,
    }
    places = {"runs_dir": str(folder / "runs"), "checkpoints_dir": str(folder / "checkpoints"), "run_name": "a-run"}
    run(Config(**{**settings, **places, "quiet": True, "check": "off", **options}))
    files = [*(folder / "runs" / "a-run").iterdir(), *(folder / "checkpoints" / "a-run").iterdir()]
    return {path.name: path.read_bytes() for path in files if path.is_file()}


def checkpoints(folder: Path) -> list[bytes]:
    made = (
        short_run(folder / "1"),
        short_run(folder / "2", quantize=3, normalization="unit"),
        short_run(folder / "3", optimizer="adam"),
    )
    return [files[name] for files in made for name in ("best.pt", "last.pt")]


def last_checkpoints(folder: Path) -> list[bytes]:
    return checkpoints(folder)[1::2]


def configs(folder: Path) -> list[bytes]:
    some = Config(), Config(hidden=(5, 6), quantize=2, normalization="unit", lr=0.1, run_name="x", clip_norm=1.0)
    return [json.dumps(config.to_dict(), indent=2).encode() for config in some]


def pac_bayes_configs(folder: Path) -> list[bytes]:
    from lean_mnist.training.config.pac_bayes import PacBayesConfig

    return [json.dumps(dataclasses.asdict(PacBayesConfig()), indent=2).encode()]


def metrics_files(folder: Path) -> list[bytes]:
    records = [{"step": step, "name": "loss/train", "value": 0.5} for step in range(4)]
    return ["".join(json.dumps(record) + "\n" for record in records).encode()]


def command_lines(folder: Path) -> list[bytes]:
    lines = (
        ("train", "--hidden", "5", "6", "--lr", "0.1", "--run-name", "a", "--activation", "gelu", "--no-bias"),
        ("train", "--preset", "mini", "--seed=3", "--batch-size", "12", "--clip-norm", "1.0", "--quantize", "3"),
        ("evaluate", "best.pt", "--split", "train", "--json"),
        ("certify", "best.pt", "--delta", "0.035", "1e-9", "--looks", "2", "--scaling", "0", "255"),
        ("check", "torch:square", "--inputs", "x=randn(4,8,req) randint(0,8,(4,)) 1e-5", "--sizes", "1", "2"),
        ("learners", "--train", "a", "--test", "b", "--delta", "0.1"),
        ("programs", "--inputs", "3", "--ones", "1/2"),
    )
    return ["\0".join(line).encode() for line in lines]


def function_bundles(folder: Path) -> list[bytes]:
    from lean_mnist.crosscheck import check_function

    path, x = folder / "made.pt", torch.arange(1.0, 4.0, dtype=torch.float64, requires_grad=True)
    check_function(torch.square, torch.square, [x], seed=1, names=["x"]).save_bundle(path)
    return [path.read_bytes()]


def step_bundles(folder: Path) -> list[bytes]:
    from lean_mnist.audit.bundle import save_step_bundle
    from lean_mnist.nn.step import Step, put_gradients

    model, path = MLP((4, 3, 2), seed=1), folder / "made.pt"
    batches = [(torch.rand(5, 4), torch.tensor([0, 1, 0, 1, 1]))]
    result = put_gradients(model, batches)
    step = Step(1, model, batches, result.loss, FlatParameters(model).gradient, 0.1, result.tapes)
    save_step_bundle(path, step, "a message", 7, {"a": 1})
    return [path.read_bytes()]


def tensors() -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in MLP((FEATURES, 3, CLASSES), seed=1).state_dict().items()}


def state_dicts(folder: Path) -> list[bytes]:
    made = []
    for content in (tensors(), {"state_dict": tensors(), "epoch": 3}):
        buffer = io.BytesIO()
        torch.save(content, buffer)
        made.append(buffer.getvalue())
    return made


def safetensors_files(folder: Path) -> list[bytes]:
    import safetensors.torch

    return [safetensors.torch.save(tensors())]


def onnx_files(folder: Path) -> list[bytes]:
    from onnx import TensorProto, helper, numpy_helper

    arrays = {name.replace(".", ""): array.numpy() for name, array in tensors().items()}
    constants = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    constants.append(numpy_helper.from_array(np.array(16, np.float32), "c"))
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"], axis=1),
        helper.make_node("Div", ["f", "c"], ["s"]),
        helper.make_node("Gemm", ["s", "layers0weight", "layers0bias"], ["z"], transB=1),
        helper.make_node("Relu", ["z"], ["h"]),
        helper.make_node("Gemm", ["h", "layers1weight", "layers1bias"], ["y"], transB=1),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy")
    graph = helper.make_graph(nodes, "g", [x], [y], initializer=constants)
    return [helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()]


def mlcert_pickles(folder: Path) -> list[bytes]:
    random = np.random.default_rng(1)
    halves = tuple(random.normal(size=shape).astype(np.float16) for shape in ((FEATURES, 3), (3, CLASSES)))
    words = tuple(np.array([["01", "10"], ["11", "00"]]) for _ in range(2))
    bounds = tuple(np.float32(value) for value in (-1, 1, -2, 2))
    return [pickle.dumps(halves, protocol=3), pickle.dumps((*words, *bounds), protocol=3)]


def quantized_files(folder: Path) -> list[bytes]:
    from lean_mnist.generalization.spaces.encoding import write_network

    made = []
    for bits in (1, 3):
        write_network(folder / "network.json", quantized(bits))
        made.append((folder / "network.json").read_bytes())
    return made


def quantized(bits: int, features: int = FEATURES) -> Any:
    from lean_mnist.generalization.quantize import quantize_layers

    random = np.random.default_rng(1)
    layers = [(random.normal(size=(3, features)), np.zeros(3)), (random.normal(size=(CLASSES, 3)), np.zeros(CLASSES))]
    return quantize_layers(layers, bits, 16)


def perceptron_files(folder: Path) -> list[bytes]:
    lines = [f"{5 - number},0.{number}5,-1.5,{'True' if number % 2 else 'False'}" for number in range(6)]
    return [("\n".join(lines) + "\n").encode()]


def idx_bytes(array: np.ndarray[Any, Any], code: int = 8) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape) + array.tobytes()


def images(folder: Path) -> list[bytes]:
    return [idx_bytes(np.arange(10 * 28 * 28).astype(np.uint8).reshape(10, 28, 28))]


def labels(folder: Path) -> list[bytes]:
    return [idx_bytes(np.arange(10, dtype=np.uint8)), idx_bytes(np.zeros((5, 8), ">i4"), 12)]


def idx_files(folder: Path) -> list[bytes]:
    return [*images(folder), *labels(folder)]


def packed(files: Callable[[Path], list[bytes]]) -> Callable[[Path], list[bytes]]:
    return lambda folder: [gzip.compress(content, 1, mtime=0) for content in files(folder)]


def small_data() -> Dataset:
    random = np.random.default_rng(1)
    split = Split(
        torch.from_numpy(random.integers(0, 17, (30, 8, 8)).astype(np.uint8)),
        torch.from_numpy(random.integers(0, 10, 30)),
    )
    return Dataset("made-up", split, split, classes=CLASSES, maximum=16, source="a benchmark")


def holdout_certificate(folder: Path) -> list[bytes]:
    from lean_mnist.data.normalization import Normalization
    from lean_mnist.generalization.certificates.document import ClaimOptions
    from lean_mnist.generalization.certificates.networks import certify
    from lean_mnist.generalization.confidence import SplitHistory

    model, unit = MLP((FEATURES, 3, CLASSES), seed=1), Normalization("unit", 0.0, 16.0)
    options = ClaimOptions(("0.035", "1e-9"), ("clopper-pearson", "kl"), precision="float32")
    return [certify(model, unit, small_data(), SplitHistory(3), options).write(folder).read_bytes()]


def code_certificate(folder: Path) -> list[bytes]:
    from lean_mnist.generalization.certificates.document import ClaimOptions
    from lean_mnist.generalization.certificates.networks import certify_network

    options = ClaimOptions(("0.1",), ("kl",))
    made = certify_network(quantized(2), small_data(), options, code="enumerative", candidates=2)
    return [made.write(folder).read_bytes()]


def pac_bayes_certificate(folder: Path) -> list[bytes]:
    from lean_mnist.generalization.pacbayes.certificate import certify_posterior
    from lean_mnist.generalization.pacbayes.posterior import GaussianMLP

    network = GaussianMLP((FEATURES, 3, CLASSES), 0.1, seed=1)
    options: dict[str, Any] = {"prior_scale": "1/10", "candidates": 1, "draws": 40, "deltas": ("0.1",)}
    made = certify_posterior(network, small_data(), prior_examples=10, split_seed=0, **options)
    return [made.write(folder).read_bytes()]


def beside_certificate(which: str) -> Callable[[Path], list[bytes]]:
    """The file ``which`` beside a certificate, as what is mutated."""

    def prepare(folder: Path) -> list[bytes]:
        holdout_certificate(folder)
        return [(folder / f"certificate.{which}").read_bytes()]

    return prepare
