"""Exports compute what the checkpoint does, on every kind of network; what does not is refused and not written."""

import json
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lean_mnist.data.datasets import load_dataset
from lean_mnist.data.normalization import Normalization
from lean_mnist.errors import ConfigError, DataError, LeanMnistError
from lean_mnist.exchange import export
from lean_mnist.exchange.export import SUFFIXES, compare, export_checkpoint, metadata
from lean_mnist.exchange.pixels import PixelNetwork, onnx_model
from lean_mnist.export import ExportArguments
from lean_mnist.files import plain
from lean_mnist.generalization import checker
from lean_mnist.generalization.certificates.document import ClaimOptions
from lean_mnist.generalization.imports.certified import certify_reading, import_network, kind_of, read_for
from lean_mnist.training.checkpoints import load_checkpoint
from lean_mnist.training.config import Config
from lean_mnist.training.run import run
from tests.exchange.conftest import MakeCheckpoint
from tests.support.training_cases import FinishedRun

NORMALIZATIONS = {
    "unit": Normalization("unit", 0.0, 255.0),
    "standard": Normalization("standard", 33.318421, 78.567490),
    "centered and clipped": Normalization("centered", 33.318421, 255.0, 0.3),
    "per-image": Normalization("per-image", 0.0, 1.0),
    "per-image, clipped": Normalization("per-image", 0.0, 1.0, 1.5),
}
IMAGES = torch.randint(0, 256, (300, 8, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))
IMAGES[7] = 200  # one of a single colour, which per-image normalisation makes zeros


@pytest.mark.parametrize("activation", checker.ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_onnx_computes_every_activation(activation: str, dtype: torch.dtype, make: MakeCheckpoint) -> None:
    checkpoint = make(NORMALIZATIONS["standard"], dtype, activation=activation)
    if dtype == torch.bfloat16:  # whose own logits are as rough; weights are what is exported
        checkpoint.model.float()
    content = onnx_model(PixelNetwork(checkpoint), metadata(checkpoint))
    if dtype == torch.float64 and activation == "gelu":
        with pytest.raises(LeanMnistError, match=r"^export: onnxruntime \S+ cannot run it \(.*Erf"):
            export._run_onnx(content, checkpoint, IMAGES)
        return
    found = compare(checkpoint, IMAGES, "images", *export._run_onnx(content, checkpoint, IMAGES))
    assert (found.images, found.differing) == (300, 0)


FORMS: dict[str, dict[str, Any]] = {"plain": {}, "no biases": {"bias": False}, "3 bits": {"bits": 3}}
CASES = [(file, form) for file in SUFFIXES for form in FORMS if file != "torch-export" or form == "plain"]


@pytest.mark.parametrize("kind", NORMALIZATIONS)
@pytest.mark.parametrize(("file", "form"), CASES)
def test_every_format_has_the_normalisation_of_the_checkpoint(
    file: str, form: str, kind: str, make: MakeCheckpoint
) -> None:
    checkpoint = make(NORMALIZATIONS[kind], **FORMS[form])
    write, read = export._FORMATS[file]
    content = write(checkpoint, PixelNetwork(checkpoint))
    for images in (IMAGES, IMAGES[:1]):
        assert compare(checkpoint, images, "images", *read(content, checkpoint, images)).differing == 0


def test_a_network_that_computes_something_else_is_refused(make: MakeCheckpoint) -> None:
    checkpoint, other = (make(NORMALIZATIONS["unit"]) for _ in range(2))
    with torch.no_grad():
        other.model.parameter_pairs()[-1][0][2, 3] *= 1.001
    logits = PixelNetwork(other)(IMAGES)
    with pytest.raises(LeanMnistError, match=r"^export: its logits are \S+ from the checkpoint's on images, "):
        compare(checkpoint, IMAGES, "images", "somebody", logits)
    for wrong in (logits * torch.nan, logits[:, :4], logits[:5]):
        with pytest.raises(LeanMnistError, match="nothing was written"):
            compare(checkpoint, IMAGES, "images", "somebody", wrong)


def test_nothing_is_written_where_they_disagree(in_digits: FinishedRun, tmp_path: Path) -> None:
    def wrong(content: bytes, checkpoint: Any, images: torch.Tensor) -> tuple[str, torch.Tensor]:
        return "somebody", checkpoint.logits(images).roll(1, 0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(export._FORMATS, "onnx", (export._onnx, wrong))
        with pytest.raises(LeanMnistError, match="the 360 test images of digits, where rounding explains"):
            export_checkpoint(ExportArguments("a-run", out=str(tmp_path / "x.onnx")))
    assert not (tmp_path / "x.onnx").exists()


@pytest.mark.parametrize("kind", SUFFIXES)
def test_a_run_is_exported_by_its_name(kind: Any, in_digits: FinishedRun, tmp_path: Path) -> None:
    out = tmp_path / f"network{SUFFIXES[kind]}"
    exported = export_checkpoint(ExportArguments("a-run", out=str(out)))
    assert (exported.path, exported.format, exported.bytes) == (str(out), kind, out.stat().st_size)
    assert exported.comparison is not None
    assert (exported.comparison.images, exported.comparison.differing) == (360, 0)
    assert exported.comparison.source == "the 360 test images of digits"
    assert plain(exported)["comparison"]["differing"] == 0
    assert str(exported).startswith(f"written   {out} ({kind}, ")
    assert "360 of 360 predictions are the checkpoint's" in str(exported)


def test_safetensors_of_others_read_ours(in_digits: FinishedRun, tmp_path: Path) -> None:
    export_checkpoint(ExportArguments("a-run", out=str(tmp_path / "a.safetensors")))
    model = load_checkpoint("a-run").model
    tensors = load_file(tmp_path / "a.safetensors")
    assert list(tensors) == list(model.state_dict())
    assert all(torch.equal(tensors[name], tensor) for name, tensor in model.state_dict().items())


def test_torch_export_takes_any_number_of_images(in_digits: FinishedRun, tmp_path: Path) -> None:
    export_checkpoint(ExportArguments("a-run", out=str(tmp_path / "a.pt2")))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.export.load(tmp_path / "a.pt2").module()
    images = load_dataset("digits", ".").test.images
    for count in (1, 2, 360):
        assert module(images[:count]).shape == (count, 10)


@pytest.mark.parametrize("kind", ["onnx", "safetensors"])
def test_the_importer_counts_as_the_checkpoint_is_counted(kind: str, in_digits: FinishedRun, tmp_path: Path) -> None:
    path = str(tmp_path / f"a{SUFFIXES[kind]}")
    export_checkpoint(ExportArguments("a-run", out=path))
    dataset = load_dataset("digits", ".")
    reading = read_for(dataset, path, kind_of(path))
    checkpoint = load_checkpoint("a-run")
    assert reading.scaling.mean == pytest.approx(checkpoint.normalization.mean, rel=1e-7)
    certificate = certify_reading(reading, dataset, ClaimOptions())
    assert not isinstance(in_digits.summary.certificate, str)
    assert certificate.errors == in_digits.summary.certificate.errors


@pytest.mark.parametrize("kind", ["onnx", "safetensors"])
def test_the_importer_refuses_what_it_would_misread(kind: str, make: MakeCheckpoint, tmp_path: Path) -> None:
    path = tmp_path / f"a{SUFFIXES[kind]}"
    write, _ = export._FORMATS[kind]
    for checkpoint, expected in (
        (make(NORMALIZATIONS["unit"], activation="tanh"), r"with 'tanh', expected relu|\(Tanh\): unsupported"),
        (make(NORMALIZATIONS["per-image"]), r"per-image normalisation, expected|\(ReduceMean\): unsupported"),
        (make(NORMALIZATIONS["centered and clipped"]), r"clipped normalisation, expected|\(Clip\): unsupported"),
    ):
        path.write_bytes(write(checkpoint, PixelNetwork(checkpoint)))
        with pytest.raises(DataError, match=expected):
            import_network(str(path), kind_of(str(path)), 48, 5)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({}, "--format: expected one of safetensors, onnx, torch-export, or --out FILE with an end of theirs"),
    ({"out": "x.foo"}, "--out: expected a file that ends in .safetensors, .onnx, .pt2, found x.foo"),
    ({"out": "x.onnx", "format": "safetensors"}, "--out: expected a file that ends in .safetensors, found x.onnx"),
    ({"out": "best.pt", "format": "onnx"}, "--out: expected a file that ends in .onnx, found best.pt"),
    ({"out": "a.json", "format": "onnx"}, "--out: expected a file that ends in .onnx, found a.json"),
    ({"out": "nowhere/x.onnx"}, "--out: expected a file in a folder that is there, found nowhere/x.onnx"),
]


@pytest.mark.parametrize(("options", "expected"), REFUSED, ids=range(len(REFUSED)))
def test_options_that_cannot_be(options: dict[str, Any], expected: str, in_digits: FinishedRun) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(expected)}$"):
        export_checkpoint(ExportArguments("a-run", **options))


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_a_missing_package_is_named(missing: str, in_digits: FinishedRun, tmp_path: Path) -> None:
    out = tmp_path / "x.onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, missing, None)
        if missing == "onnx":
            with pytest.raises(ConfigError, match=r"^--format onnx: expected the package onnx, found none here \("):
                export_checkpoint(ExportArguments("a-run", out=str(out)))
            assert not out.exists()
        else:
            exported = export_checkpoint(ExportArguments("a-run", out=str(out)))
            assert exported.comparison is None
            assert "compared  not at all: onnxruntime is not installed here" in str(exported)


def test_all_formats_agree_on_real_mnist(real_mnist_folder: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        patch.setenv("LEAN_MNIST_DATA", str(real_mnist_folder))
        run(Config(dataset="mnist", epochs=1, limit_train=6000, check="off", run_name="a-run", quiet=True))
        dataset, errors = load_dataset("mnist"), []
        for kind, suffix in SUFFIXES.items():
            exported = export_checkpoint(ExportArguments("a-run", out=f"network{suffix}"))
            assert exported.comparison is not None
            assert (exported.comparison.images, exported.comparison.differing) == (10_000, 0)
            if kind != "torch-export":
                path = exported.path
                errors.append(certify_reading(read_for(dataset, path, kind_of(path)), dataset, ClaimOptions()).errors)
        certificate = json.loads((tmp_path / "runs" / "a-run" / "certificate.json").read_text(encoding="utf-8"))
        assert errors == [certificate["counts"]["errors"]] * 2


def test_the_command(in_digits: FinishedRun, tmp_path: Path) -> None:
    out = tmp_path / "a.safetensors"
    command = [sys.executable, "-m", "lean_mnist.export", "a-run", "-o", str(out), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=in_digits.root)
    assert json.loads(done.stdout)["path"] == str(out)
    assert out.exists()
