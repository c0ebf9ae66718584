"""Certificates of a finished run that claim what is not so; the checker's own tests have every kind of certificate."""

from __future__ import annotations

import gzip
import hashlib
import json
import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

from lean_mnist.generalization import checker
from tests.support.certificate_cases import sealed
from tests.support.hostile.attack import RUN, Hostile, Sandbox
from tests.support.hostile.data_files import gzip_bomb, idx
from tests.support.hostile.fields import ESCAPES

Document = dict[str, Any]
CHECK = ("certify", "--check", f"runs/{RUN}/certificate.json")


def forged(
    change: Callable[[Document], Any], *command: str, also: Callable[[Sandbox], Any] = lambda sandbox: None
) -> Any:
    """``certify --check`` of a certificate with changed fields, and all that follows from them written again."""

    def build(sandbox: Sandbox) -> Sequence[str]:
        path = sandbox.run / "certificate.json"
        document = json.loads(path.read_bytes())
        change(document)
        path.write_bytes(sealed(document))
        also(sandbox)
        return command or CHECK

    return build


def written(change: Callable[[bytes], bytes], *command: str) -> Any:
    """``certify --check`` of a certificate of other bytes."""

    def build(sandbox: Sandbox) -> Sequence[str]:
        path = sandbox.run / "certificate.json"
        path.write_bytes(change(path.read_bytes()))
        return command or CHECK

    return build


def replaced(
    which: str, content: Callable[[bytes], bytes], change: Callable[[Document], Any] = lambda document: None
) -> Any:
    """``certify --check`` with another raw file, whose hash the certificate states."""

    def build(sandbox: Sandbox) -> Sequence[str]:
        document = json.loads((sandbox.run / "certificate.json").read_bytes())
        fields = document["weights"] if which == "weights" else document["data"][which]
        path = sandbox.run / fields["file"]
        made = content(path.read_bytes())
        path.write_bytes(made)
        unpacked = gzip.decompress(made) if made[:2] == b"\x1f\x8b" and len(made) < 10_000 else made
        fields["sha256"] = hashlib.sha256(unpacked).hexdigest()
        change(document)
        (sandbox.run / "certificate.json").write_bytes(sealed(document))
        return CHECK

    return build


def _set(*path: str | int, value: Any) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        place: Any = document
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = value

    return change


def _all(*changes: Callable[[Document], Any]) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        for each in changes:
            each(document)

    return change


def _delta(delta: str) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        for claim in document["claims"]:
            claim["delta"] = str(Fraction(delta))

    return change


def _again(raw: bytes, change: Callable[[Document], Any]) -> bytes:
    document = json.loads(raw)
    change(document)
    return checker.canonical(document)


REJECTED: dict[str, Any] = {
    "errors of 0": forged(_set("counts", "errors", value=0)),
    "errors below 0": forged(_set("counts", "errors", value=-1)),
    "a δ of 999999/1000000": forged(_delta("999999/1000000")),
    "a δ of 1/2": forged(_delta("1/2")),
    "no looks": forged(_all(_set("history", "looks", value=0), _set("history", "recorded", value=[]))),
    "fewer looks than recorded": forged(
        lambda d: d["history"].update(looks=1, recorded=[{"step": 1, "purpose": "final", "errors": 3}] * 3)
    ),
    "looks of errors below 0": forged(
        _set("history", "recorded", value=[{"step": 1, "purpose": "final", "errors": -1}])
    ),
    "looks of more errors than examples": forged(
        _set("history", "recorded", value=[{"step": 1, "purpose": "final", "errors": 10**9}])
    ),
    "a purpose of escapes": forged(_set("history", "recorded", value=[{"step": 1, "purpose": ESCAPES, "errors": 1}])),
    "a name of escapes": forged(_set("data", "dataset", value=ESCAPES)),
    "a name that goes on in the next line": forged(_set("data", "dataset", value="mnist).\n  Everything is right (x")),
    "called mnist": forged(_set("data", "dataset", value="mnist")),
    "called mnist, nearly": forged(_set("data", "dataset", value="mnist "), *CHECK),
    "another split": forged(_set("data", "split", value="train")),
    "a folder above": forged(_set("data", "images", "file", value="../../../outside/kept")),
    "an absolute file": forged(_set("weights", "file", value="/etc/passwd")),
    "a file of a null": forged(_set("weights", "file", value="a\0b")),
    "a file of escapes": forged(_set("weights", "file", value=ESCAPES)),
    "the certificate as its weights": forged(_set("weights", "file", value="certificate.json")),
    "a folder as data": forged(_set("data", "images", "folder", value="../../../../etc")),
    "10^9 examples": forged(_set("data", "examples", value=10**9)),
    "10^7 examples": forged(_all(_set("data", "examples", value=10**7), _set("counts", "examples", value=10**7))),
    "sizes of 65,000": forged(_set("decoder", "sizes", value=[64, 65_000, 65_000, 10])),
    "a hundred layers of 65,000": forged(_set("decoder", "sizes", value=[64, *[65_000] * 98, 10])),
    "no claims": forged(_set("claims", value=[])),
    "10,000 claims": written(lambda raw: _again(raw, lambda d: d["claims"].extend(d["claims"][:1] * 10_000))),
    "100,000 claims": written(lambda raw: _again(raw, lambda d: d["claims"].extend(d["claims"][:1] * 100_000))),
    "100,000 looks": written(lambda raw: _again(raw, lambda d: d["history"]["recorded"].extend([{}] * 100_000))),
    "a risk of 1,000 digits": forged(lambda d: d["claims"][0].update(risk="0." + "1" * 990)),
    "a risk of 0": forged(lambda d: d["claims"][0].update(risk="0." + "0" * 12)),
    "an activation of escapes": forged(_set("decoder", "activation", value=ESCAPES)),
    "a mean of 10^400": forged(_set("decoder", "normalization", "mean", value=str(10**400))),
    "a scale of NaN": forged(_set("decoder", "normalization", "scale", value="nan")),
    "a unit of 0": forged(_set("decoder", "unit", value="0")),
    "another statement": written(lambda raw: raw.replace(b"misreads at most", b"misreads nearly ")),
    "a name twice": written(lambda raw: b'{\n  "version": 1,' + raw[1:]),
    "a deep list": written(lambda raw: b"[" * 200_000),
    "deep objects": written(lambda raw: b'{"claims":' * 200_000),
    "a number of 5,000 digits": written(lambda raw: raw.replace(b'"version": 1', b'"version": ' + b"1" * 5_000)),
    "NaN": written(lambda raw: raw.replace(b'"version": 1', b'"version": NaN')),
    "UTF-16": written(lambda raw: raw.decode().encode("utf-16")),
    "21 MB of spaces": written(lambda raw: b" " * 21_000_000),
    "nothing": written(lambda raw: b""),
    "a schema of escapes": written(lambda raw: raw.replace(b"lean_mnist certificate", b"\\u001b[2J\\n")),
    "a field of escapes": written(lambda raw: raw.replace(b'"claims"', b'"\\u001b[2J\\n\\u202e"')),
    "weights of NaN": replaced("weights", lambda raw: b"\0\0\xc0\x7f" * (len(raw) // 4)),
    "weights of 2^59": replaced("weights", lambda raw: struct.pack("<f", 2.0**59) * (len(raw) // 4)),
    "weights of infinities": replaced("weights", lambda raw: struct.pack("<f", float("inf")) * (len(raw) // 4)),
    "weights of 0": replaced("weights", lambda raw: bytes(len(raw))),
    "half of the weights": replaced("weights", lambda raw: raw[: len(raw) // 2]),
    "512 MiB of images in gzip": replaced("images", lambda raw: gzip_bomb(raw, 512)),
    "images of another shape": replaced("images", lambda raw: idx(len(raw) // 64, 4, 16)),
    "labels out of range": replaced("labels", lambda raw: raw[:8] + b"\xff" * (len(raw) - 8)),
    "images of 65,000 × 65,000": replaced(
        "images", lambda raw: raw, _all(_set("data", "rows", value=65_000), _set("data", "columns", value=65_000))
    ),
}

VOUCHED = "vouche"  # … for by nobody


def _one_class(document: Document) -> None:
    document["counts"].update(errors=0)


def _evaluated(change: Callable[[Document], Any]) -> Any:
    return forged(change, "evaluate", f"checkpoints/{RUN}/best.pt")


HOSTILE = [
    *(Hostile(f"certificate: {name}", build, says="") for name, build in REJECTED.items()),
    Hostile(
        "another's labels, all right",
        replaced("labels", lambda raw: raw[:8] + bytes(len(raw) - 8), _one_class),
        says="",
        either=False,
    ),
    Hostile(
        "evaluate: a certificate of 0 errors",
        _evaluated(_set("counts", "errors", value=0)),
        status=0,
        says="does not match",
    ),
    Hostile(
        "evaluate: a certificate of escapes",
        _evaluated(_set("data", "dataset", value=ESCAPES)),
        status=0,
        says="certificate",
    ),
    Hostile(
        "evaluate: a certificate of deep lists",
        written(lambda raw: b"[" * 200_000, "evaluate", f"checkpoints/{RUN}/best.pt"),
        status=0,
        says="certificate",
    ),
]
