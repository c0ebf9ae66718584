"""``python -m lean_mnist.certify``: certificates of real runs, the command's options, and its one-line errors."""

import dataclasses
import json
import struct
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from lean_mnist import certify as command
from lean_mnist.certify import CertifyArguments
from lean_mnist.command_line import run_command
from lean_mnist.data.batches import Batches
from lean_mnist.data.datasets import Split, load_dataset
from lean_mnist.data.normalization import Normalization
from lean_mnist.generalization import checker
from lean_mnist.generalization.bounds import upper_risk
from lean_mnist.generalization.certificates.networks import certify, precision_for
from lean_mnist.generalization.certificates.runs import certificate_places
from lean_mnist.generalization.confidence import SplitHistory
from lean_mnist.nn import MLP
from lean_mnist.training.checkpoints import write_checkpoint
from lean_mnist.training.config import Config
from lean_mnist.training.run import run
from tests.support.certificate_cases import small_certificate
from tests.support.shared_data import folder_with


class Result(NamedTuple):
    status: Any
    out: str
    err: str


Call = Callable[..., Result]


def trained(root: Path, **options: Any) -> Path:
    """Two epochs on digits in ``root``; the best checkpoint."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        run(Config(dataset="digits", epochs=2, run_name="a-run", quiet=True, check="off", **options))
    return root / "checkpoints" / "a-run" / "best.pt"


@pytest.fixture(scope="module")
def best(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run that looked at the test split once. What is written beside it is each test's own."""
    return trained(tmp_path_factory.mktemp("once"))


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run that looked after both epochs as well."""
    return trained(tmp_path_factory.mktemp("tracked"), track_test=True)


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    """``called(*arguments)``: the command in this process, in an empty folder."""
    monkeypatch.delenv("LEAN_MNIST_DATA", raising=False)
    monkeypatch.chdir(tmp_path)

    def use(*arguments: Any) -> Result:
        monkeypatch.setattr(sys, "argv", ["certify", *map(str, arguments)])
        capsys.readouterr()
        status: Any = 0
        try:
            run_command(command.main)
        except SystemExit as stop:
            status = stop.code
        return Result(status, *capsys.readouterr())

    return use


def test_a_run_is_certified_and_checked(called: Call, best: Path) -> None:
    """From anywhere: the run's folder is found beside that of its checkpoints."""
    folder = best.parents[2] / "runs" / "a-run"
    made = called(best)
    assert (made.status, made.err) == (0, "")
    assert "the test split was looked at once" in made.out
    path = folder / "certificate.json"
    assert made.out.rstrip().endswith(f"-m lean_mnist.certify --check {path}")
    checked = called("--check", path)
    assert (checked.status, checked.err) == (0, "")
    assert checked.out.startswith(f"{path}: holds; ")
    by_folder = called("--check", folder)
    assert (by_folder.status, by_folder.out.partition(" again in ")[0]) == (0, checked.out.partition(" again in ")[0])
    document = json.loads(path.read_text(encoding="utf-8"))
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    errors = document["counts"]["errors"]
    assert summary["test_errors"] <= errors <= summary["test_errors"] + 2
    assert document["history"]["recorded"] == summary["test_looks"]
    assert [claim["delta"] for claim in document["claims"]] == ["7/200", "1/1000000000"]
    for claim in document["claims"]:
        assert Fraction(claim["risk"]) == upper_risk("clopper-pearson", errors, 360, claim["delta"])
        assert Fraction(claim["risk"]) == Fraction(errors, 360) + Fraction(claim["epsilon"])


def test_options_and_json(called: Call, best: Path, tmp_path: Path) -> None:
    options = ["--delta", "1/20", "--bound", "kl", "hoeffding", "--out", tmp_path, "--json"]
    made = called(best, *options)
    document = json.loads(made.out)
    assert [(claim["bound"], claim["delta"]) for claim in document["claims"]] == [("kl", "1/20"), ("hoeffding", "1/20")]
    assert (tmp_path / "certificate.json").read_text(encoding="utf-8") == made.out
    found = json.loads(called("--check", "certificate.json", "--json").out)
    assert (found["examples"], found["errors"]) == (360, document["counts"]["errors"])
    assert found["statement"] == document["statement"]


def test_precision(called: Call, best: Path, tmp_path: Path) -> None:
    units = {"float32": "1/16777216", "float64": "1/68719476736"}
    for precision, unit in units.items():
        document = json.loads(called(best, "--out", tmp_path, "--json", "--precision", precision).out)
        assert document["decoder"]["unit"] == unit
        assert called("--check", "certificate.json").status == 0


def test_every_look_pays(called: Call, tracked: Path, tmp_path: Path) -> None:
    for options, looks, share in (
        ((), 3, Fraction(1, 60)),
        (("--looks", 10), 10, Fraction(1, 200)),
        (("--looks", 4, "--adaptive"), 4, Fraction(1, 20) / ((361**4 - 1) // 360)),
    ):
        document = json.loads(called(tracked, "--delta", "0.05", "--out", tmp_path, "--json", *options).out)
        (claim,) = document["claims"]
        assert document["history"]["looks"] == looks
        assert Fraction(claim["share"]) == share
        assert Fraction(claim["risk"]) == upper_risk("clopper-pearson", document["counts"]["errors"], 360, share)
        assert called("--check", "certificate.json").status == 0
    assert "looked at 3 times, which was paid for" in called(tracked, "--out", tmp_path).out
    refused = called(tracked, "--looks", 2, "--out", tmp_path)
    assert refused == (2, "", "error: --looks: expected at least 3, as many as the run's record tells, found 2\n")


def test_the_last_weights_are_another_look(called: Call, best: Path, tmp_path: Path) -> None:
    document = json.loads(called(best.with_name("last.pt"), "--out", tmp_path, "--json").out)
    assert document["history"]["looks"] == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "checkpoint: expected one CHECKPOINT, or --check FILE; --help says more"),
        (("a.pt", "--check", "b"), "checkpoint: expected one CHECKPOINT, or --check FILE; --help says more"),
        (
            ("none.pt",),
            "none.pt: expected a checkpoint or a state_dict, found: No such file or directory",
        ),
        (("--check", "none.json"), "none.json: expected a certificate, found: No such file or directory"),
        (("--check", "."), "certificate.json: expected a certificate, found: No such file or directory"),
        (("BEST", "--delta", "0"), "delta: expected a probability strictly between 0 and 1, found 0"),
        (("BEST", "--delta", "1.5"), "delta: expected a probability strictly between 0 and 1, found 1.5"),
        (("BEST", "--delta", "x"), "delta: expected a number such as 0.035, 1e-9 or 7/200, found 'x'"),
        (("BEST", "--out", "nowhere"), "--out: expected a folder to write into, found none at nowhere"),
        (("BEST", "--looks", "0"), "--looks: expected at least 1, as many as the run's record tells, found 0"),
        (
            ("BEST", "--looks", "1" + "0" * 300),
            f"looks: expected a whole number from 1 to 1,000,000, found 1{'0' * 38}…",
        ),
        (("BEST", "--looks", "301", "--adaptive"), "looks: expected a whole number from 1 to 300, found 301"),
        (("BEST", "--candidates", "5"), "--candidates: expected for a network without a run, not for a checkpoint"),
        (("BEST", "--split", "train"), "--split: expected for a network without a run, not for a checkpoint"),
        (("BEST", "--most-work", "5"), "--most-work: expected with --check alone"),
        (("BEST", "--sign", "key", "--looks", "2"), "--looks: not with --sign, which signs what there is"),
        (("--check", "c", "--looks", "2"), "--looks: not with --check, which takes everything from the certificate"),
        (
            ("a.json", "--looks", "2"),
            "--looks: expected by the test split; by training examples --candidates pays",
        ),
        (
            ("a.onnx", "--candidates", "2"),
            "--candidates: expected by training examples; by the test split --looks pays for what was tried",
        ),
        (("BEST", "--bound", "wald"), "--bound: expected one of clopper-pearson, kl, hoeffding, found 'wald'"),
    ],
)
def test_bad_usage_is_one_line(called: Call, best: Path, options: tuple[str, ...], message: str) -> None:
    found = called(*(best if option == "BEST" else option for option in options))
    assert found == (2, "", f"error: {message}\n")


@pytest.mark.parametrize("options", [("--delta",), ("--bound",), ("--delta", "1/2"), ("--delta", "0.999999")])
def test_a_certificate_without_claims_is_never_made(
    called: Call, best: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    """A value forgotten, or a probability at which nothing is claimed: what stands there stays."""
    called(best, "--out", tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    found = called(best, "--out", tmp_path, *options)
    assert (found.status, found.out) == (2, "")
    assert found.err.startswith(f"error: {options[0]}") or found.err.startswith("error: delta: expected a probability")
    assert found.err.count("\n") == 1
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_another_networks_certificate_is_not_replaced(called: Call, best: Path, tmp_path: Path) -> None:
    """The same network's is; and one that nobody could check."""
    path = small_certificate().write(tmp_path)
    before = path.read_bytes()
    why = "certifies another network, or this one by other means; expected another folder"
    assert called(best, "--out", tmp_path) == (2, "", f"error: --out: {path} {why}\n")
    assert path.read_bytes() == before
    path.write_bytes(b"{}")
    assert called(best, "--out", tmp_path).status == 0
    before = path.read_bytes()
    assert called(best, "--out", tmp_path, "--delta", "0.01").status == 0
    assert path.read_bytes() != before


def test_a_checkpoint_far_from_its_run(called: Call, best: Path, tmp_path: Path) -> None:
    alone = tmp_path / "best.pt"
    alone.write_bytes(best.read_bytes())
    assert called(alone).err == "error: --out: expected a folder, because the run's own, runs/a-run, is not here\n"
    assert called(alone, "--out", tmp_path).status == 0


def test_a_checkpoint_in_the_root_of_the_system_has_places() -> None:
    assert certificate_places("/best.pt", "runs", "x") == [Path("/"), Path("runs/x"), Path("/runs/x")]


ELSEWHERE = [("ELSEWHERE", "victim"), ("runs", "../victim"), ("ELSEWHERE/..", "victim"), ("runs/..", "."), ("/", "tmp")]


@pytest.mark.parametrize(("runs_dir", "run_name"), ELSEWHERE)
def test_a_checkpoint_does_not_decide_where_is_written(
    called: Call, best: Path, tmp_path: Path, runs_dir: str, run_name: str
) -> None:
    victim = tmp_path / "elsewhere" / "victim"
    victim.mkdir(parents=True)
    (tmp_path / "here" / "checkpoints" / "a-run").mkdir(parents=True)
    path = tmp_path / "here" / "checkpoints" / "a-run" / "best.pt"
    content = torch.load(best)
    content["config"] |= {"runs_dir": runs_dir.replace("ELSEWHERE", str(victim.parent)), "run_name": run_name}
    write_checkpoint(path, {name: value for name, value in content.items() if name != "content_sha256"})
    before = sorted(tmp_path.rglob("*"))
    found = called(path)
    assert (found.status, found.out, found.err.count("\n")) == (2, "", 1)
    assert sorted(tmp_path.rglob("*")) == before


def test_other_data_than_the_runs(best: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digits = load_dataset("digits", "data")
    labels = digits.test.labels.clone()
    labels[0] = (labels[0] + 1) % 10
    digits = dataclasses.replace(digits, test=Split(digits.test.images, labels))
    monkeypatch.setattr("lean_mnist.training.evaluation.report.load_dataset", lambda *_, **__: digits)
    with pytest.raises(ValueError, match="the digits found here is not what it was trained on"):
        command.certify_checkpoint(CertifyArguments(out=str(tmp_path)), str(best))


def test_help_is_quick_and_checking_loads_no_torch(best: Path, tmp_path: Path) -> None:
    command.certify_checkpoint(CertifyArguments(out=str(tmp_path)), str(best))
    program = (
        "import sys; from lean_mnist.certify import main; "
        f"sys.argv = ['certify', '--check', {str(tmp_path / 'certificate.json')!r}]; main(); "
        "assert not {'torch', 'numpy'} & set(sys.modules), 'loaded'"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (0, "")


def test_real_mnist_is_certified_by_its_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small network after a few steps; 10,000 examples counted again from the files of the data folder."""
    root = str(folder_with("MNIST/raw"))
    monkeypatch.delenv("LEAN_MNIST_DATA", raising=False)
    mnist = load_dataset("mnist", root, download=False)
    normalization = Normalization.fit("standard", mnist.train.images, 255)
    model = MLP((784, 5, 10), seed=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step, (x, labels) in enumerate(Batches(mnist.train, normalization, 100, 1).epoch(0)):
        optimizer.zero_grad()
        model.loss(x, labels).backward()
        optimizer.step()
        if step == 60:
            break
    certificate = certify(model, normalization, mnist, SplitHistory(1))
    assert list(certificate.files) == ["certificate.weights"]
    path = str(certificate.write(tmp_path))
    weights = tmp_path / "certificate.weights"
    raw = weights.read_bytes()
    for bit in (0, 8 * len(raw) - 1, 12345):
        altered = bytearray(raw)
        altered[bit // 8] ^= 1 << bit % 8
        weights.write_bytes(bytes(altered))
        with pytest.raises(checker.Rejected, match=r"^weights\.sha256: "):
            checker.check(path, [root])
    weights.write_bytes(raw)
    with pytest.raises(checker.Rejected, match=r"^data\.images\.file: t10k-images-idx3-ubyte was not found in "):
        checker.check(path, [])
    beside = tmp_path / "t10k-labels-idx1-ubyte"
    first = tmp_path / "first" / "MNIST" / "raw"
    first.mkdir(parents=True)
    for bit in (0, 64, 80_000):
        altered = bytearray(struct.pack(">II", 0x801, 10_000) + bytes(mnist.test.labels.tolist()))
        altered[bit // 8] ^= 1 << bit % 8
        (first / beside.name).write_bytes(bytes(altered))
        beside.write_bytes(bytes(altered))
        # The first one that is found decides; what lies beside the certificate is the last.
        with pytest.raises(checker.Rejected, match=rf"^data\.labels\.sha256: {first / beside.name} is not the file"):
            checker.check(path, [str(tmp_path / "first"), root])
    found = checker.check(path, [root])
    assert (found.errors, found.official) == (certificate.errors, True)
    assert found.errors < 5000
    assert found.statement[0].endswith("as they are labelled (mnist).")


@pytest.mark.parametrize(
    ("sizes", "activation", "precision"),
    [
        ((784, 10), "relu", "float32"),
        ((784, 128, 10), "tanh", "float32"),
        ((784, 1024, 10), "relu", "float64"),
        ((784, 256, 256, 256, 256, 10), "relu", "float32"),
        ((64, 128, 128, 10), "leaky-relu", "float32"),
        ((64, 128, 128, 10), "tanh", "float64"),
    ],
)
def test_the_form_of_a_network_decides_in_which_precision_it_is_meant(
    sizes: tuple[int, ...], activation: str, precision: str
) -> None:
    assert precision_for(MLP(sizes, activation)) == precision
