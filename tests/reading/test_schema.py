"""Tests of holding plain values against types: the field that does not fit is named in one line."""

import math
from dataclasses import dataclass, field
from typing import Annotated, Any

import pytest
import torch
from msgspec import Meta

from lean_mnist.errors import CheckpointError
from lean_mnist.reading.schema import Amount, Count, Fields, Finite, Sha256, Share, checked, fields_of


class Part(Fields):
    share: Share
    note: str = ""


class Whole(Fields):
    count: Count
    parts: list[Part]
    amount: Amount = 0.0
    finite: Finite = 0.0
    hash: Sha256 | None = None
    anything: Any = None
    three: Annotated[list[int], Meta(min_length=3, max_length=3)] | None = None


GOOD = {"count": 1, "parts": [{"share": 0.5}]}


def test_what_fits_is_returned() -> None:
    found = checked({**GOOD, "amount": 3, "anything": torch.ones(2)}, Whole, "file", "", CheckpointError)
    assert (found.count, found.parts[0].share, found.amount, found.anything) == (1, 0.5, 3.0, ...)


WRONG: list[tuple[Any, str]] = [
    (3, "file: expected object, got int"),
    ({**GOOD, "count": -1}, "file: count: expected int >= 0"),
    ({**GOOD, "count": True}, "file: count: expected int, got bool"),
    ({**GOOD, "count": 1.0}, "file: count: expected int, got float"),
    ({**GOOD, "count": 1 << 63}, "file: count: expected int <= "),
    ({**GOOD, "parts": [{"share": 0.5}, {"share": math.nan}]}, "file: parts[1].share: expected float >= 0.0"),
    ({**GOOD, "parts": [{"share": 2}]}, "file: parts[0].share: expected float <= 1.0"),
    ({**GOOD, "parts": [{"share": 0.5, "a\n\x1b": 1}]}, r"file: parts[0]: object contains unknown field a\n\x1b"),
    ({"count": 1}, "file: object missing required field parts"),
    ({**GOOD, "amount": math.inf}, "file: amount: expected float <= "),
    ({**GOOD, "finite": -math.inf}, "file: finite: expected float >= "),
    ({**GOOD, "hash": "0" * 63 + "\n"}, "file: hash: expected str matching regex"),
    ({**GOOD, "three": [1, 2]}, "file: three: expected array of length >= 3"),
    ({**GOOD, "parts": torch.ones(2)}, "file: parts: expected array, got ellipsis"),
    ({**GOOD, "parts": [torch.ones(2, dtype=torch.uint8)]}, "file: parts[0]: expected object, got ellipsis"),
    ({1: 2}, "file: expected str"),
]


@pytest.mark.parametrize(("value", "message"), WRONG, ids=[message for _, message in WRONG])
def test_what_does_not_fit_is_named(value: Any, message: str) -> None:
    with pytest.raises(CheckpointError) as raised:
        checked(value, Whole, "file", "", CheckpointError)
    assert str(raised.value).startswith(message)
    assert str(raised.value).isprintable()


@dataclass
class Inner:
    count: Count = 0


@dataclass
class Outer:
    name: str
    inner: Inner | None = None
    more: list[dict[str, Any]] = field(default_factory=list)


def test_schemas_of_dataclasses_know_all_their_fields() -> None:
    schema = fields_of(Outer, more=list[Part])
    assert checked({"name": "a"}, schema, "file", "", CheckpointError).more == []
    for value, message in (
        ({"name": "a", "inner": {"count": 1, "other": 2}}, "file: at.inner: object contains unknown field other"),
        ({"name": "a", "inner": {"count": -1}}, "file: at.inner.count: expected int >= 0"),
        ({"name": "a", "more": [{}]}, r"file: at.more\[0\]: object missing required field share"),
        ({}, "file: at: object missing required field name"),
    ):
        with pytest.raises(CheckpointError, match=message):
            checked(value, schema, "file", "at", CheckpointError)
