"""The independent checker of certificates: ``python checker.py CERTIFICATE``. Standard library only, in this one file.

It trusts nothing that the certificate says. It reads the raw weights and the raw examples, compares their SHA-256,
counts the errors again, decides every bound again in integers, writes every sentence and derived number again, and
rejects the certificate, naming the field, if one character differs. It shares no arithmetic with what made it.

How it counts. Weights and activations become integers over a power of two; all units of a layer stand in one long
integer, 64 or 128 bits a unit, so that one multiplication serves them all and every sum is exact. Around each unit goes
a bound on what rounding can do to it, in any evaluation that the certificate speaks of (``DECODER`` below says which):

    e'_j = |w_j| E + g (|w_j| (N + E) + |b_j|) + 2^-149 (√n (N + E) + n + 1),   g = (n + 3)u / (1 - (n + 3)u),

and around the vector of activations ``E' = min(|s|, L √‖W Wᵀ‖_∞ E + |min(s, L f + r)|)``, with s a unit's bound
through the activation, L its slope, r its rounding, and f all of e' but its first term (after the first layer,
``E' = |s|``). Here ``u = 2^-24`` for float32, ``|w_j|`` is the Euclidean norm of the unit's n weights, ``N`` that of
its inputs and ``E`` that of the bounds on their errors (Higham, Accuracy and Stability of Numerical Algorithms, 2nd
ed., section 3.1, and the inequality of Cauchy and Schwarz). An example is right only if its label's logit minus its
bound exceeds every other plus its own. What the checker's own rounding can do is added. Where 64 bits a unit leave a
doubt, 128 decide.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import os
import random
import struct
import sys
import time
import zlib
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from multiprocessing import get_context
from operator import itemgetter, mul
from typing import Any, NamedTuple

SCHEMA, VERSION = "lean_mnist certificate", 1
DIGITS = 12  # of every bound
ACTIVATIONS = ("relu", "leaky-relu", "identity", "sigmoid", "tanh", "gelu")
DTYPES = {"float16": ("e", 2), "float32": ("f", 4), "float64": ("d", 8)}
UNITS = {"float32": "1/16777216", "float64": "1/68719476736"}  # 2^-24; 2^-36, which is far above float64's 2^-53
CODE_SCHEMA, PAC_SCHEMA = "lean_mnist code-length certificate", "lean_mnist PAC-Bayes certificate"
REDRAWN = 500  # outcomes of a PAC-Bayes certificate that are drawn again, unless told otherwise
FOLDERS = ("", "MNIST/raw", "FashionMNIST/raw", "KMNIST/raw")

DECODER = (
    "Features are (pixel - mean) / scale, pixels row by row; with per-image normalisation mean and scale are each "
    "image's own mean and population standard deviation, and an image of one colour gives zeros. Each layer is "
    "z = W h + b; the activation stands between layers (leaky-relu's slope is float64's 0.01, gelu is the exact "
    "one); the class is that of the largest logit. An example counts as correct only if its label's logit is the "
    "largest, by more than rounding can change, in exact arithmetic and in every evaluation whose operations have a "
    "relative error of at most the unit below, in any order of summation, with or without fused multiply-add. Float32 "
    "has 1/16777216 if neither TF32 nor flushing to zero is on; float64 has less than 1/68719476736. Every other "
    "example counts as an error, also one whose outcome rounding could change."
)
ASSUMPTIONS = (
    "The examples of this split and the images that the claim is about were drawn independently from one distribution "
    "(i.i.d.). Nothing is claimed about images from elsewhere: other writers, scanners, or preparation.",
    "This split was looked at as often as the history says and not oftener; a look is any evaluation on it whose "
    "result somebody or something could act on. Nothing else of it influenced the weights.",
    "SHA-256 has no collisions, and Python computes as its manual says (whole numbers exactly, floats as IEEE 754).",
)
SMOOTH = (
    "The functions exp, tanh and erf, here and where the network is run, are within 16 units of rounding, counted "
    "against 1 + |z|."
)
SELECTED_BY = "a validation split, cut from the training examples"
ADAPTIVE = "Of what each look showed, nothing but its number of errors influenced what was made or looked at next."
NOT_ADAPTIVE = "No network that was looked at was made, chosen or changed because of what an earlier look showed."

THEOREMS = {
    "clopper-pearson": {
        "formula": "p > k/m and P[Binomial(m, p) <= k] <= share confirm that the risk is at most p",
        "source": "Clopper and Pearson, Biometrika 26 (1934); the test set bound of Langford, JMLR 6 (2005)",
    },
    "kl": {
        "formula": "p >= k/m and m kl(k/m || p) >= ln(1/share) confirm that the risk is at most p",
        "source": "Chernoff, Ann. Math. Statist. 23 (1952); with relative entropy in Langford, JMLR 6 (2005)",
    },
    "hoeffding": {
        "formula": "p >= k/m and 2 m (p - k/m)^2 >= ln(1/share) confirm that the risk is at most p",
        "source": "Hoeffding, JASA 58 (1963), theorem 1",
    },
}


class Rejected(ValueError):
    """The certificate does not hold; the message begins with the field."""


# The document: from the few facts that are looked up or measured, everything that follows from them.


def build(facts: dict[str, Any]) -> dict[str, Any]:
    """The certificate of ``facts``: every sentence and number that follows, in the order in which they are written.

    ``facts``: decoder (sizes, activation, bias, normalization, unit), weights (file, dtype, sha256), data (dataset,
    split, examples, rows, columns, images and labels (folder, file, sha256)), history (looks, adaptive, recorded),
    errors, claims (list of bound, delta, risk), all as the document writes them.
    """
    decoder, weights, data, history = (facts[name] for name in ("decoder", "weights", "data", "history"))
    errors, examples = facts["errors"], data["examples"]
    specification = {"specification": DECODER, **decoder}
    smooth = decoder["activation"] in ("sigmoid", "tanh", "gelu")
    assumptions = [*ASSUMPTIONS, *([SMOOTH] if smooth else []), ADAPTIVE if history["adaptive"] else NOT_ADAPTIVE]
    document = {
        "schema": SCHEMA,
        "version": VERSION,
        "statement": [_statement(claim, data, decoder) for claim in facts["claims"]],
        "claims": [_claim(claim, errors, examples, history) for claim in facts["claims"]],
        "assumptions": assumptions,
        "counts": {"examples": examples, "errors": errors, "correct": examples - errors},
        "space": {"chosen_among": f"the networks of {history['looks']} look(s) at this split", "bits": 0},
        "history": {**history, "learned_from": False, "selected": "nothing", "selected_by": SELECTED_BY},
        "decoder": {**specification, "sha256": hashlib.sha256(canonical(specification)).hexdigest()},
        "weights": {**weights, "tensors": tensors_of(decoder), "parameters": parameters_of(decoder)},
        "data": {**data, "classes": decoder["sizes"][-1]},
    }
    return {**document, "content_sha256": hashlib.sha256(canonical(document)).hexdigest()}


def canonical(document: Any) -> bytes:
    """The one way in which a certificate is written."""
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


def tensors_of(decoder: dict[str, Any]) -> list[dict[str, Any]]:
    """Names and shapes of the raw weights, in the order in which they stand in the file, each row by row."""
    tensors = []
    for layer, (inputs, units) in enumerate(zip(decoder["sizes"], decoder["sizes"][1:], strict=False)):
        tensors.append({"name": f"layers.{layer}.weight", "shape": [units, inputs]})
        if decoder["bias"]:
            tensors.append({"name": f"layers.{layer}.bias", "shape": [units]})
    return tensors


def parameters_of(decoder: dict[str, Any]) -> int:
    """How many numbers that is."""
    return sum(math.prod(tensor["shape"]) for tensor in tensors_of(decoder))


def share_of(delta: Fraction, history: dict[str, Any], examples: int) -> Fraction:
    """What one look may spend of delta: delta / looks; if looks could depend on answers, over all courses of them."""
    looks = history["looks"]
    paths = ((examples + 1) ** looks - 1) // examples if history["adaptive"] else looks
    return delta / paths


def percent(value: Fraction, up: bool) -> str:
    """A probability in per cent with two decimals, rounded up or down, never to nearest."""
    hundredths = -(-value * 10_000 // 1) if up else value * 10_000 // 1
    return f"{int(hundredths) // 100}.{int(hundredths) % 100:02} %"


def _statement(claim: dict[str, Any], data: dict[str, Any], decoder: dict[str, Any]) -> str:
    risk, network = Fraction(claim["risk"]), "-".join(map(str, decoder["sizes"]))
    if risk >= 1:
        return f"At delta = {claim['delta']} the bound {claim['bound']} is vacuous: it says nothing about unseen data."
    return (
        f"With confidence 1 - {claim['delta']} over the drawing of these {data['examples']:,} examples, this {network} "
        f"network misreads at most {percent(risk, True)} of all images drawn like them, and reads at least "
        f"{percent(1 - risk, False)} as they are labelled ({data['dataset']})."
    )


def _claim(claim: dict[str, Any], errors: int, examples: int, history: dict[str, Any]) -> dict[str, Any]:
    risk = Fraction(claim["risk"])
    return {
        **claim,
        "vacuous": risk >= 1,
        "accuracy": decimal(1 - risk),
        "epsilon": str(risk - Fraction(errors, examples)),
        "share": str(share_of(Fraction(claim["delta"]), history, examples)),
        "theorem": THEOREMS[claim["bound"]],
    }


def decimal(value: Fraction) -> str:
    """A multiple of 10^-12 from 0 to 1, written out."""
    whole = int(value * 10**DIGITS)
    return f"{whole // 10**DIGITS}.{whole % 10**DIGITS:0{DIGITS}}"


# Reading: what has the wrong form is refused here, so that what follows need not look again.


def _take(value: Any, field: str, form: Any) -> Any:
    """``value`` if it has the ``form``: a type, a dict of forms (these fields and no others), or a list of one form."""
    if isinstance(form, dict):
        if not isinstance(value, dict) or set(value) != set(form):
            found = ", ".join(map(str, value)) if isinstance(value, dict) else type(value).__name__
            raise Rejected(f"{field}: expected the fields {', '.join(form)}, found {found}")
        for name, part in form.items():
            _take(value[name], f"{field}.{name}".removeprefix("certificate."), part)
    elif isinstance(form, list):
        if not isinstance(value, list) or len(value) > 100_000:
            raise Rejected(f"{field}: expected a list, found {type(value).__name__}")
        for index, item in enumerate(value):
            _take(item, f"{field}[{index}]", form[0])
    elif form is not object and type(value) is not form:
        raise Rejected(f"{field}: expected {form.__name__}, found {type(value).__name__}")
    return value


_FILE = {"folder": str, "file": str, "sha256": str}
_FORM = {
    "schema": str, "version": int, "statement": [str],
    "claims": [{
        "bound": str, "delta": str, "risk": str, "vacuous": bool, "accuracy": str, "epsilon": str, "share": str,
        "theorem": {"formula": str, "source": str},
    }],
    "assumptions": [str], "counts": {"examples": int, "errors": int, "correct": int},
    "space": {"chosen_among": str, "bits": int},
    "history": {
        "looks": int, "adaptive": bool, "recorded": [{"step": int, "purpose": str, "errors": int}],
        "selected_by": str, "learned_from": bool, "selected": str,
    },
    "decoder": {
        "specification": str, "sizes": [int], "activation": str, "bias": bool,
        "normalization": {"kind": str, "mean": str, "scale": str}, "unit": str, "sha256": str,
    },
    "weights": {
        "file": str, "dtype": str, "sha256": str, "tensors": [{"name": str, "shape": [int]}], "parameters": int,
    },
    "data": {
        "dataset": str, "split": str, "examples": int, "rows": int, "columns": int, "images": _FILE, "labels": _FILE,
        "classes": int,
    },
    "content_sha256": str,
}  # fmt: skip


def read(path: str) -> dict[str, Any]:
    """The certificate at ``path``, of the right form and written as certificates are; raises ``Rejected``."""
    try:
        with open(path, "rb") as file:
            raw = file.read(20_000_001)
    except OSError as error:
        raise Rejected(f"{path}: expected a certificate, found: {error.strerror}") from None
    try:
        if len(raw) > 20_000_000:
            raise ValueError
        document = json.loads(raw.decode(), parse_float=_no_float, parse_constant=_no_float)
        written = canonical(document)
    except (ValueError, RecursionError):
        raise Rejected(f"{path}: expected a certificate (JSON without fractions), found something else") from None
    schema = document.get("schema") if isinstance(document, dict) else None
    if not isinstance(schema, str) or schema not in _FORMS or document.get("version") != VERSION:
        known = " or ".join(f"{name!r}, version {VERSION}" for name in _FORMS)
        raise Rejected(f"schema: expected {known}, found another or none")
    _take(document, "certificate", _FORMS[schema])
    if written != raw:
        raise Rejected("layout: expected the text that certificates are written with; spaces, names or digits differ")
    return document


def _no_float(text: str) -> None:
    raise ValueError(text)


def facts_of(document: dict[str, Any]) -> dict[str, Any]:
    """The facts of a certificate, refused where they are impossible; ``build`` makes the rest of it from them."""
    decoder, history, data, counts = (document[name] for name in ("decoder", "history", "data", "counts"))
    decoder = {name: decoder[name] for name in ("sizes", "activation", "bias", "normalization", "unit")}
    sizes = decoder["sizes"]
    if not 2 <= len(sizes) <= 100 or not all(1 <= size <= 65_000 for size in sizes) or math.prod(sizes[:2]) > 10**9:
        raise Rejected(f"decoder.sizes: expected two or more numbers from 1 to 65,000, found {str(sizes)[:80]}")
    if decoder["activation"] not in ACTIVATIONS:
        raise Rejected(f"decoder.activation: expected one of {', '.join(ACTIVATIONS)}")
    if decoder["normalization"]["kind"] not in ("standard", "unit", "per-image"):
        raise Rejected("decoder.normalization.kind: expected standard, unit or per-image")
    if decoder["unit"] not in UNITS.values():
        raise Rejected(f"decoder.unit: expected {' or '.join(UNITS.values())}")
    for name in ("mean", "scale"):
        value = _rational(decoder["normalization"][name], f"decoder.normalization.{name}")
        if abs(value) > 10**6 or value != Fraction(float(value)) or (name == "scale" and value < Fraction(1, 10**6)):
            raise Rejected(f"decoder.normalization.{name}: expected a float64 of moderate size, written exactly")
    if document["weights"]["dtype"] not in DTYPES:
        raise Rejected(f"weights.dtype: expected one of {', '.join(DTYPES)}")
    m, k = data["examples"], counts["errors"]
    if not 1 <= m <= 10**7 or not 0 <= k <= m:
        raise Rejected(f"counts.errors: expected from 0 to {m} errors in at least 1 example, found {k}")
    if data["rows"] < 1 or data["columns"] < 1 or data["rows"] * data["columns"] != sizes[0]:
        raise Rejected(f"data.rows: expected images of {sizes[0]} pixels, found {data['rows']} x {data['columns']}")
    if data["split"] != "test":
        raise Rejected("data.split: expected test, the only split that neither teaches nor selects")
    if not max(1, len(history["recorded"])) <= history["looks"] <= (300 if history["adaptive"] else 10**6):
        raise Rejected("history.looks: expected at least the recorded looks, and at most 300 if they are adaptive")
    if not document["claims"]:
        raise Rejected("claims: expected at least one, found none")
    for index, claim in enumerate(document["claims"]):
        if claim["bound"] not in THEOREMS:
            raise Rejected(f"claims[{index}].bound: expected one of {', '.join(THEOREMS)}")
        if not 0 < _rational(claim["delta"], f"claims[{index}].delta") < 1:
            raise Rejected(f"claims[{index}].delta: expected a probability strictly between 0 and 1")
        risk = _rational(claim["risk"], f"claims[{index}].risk", exact_text=False)
        if not 0 <= risk <= 1 or risk * 10**DIGITS % 1 or decimal(risk) != claim["risk"]:
            raise Rejected(f"claims[{index}].risk: expected a decimal from 0 to 1 with {DIGITS} digits")
    return {
        "decoder": decoder,
        "weights": {name: document["weights"][name] for name in ("file", "dtype", "sha256")},
        "data": {name: value for name, value in data.items() if name != "classes"},
        "history": {name: history[name] for name in ("looks", "adaptive", "recorded")},
        "errors": k,
        "claims": [{name: claim[name] for name in ("bound", "delta", "risk")} for claim in document["claims"]],
    }


def _rational(text: str, field: str, exact_text: bool = True) -> Fraction:
    try:
        if len(text) > 4000 or not set(text) <= set("-0123456789/."):
            raise ValueError
        value = Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise Rejected(f"{field}: expected a number such as 7/200, found {text[:40]!r}") from None
    if exact_text and str(value) != text:
        raise Rejected(f"{field}: expected {value}, in lowest terms, found {text[:40]!r}")
    return value


def compare(found: Any, expected: Any, field: str = "") -> None:
    """Raise ``Rejected``, naming the first field that differs from what follows from the facts."""
    if isinstance(expected, dict):
        for name in expected:
            compare(found[name], expected[name], f"{field}.{name}".lstrip("."))
    elif isinstance(expected, list) and len(found) == len(expected):
        for index, item in enumerate(expected):
            compare(found[index], item, f"{field}[{index}]")
    elif found != expected:
        raise Rejected(f"{field}: expected {str(expected)[:100]!r}, found {str(found)[:100]!r}")


# The raw files.


def read_weights(folder: str, facts: dict[str, Any]) -> list[tuple[list[tuple[float, ...]], tuple[float, ...]]]:
    """Pairs (rows of weights, biases), layer by layer; raises ``Rejected``: missing, altered, or not finite."""
    weights, decoder = facts["weights"], facts["decoder"]
    code, width = DTYPES[weights["dtype"]]
    name = weights["file"]
    if os.path.basename(name) != name or name in ("", ".", ".."):
        raise Rejected(f"weights.file: expected the name of a file beside the certificate, found {name[:80]!r}")
    raw = _content(os.path.join(folder, name), "weights.file")
    if hashlib.sha256(raw).hexdigest() != weights["sha256"]:
        raise Rejected(f"weights.sha256: {name} is not the file that the certificate is about")
    if len(raw) != width * parameters_of(decoder):
        raise Rejected(f"weights.file: expected {width * parameters_of(decoder)} bytes, found {len(raw)}")
    layers, at = [], 0
    for layer, (inputs, units) in enumerate(zip(decoder["sizes"], decoder["sizes"][1:], strict=False)):
        values = struct.unpack_from(f"<{inputs * units}{code}", raw, at)
        at += width * len(values)
        bias = struct.unpack_from(f"<{units}{code}", raw, at) if decoder["bias"] else (0.0,) * units
        at += width * len(bias) if decoder["bias"] else 0
        for part, numbers in (("weight", values), ("bias", bias)):
            if not all(abs(number) < 2.0**60 for number in numbers):  # false for NaN as well
                raise Rejected(
                    f"weights.file: layers.{layer}.{part} holds NaN, an infinity, or a number of 2^60 or more"
                )
        layers.append(([values[row * inputs : (row + 1) * inputs] for row in range(units)], bias))
    return layers


def read_examples(folder: str, facts: dict[str, Any], data_folders: list[str]) -> tuple[list[bytes], bytes]:
    """The images, one ``bytes`` each, and the labels; raises ``Rejected``: missing, altered, or impossible."""
    data, classes = facts["data"], facts["decoder"]["sizes"][-1]
    m, rows, columns = data["examples"], data["rows"], data["columns"]
    headers = {
        "images": struct.pack(">IIII", 0x803, m, rows, columns),
        "labels": struct.pack(">II", 0x801, m),
    }
    content = {}
    for kind, header in headers.items():
        raw = _find(folder, data[kind], data_folders, f"data.{kind}")
        if hashlib.sha256(raw).hexdigest() != data[kind]["sha256"]:
            raise Rejected(f"data.{kind}.sha256: {data[kind]['file']} is not the file that the certificate is about")
        if not raw.startswith(header) or len(raw) - len(header) != m * (rows * columns if kind == "images" else 1):
            raise Rejected(f"data.{kind}: expected an IDX file of {m} examples of {rows} x {columns} pixels")
        content[kind] = raw[len(header) :]
    labels, size = content["labels"], rows * columns
    wrong = next((index for index, label in enumerate(labels) if label >= classes), None)
    if wrong is not None:
        raise Rejected(f"data.labels: label {labels[wrong]} at index {wrong}, expected 0 to {classes - 1}")
    return [content["images"][start : start + size] for start in range(0, m * size, size)], labels


def _find(folder: str, named: dict[str, str], data_folders: list[str], field: str) -> bytes:
    """A data file's content, unpacked: beside the certificate, or in torchvision's layout below a data folder."""
    name = named["file"]
    if named["folder"] not in FOLDERS or os.path.basename(name) != name or name in ("", ".", ".."):
        raise Rejected(f"{field}.file: expected the name of a file, and its folder one of {', '.join(FOLDERS[1:])}")
    places = [folder, *(os.path.join(place, named["folder"]) for place in data_folders if named["folder"])]
    for place in places:
        for path in (os.path.join(place, name), os.path.join(place, f"{name}.gz")):
            if os.path.isfile(path):
                raw = _content(path, f"{field}.file")
                try:
                    return gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
                except (OSError, EOFError, zlib.error):
                    raise Rejected(f"{field}.file: {path} is a damaged gzip file") from None
    raise Rejected(f"{field}.file: {name} was not found in {', '.join(places)}; give its folder with --data-dir")


def _content(path: str, field: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise Rejected(f"{field}: {path}: {error.strerror}") from None


# Counting: integers for the network, floats for the bounds on rounding.

_PIXEL_BITS = 8
_INPUT_BITS = {64: 24, 128: 45}  # of an activation, by the bits that a unit has in the long integer
_OWN = 2.0**-48  # what a handful of float64 operations may do, relative to their largest term
_OVERFLOW = 2.0**90  # a bound on rounding as large as this comes with sums that may overflow float32
_LOW, _HIGH = 1 + 2.0**-12, 1 + 2.0**-10  # the maker of the certificate used a factor between these two


Rows = list[tuple[float, ...]]


class Layer:
    """A dense layer of which all units stand in one integer an input, ``slot`` bits each, and what its bounds need."""

    def __init__(
        self, rows: Rows, bias: tuple[float, ...], u: float, slot: int, input_bits: int, inner: bool = False
    ) -> None:
        self.units, self.inputs, self.bias = len(rows), len(rows[0]), bias
        self.largest_bias = max(map(abs, bias))
        self.norms = [math.sqrt(math.fsum(w * w for w in row)) * (1 + _OWN) for row in rows]
        self.sums = [math.fsum(row) for row in rows]
        self.absolute = [math.fsum(map(abs, row)) * (1 + _OWN) for row in rows]
        self.width = slot // 8
        bits = slot - 2 - input_bits - self.inputs.bit_length()  # so that no sum leaves its slot
        self.shift = bits - math.frexp(max(abs(w) for row in rows for w in row))[1]
        half = 1 << (slot - 1)
        self.offset = sum(half << (slot * unit) for unit in range(self.units))
        scaled = [[round(math.ldexp(w, self.shift)) + half for w in row] for row in rows]
        self.columns = [
            int.from_bytes(b"".join(value.to_bytes(self.width, "little") for value in column), "little") - self.offset
            for column in zip(*scaled, strict=True)
        ]
        self.stretch = spectral(rows) if inner else math.inf
        gamma = (self.inputs + 3) * u
        self.gamma = gamma / (1 - gamma)
        self.root = math.sqrt(self.inputs)

    def products(self, inputs: list[int] | bytes) -> list[float]:
        """``2^shift Σ_i w_ji a_i`` for whole numbers a_i of at most ``input_bits`` bits; rounded once, to a float."""
        used = [(column, value) for column, value in zip(self.columns, inputs, strict=True) if value]
        total = sum(map(mul, [column for column, _ in used], [value for _, value in used])) + self.offset
        raw = total.to_bytes(self.units * self.width, "little")
        words, half = struct.unpack(f"<{len(raw) // 8}Q", raw), 1 << 63
        if self.width == 8:
            return [float(word - half) for word in words]
        return [float(((high - half) << 64) + low) for low, high in zip(words[::2], words[1::2], strict=True)]

    def fresh(self, norm: float, error: float) -> list[float]:
        """The formula at the top of this file without its first term: the rounding that this layer adds."""
        reach, floor = norm + error, 2.0**-149 * (self.root * (norm + error) + self.inputs + 1)
        g, gr = self.gamma, self.gamma * reach
        return [w * gr + g * abs(b) + floor for w, b in zip(self.norms, self.bias, strict=True)]


class Network:
    """Logits of raw images with a bound on each."""

    def __init__(
        self,
        layers: list[tuple[Rows, tuple[float, ...]]],
        activation: str,
        kind: str,
        mean: float,
        scale: float,
        u: float,
        *,
        slot: int = 128,
    ) -> None:
        self.input_bits = _INPUT_BITS[slot]
        self.layers = [
            Layer(rows, bias, u, slot, self.input_bits if index else _PIXEL_BITS, 0 < index < len(layers) - 1)
            for index, (rows, bias) in enumerate(layers)
        ]
        self.activation, self.kind, self.mean, self.scale, self.u = activation, kind, mean, scale, u
        self.classes = self.layers[-1].units

    def logits(self, pixels: bytes) -> tuple[list[float], list[float]]:
        """The logits of one image and, for each, how far any evaluation's may be from it (both without slack)."""
        below = self.layers[0]
        z, fresh, error = self._first(below, pixels)
        errors = [w * error + f for w, f in zip(below.norms, fresh, strict=True)]
        for layer in self.layers[1:]:
            if not max(errors) < _OVERFLOW:
                break
            h, spread, slope, own = activate(self.activation, z, errors, self.u)
            added = math.hypot(*[min(s, slope * f + r) for s, f, r in zip(spread, fresh, own, strict=True)])
            error = min(math.hypot(*spread), slope * below.stretch * error + added) * (1 + _OWN)
            largest = max(map(abs, h))
            shift = self.input_bits - math.frexp(largest)[1]
            whole = [round(math.ldexp(value, shift)) for value in h]
            norm = math.hypot(*h) * (1 + _OWN)
            back = -shift - layer.shift
            unit = math.ldexp(1.0, back)
            z = [unit * v + b for v, b in zip(layer.products(whole), layer.bias, strict=True)]
            # What rounding h and the weights to whole numbers did, and the last two operations.
            coarse = math.ldexp(1.0, -layer.shift) * layer.inputs * largest
            fine = math.ldexp(1.0, -shift)
            fresh = [
                f + a * fine + coarse + _OWN * (abs(value) + abs(b))
                for f, a, value, b in zip(layer.fresh(norm, error), layer.absolute, z, layer.bias, strict=True)
            ]
            errors = [w * error + f for w, f in zip(layer.norms, fresh, strict=True)]
            below = layer
        return (z, errors) if max(errors) < _OVERFLOW else ([0.0] * self.classes, [math.inf] * self.classes)

    def gaps(self, pixels: bytes, label: int) -> list[tuple[float, float]]:
        """By how much the label's logit exceeds each other one, and how far any evaluation may be from that."""
        z, errors = self.logits(pixels)
        own, reach = z[label], errors[label]
        return [(own - v, reach + e) for j, (v, e) in enumerate(zip(z, errors, strict=True)) if j != label]

    def _first(self, layer: Layer, pixels: bytes) -> tuple[list[float], list[float], float]:
        """The first layer's z, the rounding it adds, and how far the features may be."""
        mean, scale, n = self.mean, self.scale, layer.inputs
        total, squares = sum(pixels), sum(map(mul, pixels, pixels))
        if self.kind == "per-image":
            mean, variance = total / n, n * squares - total * total
            scale = math.sqrt(variance) / n if variance else 1.0
        # |x|² = Σ (pixel - mean)² / scale²
        norm = math.sqrt(max(0.0, squares - 2 * mean * total + n * mean * mean)) / scale
        error = self.u * (2 * math.sqrt(n) * abs(mean) / scale + 5 * norm)
        if self.kind == "per-image":
            error += norm * self.u * (0.55 * (n + 6) + 2 * (mean / scale + 1)) if norm else 0.0
        unit = math.ldexp(1.0, -layer.shift)
        terms = [(unit * v, mean * w) for v, w in zip(layer.products(pixels), layer.sums, strict=True)]
        z = [(product - shifted) / scale + b for (product, shifted), b in zip(terms, layer.bias, strict=True)]
        # What rounding the weights to whole numbers did, and a handful of operations on these terms.
        largest = max([abs(product) + abs(shifted) for product, shifted in terms])
        own = (unit * total + _OWN * largest) / scale + _OWN * layer.largest_bias
        return z, [f + own for f in layer.fresh(norm, error)], error


def spectral(rows: Rows) -> float:
    """At least the spectral norm of a matrix: ``√‖W Wᵀ‖_∞``, or with ``Wᵀ W`` where that is smaller in size."""
    rows = rows if len(rows) <= len(rows[0]) else list(zip(*rows, strict=True))
    sums = [0.0] * len(rows)
    for i, row in enumerate(rows):
        for j in range(i + 1):
            product = abs(sum(map(mul, row, rows[j])))
            sums[i] += product
            if j < i:
                sums[j] += product
    return math.sqrt(max(sums)) * (1 + 2.0**-20)  # far more than rounding takes from so few sums


def activate(
    name: str, z: list[float], errors: list[float], u: float
) -> tuple[list[float], list[float], float, list[float]]:
    """``h = σ(z)``; how far an evaluation's h may be where its z may be as far as ``errors``; slope, rounding in it."""
    none = [0.0] * len(z)
    if name == "relu":  # an evaluation's z is at most z + e, so that its h is at most that, or 0
        return [max(0.0, v) for v in z], [max(0.0, min(e, v + e)) for v, e in zip(z, errors, strict=True)], 1.0, none
    if name == "identity":
        return z, errors, 1.0, none
    if name == "leaky-relu":
        h, slope = [v if v > 0 else 0.01 * v for v in z], 1.0
        own = [3 * u * (abs(v) + e) for v, e in zip(h, errors, strict=True)]
    else:
        if name == "sigmoid":
            h, slope = [1 / (1 + math.exp(-v)) if v > -700 else 0.0 for v in z], 0.25
        elif name == "tanh":
            h, slope = [math.tanh(v) for v in z], 1.0
        else:
            h, slope = [v * (1 + math.erf(v / math.sqrt(2))) / 2 for v in z], 1.13
        own = [16 * u * (1 + abs(v) + e) for v, e in zip(z, errors, strict=True)]
    return h, [slope * e + r for e, r in zip(errors, own, strict=True)], slope, own


class Counter:
    """Counts with 64 bits a unit, which decides nearly every example, and with 128 where that leaves a doubt."""

    def __init__(self, *arguments: Any) -> None:
        self._arguments = arguments
        self._coarse = Network(*arguments, slot=64)
        self._fine: Network | None = None

    def count(self, images: list[bytes], labels: bytes) -> tuple[int, int]:
        """The fewest and the most errors that a correct count can give; they differ where a margin is at its bound."""
        fewest = most = 0
        for pixels, label in zip(images, labels, strict=True):
            gaps = self._coarse.gaps(pixels, label)
            if all(gap > _HIGH * error for gap, error in gaps):
                continue
            if not any(gap < -_HIGH * error for gap, error in gaps):  # not certainly wrong either
                self._fine = self._fine or Network(*self._arguments)
                gaps = self._fine.gaps(pixels, label)
            fewest += not all(gap > _LOW * error for gap, error in gaps)
            most += not all(gap > _HIGH * error for gap, error in gaps)
        return fewest, most


_counter: Counter | None = None


def _start(*arguments: Any) -> None:
    global _counter
    _counter = Counter(*arguments)


def _count_part(part: tuple[list[bytes], bytes]) -> tuple[int, int]:
    assert _counter is not None
    return _counter.count(*part)


def count_all(arguments: tuple[Any, ...], images: list[bytes], labels: bytes, processes: int) -> tuple[int, int]:
    """The count over all examples, shared among ``processes``."""
    if processes == 1:
        return Counter(*arguments).count(images, labels)
    step = -(-len(images) // (4 * processes))
    parts = [(images[start : start + step], labels[start : start + step]) for start in range(0, len(images), step)]
    with ProcessPoolExecutor(processes, get_context("spawn"), _start, arguments) as pool:
        found = list(pool.map(_count_part, parts))
    return sum(low for low, _ in found), sum(high for _, high in found)


# The bounds, decided in integers.


def confirms(bound: str, k: int, m: int, share: Fraction, n: int) -> bool:
    """Whether the bound shows, with failure probability ``share``, that the risk is at most n / 10^12."""
    p, scale = n, 10**DIGITS
    if p >= scale or p * m <= k * scale:
        return p >= scale
    bits = 128
    while bits < 2000:
        low, high = (_tail if bound == "clopper-pearson" else _exponent)(bound, k, m, share, p, bits)
        if low > 0 or high < 0:
            return low > 0
        bits *= 3
    if bound == "hoeffding":
        return False
    # Equal up to a thousand bits: compare the rational numbers themselves.
    x, y = Fraction(p, scale), Fraction(scale - p, scale)
    if bound == "clopper-pearson":
        return sum(math.comb(m, i) * x**i * y ** (m - i) for i in range(k + 1)) <= share
    return (Fraction(k, m) / x) ** k * (Fraction(m - k, m) / y) ** (m - k) * share >= 1


def _tail(bound: str, k: int, m: int, share: Fraction, p: int, bits: int) -> tuple[int, int]:
    """An enclosure of a positive multiple of ``share − P[Binomial(m, p/10^12) ≤ k]``: terms from the k-th downward."""
    one, q = 1 << bits, 10**DIGITS - p
    ratio_low = ratio_high = total_low = total_high = one
    for i in range(k, 0, -1):
        ratio_low = ratio_low * (i * q) // ((m - i + 1) * p)
        ratio_high = ratio_high * (i * q) // ((m - i + 1) * p) + 1
        total_low, total_high = total_low + ratio_low, total_high + ratio_high
    # P = C(m, k) p^k q^(m−k) / 10^(12 m) · total / one; the powers by logarithms: ln share − ln P.
    log = _log_factorial_ratio(m, k, bits)
    powers = [k * v for v in _ln(p, 10**DIGITS, bits)], [(m - k) * v for v in _ln(q, 10**DIGITS, bits)]
    tail_low, tail_high = _ln(total_low, one, bits)[0], _ln(total_high, one, bits)[1]
    share_low, share_high = _ln(share.numerator, share.denominator, bits)
    return (
        share_low - (log[1] + powers[0][1] + powers[1][1] + tail_high),
        share_high - (log[0] + powers[0][0] + powers[1][0] + tail_low),
    )


def _log_factorial_ratio(m: int, k: int, bits: int) -> tuple[int, int]:
    return _ln(math.comb(m, k), 1, bits)


def _exponent(bound: str, k: int, m: int, share: Fraction, p: int, bits: int) -> tuple[int, int]:
    """An enclosure of ``2^bits`` times the bound's exponent minus ``ln(1/share)``."""
    share_low, share_high = _ln(share.numerator, share.denominator, bits)
    scale = 10**DIGITS
    if bound == "hoeffding":
        n, d = 2 * (p * m - k * scale) ** 2 << bits, m * scale * scale
        return n // d + share_low, n // d + 1 + share_high
    low, high = share_low, share_high
    for part, n, d in ((k, k * scale, m * p), (m - k, (m - k) * scale, m * (scale - p))):
        if part:
            ln_low, ln_high = _ln(n, d, bits)
            low, high = low + part * ln_low, high + part * ln_high
    return low, high


def _ln(n: int, d: int, bits: int) -> tuple[int, int]:
    """Whole numbers ``low ≤ 2^bits ln(n/d) ≤ high``: ``n/d = 2^s y``, ``ln y = 2 artanh((y − 1)/(y + 1))``."""
    work = bits + 64
    s = n.bit_length() - d.bit_length()
    n, d = n << max(0, -s), d << max(0, s)
    two, y = _artanh(1, 3, work), _artanh(abs(n - d), n + d, work)
    y = y if n >= d else (-y[1], -y[0])
    ends = sorted((s * two[0], s * two[1]))
    return (2 * (y[0] + ends[0])) >> 64, -((-2 * (y[1] + ends[1])) >> 64)


def _artanh(n: int, d: int, bits: int) -> tuple[int, int]:
    """``low ≤ 2^bits artanh(n/d) ≤ high``, for n/d at most 1/3; each of fewer than ``bits`` terms is within 4 units."""
    z = (n << bits) // d
    square, power, total, odd = (z * z) >> bits, z, z, 1
    while power:
        power, odd = (power * square) >> bits, odd + 2
        total += power // odd
    return total, total + 4 * bits + 8


# Code-length certificates: a network of few bits, counted on the very examples that it was learned from.
#
# A union over everything that could have been learned pays for the learning. With B bits to write a network down, its
# share of delta is delta 2^-B: of 2^B networks each gets as much, and by Kraft's inequality the shares of a prefix code
# sum to at most delta. Numbers are whole ones over powers of two throughout, so the count is exact.

CODES = ("fixed", "enumerative")
_HALF = 16  # bits of a shift, a scale and a bias
CODE_DECODER = (
    "Features are pixel / denominator, pixels row by row. A weight is shift + scale * value(code), with shift and "
    "scale float16, one pair a layer; the value of a code is the code (encoding integer) or the float16 whose bits it "
    "is (float16). Biases are float16. Layers are z = W h + b with ReLU between them, in exact arithmetic; the class "
    "is the smallest index of a largest logit."
)
CODE_SPECIFICATIONS = {
    "fixed": (
        "Layer by layer: shift and scale (16 bits each), the codes row by row (as many bits each as the network has), "
        "the biases (16 bits each)."
    ),
    "enumerative": (
        "As the fixed code, but the n codes of a layer are written as how often each of the K symbols occurs, in "
        "ceil(log2 C(n + K - 1, K - 1)) bits, and which of the sequences with these counts they are, in "
        "ceil(log2 (n! / prod n_k!)) bits."
    ),
}
CODE_ASSUMPTIONS = (
    "The examples of this split and the images that the claim is about were drawn independently from one distribution "
    "(i.i.d.). Nothing is claimed about images from elsewhere: other writers, scanners, or preparation.",
    "The space (sizes, bits, biases, encoding, denominator) and the code were fixed before these examples were seen, "
    "or chosen among as many as candidates says, which pay for it. The weights may depend on the examples in any way.",
    "SHA-256 has no collisions, and Python computes as its manual says (whole numbers exactly, floats as IEEE 754).",
)


def build_code(facts: dict[str, Any]) -> dict[str, Any]:
    """The code-length certificate of ``facts``.

    ``facts``: space (sizes, bits, biases, encoding, denominator), code, candidates, length (in bits), weights (file,
    sha256), data (as in ``build``), errors, claims (list of bound, delta, risk).
    """
    space, data, errors = facts["space"], facts["data"], facts["errors"]
    examples, specification = data["examples"], {"specification": CODE_DECODER, **facts["space"]}
    document = {
        "schema": CODE_SCHEMA,
        "version": VERSION,
        "statement": [_statement(claim, data, space) for claim in facts["claims"]],
        "claims": [
            {
                **claim,
                "vacuous": Fraction(claim["risk"]) >= 1,
                "accuracy": decimal(1 - Fraction(claim["risk"])),
                "epsilon": str(Fraction(claim["risk"]) - Fraction(errors, examples)),
                "theorem": THEOREMS[claim["bound"]],
            }
            for claim in facts["claims"]
        ],
        "share": "delta / candidates * 2^-length",
        "assumptions": list(CODE_ASSUMPTIONS),
        "counts": {"examples": examples, "errors": errors, "correct": examples - errors},
        "code": {
            "name": facts["code"],
            "specification": CODE_SPECIFICATIONS[facts["code"]],
            "length": facts["length"],
            "candidates": facts["candidates"],
            "theorem": (
                "union over a finite space of 2^length networks"
                if facts["code"] == "fixed"
                else "union over a prefix code (Blumer et al., Information Processing Letters 24, 1987)"
            ),
        },
        "decoder": {**specification, "sha256": hashlib.sha256(canonical(specification)).hexdigest()},
        "weights": facts["weights"],
        "data": {**data, "classes": space["sizes"][-1]},
    }
    return {**document, "content_sha256": hashlib.sha256(canonical(document)).hexdigest()}


_DATA_FORM: dict[str, Any] = dict(_FORM["data"])  # type: ignore[call-overload]
_CODE_FORM = {
    "schema": str, "version": int, "statement": [str],
    "claims": [{
        "bound": str, "delta": str, "risk": str, "vacuous": bool, "accuracy": str, "epsilon": str,
        "theorem": {"formula": str, "source": str},
    }],
    "share": str, "assumptions": [str], "counts": {"examples": int, "errors": int, "correct": int},
    "code": {"name": str, "specification": str, "length": int, "candidates": int, "theorem": str},
    "decoder": {
        "specification": str, "sizes": [int], "bits": int, "biases": bool, "encoding": str, "denominator": int,
        "sha256": str,
    },
    "weights": {"file": str, "sha256": str}, "data": _DATA_FORM, "content_sha256": str,
}  # fmt: skip


def code_facts(document: dict[str, Any]) -> dict[str, Any]:
    """The facts of a code-length certificate, refused where they are impossible."""
    decoder, code, data = document["decoder"], document["code"], document["data"]
    space = {name: decoder[name] for name in ("sizes", "bits", "biases", "encoding", "denominator")}
    _check_sizes(space["sizes"], data)
    if space["encoding"] not in ("integer", "float16") or not 1 <= space["bits"] <= 16:
        raise Rejected("decoder.bits: expected 1 to 16 bits, and the encoding integer or float16")
    if space["encoding"] == "float16" and space["bits"] != _HALF:
        raise Rejected(f"decoder.bits: expected {_HALF} for the encoding float16, found {space['bits']}")
    if not 1 <= space["denominator"] <= 10**6:
        raise Rejected("decoder.denominator: expected a number from 1 to 1,000,000")
    if code["name"] not in CODES or (code["name"] == "enumerative" and space["bits"] > 8):
        raise Rejected(f"code.name: expected one of {', '.join(CODES)}, enumerative for at most 8 bits")
    if not 1 <= code["length"] <= 10**9 or not 1 <= code["candidates"] <= 10**9:
        raise Rejected("code.length: expected a number of bits, and at least 1 candidate")
    if data["split"] != "train":
        raise Rejected("data.split: expected train; for a test split a holdout certificate says more")
    claims = [{name: claim[name] for name in ("bound", "delta", "risk")} for claim in document["claims"]]
    _check_claims(claims, "risk")
    for index, claim in enumerate(claims):
        if claim["bound"] not in THEOREMS:
            raise Rejected(f"claims[{index}].bound: expected one of {', '.join(THEOREMS)}")
    m, k = data["examples"], document["counts"]["errors"]
    if not 1 <= m <= 10**7 or not 0 <= k <= m:
        raise Rejected(f"counts.errors: expected from 0 to {m} errors in at least 1 example, found {k}")
    return {
        "space": space,
        "code": code["name"],
        "candidates": code["candidates"],
        "length": code["length"],
        "weights": document["weights"],
        "data": {name: value for name, value in data.items() if name != "classes"},
        "errors": k,
        "claims": claims,
    }


def _check_sizes(sizes: list[int], data: dict[str, Any]) -> None:
    if not 2 <= len(sizes) <= 100 or not all(1 <= size <= 65_000 for size in sizes) or math.prod(sizes[:2]) > 10**9:
        raise Rejected(f"decoder.sizes: expected two or more numbers from 1 to 65,000, found {str(sizes)[:80]}")
    if data["rows"] < 1 or data["columns"] < 1 or data["rows"] * data["columns"] != sizes[0]:
        raise Rejected(f"data.rows: expected images of {sizes[0]} pixels, found {data['rows']} x {data['columns']}")


def _check_claims(claims: list[dict[str, Any]], *decimals: str) -> None:
    if not claims:
        raise Rejected("claims: expected at least one, found none")
    for index, claim in enumerate(claims):
        if not 0 < _rational(claim["delta"], f"claims[{index}].delta") < 1:
            raise Rejected(f"claims[{index}].delta: expected a probability strictly between 0 and 1")
        for name in decimals:
            value = _rational(claim[name], f"claims[{index}].{name}", exact_text=False)
            if not 0 <= value <= 1 or value * 10**DIGITS % 1 or decimal(value) != claim[name]:
                raise Rejected(f"claims[{index}].{name}: expected a decimal from 0 to 1 with {DIGITS} digits")


def check_code(folder: str, document: dict[str, Any], data_folders: list[str]) -> tuple[int, int]:
    """Check a code-length certificate; the examples and the errors among them, counted again."""
    facts = code_facts(document)
    compare(document, build_code(facts))
    layers, length = read_codes(folder, facts)
    if length != facts["length"]:
        raise Rejected(f"code.length: expected {length} bits, measured on the weights, found {facts['length']}")
    m, k = facts["data"]["examples"], facts["errors"]
    for index, claim in enumerate(facts["claims"]):
        share = Fraction(claim["delta"]) / facts["candidates"] / 2**length
        _check_risk(index, "risk", claim["risk"], lambda n, b=claim["bound"], s=share: confirms(b, k, m, s, n))
    images, labels = read_examples(folder, {"data": facts["data"], "decoder": facts["space"]}, data_folders)
    found = _count_exactly(layers, facts["space"]["denominator"], images, labels)
    if found != k:
        raise Rejected(f"counts.errors: expected {found}, counted again from weights and data, found {k}")
    return m, k


def _check_risk(index: int, name: str, stated: str, confirmed: Any) -> None:
    n = int(Fraction(stated) * 10**DIGITS)
    if not confirmed(n):
        raise Rejected(f"claims[{index}].{name}: {stated} does not follow from the counts")
    if n and confirmed(n - 1):
        raise Rejected(f"claims[{index}].{name}: {stated} is not the least that follows; it was altered")


WholeLayer = tuple[list[list[int]], list[int], int]  # weights and biases as whole numbers over 2^exponent


def read_codes(folder: str, facts: dict[str, Any]) -> tuple[list[WholeLayer], int]:
    """The layers of the raw weights, and how many bits its code writes them in; raises ``Rejected``."""
    space = facts["space"]
    raw = _hashed(folder, facts["weights"], "weights")
    shapes, bits = list(zip(space["sizes"][1:], space["sizes"], strict=False)), space["bits"]
    fixed = sum(2 * _HALF + n * d * bits + (_HALF * n if space["biases"] else 0) for n, d in shapes)
    if len(raw) != -(-fixed // 8):
        raise Rejected(f"weights.file: expected {-(-fixed // 8)} bytes, found {len(raw)}")
    text, at = format(int.from_bytes(raw, "big"), f"0{8 * len(raw)}b"), 0
    if "1" in text[fixed:]:
        raise Rejected("weights.file: its last bits, which only fill up a byte, are not 0")
    layers, length = [], 0
    for units, inputs in shapes:
        shift, scale = (_half_units(int(text[place : place + _HALF], 2)) for place in (at, at + _HALF))
        at += 2 * _HALF
        codes = [int(text[place : place + bits], 2) for place in range(at, at + units * inputs * bits, bits)]
        at += len(codes) * bits
        biases = [0] * units
        if space["biases"]:
            ends = range(at + _HALF, at + _HALF * units + 1, _HALF)
            biases = [_half_units(int(text[end - _HALF : end], 2)) for end in ends]
            at += _HALF * units
        # in units of 2^-24, or of 2^-48 where a code is itself a float16
        if space["encoding"] == "float16":
            values, exponent, shift = [_half_units(code) for code in codes], 48, shift << 24
        else:
            values, exponent = codes, 24
        flat = [shift + scale * value for value in values]
        rows = [flat[row * inputs : (row + 1) * inputs] for row in range(units)]
        layers.append((rows, [bias << (exponent - 24) for bias in biases], exponent))
        word = units * inputs * bits if facts["code"] == "fixed" else _enumerative(codes, 1 << bits)
        length += 2 * _HALF + word + (_HALF * units if space["biases"] else 0)
    return layers, length


def _half_units(pattern: int) -> int:
    """The float16 of these bits as a whole number of 2^-24."""
    value: float = struct.unpack("<e", pattern.to_bytes(2, "little"))[0]
    if not math.isfinite(value):
        raise Rejected("weights.file: holds NaN or an infinity")
    return int(math.ldexp(value, 24))


def _enumerative(codes: list[int], symbols: int) -> int:
    """The bits of the enumerative code of these codes."""
    n, sequences, total = len(codes), 1, 0
    for symbol in range(symbols):
        count = codes.count(symbol)
        total += count
        sequences *= math.comb(total, count)
    return (math.comb(n + symbols - 1, symbols - 1) - 1).bit_length() + (sequences - 1).bit_length()


def _count_exactly(layers: list[WholeLayer], denominator: int, images: list[bytes], labels: bytes) -> int:
    """The errors of the smallest index of a largest logit, in whole numbers: all units of a layer in one long one."""
    packed, largest, scale = [], 255, denominator
    for rows, biases, exponent in layers:
        # h is a whole number over scale, so that z = W h + b is one over scale 2^exponent
        own = [bias * scale for bias in biases]
        largest = max(sum(map(abs, row)) * largest + abs(bias) for row, bias in zip(rows, own, strict=True)) or 1
        slot = 8 * (largest.bit_length() // 8 + 1)
        half = 1 << (slot - 1)
        columns = [
            sum(weight << (slot * unit) for unit, weight in enumerate(column)) for column in zip(*rows, strict=True)
        ]
        start = sum((bias + half) << (slot * unit) for unit, bias in enumerate(own))
        packed.append((columns, start, slot // 8, half, len(rows)))
        scale <<= exponent
    errors = 0
    for pixels, label in zip(images, labels, strict=True):
        z: Any = pixels
        for index, (columns, start, width, half, units) in enumerate(packed):
            h = [max(0, value) for value in z] if index else z
            raw = (sum(map(mul, columns, h)) + start).to_bytes(units * width, "little")
            z = [int.from_bytes(raw[at : at + width], "little") - half for at in range(0, len(raw), width)]
        errors += z.index(max(z)) != label
    return errors


def _hashed(folder: str, named: dict[str, str], field: str) -> bytes:
    """A raw file beside the certificate; raises ``Rejected`` if it is missing, elsewhere or altered."""
    name = named["file"]
    if os.path.basename(name) != name or name in ("", ".", ".."):
        raise Rejected(f"{field}.file: expected the name of a file beside the certificate, found {name[:80]!r}")
    raw = _content(os.path.join(folder, name), f"{field}.file")
    if hashlib.sha256(raw).hexdigest() != named["sha256"]:
        raise Rejected(f"{field}.sha256: {name} is not the file that the certificate is about")
    return raw


# PAC-Bayes certificates: a Gaussian over networks, of which one is drawn anew for every image.

MONTE_CARLO = Fraction(2, 7)  # of delta: what the estimate of the empirical risk pays; the bound pays the rest
_KL_DIGITS = 6
_TIE = 2.0**-20
_NEAR = 2.0**-30  # what float64 may do to a margin, generously
_PAC_FILES = ("mean", "scale", "prior_mean", "outcomes")
PAC_DECODER = (
    "Features are pixel / maximum, pixels row by row. For every image all weights and biases are drawn anew, each from "
    "its own Gaussian with the stored mean and standard deviation (scale), independently. Layers are z = W h + b with "
    "ReLU between them; the class is that of the largest logit. The prior is the Gaussian with the means prior_mean "
    "and one standard deviation for all. Files hold float32, little-endian: weight (row by row) and bias of each layer."
)
DRAWS = (
    "Draw i reads SHAKE-128(key, i as 8 bytes, big-endian) as 64-bit words, little-endian. With the first word x it "
    "takes the example number floor(x m / 2^64) of the m that the bound is evaluated on. Of the words after it each "
    "pair (a, b) gives two standard normal numbers r cos(t), r sin(t), with r = sqrt(-2 ln((floor(a / 2^11) + 1/2) / "
    "2^53)) and t = 2 pi floor(b / 2^11) / 2^53: one a unit, layer by layer. Since no weight is used twice, "
    "z_j is Gaussian given h, so that z_j = sum mean_ji h_i + mean_j + noise_j sqrt(sum scale_ji^2 h_i^2 + scale_j^2), "
    "in float64. The draw is an error unless its label's logit exceeds every other by more than 2^-20. The outcomes "
    "are one bit a draw, 1 for an error, the first in the highest bit of the first byte."
)
PAC_THEOREM = {
    "formula": (
        "p >= q and m kl(q || p) >= KL + ln(2 sqrt(m) / share) confirm that the risk is at most p, where q bounds the "
        "empirical risk of the posterior: the least q with P[Binomial(draws, q) <= errors] <= share_monte_carlo"
    ),
    "source": (
        "Seeger, JMLR 3 (2002); Maurer, arXiv:cs/0411099 (2004); the estimate as in Langford and Caruana, NIPS (2001)"
    ),
}
PAC_ASSUMPTIONS = (
    "The examples that the bound is evaluated on and the images that the claim is about were drawn independently from "
    "one distribution (i.i.d.). Nothing is claimed about images from elsewhere: other writers, scanners, preparation.",
    "The prior was fixed without these examples, or chosen among as many as candidates says, which pay for it. The "
    "posterior may depend on them in any way.",
    "SHA-256 has no collisions, SHAKE-128 gives numbers as good as random ones, and Python computes as its manual says "
    "(whole numbers exactly, floats as IEEE 754); math.log, sin and cos are accurate to a few units of rounding.",
)
PRIORS = {
    "learnt": "The prior's means were learned from the examples of the prior's part alone.",
    "data-free": "The prior's means were drawn at random, without any example.",
}
PAC_CHECKED = {
    "derived": (
        "From the files: the divergence KL (exactly, then rounded up), which examples the bound is evaluated on, the "
        "key of the draws, how many outcomes are errors, q and the risk of every claim, every sentence and hash."
    ),
    "recounted": (
        "As many outcomes as the check is asked for, which it picks at random: each is drawn again and has to be as "
        "stated. Of outcomes of which a share s is wrong, n redrawn ones find one with probability 1 - (1 - s)^n."
    ),
    "trusted": (
        "The outcomes that were not drawn again; that the prior does not depend on the examples of the bound; the "
        "number of candidates; that no other draws were made and discarded."
    ),
}


def build_pac_bayes(facts: dict[str, Any]) -> dict[str, Any]:
    """The PAC-Bayes certificate of ``facts``.

    ``facts``: decoder (sizes, maximum), prior (kind, scale, candidates), data (as in ``build``, and part:
    prior_examples, seed), files (mean, scale, prior_mean, outcomes: file, sha256), draws, errors, divergence, claims
    (list of delta, empirical_risk, risk).
    """
    decoder, data, prior = facts["decoder"], facts["data"], facts["prior"]
    specification = {"specification": PAC_DECODER, **decoder}
    m = data["examples"] - data["part"]["prior_examples"]
    document = {
        "schema": PAC_SCHEMA,
        "version": VERSION,
        "statement": [_pac_statement(claim, facts, m) for claim in facts["claims"]],
        "claims": [
            {
                **claim,
                "vacuous": Fraction(claim["risk"]) >= 1,
                "accuracy": decimal(1 - Fraction(claim["risk"])),
                "share": str(_pac_shares(claim, prior)[0]),
                "share_monte_carlo": str(_pac_shares(claim, prior)[1]),
            }
            for claim in facts["claims"]
        ],
        "theorem": PAC_THEOREM,
        "assumptions": [*PAC_ASSUMPTIONS, PRIORS[prior["kind"]]],
        "checked": PAC_CHECKED,
        "counts": {"examples": m, "draws": facts["draws"], "errors": facts["errors"]},
        "divergence": facts["divergence"],
        "prior": prior,
        "decoder": {**specification, "sha256": hashlib.sha256(canonical(specification)).hexdigest()},
        "draws": {"specification": DRAWS, "key": draws_key(facts).hex()},
        "files": facts["files"],
        "parameters": _pac_parameters(decoder["sizes"]),
        "data": {**data, "classes": decoder["sizes"][-1]},
    }
    return {**document, "content_sha256": hashlib.sha256(canonical(document)).hexdigest()}


def draws_key(facts: dict[str, Any]) -> bytes:
    """The key of the draws: the hash of everything that was fixed before the first of them."""
    files = {name: facts["files"][name]["sha256"] for name in _PAC_FILES[:3]}
    fixed = {"decoder": facts["decoder"], "prior": facts["prior"], "data": facts["data"], "files": files}
    return hashlib.sha256(canonical({**fixed, "draws": facts["draws"]})).digest()


def _pac_parameters(sizes: list[int]) -> int:
    return sum(math.prod(tensor["shape"]) for tensor in tensors_of({"sizes": sizes, "bias": True}))


def _pac_shares(claim: dict[str, Any], prior: dict[str, Any]) -> tuple[Fraction, Fraction]:
    delta = Fraction(claim["delta"])
    return delta * (1 - MONTE_CARLO) / prior["candidates"], delta * MONTE_CARLO


def _pac_statement(claim: dict[str, Any], facts: dict[str, Any], m: int) -> str:
    risk, network = Fraction(claim["risk"]), "-".join(map(str, facts["decoder"]["sizes"]))
    if risk >= 1:
        return f"At delta = {claim['delta']} the PAC-Bayes bound is vacuous: it says nothing about unseen data."
    return (
        f"With confidence 1 - {claim['delta']} over the drawing of these {m:,} examples and of {facts['draws']:,} "
        f"pairs of a network and an example, the {network} network whose weights are drawn anew for every image "
        f"misreads at most {percent(risk, True)} of all images drawn like them ({facts['data']['dataset']})."
    )


_HASHED = {"file": str, "sha256": str}
_PAC_FORM = {
    "schema": str, "version": int, "statement": [str],
    "claims": [{
        "delta": str, "empirical_risk": str, "risk": str, "vacuous": bool, "accuracy": str, "share": str,
        "share_monte_carlo": str,
    }],
    "theorem": {"formula": str, "source": str}, "assumptions": [str],
    "checked": {"derived": str, "recounted": str, "trusted": str},
    "counts": {"examples": int, "draws": int, "errors": int}, "divergence": str,
    "prior": {"kind": str, "scale": str, "candidates": int},
    "decoder": {"specification": str, "sizes": [int], "maximum": int, "sha256": str},
    "draws": {"specification": str, "key": str}, "files": {name: _HASHED for name in _PAC_FILES}, "parameters": int,
    "data": {**_DATA_FORM, "part": {"prior_examples": int, "seed": int}}, "content_sha256": str,
}  # fmt: skip
_FORMS = {SCHEMA: _FORM, CODE_SCHEMA: _CODE_FORM, PAC_SCHEMA: _PAC_FORM}


def pac_facts(document: dict[str, Any]) -> dict[str, Any]:
    """The facts of a PAC-Bayes certificate, refused where they are impossible."""
    data, prior, counts = document["data"], document["prior"], document["counts"]
    decoder = {name: document["decoder"][name] for name in ("sizes", "maximum")}
    _check_sizes(decoder["sizes"], data)
    if not 1 <= decoder["maximum"] <= 255:
        raise Rejected("decoder.maximum: expected a number from 1 to 255")
    learned_from = data["part"]["prior_examples"]
    if prior["kind"] not in PRIORS or (prior["kind"] == "data-free") != (learned_from == 0):
        raise Rejected(f"prior.kind: expected {' or '.join(PRIORS)}, data-free just where prior_examples is 0")
    if not 1 <= prior["candidates"] <= 10**9:
        raise Rejected("prior.candidates: expected at least 1")
    if not 0 < _rational(prior["scale"], "prior.scale") < 10**6:
        raise Rejected("prior.scale: expected a number above 0, of moderate size")
    if data["split"] != "train":
        raise Rejected("data.split: expected train")
    if not 0 <= learned_from < data["examples"] <= 10**7 or not 0 <= data["part"]["seed"] < 2**63:
        raise Rejected("data.part: expected a seed from 0, and fewer examples for the prior than there are")
    if not 1 <= counts["draws"] <= 10**9 or not 0 <= counts["errors"] <= counts["draws"]:
        raise Rejected(f"counts.errors: expected from 0 to {counts['draws']} errors in at least 1 draw")
    divergence = _rational(document["divergence"], "divergence", exact_text=False)
    if divergence < 0 or _six_digits(divergence) != document["divergence"]:
        raise Rejected(f"divergence: expected a decimal of at least 0 with {_KL_DIGITS} digits")
    claims = [{name: claim[name] for name in ("delta", "empirical_risk", "risk")} for claim in document["claims"]]
    _check_claims(claims, "empirical_risk", "risk")
    return {
        "decoder": decoder,
        "prior": prior,
        "data": {name: value for name, value in data.items() if name != "classes"},
        "files": document["files"],
        "draws": counts["draws"],
        "errors": counts["errors"],
        "divergence": document["divergence"],
        "claims": claims,
    }


def _six_digits(value: Fraction) -> str:
    whole = value.numerator * 10**_KL_DIGITS // value.denominator
    return f"{whole // 10**_KL_DIGITS}.{whole % 10**_KL_DIGITS:0{_KL_DIGITS}}"


def check_pac_bayes(
    folder: str, document: dict[str, Any], data_folders: list[str], redraw: int
) -> tuple[int, int, int]:
    """Check a PAC-Bayes certificate; the draws, the errors among them, and how many were drawn again."""
    facts = pac_facts(document)
    compare(document, build_pac_bayes(facts))
    draws, errors, m = facts["draws"], facts["errors"], document["counts"]["examples"]
    raw = {name: _hashed(folder, facts["files"][name], f"files.{name}") for name in _PAC_FILES}
    count = document["parameters"]
    values = {name: _floats(raw[name], count, name) for name in _PAC_FILES[:3]}
    if not min(values["scale"]) > 0:
        raise Rejected("files.scale: holds a standard deviation that is not above 0")
    stated = Fraction(facts["divergence"])
    _check_divergence(values, Fraction(facts["prior"]["scale"]), stated)
    outcomes = raw["outcomes"]
    if len(outcomes) != -(-draws // 8) or int.from_bytes(outcomes[-1:], "big") % (1 << (-draws % 8)):
        raise Rejected(f"files.outcomes: expected {-(-draws // 8)} bytes, one bit a draw, filled up with zeros")
    found = bin(int.from_bytes(outcomes, "big")).count("1")
    if found != errors:
        raise Rejected(f"counts.errors: expected {found}, counted in the outcomes, found {errors}")
    for index, claim in enumerate(facts["claims"]):
        share, of_draws = _pac_shares(claim, facts["prior"])
        q = int(Fraction(claim["empirical_risk"]) * 10**DIGITS)
        _check_risk(
            index, "empirical_risk", claim["empirical_risk"],
            lambda n, s=of_draws: confirms("clopper-pearson", errors, draws, s, n),
        )  # fmt: skip
        _check_risk(index, "risk", claim["risk"], lambda n, q=q, s=share: _pac_confirms(q, m, stated, s, n))
    images, labels = read_examples(folder, facts, data_folders)
    chosen = bound_part(facts["data"])
    picked = random.SystemRandom().sample(range(draws), min(redraw, draws))
    pairs = _PairDraws(facts["decoder"], values["mean"], values["scale"])
    key = draws_key(facts)
    for number in picked:
        word, noise = random_numbers(key, number, pairs.units)
        example = chosen[word * m >> 64]
        margin = pairs.margin(images[example], labels[example], noise)
        wrong = outcomes[number // 8] >> (7 - number % 8) & 1
        if abs(margin - _TIE) > _NEAR and (margin <= _TIE) != bool(wrong):
            raise Rejected(f"files.outcomes: draw {number} is {'no' if wrong else 'an'} error, stated otherwise")
    return draws, errors, len(picked)


def bound_part(data: dict[str, Any]) -> list[int]:
    """Which examples the bound is evaluated on: all but those ranked first by the SHA-256 of "seed:index"."""
    seed, size = data["part"]["seed"], data["part"]["prior_examples"]
    ranked = sorted(range(data["examples"]), key=lambda index: hashlib.sha256(f"{seed}:{index}".encode()).digest())
    return sorted(ranked[size:])


def _floats(raw: bytes, count: int, name: str) -> tuple[float, ...]:
    if len(raw) != 4 * count:
        raise Rejected(f"files.{name}: expected {4 * count} bytes, found {len(raw)}")
    values = struct.unpack(f"<{count}f", raw)
    if not all(abs(value) < 2.0**60 for value in values):
        raise Rejected(f"files.{name}: holds NaN, an infinity, or a number of 2^60 or more")
    return values


def _check_divergence(values: dict[str, tuple[float, ...]], prior_scale: Fraction, stated: Fraction) -> None:
    """KL = (sum scale² / s² - P + sum (mean - prior_mean)² / s²) / 2 - sum ln scale + P ln s, s the prior's scale."""
    count, ldexp = len(values["mean"]), math.ldexp
    squares = 0  # in units of 2^-298: every float32 is a whole number of 2^-149
    for mean, scale, prior_mean in zip(values["mean"], values["scale"], values["prior_mean"], strict=True):
        own, shift = int(ldexp(scale, 149)), int(ldexp(mean, 149)) - int(ldexp(prior_mean, 149))
        squares += own * own + shift * shift
    half = (Fraction(squares, 1 << 298) / prior_scale**2 - count) / 2
    step = Fraction(1, 10**_KL_DIGITS)
    for bits in (128, 384, 1152):
        low = high = 0
        for start in range(0, count, 250):
            parts = [math.frexp(scale) for scale in values["scale"][start : start + 250]]
            product = math.prod(int(ldexp(mantissa, 24)) for mantissa, _ in parts)
            exponent = sum(exponent for _, exponent in parts) - 24 * len(parts)
            ends = _ln(product << max(0, exponent), 1 << max(0, -exponent), bits)
            low, high = low - ends[1], high - ends[0]
        prior = _ln(prior_scale.numerator, prior_scale.denominator, bits)
        least = half + Fraction(low + count * prior[0], 1 << bits)
        most = half + Fraction(high + count * prior[1], 1 << bits)
        if most <= stated and stated - step < least:
            return
        if least > stated or most <= stated - step:
            raise Rejected(
                f"divergence: expected {float(least):.6f}, rounded up from the files, found {float(stated):.6f}"
            )
        if stated == 0 and half == 0 and most - least < Fraction(1, 1 << 64) and least <= 0 <= most:
            return  # posterior and prior are one
    raise Rejected("divergence: could not be decided")


def _pac_confirms(q: int, m: int, divergence: Fraction, share: Fraction, p: int) -> bool:
    """Whether m kl(q || p) >= KL + ln(2 sqrt(m) / share), with q and p in units of 10^-12."""
    scale = 10**DIGITS
    if p >= scale or p <= q:
        return p >= scale
    for bits in (128, 384, 1152):
        low = high = 0
        for part, other in ((q, p), (scale - q, scale - p)):
            if part:
                ends = _ln(part, other, bits)
                low, high = low + part * ends[0], high + part * ends[1]
        root = _ln(4 * m * share.denominator**2, share.numerator**2, bits)  # twice ln(2 sqrt(m) / share)
        paid = divergence * (1 << bits)
        if Fraction(m * low, scale) - paid - Fraction(root[1], 2) >= 0:
            return True
        if Fraction(m * high, scale) - paid - Fraction(root[0], 2) < 0:
            return False
    return False


def random_numbers(key: bytes, number: int, units: int) -> tuple[int, list[float]]:
    """The first word of a draw, and one standard normal number a unit, as ``DRAWS`` says."""
    count = 1 + units + units % 2
    first, *words = struct.unpack(f"<{count}Q", hashlib.shake_128(key + number.to_bytes(8, "big")).digest(8 * count))
    noise = []
    for a, b in zip(words[::2], words[1::2], strict=True):
        radius, angle = math.sqrt(-2 * math.log(((a >> 11) + 0.5) * 2.0**-53)), (b >> 11) * (2 * math.pi * 2.0**-53)
        noise += [radius * math.cos(angle), radius * math.sin(angle)]
    return first, noise[:units]


class _PairDraws:
    """The margin of one image whose weights are drawn for it alone."""

    def __init__(self, decoder: dict[str, Any], means: tuple[float, ...], scales: tuple[float, ...]) -> None:
        self.maximum, self.layers, at = decoder["maximum"], [], 0
        for inputs, units in zip(decoder["sizes"], decoder["sizes"][1:], strict=False):
            end = at + inputs * units
            rows = [means[row : row + inputs] for row in range(at, end, inputs)]
            variances = [tuple(s * s for s in scales[row : row + inputs]) for row in range(at, end, inputs)]
            at = end + units
            self.layers.append((rows, variances, means[end:at], [s * s for s in scales[end:at]]))
        self.units = sum(decoder["sizes"][1:])

    def margin(self, pixels: bytes, label: int, noise: list[float]) -> float:
        h, at = [pixel / self.maximum for pixel in pixels], 0
        for index, (rows, variances, bias, own) in enumerate(self.layers):
            h = [max(0.0, z) for z in h] if index else h
            used = [place for place, value in enumerate(h) if value]
            values = [h[place] for place in used]
            squares = [value * value for value in values]
            pick = itemgetter(*used, 0, 0)  # two more, so that it is a tuple; map stops at the shorter one
            h = [
                sum(map(mul, values, pick(row))) + b
                + noise[at + unit] * math.sqrt(sum(map(mul, squares, pick(variance))) + v)
                for unit, (row, variance, b, v) in enumerate(zip(rows, variances, bias, own, strict=True))
            ]  # fmt: skip
            at += len(bias)
        return h[label] - max((z for place, z in enumerate(h) if place != label), default=-math.inf)


# The whole check.


class Checked(NamedTuple):
    """A certificate that holds. Errors are in ``examples``, or where ``redrawn`` is a number, in as many draws."""

    certificate: str
    examples: int
    errors: int
    statement: list[str]
    seconds: float
    redrawn: int | None = None

    def __str__(self) -> str:
        counted = f"{self.errors} errors in {self.examples:,} examples, counted again"
        if self.redrawn is not None:
            counted = f"{self.errors} errors in {self.examples:,} draws, {self.redrawn:,} of them drawn again"
        counted = f"{counted} in {self.seconds:.1f} s"
        return "\n".join([f"{self.certificate}: holds; {counted}", *(f"  {line}" for line in self.statement)])


def check(path: str, data_folders: list[str], processes: int = 1, redraw: int = REDRAWN) -> Checked:
    """Check the certificate at ``path`` and return what holds; raises ``Rejected``, naming the field.

    More ``processes`` share the count where it is long; the program that asks for them needs the usual
    ``if __name__ == "__main__"``. Of a PAC-Bayes certificate ``redraw`` outcomes are drawn again.
    """
    begun = time.perf_counter()
    folder, document = os.path.dirname(os.path.abspath(path)), read(path)
    if document["schema"] == CODE_SCHEMA:
        examples, errors = check_code(folder, document, data_folders)
        return Checked(path, examples, errors, document["statement"], time.perf_counter() - begun)
    if document["schema"] == PAC_SCHEMA:
        draws, errors, redrawn = check_pac_bayes(folder, document, data_folders, redraw)
        return Checked(path, draws, errors, document["statement"], time.perf_counter() - begun, redrawn)
    facts = facts_of(document)
    compare(document, build(facts))
    layers = read_weights(folder, facts)
    images, labels = read_examples(folder, facts, data_folders)
    m, k = facts["data"]["examples"], facts["errors"]
    for index, claim in enumerate(facts["claims"]):
        share = share_of(Fraction(claim["delta"]), facts["history"], m)
        n = int(Fraction(claim["risk"]) * 10**DIGITS)
        if not confirms(claim["bound"], k, m, share, n):
            raise Rejected(f"claims[{index}].risk: {claim['risk']} does not follow from {k} errors in {m} examples")
        if confirms(claim["bound"], k, m, share, n - 1):
            raise Rejected(f"claims[{index}].risk: {claim['risk']} is not the least that follows; it was altered")
    normalization = facts["decoder"]["normalization"]
    mean, scale = (float(Fraction(normalization[name])) for name in ("mean", "scale"))
    unit = float(Fraction(facts["decoder"]["unit"]))
    arguments = (layers, facts["decoder"]["activation"], normalization["kind"], mean, scale, unit)
    processes = processes if m * parameters_of(facts["decoder"]) > 2e8 else 1
    fewest, most = count_all(arguments, images, labels, processes)
    if not fewest <= k <= most:
        raise Rejected(f"counts.errors: expected {fewest}, counted again from weights and data, found {k}")
    return Checked(path, m, k, document["statement"], time.perf_counter() - begun)


def main(arguments: list[str]) -> int:
    """``checker.py CERTIFICATE [--data-dir FOLDER] [--redraw N]``: status 0 if it holds, 2 with one line if not."""
    folders = [os.environ["LEAN_MNIST_DATA"]] if os.environ.get("LEAN_MNIST_DATA") else []
    options = dict(zip(arguments[1::2], arguments[2::2], strict=False))
    well = len(arguments) % 2 == 1 and not arguments[0].startswith("-") and set(options) <= {"--data-dir", "--redraw"}
    redraw = options.get("--redraw", str(REDRAWN))
    if not well or not redraw.isdecimal():
        print("usage: python checker.py CERTIFICATE [--data-dir FOLDER] [--redraw N]", file=sys.stderr)
        return 2
    folders = [options["--data-dir"], *folders] if "--data-dir" in options else folders
    try:
        print(check(arguments[0], [*folders, "data"], min(os.cpu_count() or 1, 16), int(redraw)))
    except Rejected as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
