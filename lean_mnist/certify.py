"""``python -m lean_mnist.certify``: certify what a network's errors prove about unseen data, or check a certificate."""

import dataclasses
import functools
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from lean_mnist.command_line import POSITIONAL, parse, refuse, run_command
from lean_mnist.errors import CertificateError, CheckpointError, ConfigError
from lean_mnist.invocation import typed
from lean_mnist.reading.text import shown

if TYPE_CHECKING:
    from lean_mnist.generalization.certificates.document import Certificate, ClaimOptions
    from lean_mnist.generalization.imports.certified import NetworkFile


_OF_CHECKS = ("signers", "signer", "redraw", "most_work")
_OF_CODES = ("code", "candidates")  # options of certificates by training examples


@dataclass(frozen=True)
class CertifyArguments:
    """Write a certificate of a checkpoint into its run's folder; or, with --check, check one, trusting nothing in it.

    The certificate bounds the risk on unseen data by the test split, and pays for every evaluation on it.
    """

    GROUPS: ClassVar[dict[str, str]] = {  # of the options in the help; the first are those of every day
        "everyday options": "check delta bound looks adaptive dataset data_dir out json",
        "elsewhere": "split scaling accuracy precision",
        "quantised": "quantize code candidates coq",
        "signatures": "sign signers signer",
        "work": "redraw most_work",
    }

    checkpoint: Annotated[str | None, POSITIONAL] = None
    """A run's name, folder or checkpoint; a quantised network (.json), certified by the examples it was learned from;
    or a network trained elsewhere: .onnx, .safetensors, a PyTorch state_dict, a pickle of MLCERT (.pkl, .pkl.gz)."""
    check: str | None = None
    """Instead, check this certificate.json, or that in the run's folder: count again from raw weights and data, and
    derive every number again; or, if its name ends in .v, write this certificate in Coq again, compare, and have Coq
    prove it."""
    signers: str | None = None
    """With --check: it has to be signed (certificate.json.sig) with a key of this file (man ssh-keygen, ALLOWED
    SIGNERS)."""
    signer: str | None = None
    """With --signers: it has to be signed by this name of that file."""
    sign: str | None = None
    """Instead, sign the certificate.json that is given in place of CHECKPOINT with this private key, by ssh-keygen."""
    redraw: int | None = None
    """With --check of a PAC-Bayes certificate: how many of its draws are made again; if not given, as many as find with
    probability 0.99 a forgery that changes a claim by a unit of its second digit."""
    most_work: int | None = None
    """With --check: one that announces more steps (about a nanosecond each) is not begun; 500 billion if not given."""
    delta: tuple[str, ...] = ("0.035", "1e-9")
    """Failure probabilities, exact, as 0.035, 1e-9 or 7/200; each has a claim of its own."""
    bound: tuple[str, ...] = ("clopper-pearson",)
    """clopper-pearson (the exact binomial tail), kl (the binomial relative entropy, Chernoff) or hoeffding."""
    looks: int | None = None
    """All evaluations on this test split, other runs' included; those that the run recorded if not given."""
    adaptive: bool = False
    """Pay for evaluations, or candidates, that may have influenced what was evaluated or tried next."""
    code: Literal["fixed", "enumerative"] = "fixed"
    """Of a quantised network: its bits as they are, or an enumerative code, by whose length it pays."""
    candidates: int = 1
    """Of a quantised network: how many spaces and codes this one was chosen among."""
    dataset: str = "auto"
    """Of a network without a run: the data whose examples are counted."""
    split: Literal["auto", "test", "train"] = "auto"
    """Of a network without a run: count on the test split, which must have taught it nothing; or, if it is quantised,
    on the training split, and pay for its bits. auto: train for .json and with --quantize, else test."""
    scaling: tuple[float, float] | None = None
    """Of a network from elsewhere: MEAN and SCALE of its features (pixel - MEAN) / SCALE, if the file states none."""
    accuracy: str | None = None
    """Of a network from elsewhere: as measured there on the test split. Then square weights are read either way, images
    upright or transposed, pixels scaled to 1 or not, and the reading that has this accuracy, within 0.001, is taken."""
    quantize: int | None = None
    """Round the weights to so many bits, 1 to 16, before certifying, and write the result as network.json."""
    precision: Literal["auto", "float32", "float64"] = "auto"
    """How roughly the network may be run, which the statement names; an example whose outcome rounding could change
    counts as an error. auto: float32 with ReLU, leaky ReLU or identity up to 600,000 weights, and with one hidden layer
    of at most 512 units; else float64."""
    data_dir: str | None = None
    """Searched after the folder that LEAN_MNIST_DATA names; the run's if not given. With --check it is searched first,
    and what lies beside the certificate last."""
    out: str | None = None
    """Folder to write into; the run's if not given."""
    coq: str | None = None
    """Instead of a certificate.json write this file, OUT.v, of a quantised network of two layers and at most 2 bits a
    weight: Coq counts its errors on the test split and proves what they say. --check has Coq prove it."""
    json: bool = False
    """Print one JSON document."""


def main() -> None:
    """Read the command line, certify or check, print the summary or the document."""
    arguments = parse(CertifyArguments, sys.argv[1:], prog="python -m lean_mnist.certify")
    if (arguments.check is None) == (arguments.checkpoint is None):
        raise ConfigError("checkpoint: expected one CHECKPOINT, or --check FILE; --help says more")
    if arguments.check is not None:
        check(arguments, arguments.check)
        return
    refuse(arguments, _OF_CHECKS, "expected with --check alone")
    if arguments.sign is not None:
        others = {each.name for each in dataclasses.fields(arguments)} - {"checkpoint", "sign"}
        refuse(arguments, sorted(others), "not with --sign, which signs what there is")
        from lean_mnist.generalization.certificates.signature import sign

        print(f"signed; written {shown(sign(str(arguments.checkpoint), arguments.sign))}")
        return
    from lean_mnist.generalization.imports.certified import SUFFIXES, NetworkFile, kind_of
    from lean_mnist.training.config.places import checkpoint_path

    if not str(arguments.checkpoint).endswith(tuple(SUFFIXES)):
        arguments = dataclasses.replace(arguments, checkpoint=str(checkpoint_path(str(arguments.checkpoint))))
    kind = kind_of(str(arguments.checkpoint))
    if arguments.coq is not None:
        certify_coq(arguments, str(arguments.checkpoint), kind, Path(arguments.coq))
        return
    of_run = kind is NetworkFile.CHECKPOINT and arguments.quantize is None
    if of_run:
        without_run = ("split", "scaling", "accuracy", "dataset", *_OF_CODES)
        refuse(arguments, without_run, "expected for a network without a run, not for a checkpoint")
    make = certify_checkpoint if of_run else functools.partial(certify_file, kind=kind)
    certificate, path = make(arguments, str(arguments.checkpoint))
    if arguments.json:
        print(certificate.to_json(), end="")
    else:
        print(certificate.text())
        print(f"  written    {shown(path)}")
        print(f"  to check   {typed('python -m lean_mnist.certify', '--check', path)}")


def certify_checkpoint(arguments: CertifyArguments, checkpoint: str) -> "tuple[Certificate, Path]":
    """Certify a checkpoint by the test split of its data; returns the certificate and where it was written."""
    from lean_mnist.generalization.certificates.runs import certify_run, run_folder
    from lean_mnist.training.checkpoints import load_checkpoint
    from lean_mnist.training.config.presets import developers_of
    from lean_mnist.training.evaluation.report import data_of

    loaded = load_checkpoint(checkpoint)
    config = loaded.config
    folder = existing(arguments.out or run_folder(checkpoint, config.runs_dir, config.run_name))
    dataset = data_of(loaded, loaded.data["name"], arguments.data_dir)
    if dataset.fingerprint() != loaded.data["sha256"]:
        found = f"the {dataset.name} found here is not what it was trained on (its hash differs)"
        raise CheckpointError(f"{checkpoint}: {found}, so that nothing is known of the history of this test split")
    about, options = (loaded.model, loaded.normalization, dataset, loaded.metrics, folder), options_of(arguments)
    developers = developers_of(config.preset, dataset.name)
    return certify_run(*about, tracked=config.track_test, developers=developers, options=options, replaces=False)


def certify_file(arguments: CertifyArguments, path: str, kind: "NetworkFile") -> "tuple[Certificate, Path]":
    """Certify a network that has no run, or rounded weights of one; written beside its file or into ``--out``."""
    from lean_mnist.data.datasets import load_dataset
    from lean_mnist.generalization.certificates.networks import certify_network
    from lean_mnist.generalization.certificates.runs import write_certificate
    from lean_mnist.generalization.imports.certified import NetworkFile, certify_reading, read_for
    from lean_mnist.generalization.spaces.encoding import write_network
    from lean_mnist.generalization.spaces.network import QuantizedNetwork

    quantize, options = arguments.quantize, options_of(arguments)
    training = arguments.split == "train" or (
        arguments.split == "auto" and (kind is NetworkFile.QUANTIZED or quantize is not None)
    )
    if kind is NetworkFile.CHECKPOINT and not (training and arguments.out):
        raise CertificateError("--quantize: of a checkpoint expected with --out FOLDER and without --split test")
    if training:
        refuse(arguments, ("looks", "precision"), "expected by the test split; by training examples --candidates pays")
    else:
        refuse(arguments, _OF_CODES, "expected by training examples; by the test split --looks pays for what was tried")
    folder = existing(arguments.out or Path(path).parent)
    dataset = load_dataset(arguments.dataset, arguments.data_dir or "data")
    reading = read_for(dataset, path, kind, arguments.scaling, arguments.accuracy, quantize)
    network, candidates = reading.network, arguments.candidates * reading.readings
    if not training:
        certificate = certify_reading(reading, dataset, options)
    elif isinstance(network, QuantizedNetwork):
        certificate = certify_network(network, dataset, options, code=arguments.code, candidates=candidates)
    else:
        expected = "expected test, or --quantize BITS; only a quantised network has bits to pay for"
        raise CertificateError(f"--split: {expected}")
    written = write_certificate(certificate, folder, replaces=False)
    if quantize is not None and isinstance(network, QuantizedNetwork):
        write_network(folder / "network.json", network)
    return certificate, written


def certify_coq(arguments: CertifyArguments, path: str, kind: "NetworkFile", out: Path) -> None:
    """Write the certificate in Coq of a quantised network, of its test split alone; Coq itself is not needed."""
    from lean_mnist.data.datasets import load_dataset
    from lean_mnist.files import write_atomically
    from lean_mnist.generalization.bounds import checked_delta
    from lean_mnist.generalization.coq.theorem import SUPPORTED, coq_certificate
    from lean_mnist.generalization.imports.certified import read_for
    from lean_mnist.generalization.spaces.network import QuantizedNetwork

    elsewhere = ("bound", "looks", "adaptive", *_OF_CODES, "precision", "out")
    refuse(arguments, elsewhere, "not with --coq, whose theorem is of one network, one look and the exact tail")
    if arguments.split == "train" or out.suffix != ".v":
        found = f"--split train and {shown(out)}" if arguments.split == "train" else shown(out)
        raise ConfigError(f"--coq: expected a file OUT.v and the test split, found {found}")
    existing(out.parent, "--coq")
    dataset = load_dataset(arguments.dataset, arguments.data_dir or "data")
    reading = read_for(dataset, path, kind, arguments.scaling, arguments.accuracy, arguments.quantize)
    if not isinstance(reading.network, QuantizedNetwork) or reading.readings > 1:
        floating = "floating weights; a quantised run's network is its network.json, --quantize 2 rounds another's"
        found = "one of several readings" if reading.readings > 1 else floating
        raise CertificateError(f"{shown(path)}: expected {SUPPORTED}, found {found}")
    certificate = coq_certificate(reading.network, dataset, [checked_delta(delta) for delta in arguments.delta])
    write_atomically(out, certificate.text.encode())
    if arguments.json:
        print(json.dumps({"coq": str(out), "network": certificate.network, "statement": certificate.statement()}))
    else:
        print(*certificate.statement(), sep="\n")
        print(f"  written    {shown(out)}")
        print(f"  to prove   {typed('python -m lean_mnist.certify', '--check', out)} ({certificate.cost})")


def options_of(arguments: CertifyArguments) -> "ClaimOptions":
    """The options of the claims in a certificate."""
    from lean_mnist.generalization.certificates.document import ClaimOptions

    return ClaimOptions(arguments.delta, arguments.bound, arguments.looks, arguments.adaptive, arguments.precision)


def existing(folder: str | Path, option: str = "--out") -> Path:
    """``folder``; raises ``CertificateError`` if there is none."""
    if not Path(folder).is_dir():
        raise CertificateError(f"{option}: expected a folder to write into, found none at {shown(folder)}")
    return Path(folder)


def check(arguments: CertifyArguments, path: str) -> None:
    """Run the checker, which needs nothing but the standard library; before it ssh-keygen, if a signature is due."""
    from lean_mnist.generalization import checker

    makes = {each.name for each in dataclasses.fields(arguments)} - {"check", "data_dir", "json", *_OF_CHECKS}
    refuse(arguments, sorted(makes), "not with --check, which takes everything from the certificate")
    if arguments.redraw is not None and arguments.redraw < 0:
        raise ConfigError(f"--redraw: expected at least 0, found {arguments.redraw}")
    if Path(path).is_dir():
        path = str(Path(path, "certificate.json"))
    most = checker.MOST_WORK if arguments.most_work is None else arguments.most_work
    if path.endswith(".v"):
        from lean_mnist.generalization.coq.check import check_coq

        refuse(arguments, ("signers", "signer", "redraw"), "expected with a certificate.json")
        proved = check_coq(path, arguments.data_dir or "data", min(most, 10**18) / 1e9)
        print(json.dumps(dataclasses.asdict(proved), indent=2) if arguments.json else proved)
        return
    signed, sha256 = "", ""
    if arguments.signers is not None:
        from lean_mnist.generalization.certificates.signature import verify

        signed, sha256 = verify(path, arguments.signers, arguments.signer)
    elif arguments.signer is not None:
        raise ConfigError("--signer: expected with --signers FILE, which has the key of that name")
    folders = filter(None, (arguments.data_dir, os.environ.get("LEAN_MNIST_DATA"), "data"))
    try:
        cores = min(os.cpu_count() or 1, 16)
        found = checker.check(path, list(folders), cores, arguments.redraw, most, checker.announce)
    except checker.Rejected as error:
        raise CertificateError(str(error)) from None
    if signed and found.sha256 != sha256:
        raise CertificateError(f"{shown(path)}: changed between the check of its signature and of its content")
    if arguments.json:
        print(json.dumps({**found.to_dict(), "signed_by": signed or None}, indent=2))
    else:
        print(found, *([f"  signed by {signed}"] if signed else []), sep="\n")


if __name__ == "__main__":
    run_command(main)
