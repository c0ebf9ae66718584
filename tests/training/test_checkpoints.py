"""Checkpoints: what they hold, that they are whole or not there, and that nothing damaged or foreign is believed."""

import errno
import io
import os
import pickle
import random
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import lean_mnist
from lean_mnist import MLP, load_checkpoint
from lean_mnist.data.datasets import load_digits
from lean_mnist.errors import CheckpointError
from lean_mnist.files import write_atomically
from lean_mnist.training.checkpoints import content_hash, read_checkpoint, write_checkpoint
from lean_mnist.training.config import Config
from tests.support.training_cases import NAME, STEPS_PER_EPOCH, FinishedRun, digits_run, identical, load, surroundings

PLAIN = (bool, int, float, str, type(None), torch.Tensor)


def _plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, (str, int)) and _plain(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(_plain, value))
    return type(value) in PLAIN


# -- contents ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["best", "last"])
def test_a_checkpoint_holds_what_the_contract_says(which: str, short_run: FinishedRun) -> None:
    content = load(short_run.best if which == "best" else short_run.last)
    assert {"format_version", "model", "config", "metrics", "crosscheck"} <= set(content)
    assert content["format_version"] == 1
    assert {name: tuple(tensor.shape) for name, tensor in content["model"].items()} == {
        "layers.0.weight": (128, 64), "layers.0.bias": (128,), "layers.1.weight": (10, 128), "layers.1.bias": (10,),
    }  # fmt: skip
    assert content["config"]["dataset"] == content["data"]["name"] == "digits"
    assert content["config"]["run_name"] == NAME
    assert content["crosscheck"]["verdict"] == "passed"
    assert content["architecture"] == {"sizes": [64, 128, 10], "activation": "relu", "bias": True}
    assert content["data"]["sha256"] == load_digits().fingerprint()
    assert content["versions"] == {"lean_mnist": lean_mnist.__version__, "torch": str(torch.__version__)}
    assert ("training" in content) == (which == "last")
    assert not any(tensor.requires_grad for tensor in content["model"].values())
    assert _plain(content)


def test_the_best_checkpoint_says_how_good_it_is(short_run: FinishedRun) -> None:
    metrics, summary = load(short_run.best)["metrics"], short_run.summary_json
    assert metrics["step"] == metrics["epoch"] * STEPS_PER_EPOCH == summary["best_step"]
    assert metrics["best"]["accuracy"] == summary["validation_accuracy"]
    assert metrics["best"]["correct"] / metrics["best"]["examples"] == metrics["best"]["accuracy"]
    assert metrics["test"]["errors"] == summary["test_errors"]
    assert metrics["test_looks"] == summary["test_looks"]


def test_it_opens_without_this_package(short_run: FinishedRun) -> None:
    code = (
        "import sys, torch; sys.modules['lean_mnist'] = None;"
        "print(*[','.join(torch.load(path).keys()) for path in sys.argv[1:]])"
    )
    command = [sys.executable, "-I", "-c", code, str(short_run.best), str(short_run.last)]
    done = subprocess.run(command, env=surroundings(), cwd="/", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    for keys in done.stdout.split():
        assert {"format_version", "model", "config", "metrics", "crosscheck"} <= set(keys.split(","))


def test_the_loaded_network_is_the_trained_one(short_run: FinishedRun) -> None:
    checkpoint = load_checkpoint(short_run.best)
    assert isinstance(checkpoint.model, MLP)
    digits = load_digits()
    x = checkpoint.normalization.apply(digits.test.images)
    weights = load(short_run.best)["model"]
    hidden = torch.relu(x @ weights["layers.0.weight"].T + weights["layers.0.bias"])
    expected = hidden @ weights["layers.1.weight"].T + weights["layers.1.bias"]
    logits = checkpoint.model(x)
    torch.testing.assert_close(logits.detach(), expected)
    assert int((logits.argmax(1) != digits.test.labels).sum()) == short_run.summary.test.errors
    assert logits.argmax(1).equal(short_run.summary.test.predictions)
    # The configuration is the one that was asked for, with what was chosen for the user filled in.
    chosen = {"validation_size": 119, "device": short_run.summary.config.device}
    asked = {**Config(dataset="digits", epochs=2, run_name=NAME, quiet=True).to_dict(), **chosen}
    assert checkpoint.config.to_dict() == asked
    assert checkpoint.data["name"] == "digits"
    assert checkpoint.crosscheck["verdict"] == "passed"
    assert checkpoint.metrics["best"]["accuracy"] == short_run.summary_json["validation_accuracy"]


@pytest.mark.parametrize(
    "options",
    [
        {"hidden": (7, 5), "activation": "gelu", "bias": False},
        {"precision": "float64", "activation": "tanh", "normalization": "per-image"},
    ],
    ids=str,
)
def test_networks_of_every_kind_come_back(options: dict[str, Any], tmp_path: Path) -> None:
    finished = digits_run(tmp_path, epochs=1, **options)
    checkpoint = load_checkpoint(str(finished.best))
    x = checkpoint.normalization.apply(load_digits().test.images, next(checkpoint.model.parameters()).dtype)
    assert checkpoint.model(x).argmax(1).equal(finished.summary.test.predictions)
    assert identical(dict(checkpoint.model.state_dict()), dict(load(finished.best)["model"]))


# -- written whole or not at all --------------------------------------------------------------------------------------


def _fail(*arguments: Any, **options: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def _interrupt(*arguments: Any, **options: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("function", ["fsync", "replace", "chmod", "fdopen"])
@pytest.mark.parametrize("fault", [_fail, _interrupt], ids=["full disk", "interrupt"])
def test_whatever_fails_the_old_file_is_intact_and_nothing_is_left(
    function: str, fault: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.pt"
    write_checkpoint(path, {"model": torch.zeros(3)})
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, function, fault)
        with pytest.raises((OSError, KeyboardInterrupt)) as caught:
            write_checkpoint(path, {"model": torch.ones(3)})
    if isinstance(caught.value, OSError):
        assert (caught.value.filename, caught.value.strerror) == (str(path), "No space left on device")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_written_file_replaces_the_old_one_with_the_usual_rights(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o600)
    mask = os.umask(0o027)
    try:
        write_atomically(path, b"new")
    finally:
        os.umask(mask)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o640
    assert os.umask(mask) == mask


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match=r"expected a file, found a pipe, socket or device: .*pipe"):
        write_atomically(tmp_path / "pipe", b"content")
    assert (tmp_path / "pipe").is_fifo()
    assert os.listdir(tmp_path) == ["pipe"]


def test_content_reaches_the_disk_before_the_name_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)

        def noted(*arguments: Any, name: str = name, real: Any = real) -> Any:
            done.append(name)
            return real(*arguments)

        monkeypatch.setattr(os, name, noted)
    write_atomically(tmp_path / "file", b"content")
    assert done == ["fsync", "replace", "fsync"]


# -- damage -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """A run whose checkpoints are a few kilobytes, so that much of them is structure."""
    return digits_run(tmp_path_factory.mktemp("small"), epochs=1, hidden=(2,), optimizer="adam")


def _read(path: Path) -> tuple[Any, str]:
    """The content and no error, or no content and the error's line."""
    try:
        return read_checkpoint(path), ""
    except CheckpointError as error:
        return None, str(error)


@pytest.mark.parametrize("which", ["best", "last"])
def test_a_flipped_byte_is_refused_or_harmless(which: str, small: FinishedRun, tmp_path: Path) -> None:
    path = small.best if which == "best" else small.last
    content, expected = path.read_bytes(), read_checkpoint(path)
    seed = 20240
    print(f"seed {seed}")
    draw = random.Random(seed)
    refused = 0
    damaged = tmp_path / "damaged.pt"
    for _ in range(200):
        position, flip = draw.randrange(len(content)), draw.choice([1 << draw.randrange(8), draw.randrange(1, 256)])
        changed = bytearray(content)
        changed[position] ^= flip
        damaged.write_bytes(changed)
        found, error = _read(damaged)
        if error:
            assert error.startswith(f"{damaged}: ")
            assert "\n" not in error
            refused += 1
        else:
            assert identical(found, expected), f"byte {position} ^ {flip}"
    assert refused > 20


def test_every_flipped_bit_of_a_weight_is_refused(small: FinishedRun, tmp_path: Path) -> None:
    content = small.best.read_bytes()
    weight = load(small.best)["model"]["layers.0.weight"].numpy().tobytes()
    start = content.index(weight)
    damaged = tmp_path / "damaged.pt"
    for offset in range(0, len(weight), 17):
        changed = bytearray(content)
        changed[start + offset] ^= 1 << offset % 8
        damaged.write_bytes(changed)
        with pytest.raises(CheckpointError, match=r"damaged\.pt: "):
            read_checkpoint(damaged)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.99, 1.0])
def test_a_truncated_checkpoint_is_refused(share: float, small: FinishedRun, tmp_path: Path) -> None:
    content = small.last.read_bytes()
    damaged = tmp_path / "damaged.pt"
    damaged.write_bytes(content[: min(len(content) - 1, int(share * len(content)))])
    with pytest.raises(CheckpointError, match="found a file that is none, or a damaged one"):
        read_checkpoint(damaged)


def _changed(small: FinishedRun, path: Path, hashed: bool, **changes: Any) -> Path:
    """The small checkpoint with other content; with ``hashed`` with the hash that belongs to it."""
    content = {**load(small.best), **changes}
    stored = content.pop("content_sha256")
    torch.save({**content, "content_sha256": content_hash(content) if hashed else stored}, path)
    return path


CHANGES: list[tuple[str, Callable[[dict[str, Any]], None]]] = [
    ("a count", lambda c: c["metrics"].update(step=12)),
    ("a number's type", lambda c: c["metrics"].update(step=11.0)),
    ("a number to true", lambda c: c["metrics"].update(epoch=True)),
    ("the verdict", lambda c: c["crosscheck"].update(verdict="unchecked")),
    ("the last bit of a loss", lambda c: c["metrics"]["best"].update(loss=c["metrics"]["best"]["loss"] * (1 + 2**-52))),
    ("a field more", lambda c: c["metrics"].update(more=None)),
    ("a field less", lambda c: c["metrics"].pop("test_looks")),
    ("a tensor's sign of zero", lambda c: c["model"]["layers.0.bias"].zero_().neg_()),
    ("a tensor's shape", lambda c: c["model"].update({"layers.0.weight": c["model"]["layers.0.weight"].view(64, 2)})),
    ("two fields swapped", lambda c: c.update(config=c["metrics"], metrics=c["config"])),
]  # fmt: skip


@pytest.mark.parametrize("change", [change for _, change in CHANGES], ids=[name for name, _ in CHANGES])
def test_content_that_is_not_what_was_hashed_is_refused(
    change: Callable[[dict[str, Any]], None], small: FinishedRun, tmp_path: Path
) -> None:
    content = load(small.best)
    change(content)
    torch.save(content, tmp_path / "changed.pt")
    with pytest.raises(CheckpointError, match=r"changed\.pt: damaged: its content does not have the hash"):
        read_checkpoint(tmp_path / "changed.pt")


def test_a_checkpoint_without_a_hash_is_refused(small: FinishedRun, tmp_path: Path) -> None:
    content = load(small.best)
    del content["content_sha256"]
    torch.save(content, tmp_path / "changed.pt")
    with pytest.raises(CheckpointError, match="hash"):
        read_checkpoint(tmp_path / "changed.pt")


# -- what is not ours -------------------------------------------------------------------------------------------------


class _Code:
    """Unpickled, it would make a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.marker,)


@pytest.mark.parametrize("form", ["torch", "torch before 1.6", "pickle 0", "pickle 2", "pickle 5", "inside ours"])
def test_a_pickle_with_code_is_refused_and_never_run(form: str, small: FinishedRun, tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / "code.pt"
    if form.startswith("torch"):
        torch.save({"model": _Code(marker)}, path, _use_new_zipfile_serialization=form == "torch")
    elif form == "inside ours":
        torch.save({**load(small.best), "more": _Code(marker)}, path)
    else:
        path.write_bytes(pickle.dumps(_Code(marker), protocol=int(form[-1])))
    with pytest.raises(CheckpointError, match=r"code\.pt: ") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)
    if form in ("torch", "inside ours"):
        assert str(caught.value).endswith("it was refused and nothing in it was run")
    assert not marker.exists()
    # The file would have done it: it is the reader that refuses.
    if form.startswith("pickle"):
        pickle.loads(path.read_bytes())
        assert marker.exists()


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a/data.pkl", b"nothing")
    return buffer.getvalue()


def _saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


FOREIGN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "found a file that is none, or a damaged one"),
    "text": (b"just a text\n" * 50, "found a file that is none, or a damaged one"),
    "JSON": (b'{"format_version": 1}', "found a file that is none, or a damaged one"),
    "zip": (_zip(), "found a file that is none, or a damaged one"),
    "zeros": (bytes(5000), "found a file that is none, or a damaged one"),
    "state_dict": (_saved(MLP((4, 3)).state_dict()), "found a file of another program"),
    "tensor": (_saved(torch.zeros(3)), "found a file of another program"),
    "list": (_saved([1, 2]), "found a file of another program"),
    "other program's": (_saved({"epoch": 3, "model": {}, "optimizer": {}}), "found a file of another program"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_file_that_is_not_ours_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    content, message = FOREIGN[kind]
    path = tmp_path / "file.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert str(caught.value).startswith(f"{path}: expected a checkpoint")
    assert str(caught.value).endswith(message)


def test_a_module_saved_whole_is_refused(tmp_path: Path) -> None:
    torch.save(MLP((4, 3)), tmp_path / "module.pt")
    with pytest.raises(CheckpointError, match="refused and nothing in it was run"):
        load_checkpoint(tmp_path / "module.pt")


def test_a_folder_and_a_file_that_is_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"expected a run, as in checkpoints, its folder, or a checkpoint.s file, found none$"
    ):
        load_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="expected a checkpoint, found: No such file or directory"):
        load_checkpoint(tmp_path / "nowhere.pt")


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_format_version_is_refused(version: Any, small: FinishedRun, tmp_path: Path) -> None:
    path = _changed(small, tmp_path / "x.pt", True, format_version=version)
    with pytest.raises(CheckpointError, match=rf"x\.pt: expected format version 1, found {version}"):
        load_checkpoint(path)


def _cycle() -> dict[str, Any]:
    values: dict[str, Any] = {}
    values["self"] = values
    return values


@pytest.mark.parametrize(
    "value", [_cycle(), torch.zeros(2, device="meta"), torch.zeros(2, 2).to_sparse()], ids=["cycle", "meta", "sparse"]
)
def test_content_that_cannot_be_hashed_is_refused(value: Any, small: FinishedRun, tmp_path: Path) -> None:
    path = _changed(small, tmp_path / "x.pt", False, metrics=value)
    with pytest.raises(CheckpointError, match=r"x\.pt: "):
        load_checkpoint(path)


def _weights(small: FinishedRun, **changes: Any) -> dict[str, Any]:
    weights = {**load(small.best)["model"], **{name.replace("__", "."): value for name, value in changes.items()}}
    return {name: value for name, value in weights.items() if value is not None}


MISFITS: dict[str, tuple[Callable[[FinishedRun], dict[str, Any]], str]] = {
    # What is changed, and what the message says; each with the hash that belongs to it.
    "another width": (
        lambda s: {"architecture": {"sizes": [64, 3, 10], "activation": "relu", "bias": True}},
        r"layers\.0\.weight: expected \(3, 64\) for .*, found \(2, 64\)",
    ),
    "no biases": (
        lambda s: {"architecture": {"sizes": [64, 2, 10], "activation": "relu", "bias": False}},
        r"layers\.0\.bias: expected no such tensor for .*, found \(2,\)",
    ),
    "unknown activation": (
        lambda s: {"architecture": {"sizes": [64, 2, 10], "activation": "rellu", "bias": True}},
        r"architecture\.activation: .*did you mean 'relu'",
    ),
    "unknown option": (
        lambda s: {"architecture": {"sizes": [64, 2, 10], "dropout": 0.5}}, "unknown field dropout"
    ),
    "no sizes": (lambda s: {"architecture": {"sizes": []}}, r"architecture\.sizes: expected array of length >= 2"),
    "sizes of text": (lambda s: {"architecture": {"sizes": "abc"}}, r"architecture\.sizes: expected array, got str"),
    "architecture of text": (lambda s: {"architecture": "MLP"}, "architecture"),
    "missing tensor": (lambda s: {"model": _weights(s, layers__1__bias=None)}, r"layers\.1\.bias: .*found none"),
    "missing first": (lambda s: {"model": _weights(s, layers__0__weight=None)}, r"layers\.0\.weight: .*found none"),
    "no tensors": (lambda s: {"model": {}}, r"layers\.0\.weight: .*found none"),
    "number for a tensor": (lambda s: {"model": _weights(s, layers__1__bias=3.0)}, r"layers\.1\.bias: .*found none"),
    "tensor more": (lambda s: {"model": _weights(s, more=torch.zeros(3))}, r"more: expected no such tensor"),
    "NaN": (lambda s: {"model": _weights(s, layers__1__bias=torch.full((10,), torch.nan))},
            r"layers\.1\.bias: expected finite weights"),
    "infinity": (lambda s: {"model": _weights(s, layers__0__weight=torch.full((2, 64), torch.inf))},
                 r"layers\.0\.weight: expected finite weights"),
    "integers": (lambda s: {"model": {name: tensor.int() for name, tensor in load(s.best)["model"].items()}},
                 r"layers\.0\.weight: "),
    "model of text": (lambda s: {"model": "weights"}, "model"),
    "normalization": (lambda s: {"normalization": {"kind": "odd", "mean": 0.0, "scale": 1.0}}, r"x\.pt: normalization"),
    "config": (lambda s: {"config": {"epochz": 3}}, r"x\.pt: no configuration field is called 'epochz'"),
}  # fmt: skip


@pytest.mark.parametrize("kind", MISFITS)
def test_a_checkpoint_that_contradicts_itself_is_refused_in_one_line(
    kind: str, small: FinishedRun, tmp_path: Path
) -> None:
    changes, message = MISFITS[kind]
    path = _changed(small, tmp_path / "x.pt", True, **changes(small))
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_the_package_offers_what_it_says() -> None:
    assert lean_mnist.load_checkpoint is load_checkpoint
    assert lean_mnist.MLP is MLP
    with pytest.raises(AttributeError, match="has no attribute 'load_checkpoints'"):
        _ = lean_mnist.load_checkpoints
