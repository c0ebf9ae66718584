"""Certificates in Coq: their text, what their check refuses before Coq is asked, and what Coq itself refuses."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from lean_mnist import certify
from lean_mnist.coq import PROOFS, not_compiled, own_proofs
from lean_mnist.data.datasets import Dataset, load_digits
from lean_mnist.errors import CertificateError, ConfigError, LeanMnistError
from lean_mnist.generalization.coq import check
from lean_mnist.generalization.coq.check import check_coq, prove
from lean_mnist.generalization.coq.theorem import CoqCertificate, coq_certificate, packed_words, read_head
from lean_mnist.generalization.imports.mlcert import read_mlcert
from lean_mnist.generalization.quantize import quantize_layers
from lean_mnist.generalization.spaces.encoding import encode, write_network
from lean_mnist.generalization.spaces.network import QuantizedNetwork
from tests.support.import_cases import B2, B16

DELTAS = (Fraction(7, 200), Fraction(1, 10**9))
THEORIES = (
    *("generalization/Distribution", "generalization/ClopperPearson", "certificates/QuantisedNetwork"),
    *(
        "certificates/PackedExamples",
        "certificates/PackedCount",
        "certificates/BinomialTail",
        "certificates/Certificate",
    ),
)
needs_coq = pytest.mark.skipif(shutil.which("coqc") is None, reason="needs coqc, of the Debian package coq")


def network(data: Dataset, bits: int = 2, hidden: int = 10, biases: bool = False, depth: int = 2) -> QuantizedNetwork:
    """Random first layers and a last one by least squares, rounded."""
    draw = np.random.default_rng(0)
    sizes = [data.features, *[hidden] * (depth - 1)]
    weights = [draw.normal(size=(hidden, inputs)) for inputs in sizes[:-1]]
    h = data.train.images.numpy().reshape(-1, data.features) / data.maximum
    for weight in weights:
        h = np.maximum(h @ weight.T, 0)
    weights.append(np.linalg.lstsq(h, np.eye(data.classes)[data.train.labels.numpy()], rcond=None)[0].T)
    return quantize_layers([(each, np.zeros(len(each)) if biases else None) for each in weights], bits, data.maximum)


def without_a_pixel(own: QuantizedNetwork) -> QuantizedNetwork:
    """The same for images of one pixel less."""
    first, second = own.layers
    return QuantizedNetwork((dataclasses.replace(first, codes=first.codes[:, 1:]), second), own.denominator)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_digits()


@pytest.fixture(scope="module")
def certificate(digits: Dataset) -> CoqCertificate:
    return coq_certificate(network(digits), digits, DELTAS)


@pytest.fixture(scope="module")
def theories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled theories that a certificate needs; a copy, where they are not, or out of date."""
    folder = tmp_path_factory.mktemp("proofs")

    def compiles(file: str, theories: Path) -> bool:
        command = ["coqc", "-q", "-R", str(theories), "LeanMnist", file]
        return subprocess.run(command, cwd=folder, capture_output=True).returncode == 0

    (folder / "probe.v").write_text("Require LeanMnist.certificates.Certificate.\n")
    if not not_compiled(PROOFS) and compiles("probe.v", PROOFS):
        return PROOFS
    shutil.copy(PROOFS / "assumptions.txt", folder)
    for name in THEORIES:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(PROOFS / f"{name}.v", folder / f"{name}.v")
        assert compiles(f"{name}.v", folder), name
    return folder


@pytest.fixture
def compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout's folder with one theory, as if Coq had compiled it, which certificates are checked with."""
    proofs = tmp_path / "checkout" / "proofs"
    (proofs / "certificates").mkdir(parents=True)
    (proofs.parent / "setup.cfg").write_text("[metadata]\nname = lean_mnist\n")
    (proofs / "assumptions.txt").write_text("Uint63.of_to_Z\n")
    for end, content in ((".v", b"\n"), (".glob", b"DIGEST 68b329da9893e34099c7d8ad5cb9c940\n"), (".vo", b"")):
        (proofs / f"certificates/Certificate{end}").write_bytes(content)
    monkeypatch.setattr(check, "own_proofs", lambda: own_proofs(proofs))
    return proofs


@pytest.fixture
def no_coq(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


def written(folder: Path, text: str) -> str:
    path = folder / "certificate.v"
    path.write_bytes(text.encode("latin-1"))
    return str(path)


def test_words_are_the_pixels() -> None:
    draw = np.random.default_rng(1)
    images = [bytes(300), bytes(255), bytes([255] * 20), b"", bytes([1, *[0] * 600, 2])]
    images += [bytes(np.where(draw.random(784) < 0.2, draw.integers(0, 256, 784), 0).tolist()) for _ in range(5)]
    for pixels in images:
        words = packed_words(pixels)
        tokens = [word >> 9 * place & 511 for word in words for place in range(7)]
        assert all(word < 1 << 63 for word in words)
        assert b"".join(bytes([t]) if t < 256 else bytes(t - 255) for t in tokens if t) == pixels


@pytest.mark.parametrize("bits", [1, 2])
def test_the_head_is_read_as_it_was_written(digits: Dataset, bits: int) -> None:
    own = network(digits, bits)
    certificate = coq_certificate(own, digits, DELTAS)
    found, name, deltas = read_head(certificate.text.encode())
    assert (found.space, encode(found), name, tuple(deltas)) == (own.space, encode(own), "digits", DELTAS)
    assert coq_certificate(found, digits, deltas) == certificate
    assert (certificate.text.isascii(), certificate.examples) == (True, 360)
    assert 0 < certificate.errors < 360


def plus_one(found: re.Match[str]) -> str:
    """The digit that was found, raised by one, 3 to 0, so that it may also be a code."""
    return str((int(found[0]) + 1) % 4)


@pytest.mark.usefixtures("no_coq")
@pytest.mark.parametrize(
    ("pattern", "replacement"),
    [
        pytest.param(r"(?<=\n\[)[0-3](?=;)", plus_one, id="a weight"),
        pytest.param(r"(?<=\n\()\d(?=,\[)", plus_one, id="a label"),
        pytest.param(r"(?<=\d,\[0x)\w", plus_one, id="pixels"),
        pytest.param(r"(?<= 360 64 )\d", plus_one, id="the count"),
        pytest.param(r"(?<= 1000000000000 )7(?= 200)", "8", id="delta"),
        pytest.param(r"(?<=D : distribution example, IZR )\d", plus_one, id="p"),
        pytest.param(r"(?<=<= IZR )7(?= / IZR 200)", "6", id="delta in the theorem"),
        pytest.param("(?<=Delta: )7", "9", id="delta at the head"),
        pytest.param("(?<=Delta: )7/200", "14/400", id="delta in other terms"),
        pytest.param("(?<=Delta: )7/200", "7/0", id="delta that is no number"),
        pytest.param(r"(?<=Network: )\w", "x", id="a hash that is none"),
        pytest.param(r"(?<=Network: )\w{64}", "0" * 64, id="the hash"),
        pytest.param("(?<=pixel / )16", "17", id="the denominator"),
        pytest.param("(?<=pixel / )16", "0", id="no denominator"),
        pytest.param("(?<=a weight: )2", "1", id="codes beyond their bits"),
        pytest.param("(?<=Data: )digits", "mnistx", id="the data"),
        pytest.param(r"(?<=Build_network\n  \()-?\d+", "9", id="a shift"),
        pytest.param(r"(?<=Build_network\n  \()-?\d+", "9" * 15, id="a shift beyond float16"),
        pytest.param(r"\[[0-3];", "[", id="a shorter row"),
        pytest.param("Lemma count", "Axiom absurd : False.\nLemma count", id="an axiom"),
        pytest.param(r"vm_cast_no_check \(eq_refl true\)\. Qed", "Admitted", id="no proof"),
        pytest.param(r"Import ListNotations\.", 'Declare ML Module "x".', id="a plugin"),
        pytest.param("Definition packed", "Definition errors := 0.\nDefinition packed", id="a name that is taken"),
        pytest.param(r"\Z", 'Redirect "x" Print nat.\n', id="a command at the end"),
        pytest.param(r"Qed\.\n\Z", "", id="no end"),
        pytest.param(r"\A", " ", id="a space"),
        pytest.param(r"\A[\s\S]*", "\xff", id="another file"),
    ],
)
def test_a_tampered_file_is_rejected_before_coq_is_asked(
    certificate: CoqCertificate, tmp_path: Path, pattern: str, replacement: str | Callable[[re.Match[str]], str]
) -> None:
    text, count = re.subn(pattern, replacement, certificate.text, count=1)
    assert count == 1
    assert text != certificate.text
    with pytest.raises(CertificateError) as caught:
        check_coq(written(tmp_path, text), "data")
    assert str(caught.value).isprintable()
    assert "PATH" not in str(caught.value)


@pytest.mark.usefixtures("no_coq")
def test_without_coq_nothing_is_said_to_be_checked(certificate: CoqCertificate, tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match=r"coqc: expected Coq on the PATH, found none; nothing was checked$"):
        check_coq(written(tmp_path, certificate.text), "data")


@pytest.mark.skipif(os.name != "posix", reason="the stand-ins for coqc are shell scripts")
@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'The Coq Proof Assistant, version 8.4pl6'", r"expected Coq 8\.16 to 8\.20, found version 8\.4pl6; noth"),
        ("echo 'The Rocq Prover, version 9.0.0'", r"found version 9\.0\.0; nothing was checked"),
        ("echo nothing", "found None; nothing was checked"),
        ("exit 1", "coqc: ended with status 1"),
        ('[ "$1" = --version ] && echo version 8.16.1 || { echo "Error: no .vo"; exit 1; }', "run make -C .* no .vo"),
        ('[ "$1" = --version ] && echo version 8.16.1', "coqc: ended with status 1"),
        ("echo version 8.16.1", "theorem: expected axioms of proofs/assumptions.txt alone, found version 8.16.1"),
    ],
)
def test_a_coqc_that_cannot_check_it_is_named(
    certificate: CoqCertificate,
    compiled: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    message: str,
) -> None:
    assert not_compiled(compiled) == ""
    coqc = tmp_path / "coqc"
    coqc.write_text(f"#!/bin/sh\n{script}\n")
    coqc.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(CertificateError, match=message):
        check_coq(written(tmp_path, certificate.text), "data")


def removed(file: Path) -> None:
    file.unlink()


def aged(file: Path) -> None:
    os.utime(file, (1, 1))


def altered(file: Path) -> None:
    """Another content, no newer than before."""
    before = file.stat().st_mtime_ns
    file.write_bytes(b"Theorem absurd : False. Admitted.\n")
    os.utime(file, ns=(before, before))


@pytest.mark.parametrize(
    ("change", "file", "message"),
    [
        (aged, "certificates/Certificate.vo", "certificates/Certificate.v is newer than Certificate.vo"),
        (altered, "certificates/Certificate.v", "Certificate.vo was compiled from another certificates/Certificate.v"),
        (
            altered,
            "certificates/Certificate.glob",
            "Certificate.vo was compiled from another certificates/Certificate.v",
        ),
        (
            removed,
            "certificates/Certificate.vo",
            "certificates/Certificate.v was not compiled: Certificate.vo: No such",
        ),
        (removed, "certificates/Certificate.glob", "certificates/Certificate.v was not compiled: Certificate.glob: No"),
    ],
)
def test_theories_that_were_not_compiled_as_they_are_prove_nothing(
    certificate: CoqCertificate,
    compiled: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], None],
    file: str,
    message: str,
) -> None:
    monkeypatch.setattr(shutil, "which", str)
    change(compiled / file)
    with pytest.raises(CertificateError) as caught:
        check_coq(written(tmp_path, certificate.text), "data")
    found = str(caught.value)
    assert f": proofs: run make -C {compiled} first; nothing was checked ({message}" in found
    assert found.isprintable()


@pytest.mark.parametrize(
    ("change", "file"),
    [(removed, "setup.cfg"), (altered, "setup.cfg"), (removed, "proofs/assumptions.txt")],
)
def test_a_folder_of_proofs_that_is_not_ours_proves_nothing(
    certificate: CoqCertificate, compiled: Path, tmp_path: Path, change: Callable[[Path], None], file: str
) -> None:
    change(compiled.parent / file)
    with pytest.raises(
        CertificateError,
        match="proofs: expected the theories beside the package in a checkout of its repository, found",
    ):
        check_coq(written(tmp_path, certificate.text), "data")


def test_what_cannot_be_counted_in_coq_is_refused_beforehand(digits: Dataset) -> None:
    expected = "network: expected a quantised network of two layers without biases, 1 or 2 bits a weight, .*, found "
    for refused, found in (
        (network(digits, bits=3), r"64-10-10, 3 bits, no biases \(integer\)"),
        (network(digits, biases=True), "64-10-10, 2 bits, biases"),
        (network(digits, depth=3), "64-10-10-10, 2 bits, no biases"),
    ):
        with pytest.raises(CertificateError, match=expected + found):
            coq_certificate(refused, digits, DELTAS)
    with pytest.raises(CertificateError, match=expected + "63 inputs, and 64 pixels in digits"):
        coq_certificate(without_a_pixel(network(digits)), digits, DELTAS)


def test_data_that_are_not_official_and_too_large_a_count_are_refused(digits: Dataset) -> None:
    with pytest.raises(CertificateError, match="expected official data"):
        coq_certificate(network(digits), dataclasses.replace(digits, name="mnist"), DELTAS)
    message = (
        r"too large to be counted in Coq, which would take about \d+ s of a processor and 0\.4 GB; at most 5 s and"
    )
    with pytest.raises(CertificateError, match=message):
        coq_certificate(network(digits), digits, DELTAS, most_seconds=5)
    first, second = network(digits).layers
    codes = np.zeros((20_000, 64), np.uint16), np.zeros((10, 20_000), np.uint16)
    wide = dataclasses.replace(first, codes=codes[0]), dataclasses.replace(second, codes=codes[1])
    with pytest.raises(CertificateError, match=r"about \d+ s of a processor and 4\.\d GB; at most .* and 4\.0 GB"):
        coq_certificate(QuantizedNetwork(wide), digits, DELTAS, most_seconds=1e9)


@needs_coq
def test_coq_counts_what_the_package_counts(
    certificate: CoqCertificate, theories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "own_proofs", lambda: theories)
    found = check_coq(written(tmp_path, certificate.text), "data")
    assert found.axioms > 10
    assert found.statement == certificate.statement()
    assert ": holds; proved by Coq 8." in str(found)


@needs_coq
@pytest.mark.parametrize(
    ("pattern", "replacement", "message"),
    [
        (r"(?<= 360 64 )\d", plus_one, "coqc: Error"),
        (r"(?<=tail_at_most 360 \d{3} )\d", plus_one, "coqc: Error"),
        (r"Lemma (count [^.]*\.)\nProof\..*", r"Axiom \1", "theorem: .* alone, found certificate.count$"),
    ],
)
def test_coq_refuses_what_is_not_so(
    certificate: CoqCertificate,
    theories: Path,
    pattern: str,
    replacement: str | Callable[[re.Match[str]], str],
    message: str,
) -> None:
    text, count = re.subn(pattern, replacement, certificate.text, count=1)
    assert count == 1
    with pytest.raises(CertificateError, match=message):
        prove(dataclasses.replace(certificate, text=text), theories)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def run(*arguments: object) -> None:
        monkeypatch.setattr("sys.argv", ["certify", *map(str, arguments)])
        certify.main()

    return run


@pytest.mark.usefixtures("no_coq")
def test_the_command_writes_it_and_says_that_it_could_not_check_it(
    digits: Dataset,
    certificate: CoqCertificate,
    command: Callable[..., None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, out = tmp_path / "network.json", tmp_path / "out.v"
    write_network(source, network(digits))
    command(source, "--dataset", "digits", "--coq", out)
    assert out.read_text() == certificate.text
    assert capsys.readouterr().out.startswith(f"This network errs on {certificate.errors} of the 360 examples of the")
    command(source, "--dataset", "digits", "--coq", out, "--json", "--delta", "1/2")
    assert json.loads(capsys.readouterr().out)["statement"][1].endswith("probability at most 1/2.")
    with pytest.raises(
        CertificateError, match=r"out\.v: coqc: expected Coq on the PATH, found none; nothing was checked"
    ):
        command("--check", out)
    for option, value in (("--signers", "keys"), ("--signer", "somebody"), ("--redraw", 0)):
        with pytest.raises(ConfigError, match=rf"{option}: expected with a certificate\.json"):
            command("--check", out, option, value)
    with pytest.raises(CertificateError, match="found none; nothing was checked"):
        command("--check", out, "--most-work", 10**400)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--looks", 2), "--looks: not with --coq"),
        (("--bound", "kl"), "--bound: not with --coq"),
        (("--split", "train"), "expected a file OUT.v and the test split, found --split train and "),
        (("--delta", "1e-150"), "delta: expected 1 to 10 numbers of at most 100 digits"),
        (("--delta", "2"), "delta: expected a probability strictly between 0 and 1"),
    ],
)
def test_the_command_names_what_its_theorem_is_not_about(
    digits: Dataset, command: Callable[..., None], tmp_path: Path, options: tuple[object, ...], message: str
) -> None:
    write_network(tmp_path / "network.json", network(digits))
    with pytest.raises(LeanMnistError, match=message):
        command(tmp_path / "network.json", "--dataset", "digits", "--coq", tmp_path / "out.v", *options)
    assert not (tmp_path / "out.v").exists()


def test_the_command_names_a_network_that_is_not_quantised(command: Callable[..., None], tmp_path: Path) -> None:
    tensors = {"0.weight": torch.zeros(5, 64), "0.bias": torch.zeros(5), "1.weight": torch.zeros(10, 5)}
    torch.save(tensors | {"1.bias": torch.zeros(10)}, tmp_path / "model.pt")
    with pytest.raises(
        CertificateError, match=r"model\.pt: expected a quantised network of two layers .* floating weig"
    ):
        command(tmp_path / "model.pt", "--dataset", "digits", "--scaling", 0, 16, "--coq", tmp_path / "out.v")
    with pytest.raises(ConfigError, match=r"expected a file OUT\.v and the test split, found .*out\.txt"):
        command(tmp_path / "model.pt", "--dataset", "digits", "--coq", tmp_path / "out.txt")
    with pytest.raises(CertificateError, match=r"--coq: expected a folder to write into, found none at .*nowhere"):
        command(tmp_path / "model.pt", "--dataset", "digits", "--coq", tmp_path / "nowhere" / "out.v")


def test_mlcerts_own_network_is_counted_as_it_is(mlcert: Path, mnist: Dataset) -> None:
    own = read_mlcert(mlcert / B2)
    certificate = coq_certificate(own, mnist, DELTAS)
    found, name, _ = read_head(certificate.text.encode())
    assert (encode(found), found.space, name) == (encode(own), own.space, "mnist")
    assert (certificate.errors, certificate.examples) == (3647, 10_000)
    with pytest.raises(
        CertificateError, match=r"expected a quantised network .*, found 784-10-10, 16 bits, no .*float16"
    ):
        coq_certificate(read_mlcert(mlcert / B16), mnist, DELTAS)
