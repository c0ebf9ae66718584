"""Signatures of certificates by ``ssh-keygen -Y``, with keys made for the test."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from lean_mnist import certify
from lean_mnist.errors import CertificateError, ConfigError
from tests.support.certificate_cases import small_certificate

needs_ssh_keygen = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")


class Signing(NamedTuple):
    """A certificate, a key, and a file that allows that key to sign."""

    certificate: Path
    key: Path
    signers: Path


@pytest.fixture
def signing(tmp_path: Path) -> Signing:
    key, signers = tmp_path / "key", tmp_path / "signers"
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(key)]
    subprocess.run(command, check=True, capture_output=True)
    signers.write_text(f"somebody@example.org {key.with_suffix('.pub').read_text(encoding='utf-8')}", encoding="utf-8")
    return Signing(small_certificate(4).write(tmp_path), key, signers)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> None:
    monkeypatch.setattr("sys.argv", ["certify", *map(str, arguments)])
    certify.main()


@needs_ssh_keygen
def test_a_signed_certificate_is_checked(
    signing: Signing, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    certificate, key, signers = signing
    for _ in range(2):  # a second time replaces the signature, and asks nothing
        run(monkeypatch, "--sign", key, certificate)
        assert capsys.readouterr().out == f"signed; written {certificate}.sig\n"
    run(monkeypatch, "--check", certificate, "--signers", signers)
    assert capsys.readouterr().out.endswith("\n  signed by somebody@example.org\n")
    run(monkeypatch, "--check", certificate, "--signers", signers, "--signer", "somebody@example.org", "--json")
    assert json.loads(capsys.readouterr().out)["signed_by"] == "somebody@example.org"
    run(monkeypatch, "--check", certificate)
    assert "signed by" not in capsys.readouterr().out


@needs_ssh_keygen
def test_a_signature_that_is_none_is_a_rejection(signing: Signing, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key, signers = signing
    due = ("--check", certificate, "--signers", signers)
    with pytest.raises(CertificateError, match=r"\.json\.sig: expected the certificate's signature, found: No "):
        run(monkeypatch, *due)
    run(monkeypatch, "--sign", key, certificate)
    with pytest.raises(CertificateError, match=r"no signature of this certificate by other@example\.org: "):
        run(monkeypatch, *due, "--signer", "other@example.org")
    content = certificate.read_bytes()
    certificate.write_bytes(content + b"\n")
    with pytest.raises(CertificateError, match=r"no signature of this certificate by somebody@example\.org: "):
        run(monkeypatch, *due)
    certificate.write_bytes(content)
    signers.write_text("", encoding="utf-8")
    with pytest.raises(CertificateError, match=r"sig: signed with a key that .* does not allow"):
        run(monkeypatch, *due)
    Path(f"{certificate}.sig").write_text("-----BEGIN SSH SIGNATURE-----\n", encoding="utf-8")
    with pytest.raises(CertificateError, match=r"sig: signed with a key that .* does not allow"):
        run(monkeypatch, *due)


@needs_ssh_keygen
def test_a_signature_for_something_else_is_none(signing: Signing, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key, signers = signing
    subprocess.run(
        ["ssh-keygen", "-q", "-Y", "sign", "-n", "file", "-f", str(key), str(certificate)],
        check=True,
        capture_output=True,
    )
    with pytest.raises(CertificateError, match=r"no signature of this certificate by somebody@example\.org: "):
        run(monkeypatch, "--check", certificate, "--signers", signers)


@needs_ssh_keygen
def test_a_key_that_signs_nothing(signing: Signing, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CertificateError, match=r"^--sign: .*none signs nothing: "):
        run(monkeypatch, "--sign", signing.key.with_name("none"), signing.certificate)


def test_without_ssh_keygen_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = small_certificate(4).write(tmp_path)
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(CertificateError, match=r"^ssh-keygen: expected on the PATH to sign and to check signatures"):
        run(monkeypatch, "--sign", tmp_path / "key", certificate)


def test_a_signer_without_signers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"^--signer: expected with --signers FILE"):
        run(monkeypatch, "--check", small_certificate(4).write(tmp_path), "--signer", "somebody")
