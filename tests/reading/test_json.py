"""Tests of reading JSON from elsewhere: what it means, and what is refused in one line."""

import json
from pathlib import Path

import pytest

from lean_mnist.errors import ConfigError
from lean_mnist.reading.json import read_json


def test_it_reads_what_json_reads(tmp_path: Path) -> None:
    value = {"a": [1, -2.5, 1e300, None, True, "ä😀\n\0"], "b": {"": {}}, "9" * 500: "9" * 500}
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False, indent=1)):
        (tmp_path / "a.json").write_text(text, encoding="utf-8")
        assert read_json(tmp_path / "a.json", "a thing") == value


HOSTILE: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "no JSON"),
    "half": (b'{"a":', "no JSON"),
    "deep": (b"[" * 200_000, "values nested too deeply"),
    "51 deep": (b"[" * 51 + b"]" * 51, "values nested too deeply"),
    "deep objects": (b'{"a":' * 100_000, "values nested too deeply"),
    "a long number": (b'{"a": ' + b"9" * 5000 + b"}", "a number of 400 digits or more"),
    "a long negative number": (b"[-" + b"1" * 100_000 + b"]", "a number of 400 digits or more"),
    "twice": (b'{"a\\n": 1, "a\\n": 2}', "'a\\n' twice in one object"),
    "NaN": (b"[NaN]", "NaN, which is no number"),
    "infinity": (b"[-Infinity]", "-Infinity, which is no number"),
    "not UTF-8": (b'"\xff"', "text that is no UTF-8"),
    "half a character": (b'["\\ud800"]', "text that is no UTF-8"),
    "a null byte": (b'"\0"', "no JSON"),
    "a mark": (b"\xef\xbb\xbf{}", "no JSON"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_json_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    content, reason = HOSTILE[kind]
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ConfigError) as raised:
        read_json(tmp_path / "a.json", "a thing", ConfigError)
    assert str(raised.value).startswith(f"{tmp_path / 'a.json'}: expected a thing, found {reason}")
    assert str(raised.value).isprintable()


def test_it_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"[" + b" " * 100 + b"]")
    with pytest.raises(ConfigError, match="102 bytes, expected a thing of at most 100"):
        read_json(tmp_path / "a.json", "a thing", ConfigError, largest=100)
