"""Text of a Coq file with a network, a test split and the theorem about them; ``proofs/certificates/`` has its words.

An image is written as tokens of nine bits, seven to a 63-bit word, the first in the lowest bits: 1 to 255 is a pixel,
256 to 511 a run of 1 to 256 pixels that are 0, and 0 fills up the last word (``PackedExamples.v`` reads them).
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from lean_mnist.data.datasets import Dataset
from lean_mnist.data.official import Origin
from lean_mnist.errors import ArgumentError, BoundError, CertificateError
from lean_mnist.generalization.bounds import DIGITS, upper_risk
from lean_mnist.generalization.exact import decimal_text, exact
from lean_mnist.generalization.spaces.encoding import encode, network_hash
from lean_mnist.generalization.spaces.integers import IntegerNetwork
from lean_mnist.generalization.spaces.network import FLOAT16_EXPONENT, QuantizedLayer, QuantizedNetwork

MOST_FEATURES = 2741  # 3 * 255 * 2741 < 2^21, so that sums of codes times pixels are packed three to a word
SUPPORTED = f"a quantised network of two layers without biases, 1 or 2 bits a weight, at most {MOST_FEATURES:,} pixels"
LARGEST = 1 << 24  # bytes of a file
MOST_SECONDS = 500.0  # of a processor, unless told otherwise
MOST_MEGABYTES = 4000
_UNITS = 1 << FLOAT16_EXPONENT
_PART = 100  # examples of one definition
_RUNS = re.compile(rb"\x00{1,256}|[^\x00]")

_HEAD = """\
(* lean_mnist certificate in Coq, version 1.
   Data: {dataset}, test split. Features: pixel / {denominator}. Bits a weight: {bits}.
   Network: {sha256}.
   Delta: {deltas}. *)
From Coq Require Import ZArith Uint63 List Reals Lra.
From LeanMnist.generalization Require Import Distribution ClopperPearson.
From LeanMnist.certificates Require Import QuantisedNetwork PackedExamples BinomialTail Certificate.
Import ListNotations.

(* Shifts and scales are float16, in units of 2^-24. *)
Definition the_network : network := Build_network
  ({shift1}) ({scale1}) [
{codes1}]
  ({shift2}) ({scale2}) [
{codes2}].
"""
_ROW = r"\[[0-3](?:;[0-3])*\]"
_FORMS = {
    "dataset": "[a-z]{1,20}",
    "denominator": r"\d{1,9}",
    "bits": "[12]",
    "sha256": "[0-9a-f]{64}",
    "deltas": r"\d{1,100}/\d{1,100}(?:, \d{1,100}/\d{1,100}){0,9}",
    **{f"{name}{layer}": r"-?\d{1,15}" for name in ("shift", "scale") for layer in (1, 2)},
    **{f"codes{layer}": rf"{_ROW}(?:;\n{_ROW})*" for layer in (1, 2)},
}

_THEOREM = """\
Definition packed : list packed_example := concat [{parts}].
Definition test_set : list example := examples_of packed.

Lemma count : count_is the_network packed {m} {pixels} {k} = true.
Proof. vm_cast_no_check (eq_refl true). Qed.
{tails}
(* The class is that of real arithmetic, for weights in units of 2^-24; so many examples, pixels and errors there are;
   and if the risk is so large, so few errors are improbable. *)
Theorem certificate :
  (forall image, real_predicted (/ IZR 16777216) (IZR {denominator}) the_network image = predicted the_network image)
  /\\ length test_set = Z.to_nat {m}
  /\\ Forall (fun e => length (fst e) = Z.to_nat {pixels}) test_set
  /\\ errors (wrong the_network) test_set = Z.to_nat {k}{bounds}.
Proof.
  destruct (counted _ _ _ _ _ count) as (examples & pixels & k).
  split; [|exact {proof}].
  apply real_predicted_is_predicted; [apply Rinv_0_lt_compat|]; apply IZR_lt; reflexivity.
Qed.
"""
_TAIL = """\
Lemma tail{index} : tail_at_most {m} {k} {p.numerator} {p.denominator} {delta.numerator} {delta.denominator} = true.
Proof. vm_cast_no_check (eq_refl true). Qed.
"""
_BOUND = """
  /\\ (forall D : distribution example, IZR {p.numerator} / IZR {p.denominator} <= risk D (wrong the_network) ->
      Prob (draws D (Z.to_nat {m})) (fun sample => (errors (wrong the_network) sample <= Z.to_nat {k})%nat)
      <= IZR {delta.numerator} / IZR {delta.denominator})%R"""

Claims = tuple[tuple[Fraction, Fraction], ...]


@dataclass(frozen=True)
class CoqCertificate:
    """The text of a Coq file and what it says; ``claims`` are pairs of a risk and the δ at which it is refuted."""

    text: str
    network: str  # its SHA-256
    dataset: str
    examples: int
    errors: int
    claims: Claims
    seconds: int  # of a processor, about what Coq takes for it
    cost: str  # the same and the memory, in words

    def statement(self) -> list[str]:
        """The theorem in words, one sentence a line."""
        counted = f"{self.errors:,} of the {self.examples:,} examples of the test split of {self.dataset}"
        few = f"as few as {self.errors:,} errors in {self.examples:,} independent draws have probability at most"
        return [f"This network errs on {counted}."] + [
            f"For every distribution on which its risk is at least {decimal_text(risk, DIGITS, True)}: {few} {delta}."
            for risk, delta in self.claims
        ]


def coq_certificate(
    network: QuantizedNetwork, dataset: Dataset, deltas: Sequence[Fraction], most_seconds: float = MOST_SECONDS
) -> CoqCertificate:
    """The Coq certificate of ``network`` on the test split of ``dataset``, which has to be official, counted here too.

    Raises ``CertificateError`` for a network or data that have none, or would take Coq too long, and ``BoundError`` for
    a δ that is none.
    """
    space = network.space
    if len(space.sizes) != 3 or space.biases or space.encoding != "integer" or space.bits > 2:
        found = f"{'-'.join(map(str, space.sizes))}, {space.bits} bits, {'' if space.biases else 'no '}biases"
        raise CertificateError(f"network: expected {SUPPORTED}, found {found} ({space.encoding})")
    if space.sizes[0] > MOST_FEATURES or space.sizes[0] != dataset.features:
        found = f"{space.sizes[0]:,} inputs, and {dataset.features:,} pixels in {dataset.name}"
        raise CertificateError(f"network: expected {SUPPORTED}, found {found}")
    if dataset.origin is not Origin.OFFICIAL:
        raise CertificateError(f"dataset: expected official data (mnist or digits, by SHA-256), found {dataset.name}")
    if not 1 <= len(deltas) <= 10 or any(len(str(delta)) > 100 for delta in deltas):
        found = f"{len(deltas)}, the longest of {max((len(str(delta)) for delta in deltas), default=0)}"
        raise BoundError(f"delta: expected 1 to 10 numbers of at most 100 digits, found {found}")
    seconds, megabytes = _cost(network, len(dataset.test), len(deltas))
    cost = f"about {seconds:,} s of a processor and {megabytes / 1000:.1f} GB"
    if seconds > most_seconds or megabytes > MOST_MEGABYTES:
        most = f"at most {most_seconds:,.0f} s and {MOST_MEGABYTES / 1000:.1f} GB are allowed"
        raise CertificateError(f"network: too large to be counted in Coq, which would take {cost}; {most}")
    images, labels = dataset.test.images.numpy(), dataset.test.labels.numpy()
    errors = len(labels) - IntegerNetwork(network, dataset.maximum).correct(images, labels)
    if errors == len(labels):
        raise CertificateError(f"network: every example of {dataset.name} is misread, nothing can be certified")
    claims = tuple((upper_risk("clopper-pearson", errors, len(labels), delta), delta) for delta in deltas)
    words = [packed_words(image.tobytes()) for image in images]
    parts = range(0, len(words), _PART)
    sha256 = network_hash(space, encode(network))
    text = [_head(network, sha256, dataset.name, deltas)]
    for number, start in enumerate(parts):
        rows = zip(labels[start : start + _PART].tolist(), words[start : start + _PART], strict=True)
        examples = ";\n".join(f"({label},[{';'.join(map(hex, own))}])" for label, own in rows)
        text.append(f"Definition part{number} : list packed_example := [\n{examples}]%uint63.\n")
    text.append(_theorem(network, claims, errors, len(labels), len(parts)))
    return CoqCertificate("".join(text), sha256, dataset.name, len(labels), errors, claims, seconds, cost)


def _cost(network: QuantizedNetwork, examples: int, claims: int) -> tuple[int, int]:
    """About how many seconds of a processor, and megabytes, Coq takes, a little more than what was measured."""
    inputs, hidden, classes = network.space.sizes
    codes, words = hidden * (inputs + classes), examples * inputs // 28
    passes = -(-(hidden + 1) // 3)  # over an image's pixels: three units at once, and their sum
    counting = examples * (2e-8 * inputs * (10 + passes) + 4e-6 * hidden * (2 + classes))
    seconds = 1 + 5e-5 * (words + codes) + counting + 3.5 * claims
    return math.ceil(seconds), math.ceil(400 + 0.002 * words + 0.003 * codes)


def _head(network: QuantizedNetwork, sha256: str, dataset: str, deltas: Sequence[Fraction]) -> str:
    fields: dict[str, object] = {}
    for index, layer in enumerate(network.layers, 1):
        rows = (";".join(map(str, row)) for row in layer.codes.tolist())
        fields[f"codes{index}"] = ";\n".join(f"[{row}]" for row in rows)
        for name, number in (("shift", layer.shift), ("scale", layer.scale)):
            fields[f"{name}{index}"] = int(Fraction(float(number)) * _UNITS)
    return _HEAD.format(
        dataset=dataset,
        denominator=network.denominator,
        bits=network.space.bits,
        sha256=sha256,
        deltas=", ".join(f"{delta.numerator}/{delta.denominator}" for delta in deltas),
        **fields,
    )


def _theorem(network: QuantizedNetwork, claims: Claims, errors: int, examples: int, parts: int) -> str:
    each = [dict(index=index, m=examples, k=errors, p=p, delta=delta) for index, (p, delta) in enumerate(claims)]
    proof, *others = [f"(bounded _ _ _ _ _ _ _ tail{index})" for index in reversed(range(len(claims)))]
    for term in (*others, "k", "pixels", "examples"):
        proof = f"(conj {term} {proof})"
    return _THEOREM.format(
        parts="; ".join(f"part{number}" for number in range(parts)),
        m=examples,
        k=errors,
        pixels=network.space.sizes[0],
        denominator=network.denominator,
        tails="".join(_TAIL.format(**own) for own in each),
        bounds="".join(_BOUND.format(**own) for own in each),
        proof=proof,
    )


def packed_words(pixels: bytes) -> list[int]:
    """An image's pixels as 63-bit words."""
    tokens = [run[0] or 255 + len(run) for run in _RUNS.findall(pixels)]
    parts = (tokens[start : start + 7] for start in range(0, len(tokens), 7))
    return [sum(token << 9 * place for place, token in enumerate(part)) for part in parts]


def read_head(content: bytes) -> tuple[QuantizedNetwork, str, list[Fraction]]:
    """The network, the name of the data and each δ that a file begins with; raises ``CertificateError``.

    Nothing else of a file is read, and these are no more than numbers in fixed places.
    """
    pattern = re.escape(_HEAD.format(**{name: f"@{name}@" for name in _FORMS}))
    for name, form in _FORMS.items():
        pattern = pattern.replace(f"@{name}@", f"(?P<{name}>{form})")
    found = re.match(pattern.encode(), content)
    if found is None:
        raise CertificateError("head: expected that of a lean_mnist certificate in Coq, version 1, found another text")
    fields = {name: text.decode() for name, text in found.groupdict().items()}
    try:
        layers = []
        for index in (1, 2):
            rows = [row.strip("[]").split(";") for row in fields[f"codes{index}"].split(";\n")]
            if len({len(row) for row in rows}) > 1:
                raise ArgumentError(f"codes{index}: expected rows of one length")
            with np.errstate(over="ignore"):  # an infinity is refused
                shift, scale = (np.float16(int(fields[f"{name}{index}"]) / _UNITS) for name in ("shift", "scale"))
            layers.append(QuantizedLayer(np.array(rows, np.uint16), int(fields["bits"]), shift, scale))
        deltas = [exact(text, "Delta") for text in fields["deltas"].split(", ")]
        return QuantizedNetwork(tuple(layers), int(fields["denominator"])), fields["dataset"], deltas
    except (ArgumentError, BoundError, ValueError) as error:
        raise CertificateError(f"head: {error}") from None
