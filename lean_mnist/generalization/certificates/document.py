"""Parts that certificates of every kind share: the document with its raw files, its claims and sentences, its data.

A maker writes every field from what it counted itself; of the checker it quotes the fixed texts alone. So whatever the
checker derives and compares was written by somebody else.
"""

import hashlib
import itertools
import json
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from lean_mnist.data.datasets import Dataset
from lean_mnist.data.official import LAYOUTS
from lean_mnist.errors import CertificateError
from lean_mnist.files import write_atomically
from lean_mnist.generalization import checker
from lean_mnist.generalization.bounds import DIGITS, upper_risk
from lean_mnist.generalization.confidence import claimed_deltas
from lean_mnist.generalization.exact import Exact, decimal_text, percent
from lean_mnist.reading.text import printable

DEFAULT_DELTAS = ("0.035", "1e-9")
FILE = "certificate.json"
PAC_BAYES = "pac-bayes-kl"
# The data sets whose splits are, byte for byte, files of torchvision's layout. Others are written beside.
_IN_LAYOUT = ("mnist", "fashion-mnist", "kmnist")


@dataclass(frozen=True)
class Certificate:
    """A certificate and the raw files that stand beside it: ``document`` as JSON has it, ``files`` by name."""

    document: dict[str, Any]
    files: dict[str, bytes]

    @property
    def errors(self) -> int:
        """Errors among the examples or draws; by a test split, those too near to call included."""
        return int(self.document["counts"]["errors"])

    @property
    def risks(self) -> dict[tuple[str, Fraction], Fraction]:
        """The certified risk by (bound, δ); 1 where a bound says nothing."""
        claims = self.document["claims"]
        return {(claim.get("bound", PAC_BAYES), Fraction(claim["delta"])): Fraction(claim["risk"]) for claim in claims}

    @property
    def total_delta(self) -> Fraction:
        """The failure probability of all claims together, at most: the sum of theirs."""
        beside = self.document.get("holdout", {"claims": []})
        return sum((Fraction(claim["delta"]) for claim in self.document["claims"] + beside["claims"]), Fraction(0))

    def to_json(self) -> str:
        """The document as it is written, the one way that the checker accepts."""
        return written(self.document)

    def write(self, folder: Path) -> Path:
        """Write the document and its files into ``folder`` and return the document's path."""
        for name, content in self.files.items():
            write_atomically(folder / name, content)
        write_atomically(folder / FILE, self.to_json().encode())
        return folder / FILE

    def summary(self) -> dict[str, Any]:
        """The entry of ``summary.json`` for a certificate by a test split: plain values."""
        names = ("bound", "delta", "risk", "accuracy", "vacuous")
        counts = self.document["counts"]
        return {
            "statement": list(self.document["statement"]),
            "errors": counts["errors"],
            "examples": counts["examples"],
            "arithmetic": self.document["arithmetic"],
            "looks": self.document["history"]["looks"],
            "developers": self.document["history"]["developers"],
            "claims": [{name: claim[name] for name in names} for claim in self.document["claims"]],
            "total_delta": str(self.total_delta),
            "weights_sha256": self.document["weights"]["sha256"],
            "content_sha256": self.document["content_sha256"],
        }

    def line(self) -> str:
        """The certified risks in one line, for people: each is rounded up."""
        by_bound: dict[str, list[str]] = {}
        for (bound, delta), risk in self.risks.items():
            said = "nothing (vacuous)" if risk >= 1 else f"risk at most {percent(risk, up=True)}"
            by_bound.setdefault(bound, []).append(f"{said} at δ = {float(delta):g}")
        more = [f"run in {self.document['arithmetic']}"] if "arithmetic" in self.document else []
        if self.document["version"] != checker.VERSION:
            more.append("nobody vouches for these data")
        return "; ".join([*(f"{', '.join(risks)} ({bound})" for bound, risks in by_bound.items()), *more])

    def text(self) -> str:
        """A few lines for people: what was counted, and the statement."""
        counts, errors = self.document["counts"], f"{self.errors:,}"
        if "history" in self.document:
            looks, developers = (self.document["history"][name] for name in ("looks", "developers"))
            paid = "looked at once" if looks == 1 else f"looked at {looks} times, which was paid for"
            if developers["looks"]:
                paid += f", {developers['looks']} of them by the developers of the preset {developers['preset']}"
            counted = f"of {counts['examples']:,} test examples are wrong or too near to call in "
            counted += f"{self.document['arithmetic']}; the test split was {paid}"
            errors = str(self.errors)
        elif "draws" in counts:
            counted = f"of {counts['draws']:,} draws of a network and an example are errors"
        else:
            counted = f"of {counts['examples']:,} training examples are wrong"
        together = f"All claims together hold with confidence 1 - {self.total_delta}."
        return "\n".join([f"{errors} {counted}", *(f"  {line}" for line in [*self.document["statement"], together])])


def written(value: Any) -> str:
    """``value`` in the layout of certificates."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def sha256(content: bytes | str) -> str:
    """SHA-256 of bytes, or of text in UTF-8, in hexadecimal digits."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def with_hash(fields: dict[str, Any], name: str = "sha256") -> dict[str, Any]:
    """``fields``, and under ``name`` the hash of them as they are written."""
    return {**fields, name: sha256(written(fields))}


def file_entry(name: str, raw: bytes) -> dict[str, str]:
    """A file's name and the SHA-256 of its content."""
    return {"file": name, "sha256": sha256(raw)}


def risk_text(risk: Fraction) -> str:
    """A risk or an accuracy, which has at most ``DIGITS`` digits after the point, as claims have it."""
    return decimal_text(risk, DIGITS, up=True)


@dataclass(frozen=True)
class ClaimOptions:
    """Options of the claims in a certificate."""

    deltas: Sequence[Exact] = DEFAULT_DELTAS  # failure probabilities, each of them for its own claim
    bounds: Sequence[str] = ("clopper-pearson",)  # names of bounds on counted errors, each of them at each δ
    looks: int | None = None  # all evaluations on this test split; those that are known of if ``None``
    adaptive: bool = False  # whether to pay for evaluations, or candidates, that may have depended on earlier ones
    precision: str = "auto"
    """``float32`` or ``float64``: how roughly the network may be run; ``auto``: see ``networks.precision_for``."""


@dataclass(frozen=True)
class SplitData:
    """A split as a certificate describes it."""

    fields: dict[str, Any]
    beside: dict[str, bytes]  # files that have to stand beside the certificate because no data folder has them
    name: str  # as sentences have it
    version: int  # of certificates about it
    assumptions: list[str]  # about these data besides the usual ones
    opening: list[str]  # sentences with which a statement about them begins


def claim_fields(risk: Fraction) -> dict[str, Any]:
    """Fields on the certified ``risk`` that claims of every kind have."""
    return {"risk": risk_text(risk), "vacuous": risk == 1, "accuracy": risk_text(1 - risk)}


def claim_sentence(
    risk: Fraction, delta: Fraction, bound: str, subject: str, data: SplitData, *, reads: bool = False
) -> str:
    """A claim in words, with percentages rounded to its disadvantage.

    ``bound`` is what a sentence calls it; ``subject`` are the examples that are drawn and the network; with ``reads``
    the accuracy is said as well.
    """
    if risk == 1:
        return f"At delta = {delta} {bound} is vacuous: it says nothing about unseen data."
    least = f", and reads at least {percent(1 - risk, up=False)} as they are labelled" if reads else ""
    return (
        f"With confidence 1 - {delta} over the drawing of {subject} misreads at most {percent(risk, up=True)} "
        f"of all images drawn like them{least} ({data.name})."
    )


def counted_claims(
    options: ClaimOptions, share: Callable[[Fraction], Fraction], errors: int, data: SplitData, network: str
) -> tuple[list[dict[str, Any]], list[str]]:
    """The claim by each bound at each δ, for its ``share(δ)``, and the statement about the ``network``.

    Raises ``CertificateError`` without any claim, or for a bound that certificates cannot use, and ``BoundError`` for a
    δ that no claim is made at.
    """
    if unknown := [bound for bound in options.bounds if bound not in checker.THEOREMS]:
        raise CertificateError(f"--bound: expected one of {', '.join(checker.THEOREMS)}, found {unknown[0]!r}")
    examples, claims, statement = data.fields["examples"], [], list(data.opening)
    for bound, delta in itertools.product(options.bounds, claimed_deltas(options.deltas)):
        own = share(delta)
        risk = upper_risk(bound, errors, examples, own)
        epsilon = str(risk - Fraction(errors, examples))
        written_share = {"share": str(own)} if data.fields["split"] == "test" else {}
        fields = {"bound": bound, "delta": str(delta), **claim_fields(risk), "epsilon": epsilon, **written_share}
        claims.append({**fields, "theorem": checker.THEOREMS[bound]})
        about = f"these {examples:,} examples, this {network}"
        statement.append(claim_sentence(risk, delta, f"the bound {bound}", about, data, reads=True))
    if not claims:
        raise CertificateError("--bound: expected at least one, found none; without claims a certificate says nothing")
    return claims, statement


def network_name(sizes: Sequence[int]) -> str:
    """The widths of a network's layers, such as 784-128-10."""
    return "-".join(str(size) for size in sizes)


def split_data(dataset: Dataset, split: str, classes: int, part: dict[str, int] | None = None) -> SplitData:
    """The ``split``, ``train`` or ``test``, of a network that tells so many ``classes`` apart; ``part`` of it."""
    of_split = dataset.train if split == "train" else dataset.test
    images, labels = of_split.images.cpu().numpy(), of_split.labels.cpu().numpy().astype(np.uint8)
    examples, rows, columns = images.shape
    if classes > 256:
        raise CertificateError(f"data: {classes} classes, expected at most 256, whose labels are a byte each")
    contents = {
        "images": struct.pack(">IIII", 0x803, examples, rows, columns) + images.tobytes(),
        "labels": struct.pack(">II", 0x801, examples) + labels.tobytes(),
    }
    names, folder = {kind: f"certificate.{kind}.idx" for kind in contents}, ""
    beside = {names[kind]: content for kind, content in contents.items()}
    if dataset.name in _IN_LAYOUT:
        layout = LAYOUTS[dataset.name]
        files = layout.files[:2] if split == "train" else layout.files[2:]
        names, folder, beside = dict(zip(contents, files, strict=True)), layout.raw, {}
    found = {kind: {"folder": folder, **file_entry(names[kind], raw)} for kind, raw in contents.items()}
    about = {"dataset": dataset.name, "split": split, "examples": examples, "rows": rows, "columns": columns, **found}
    about |= {**({"part": part} if part else {}), "classes": classes}
    hashes = (found["images"]["sha256"], found["labels"]["sha256"])
    official = checker.OFFICIAL.get((dataset.name, split)) == hashes and classes == checker.OFFICIAL_CLASSES
    if official:
        return SplitData(about, beside, dataset.name, checker.VERSION, [], [])
    if not re.fullmatch("[a-z0-9_-][a-z0-9_.-]{0,99}", dataset.name):
        raise CertificateError(f"dataset: expected a name of a-z, 0-9, - and _, found {printable(dataset.name)!r}")
    about["duplicates"] = examples - len({image.tobytes() for image in images})
    about["occurring"] = len(np.unique(labels))
    opening = (
        f"Nobody vouches for the {examples:,} examples that are called '{dataset.name}' here, nor for that name: "
        f"images with SHA-256 {hashes[0]}, of which {about['duplicates']:,} are equal to an earlier one, and labels "
        f"with SHA-256 {hashes[1]}, in which {about['occurring']} of {classes} classes occur."
    )
    name = f"called '{dataset.name}', vouched for by nobody"
    return SplitData(about, beside, name, checker.UNVOUCHED_VERSION, [checker.UNVOUCHED], [opening])
