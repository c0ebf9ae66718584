"""The independent checker: accepts every certificate made, and rejects every alteration, naming the field."""

from __future__ import annotations

import ast
import copy
import hashlib
import json
import math
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lean_mnist.data.normalization import Normalization
from lean_mnist.errors import BoundError, CertificateError
from lean_mnist.generalization import checker
from lean_mnist.generalization.certificates import counting, document, networks
from lean_mnist.generalization.certificates.document import ClaimOptions
from lean_mnist.generalization.certificates.networks import certify
from lean_mnist.generalization.confidence import SplitHistory
from lean_mnist.generalization.exact import decimal_text
from lean_mnist.generalization.pacbayes import certificate as posterior
from tests.support.certificate_cases import (
    CLASSES,
    decoder_fields,
    forged,
    random_data,
    random_network,
    rejection,
    small_certificate,
    written,
)

FILES = ("certificate.json", "certificate.weights", "certificate.images.idx", "certificate.labels.idx")


@pytest.mark.parametrize("activation", checker.ACTIVATIONS)
@pytest.mark.parametrize("kind", ["standard", "unit", "per-image"])
def test_it_accepts_what_is_made(activation: str, kind: str, tmp_path: Path) -> None:
    certificate = small_certificate(1, kind, activation=activation, hidden=(5, 4))
    found = checker.check(written(certificate, tmp_path), [])
    assert (found.examples, found.errors) == (40, certificate.errors)
    assert 0 < found.errors < 40
    said = f"holds of data that nobody vouches for; {found.errors} errors in 40 examples, counted again"
    assert str(found).startswith(f"{tmp_path / 'certificate.json'}: {said}")


@pytest.mark.parametrize(
    "options",
    [
        {"bias": False},
        {"dtype": torch.float64},
        {"dtype": torch.float16},
        {"dtype": torch.bfloat16},
        {"hidden": (3, 3, 3)},
    ],
)
def test_it_accepts_other_forms_of_network(options: dict[str, Any], tmp_path: Path) -> None:
    assert rejection(written(small_certificate(2, **options), tmp_path)) == ""


@pytest.mark.parametrize("looks", [1, 5])
@pytest.mark.parametrize("adaptive", [False, True])
def test_it_accepts_what_looks_pay(looks: int, adaptive: bool, tmp_path: Path) -> None:
    model, data = random_network(3), random_data(3)
    normalization = Normalization.fit("standard", data.train.images, 255)
    history = SplitHistory(looks, adaptive)
    bounds, deltas = ("clopper-pearson", "kl", "hoeffding"), ("0.2", "1e-6")
    certificate = certify(model, normalization, data, history, ClaimOptions(deltas, bounds))
    assert len(certificate.risks) == 6
    assert rejection(written(certificate, tmp_path)) == ""


def test_an_empty_promise_is_said_in_words(tmp_path: Path) -> None:
    """Every label wrong: the certificate says that it says nothing, and holds."""
    model, data = random_network(3), random_data(3, 3)
    normalization = Normalization.fit("standard", data.train.images, 255)
    certificate = certify(model, normalization, data, SplitHistory(1), ClaimOptions(("1e-9",), ("hoeffding",)))
    opening, sentence = certificate.document["statement"]
    assert opening.startswith("Nobody vouches for the 3 examples that are called 'random' here, nor for that name: ")
    assert sentence == "At delta = 1/1000000000 the bound hoeffding is vacuous: it says nothing about unseen data."
    assert "%" not in certificate.text()
    assert rejection(written(certificate, tmp_path)) == ""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a certificate. Not to be changed."""
    folder = tmp_path_factory.mktemp("certificate")
    written(small_certificate(4), folder)
    return folder


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / name).write_bytes((made / name).read_bytes())
    return tmp_path


def test_every_flipped_bit_is_rejected(copied: Path) -> None:
    """620 random bits of the certificate and of the raw files it is about, one at a time."""
    seed = 20
    print(f"seed {seed}")
    draw = random.Random(seed)
    accepted = []
    for _ in range(620):
        path = copied / draw.choice(FILES)
        before = path.read_bytes()
        bit = draw.randrange(8 * len(before))
        altered = bytearray(before)
        altered[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bytes(altered))
        message = rejection(str(copied / FILES[0]))
        if not message or ":" not in message or "\n" in message:
            accepted.append((path.name, bit, message))
        path.write_bytes(before)
    assert accepted == []
    assert rejection(str(copied / FILES[0])) == ""


def leaves(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every string and number."""
    if isinstance(value, (dict, list)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(item, (*at, key))
    else:
        yield at


def altered_value(value: Any, draw: random.Random) -> Any:
    """A value of the same type, and often of a likely form."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + draw.choice([-1, 1, 7, -value - 1, 10**6])
    digits = [index for index, character in enumerate(value) if character in "0123456789abcdef"]
    if not digits:
        return value + "."
    index = draw.choice(digits)
    return value[:index] + draw.choice([c for c in "0123456789" if c != value[index]]) + value[index + 1 :]


def test_every_altered_field_is_rejected_even_with_a_new_hash(copied: Path) -> None:
    """A forger writes one field anew, and the hash of the content with it: 400 times, and the field is named."""
    seed = 21
    print(f"seed {seed}")
    draw = random.Random(seed)
    path = copied / FILES[0]
    original = json.loads(path.read_text(encoding="utf-8"))
    places = [at for at in leaves(original) if at != ("content_sha256",)]
    accepted = []
    for _ in range(400):
        at = draw.choice(places)
        document = copy.deepcopy(original)
        inner = document
        for key in at[:-1]:
            inner = inner[key]
        inner[at[-1]] = altered_value(inner[at[-1]], draw)
        del document["content_sha256"]
        document["content_sha256"] = hashlib.sha256(checker.canonical(document)).hexdigest()
        path.write_bytes(checker.canonical(document))
        message = rejection(str(path))
        if not message or "\n" in message:
            accepted.append((at, message))
    assert accepted == []


def in_claim(name: str, value: str) -> Callable[[dict[str, Any]], None]:
    return lambda document: document["claims"][0].update({name: value})


def better(document: dict[str, Any]) -> None:
    risk = document["claims"][0]["risk"]
    document["claims"][0]["risk"] = f"{risk[:-1]}{(int(risk[-1]) - 1) % 10}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["counts"].update(errors=d["counts"]["errors"] - 1), "claims[0].risk: "),
        (better, "claims[0].risk: "),
        (in_claim("risk", "0.500000000000"), "claims[0].risk: 0.500000000000 does not follow"),
        (in_claim("risk", "0.999999999999"), "claims[0].risk: 0.999999999999 is not the least that follows"),
        (in_claim("risk", "0.5"), "claims[0].risk: expected a decimal from 0 to 1 with 12 digits"),
        (in_claim("delta", "1/1000"), "claims[0].risk: "),
        (in_claim("delta", "0"), "claims[0].delta: expected a probability above 0 and below 1/2"),
        (
            in_claim("delta", "2/40"),
            "claims[0].delta: expected a probability above 0 and below 1/2, in lowest terms, found '2/40'",
        ),
        (lambda d: d["history"].update(looks=2), "claims[0].risk: "),
        (
            lambda d: d["history"].update(looks=301, adaptive=True),
            "history.looks: expected at least the recorded looks",
        ),
        (lambda d: d["data"].update(split="validation"), "data.split: expected test"),
        (lambda d: d["data"].update(rows=5, columns=4), "data.images: expected an IDX file of 40 examples of"),
        (lambda d: d["decoder"].update(activation="identity"), "counts.errors: expected "),
        (lambda d: d["decoder"]["normalization"].update(mean="0"), "counts.errors: expected "),
        (lambda d: d["decoder"]["normalization"].update(scale="-1"), "decoder.normalization.scale: expected a"),
        (lambda d: d["decoder"]["normalization"].update(scale="1/3"), "decoder.normalization.scale: expected"),
        (lambda d: d["decoder"].update(sizes=[20, 6, 4]), "weights.file: expected "),
        (lambda d: d["decoder"].update(sizes=[20, 0, 3]), "decoder.sizes: expected two or more numbers"),
        (lambda d: d["decoder"].update(unit="1/2"), "decoder.unit: expected 1/16777216 or 1/68719476736"),
        (lambda d: d["weights"].update(dtype="float64"), "weights.file: expected "),
        (lambda d: d["weights"].update(file="../x"), "weights.file: expected the name of a file beside"),
        (lambda d: d["data"]["images"].update(file="/etc/passwd"), "data.images.file: expected the name of a"),
        (lambda d: d["data"]["labels"].update(file="none"), "data.labels.file: none was not found in "),
        (lambda d: d.update(claims=[]), "claims: expected at least one, found none"),
    ],
)
def test_a_forger_who_recomputes_everything_is_rejected(
    copied: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    path = copied / FILES[0]
    assert forged(path, change).startswith(message)


def test_a_lower_count_is_found_by_counting(copied: Path) -> None:
    """With the bounds to match, only the count itself is wrong."""
    path = copied / FILES[0]
    original = json.loads(path.read_text(encoding="utf-8"))["counts"]["errors"]
    model, data = random_network(4), random_data(4)
    normalization = Normalization.fit("standard", data.train.images, 255)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lean_mnist.generalization.certificates.networks.count_errors", lambda *_, **__: original - 1)
        certify(model, normalization, data, SplitHistory(1)).write(copied)
    assert rejection(str(path)) == (
        f"counts.errors: expected {original}, counted again from weights and data, found {original - 1}"
    )


def test_labels_outside_the_classes(copied: Path) -> None:
    labels = copied / "certificate.labels.idx"
    raw = labels.read_bytes()[:-1] + bytes([CLASSES])
    labels.write_bytes(raw)
    path = copied / FILES[0]
    assert (
        forged(path, lambda d: d["data"]["labels"].update(sha256=hashlib.sha256(raw).hexdigest()))
        == "data.labels: label 3 at index 39, expected 0 to 2"
    )


def test_weights_that_are_not_numbers(copied: Path) -> None:
    weights = copied / "certificate.weights"
    raw = b"\x00\x00\xc0\x7f" + weights.read_bytes()[4:]
    weights.write_bytes(raw)
    path = copied / FILES[0]
    message = forged(path, lambda d: d["weights"].update(sha256=hashlib.sha256(raw).hexdigest()))
    assert message == "weights.file: holds NaN, an infinity, or a number of 2^60 or more, at place 0"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a certificate (JSON without fractions), found something else"),
        (b"{}", "schema: expected 'lean_mnist certificate', version 1"),
        (b"[" * 100_000, "expected a certificate (JSON without fractions), found something else"),
        (b'{"schema": 1.5}', "expected a certificate (JSON without fractions), found something else"),
        (b"\xff\xfe", "expected a certificate (JSON without fractions), found something else"),
        (b'{"schema": "lean_mnist certificate", "version": 1}', "certificate: expected the fields schema, version"),
    ],
)
def test_what_is_no_certificate(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "certificate.json"
    path.write_bytes(content)
    assert message in rejection(str(path))


def test_another_layout_or_more_fields(copied: Path) -> None:
    path = copied / FILES[0]
    document = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(document), encoding="utf-8")
    assert rejection(str(path)).startswith("layout: expected the text that certificates are written with")
    path.write_bytes(checker.canonical({**document, "note": "trust me"}))
    assert rejection(str(path)).startswith("certificate: expected the fields ")
    path.write_bytes(checker.canonical({**document, "weights": {**document["weights"], "file": 3}}))
    assert rejection(str(path)) == "weights.file: expected the name of a file beside the certificate, found '3'"
    path.write_bytes(checker.canonical({**document, "history": {**document["history"], "looks": 0}}))
    assert rejection(str(path)).startswith("history.looks: expected a whole number from 1 to 1,000,000")
    assert "No such file" in rejection(str(copied / "none.json"))


def test_the_checker_alone_in_a_bare_python(made: Path, tmp_path: Path) -> None:
    """One file, copied elsewhere, in an isolated interpreter without site-packages."""
    alone = tmp_path / "checker.py"
    alone.write_bytes(Path(checker.__file__).read_bytes())
    command = [sys.executable, "-I", "-S", "-W", "error", str(alone)]
    good = subprocess.run([*command, str(made / FILES[0])], capture_output=True, text=True, check=False)
    assert (good.returncode, good.stderr) == (0, "")
    assert "holds" in good.stdout
    (tmp_path / FILES[0]).write_bytes((made / FILES[0]).read_bytes())
    bad = subprocess.run([*command, str(tmp_path / FILES[0])], capture_output=True, text=True, check=False)
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr.startswith("error: weights.file: ")
    assert bad.stderr.count("\n") == 1
    elsewhere = shutil.copytree(made, tmp_path / "é")
    command = [sys.executable, "-S", str(alone), str(elsewhere / FILES[0])]
    ascii_alone = {**os.environ, "PYTHONIOENCODING": "ascii"}
    good = subprocess.run(command, capture_output=True, text=True, check=False, env=ascii_alone)
    assert (good.returncode, good.stderr) == (0, "")
    assert f"?{os.sep}{FILES[0]}: holds" in good.stdout
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as unread:
        assert unread.stdout is not None
        unread.stdout.close()
        assert unread.wait() == 1
        assert unread.stderr is not None
        assert unread.stderr.read() == b""


def test_the_checker_imports_the_standard_library_only() -> None:
    tree = ast.parse(Path(checker.__file__).read_text(encoding="utf-8"))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names.add((node.module or "").split(".")[0])
    assert names <= set(sys.stdlib_module_names)


def test_makers_take_nothing_from_the_checker_but_its_fixed_texts() -> None:
    """What the checker writes again must have been written by somebody else, or it could not be found wrong."""
    for module in (counting, document, networks, posterior):
        tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "checker":
                assert node.attr.isupper(), f"{module.__name__}: checker.{node.attr}"
            assert not (isinstance(node, ast.ImportFrom) and (node.module or "").endswith("checker"))


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("percent", lambda value, up: f"{float(value):.2%}", "statement[1]: expected 'With confidence 1 - 7/200"),
        ("network_name", lambda sizes: "20-3", "statement[1]: expected 'With confidence 1 - 7/200"),
        ("risk_text", lambda risk: decimal_text(risk, 12, up=True)[:-1] + "7", "claims[0].accuracy: "),
        ("sha256", lambda content: "0" * 64, "decoder.sha256: expected "),
        ("written", lambda value: json.dumps(value), "decoder.sha256: expected "),
    ],
)
def test_a_maker_that_writes_something_wrong_is_found(name: str, wrong: Any, message: str, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for module in (document, networks):
            patch.setattr(module, name, wrong, raising=False)
        made = small_certificate(4)
    (tmp_path / FILES[0]).write_bytes(checker.canonical(made.document))
    for file, content in made.files.items():
        (tmp_path / file).write_bytes(content)
    assert message in rejection(str(tmp_path / FILES[0]))


def test_processes_share_the_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checker, "_SHARED", 0)
    layers: checker.Layers = [([(1.0, -1.0), (0.5, 0.25)], (0.0, 0.0))]
    decoder = decoder_fields("relu")
    images, labels = [bytes([n, 255 - n]) for n in range(60)], bytes([1] * 60)
    one, two = (checker.count_all(layers, decoder, images, labels, checker.Effort(n)) for n in (1, 2))
    assert one == two


def test_nan_never_passes(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits or bounds that are NaN count as errors, whatever the label."""
    assert checker._sound([1.0, -2.0], [0.5, 0.0])
    for wrong in (math.nan, math.inf, -1.0):
        assert not checker._sound([1.0, -2.0], [0.5, wrong])
    for wrong in (math.nan, math.inf, -math.inf):
        assert not checker._sound([1.0, wrong], [0.5, 0.5])
    for logits in (([math.nan] * CLASSES, [0.0] * CLASSES), ([9.0, 0.0, 0.0], [math.nan, 0.0, 0.0])):
        monkeypatch.setattr(checker.Network, "logits", lambda self, pixels, found=logits: found)
        assert rejection(str(made / FILES[0])).startswith("counts.errors: expected 40, counted again")


def test_what_no_certificate_is_made_of() -> None:
    model, data = random_network(0), random_data(0)
    normalization = Normalization.fit("standard", data.train.images, 255)
    cases: list[tuple[ClaimOptions, type[Exception], str]] = [
        (ClaimOptions(deltas=("0",)), BoundError, "delta: expected a probability strictly between"),
        (ClaimOptions(bounds=("wald",)), CertificateError, "--bound: expected one of clopper-pearson"),
    ]
    for options, error, message in cases:
        with pytest.raises(error) as caught:
            certify(model, normalization, data, SplitHistory(1), options)
        assert str(caught.value).startswith(message)
