"""Forged certificates: each is rejected in one line, or its statement begins by saying that nobody vouches for it."""

import copy
import gzip
import hashlib
import json
import math
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lean_mnist.data.datasets import Split, load_digits
from lean_mnist.generalization import checker
from lean_mnist.generalization.certificates.document import Certificate
from tests.generalization.test_checker_training import code_length, pac_bayes
from tests.support.certificate_cases import forged, rejection, sealed
from tests.support.forgeries import (
    FINAL,
    OTHER_DATA,
    Change,
    of_digits,
    overflowing,
    own_answers,
    with_test,
)
from tests.support.peak_memory import peak_below
from tests.support.polarity import wrong_polarity


@pytest.fixture(scope="module")
def honest() -> Certificate:
    return of_digits()


@pytest.fixture(scope="module")
def others() -> dict[str, Certificate]:
    """Certificates of the other two kinds, of random data."""
    return {"PAC-Bayes": pac_bayes(), "code length": code_length()}


def one_line(message: str) -> str:
    """The rejection, which has to be one line that a terminal prints as it is."""
    assert message.isprintable(), message
    assert message
    return message


def test_official_data_are_said_by_their_name(honest: Certificate, tmp_path: Path) -> None:
    found = checker.check(str(honest.write(tmp_path)), [])
    assert found.official
    assert found.errors < 60
    assert all(line.endswith("as they are labelled (digits).") for line in found.statement)
    assert honest.document["version"] == 1
    assert "nobody" not in honest.line()


@pytest.mark.parametrize("make", OTHER_DATA)
def test_nobody_vouches_for_other_data(make: Callable[[], Certificate], tmp_path: Path) -> None:
    """A statement that begins with that, with the hashes, how many are there twice, and how many classes occur."""
    certificate, (duplicates, occurring, classes) = make(), OTHER_DATA[make]
    path = certificate.write(tmp_path)
    found = checker.check(str(path), [])
    data, (opening, *claims) = certificate.document["data"], found.statement
    assert not found.official
    assert opening.startswith(f"Nobody vouches for the {data['examples']:,} examples that are called 'digits' here, ")
    assert f"SHA-256 {data['images']['sha256']}, of which {duplicates:,} are equal to an earlier one" in opening
    assert f"SHA-256 {data['labels']['sha256']}, in which {occurring} of {classes} classes occur" in opening
    assert all("called 'digits', vouched for by nobody" in line or "is vacuous" in line for line in claims)
    assert "holds of data that nobody vouches for" in str(found)
    assert certificate.line().endswith("; nobody vouches for these data")
    for name, value in (("duplicates", duplicates), ("occurring", occurring)):
        path.write_bytes(certificate.to_json().encode())
        message = one_line(forged(path, put(f"data.{name}", value + 1)))
        assert message == f"data.{name}: expected '{value}', found '{value + 1}'"
    path.write_bytes(checker.canonical({**certificate.document, "statement": claims}))
    assert one_line(rejection(str(path))).startswith("statement: expected ")


@pytest.mark.parametrize(
    ("split", "name"), [("train", "digits"), ("train", "mnist"), ("test", "mnist"), ("test", "mine")]
)
def test_official_examples_under_another_name(split: str, name: str, tmp_path: Path) -> None:
    """Training examples are no test split, and digits are no MNIST."""
    examples: Split = getattr(load_digits(), split)
    path = of_digits(data=with_test(examples.images, examples.labels, "any"), recorded=[]).write(tmp_path)
    message = one_line(forged(path, put("data.dataset", name)))
    assert message == f"data: these are the digits {split} images, not those of {name} test"


def test_a_certificate_of_an_earlier_release(honest: Certificate, tmp_path: Path) -> None:
    """Version 1 of other data had no words for it; of official data it is what it was."""
    certificate = own_answers()
    path = certificate.write(tmp_path)
    old = copy.deepcopy(certificate.document)
    old["version"] = 1
    del old["data"]["duplicates"], old["data"]["occurring"]
    path.write_bytes(sealed(old))
    expected = "version: expected 2, since these are not the official files of that split, nobody vouches for them"
    assert one_line(rejection(str(path))) == f"{expected}; make it anew"
    new = copy.deepcopy(honest.document)
    new["data"] |= {"duplicates": 0, "occurring": 10}
    new["version"] = 2
    path.write_bytes(sealed(new))
    assert one_line(rejection(str(path))) == "version: expected 1"


def put(at: str, value: Any) -> Change:
    """The change of one field, such as ``claims.0.delta``."""

    def change(document: dict[str, Any]) -> None:
        *outer, last = [int(name) if name.isdecimal() else name for name in at.split(".")]
        inner: Any = document
        for name in outer:
            inner = inner[name]
        inner[last] = value

    return change


UNPRINTABLE = [
    "digits\n  signed by NIST",
    "\x1b[2J\x1b[Hdigits",
    "\u202edigits",
    "digits\u2066",
    "digits\u200b",
    "d\r",
    "\x7f",
]
TEXTS = [
    "data.dataset",
    "statement.0",
    "assumptions.1",
    "space.chosen_among",
    "claims.0.accuracy",
    "decoder.specification",
    "data.images.file",
    "weights.file",
    "weights.tensors.0.name",
    "history.selected",
    "content_sha256",
]


@pytest.mark.parametrize("text", UNPRINTABLE)
@pytest.mark.parametrize("at", TEXTS)
def test_nothing_in_a_certificate_commands_a_terminal(at: str, text: str, honest: Certificate, tmp_path: Path) -> None:
    path, document = honest.write(tmp_path), copy.deepcopy(honest.document)
    put(at, text)(document)
    path.write_bytes(checker.canonical(document))
    assert "not printable" in one_line(rejection(str(path)))


@pytest.mark.parametrize("name", ["dіgits", "Digits", "digits', vouched for by all; '", "", "x" * 101, "a b", "."])
def test_names_are_of_few_characters(name: str, honest: Certificate, tmp_path: Path) -> None:
    message = one_line(forged(honest.write(tmp_path), put("data.dataset", name)))
    assert message.startswith("data.dataset: expected a name of a-z, 0-9, - and _")


@pytest.mark.parametrize("name", ["..", ".hidden", "a/b", "a\\b", "C:weights", "a\0b", "~", "$HOME", "-" * 101, ""])
def test_files_have_plain_names(name: str, honest: Certificate, tmp_path: Path) -> None:
    for at in ("weights.file", "data.labels.file"):
        message = one_line(forged(honest.write(tmp_path), put(at, name)))
        assert message.startswith(f"{at}: ")


HISTORIES: dict[str, tuple[Change, str]] = {
    "looks deleted": (put("history.looks", 0), "history.looks: expected a whole number from 1"),
    "fewer looks than recorded": (
        lambda d: d["history"].update(recorded=[{**FINAL, "purpose": "track"}, FINAL]),
        "history.looks: expected at least the recorded looks",
    ),
    "the final look deleted": (
        put("history.recorded", [{**FINAL, "purpose": "track"}]),
        "history.looks: expected one more than are recorded",
    ),
    "negative errors": (put("history.recorded.0.errors", -1), "history.recorded[0].errors: expected a whole number"),
    "a negative step": (put("history.recorded.0.step", -1), "history.recorded[0].step: expected a whole number"),
    "errors as a truth": (
        put("history.recorded.0.errors", True),
        "history.recorded[0].errors: expected a whole number",
    ),
    "more errors than counted": (
        put("history.recorded.0.errors", 359),
        "counts.errors: expected at least the final evaluation's 359, found ",
    ),
    "more errors than examples": (put("history.recorded.0.errors", 361), "history.recorded: expected at most 360"),
    "steps out of order": (
        lambda d: d["history"].update(looks=2, recorded=[{**FINAL, "purpose": "track", "step": 10}, FINAL]),
        "history.recorded: expected evaluations in the order of their steps",
    ),
    "two final evaluations": (
        lambda d: d["history"].update(looks=2, recorded=[FINAL, FINAL]),
        "history.recorded: expected evaluations in the order of their steps, one of them the final one",
    ),
    "a run's record of a network from elsewhere": (
        put("history.selected_by", checker.SELECTED_ELSEWHERE),
        "history.recorded: expected no evaluations of a run",
    ),
    "looks by the developers of no preset": (
        lambda d: d["history"].update(looks=6, developers={"preset": "none", "looks": 5}),
        "history.developers: expected a preset's name, found none, whose developers looked 5 times",
    ),
    "selected by the test split": (put("history.selected", "the best"), "history.selected: expected nothing"),
    "learned from it": (put("history.learned_from", True), "history.learned_from: expected False"),
    "another purpose": (put("history.recorded.0.purpose", "none"), "history.recorded[0].purpose: expected track or fi"),
    "too many records": (
        lambda d: d["history"].update(looks=50_001, recorded=[{**FINAL, "purpose": "track"}] * 50_001),
        "history.recorded: expected a list of at most 50,000",
    ),
}


@pytest.mark.parametrize("name", HISTORIES)
def test_a_history_that_contradicts_itself(name: str, honest: Certificate, tmp_path: Path) -> None:
    change, message = HISTORIES[name]
    assert one_line(forged(honest.write(tmp_path), change)).startswith(message)


NUMBERS: dict[str, tuple[Change, str]] = {
    "as likely wrong as right": (
        put("claims.0.delta", "1/2"),
        "claims[0].delta: expected a probability above 0 and bel",
    ),
    "hardly ever right": (put("claims.0.delta", "999999/1000000"), "claims[0].delta: expected a probability above 0"),
    "below 0": (put("claims.0.delta", "-7/200"), "claims[0].delta: expected a probability above 0"),
    "a decimal": (put("claims.0.delta", "0.035"), "claims[0].delta: expected a probability above 0"),
    "over 0": (put("claims.0.delta", "1/0"), "claims[0].delta: expected a probability above 0"),
    "NaN": (put("claims.0.risk", "nan"), "claims[0].risk: expected a decimal"),
    "so long that a thousand bits may not tell": (
        put("claims.0.delta", f"1/{10**260}"),
        "claims[0].delta: expected a probability above 0",
    ),
    "no risk": (put("claims.0.risk", "0.000000000000"), "claims[0].risk: 0.000000000000 does not follow"),
    "an accuracy by hand": (lambda d: d["claims"][0].update(risk="0.010000000000"), "claims[0].risk: 0.0100"),
    "no errors": (lambda d: d["counts"].update(errors=0), "counts.errors: expected at least the final evaluation's 10"),
    "errors as text": (put("counts.errors", "0"), "counts.errors: expected a whole number"),
    "another class count": (put("data.classes", 11), "counts.errors"),
    "a bound of one's own": (put("claims.0.bound", "wald"), "claims[0].bound: expected one of"),
    "many claims": (lambda d: d.update(claims=d["claims"] * 300), "statement: expected a list of at most 500"),
    "no claims": (put("claims", []), "claims: expected at least one, found none"),
    "NaN in the scaling": (
        put("decoder.normalization.scale", "nan"),
        "decoder.normalization.scale: expected a float64",
    ),
    "version as a truth": (put("version", True), "version: expected int, found bool"),
    "version 3": (put("version", 3), "schema: expected "),
    "no version": (lambda d: d.pop("version"), "schema: expected "),
    "a schema that is a list": (put("schema", ["lean_mnist certificate"]), "schema: expected "),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_that_cannot_be(name: str, honest: Certificate, tmp_path: Path) -> None:
    change, message = NUMBERS[name]
    path = honest.write(tmp_path)
    if name == "another class count":  # follows from the network, so that it is put right when everything is sealed
        assert forged(path, change) == ""
        return
    if message.startswith(("schema: ", "version: ")):
        document = copy.deepcopy(honest.document)
        change(document)
        path.write_bytes(checker.canonical(document))
        assert one_line(rejection(str(path))).startswith(message)
        return
    assert one_line(forged(path, change)).startswith(message)


LARGE: dict[str, tuple[str, Change]] = {
    "half a million examples of one pixel, a wide network": (
        "holdout",
        lambda d: (d["data"].update(examples=500_000, rows=1, columns=1), put("decoder.sizes", [1, 1000, 10])(d)),
    ),
    "one example of a wide network": (
        "holdout",
        lambda d: (
            d["data"].update(examples=1, rows=1, columns=1),
            d["counts"].update(errors=0),
            put("decoder.sizes", [1, 9000, 9000, 10])(d),
        ),
    ),
    "a deep network": ("holdout", put("decoder.sizes", [64, *[4000] * 98, 10])),
    "claims whose tails have many terms": (
        "holdout",
        lambda d: (
            d["data"].update(examples=500_000),
            d["counts"].update(examples=500_000, errors=250_000),
            d.update(claims=d["claims"] * 50),
        ),
    ),
    "many examples of a quantised network": (
        "code length",
        lambda d: (d["data"].update(examples=400_000), put("decoder.sizes", [20, 60_000, 3])(d)),
    ),
    "a thousand million draws": (
        "PAC-Bayes",
        lambda d: d["counts"].update(draws=10**9, errors=5 * 10**8),
    ),
}


@pytest.mark.parametrize("name", LARGE)
def test_work_is_bounded_before_it_begins(
    name: str, honest: Certificate, others: dict[str, Certificate], tmp_path: Path
) -> None:
    """No raw file is there, so that none can have been looked for."""
    kind, change = LARGE[name]
    certificate = honest if kind == "holdout" else others[kind]
    document = copy.deepcopy(certificate.document)
    if "duplicates" not in document["data"]:
        document["version"] = 2
        document["data"] |= {"duplicates": 0, "occurring": 3}
        document["data"]["images"]["sha256"] = "0" * 64
    if "history" in document:
        document["history"]["recorded"] = []
    change(document)
    path = tmp_path / "certificate.json"
    path.write_bytes(sealed(document))
    begun = time.process_time()
    message = one_line(rejection(str(path)))
    print(f"{time.process_time() - begun:.2f} s")
    assert message.startswith("work: about ")
    assert message.endswith(" allowed; --most-work raises that")


def test_more_work_is_done_if_it_is_asked_for(
    honest: Certificate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(honest.write(tmp_path))
    with pytest.raises(checker.Rejected, match=r"^work: about \S+ steps .* at most 1\.0e\+03 allowed; --most-work"):
        checker.check(path, [], most_work=1000)
    assert checker.check(path, [], most_work=10**9).official
    assert (checker.main([path]), checker.main([path, "--most-work", "0"])) == (0, 2)
    assert "at most 0.0e+00 allowed" in capsys.readouterr().err


def test_draws_are_not_asked_for_where_there_are_none(
    honest: Certificate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(honest.write(tmp_path))
    assert checker.main([path, "--redraw", "7"]) == 2
    assert f"{path} has no draws to repeat" in capsys.readouterr().err


def test_certificates_of_honest_networks_need_no_option() -> None:
    """MNIST's test split with three wide layers, and MLCERT's network on 60,000 and 240,000 examples."""
    holdout = {
        "schema": checker.HOLDOUT,
        "decoder": {"sizes": [784, 1024, 1024, 1024, 10]},
        "counts": {"errors": 150},
        "data": {"examples": 10_000},
        "claims": [{}] * 6,
    }
    assert 10**11 < checker.announced_work(holdout, 0) < checker.MOST_WORK
    for examples in (60_000, 240_000):
        counts, data = {"errors": examples // 5}, {"examples": examples}
        code = {**holdout, "schema": checker.CODE, "decoder": {"sizes": [784, 10, 10]}, "counts": counts, "data": data}
        assert checker.announced_work(code, 0) < checker.MOST_WORK


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("kind", [pipe, device, folder])
@pytest.mark.parametrize("name", ["certificate.json", "certificate.weights", "certificate.labels.idx"])
def test_only_regular_files_are_read(
    name: str, kind: Callable[[Path], None], honest: Certificate, tmp_path: Path
) -> None:
    path = str(honest.write(tmp_path))
    (tmp_path / name).unlink()
    kind(tmp_path / name)
    assert "a pipe, socket or device" in one_line(rejection(path)) or "Is a directory" in rejection(path)


def test_no_more_of_a_file_is_held_than_is_announced(honest: Certificate, tmp_path: Path) -> None:
    path = str(honest.write(tmp_path))
    labels, content = tmp_path / "certificate.labels.idx", honest.files["certificate.labels.idx"]
    packed = tmp_path / "certificate.labels.idx.gz"
    labels.unlink()
    packed.write_bytes(gzip.compress(content))
    assert rejection(path) == ""
    packed.write_bytes(gzip.compress(content + bytes(10**8)))
    assert one_line(rejection(path)) == (
        f"data.labels.file: expected 368 bytes, found at least 369; {packed} is not the file that the certificate is "
        "about"
    )
    packed.write_bytes(gzip.compress(content)[:-20])
    assert one_line(rejection(path)).startswith("data.labels.file: expected 368 bytes, found at least ")
    packed.write_bytes(b"\x1f\x8b" + bytes(100))
    assert one_line(rejection(path)) == f"data.labels.file: {packed} is a damaged gzip file"
    packed.unlink()
    with labels.open("wb") as sparse:
        sparse.truncate(1 << 40)
    assert one_line(rejection(path)).startswith("data.labels.file: expected 368 bytes, found 1099511627776; ")
    labels.write_bytes(b"")
    assert one_line(rejection(path)).startswith("data.labels.file: expected 368 bytes, found 0; ")


def test_files_of_more_than_a_bound_are_not_opened(honest: Certificate, tmp_path: Path) -> None:
    document = copy.deepcopy(honest.document)
    document["data"] |= {"duplicates": 0, "occurring": 10, "examples": 120_000}
    document["version"], document["decoder"]["sizes"] = 2, [2500, 10]
    document["data"] |= {"rows": 50, "columns": 50}
    document["history"]["recorded"] = []
    document["data"]["images"]["sha256"] = "0" * 64
    (tmp_path / "certificate.json").write_bytes(sealed(document))
    for name, content in honest.files.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "certificate.weights").write_bytes(bytes(4 * 25_010))
    message = one_line(forged(tmp_path / "certificate.json", put("weights.sha256", _sha256(bytes(4 * 25_010)))))
    assert message == "data.images.file: 300,000,016 bytes are announced, expected at most 268,435,456"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 10**6,
        b'{"a":' * 10**5,
        b"[" + b"[]," * 10**6 + b"[]]",
        b'{"schema": ' + b"9" * 5000 + b"}",
        b'{"schema": NaN}',
        b'{"schema": 1e400}',
        b'\xef\xbb\xbf{"schema": 1}',
        b'{"schema": "\\ud800"}',
        bytes(10_000_001),
        b"\x80" * 100,
    ],
)
def test_what_is_no_certificate_is_found_at_once(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "certificate.json"
    path.write_bytes(content)
    assert one_line(rejection(str(path))).startswith((f"{path}: expected a certificate", "schema: expected "))


@pytest.mark.parametrize("at", ["claims", "statement", "data.rows", "history", "content_sha256"])
def test_a_nest_in_place_of_a_value_is_not_written_out(at: str, honest: Certificate, tmp_path: Path) -> None:
    """Written with a line a value and two spaces a level, this one of 250 kB would have 230 MB."""
    nest: Any = list(range(120_000))
    for _ in range(900):
        nest = [nest]
    document = copy.deepcopy(honest.document)
    put(at, nest)(document)
    path = tmp_path / "certificate.json"
    path.write_bytes(json.dumps(document).encode())
    with peak_below(80 << 20):
        assert one_line(rejection(str(path))).startswith(at)


def test_a_field_twice_and_fields_with_escapes(honest: Certificate, tmp_path: Path) -> None:
    path = honest.write(tmp_path)
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('  "version": 1,\n', '  "version": 2,\n  "version": 1,\n'), encoding="utf-8")
    assert one_line(rejection(str(path))).startswith("layout: expected the text that certificates are written with")
    document = copy.deepcopy(honest.document)
    document["counts"]["\x1b[1mcorrect\n"] = document["counts"].pop("correct")
    path.write_bytes(checker.canonical(document))
    assert one_line(rejection(str(path))).startswith("counts: expected the fields examples, errors, correct, found [")


@pytest.mark.parametrize("path", ["no\nsuch\x1b[2J.json", "a\0b", "\udcff.json", "x" * 5000])
def test_paths_are_printed_in_one_line(path: str) -> None:
    assert "expected a certificate, found" in one_line(rejection(path))


def test_a_gaussian_whose_activations_overflow(others: dict[str, Certificate], tmp_path: Path) -> None:
    """Means of 2^59 in twenty layers: without NaN's due, any outcome would pass, and "no errors" be certified."""
    path = overflowing(others["PAC-Bayes"], tmp_path)
    message = one_line(rejection(str(path)))
    assert message.startswith("files.mean: a draw gives a unit of layer ")
    assert message.endswith(" that is infinite or NaN")


NAN, INFINITE = math.nan, math.inf


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("scale", value) for value in (NAN, INFINITE, -0.5, 0.0, 2.0**60)),
        *(("mean", value) for value in (NAN, -INFINITE)),
        ("prior_mean", NAN),
    ],
)
def test_parameters_that_are_no_numbers(
    name: str, value: float, others: dict[str, Certificate], tmp_path: Path
) -> None:
    """The last one, where a comparison with the first or the least passes over it."""
    certificate = others["PAC-Bayes"]
    path, file = certificate.write(tmp_path), f"certificate.{name}"
    raw = certificate.files[file][:-4] + struct.pack("<f", value)
    (tmp_path / file).write_bytes(raw)
    message = one_line(forged(path, put(f"files.{name}.sha256", _sha256(raw))))
    assert message.startswith(f"files.{name}: holds ")


CODES: dict[str, tuple[str, Change, str]] = {
    "a length of nothing": ("code length", put("code.length", 1), "code.length: expected "),
    "as many bits as there are": ("code length", put("code.length", 10**9), "code.length: expected "),
    "no candidates": ("code length", put("code.candidates", 0), "code.candidates: expected a whole number from 1"),
    "a share of one's own": ("code length", put("share", "delta"), "share: expected delta / candidates * 2^-length"),
    "a wide network": (
        "code length",
        put("decoder.sizes", [20, 60_000, 60_000, 3]),
        "decoder.sizes: expected at most 1",
    ),
    "the test split": ("code length", put("data.split", "test"), "data.split: expected train"),
    "a network of one width": (
        "code length",
        put("decoder.sizes", [20]),
        "decoder.sizes: expected two or more numbers",
    ),
    "a prior's part of all": ("PAC-Bayes", put("data.part.prior_examples", 400), "data.part: expected fewer examples"),
    "luckier draws": ("PAC-Bayes", put("draws.specification", "lucky ones"), "draws.specification: expected "),
    "a divergence below 0": ("PAC-Bayes", put("divergence", "-1.000000"), "divergence: expected a decimal"),
    "a prior of nothing": ("PAC-Bayes", put("prior.scale", "0"), "prior.scale: expected a number above 0"),
    "a prior as wide as all": ("PAC-Bayes", put("prior.scale", f"{10**40}"), "prior.scale: expected a number above 0"),
}


@pytest.mark.parametrize("name", CODES)
def test_forgeries_of_what_was_learned_from(name: str, others: dict[str, Certificate], tmp_path: Path) -> None:
    kind, change, message = CODES[name]
    assert one_line(forged(others[kind].write(tmp_path), change)).startswith(message)


def test_every_comparison_fails_closed() -> None:
    """``if bad: raise`` over numbers would let NaN pass; each is written ``if not good: raise``."""
    assert wrong_polarity("if x > 1: raise E") == ["x > 1"]
    assert wrong_polarity("if a and any(v < 0 for v in x): raise E") == ["v < 0"]
    assert wrong_polarity("if not (x != 1): raise E") == ["x != 1"]
    assert wrong_polarity("if not all(v < 1 for v in x): raise E\nif x != 1: raise E\nif x > 1: pass") == []
    assert wrong_polarity(Path(checker.__file__).read_text(encoding="utf-8")) == []


def test_whatever_goes_wrong_is_a_rejection(
    honest: Certificate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(honest.write(tmp_path))
    for error in (OverflowError, MemoryError, RecursionError, IndexError, ValueError):

        def fail(*_: Any, error: type[Exception] = error) -> None:
            raise error("\n")

        monkeypatch.setattr(checker, "count_all", fail)
        assert one_line(rejection(path)) == f"{path}: cannot be checked ({error.__name__})"
