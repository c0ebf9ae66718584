"""JSON from elsewhere: bounded in depth and in the length of its numbers, each name once, nothing but the standard."""

import json
import re
from pathlib import Path
from typing import Any

from lean_mnist.errors import DataError, LeanMnistError
from lean_mnist.reading.files import LARGEST, read_bytes
from lean_mnist.reading.text import printable, shown

_DEEPEST = 50
_LONG_NUMBER = re.compile(rb"(?:^|[\s:,\[{])-?[0-9]{400}")  # Python takes the square of its length to read it
_HALF = re.compile(rb"\\u[dD][89abcdefABCDEF]")


def read_json(path: str | Path, what: str, error: type[LeanMnistError] = DataError, *, largest: int = LARGEST) -> Any:
    """The value in the JSON file at ``path``, where ``what`` is expected, as in "a config.json".

    Raises ``error``, one line, where the file cannot be read, has more than ``largest`` bytes, or is no JSON in UTF-8;
    for names given twice in an object, NaN and infinities, numbers of 400 digits, nesting deeper than 50, and texts
    with half a character.
    """
    content = read_bytes(path, what, error, largest=largest)
    try:
        if _LONG_NUMBER.search(content):
            raise ValueError("a number of 400 digits or more")
        value = json.loads(content.decode(), object_pairs_hook=each_once, parse_constant=_no_constant)
        _check_depth(value)
        if _HALF.search(content):
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        reason = "values nested too deeply"
    except json.JSONDecodeError as fault:
        reason = f"no JSON ({fault.msg} in line {fault.lineno}, column {fault.colno})"
    except UnicodeError:
        reason = "text that is no UTF-8"
    except ValueError as fault:
        reason = printable(fault)
    else:
        return value
    raise error(f"{shown(path)}: expected {what}, found {reason}")


def each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, for ``object_pairs_hook``; raises ``ValueError`` where a name is given twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise ValueError(f"{printable(repr(twice), 60)} twice in one object")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name}, which is no number")


def _check_depth(value: Any) -> None:
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(_DEEPEST):
        inside = (item for one in level for item in (one.values() if isinstance(one, dict) else one))
        level = [item for item in inside if type(item) in (dict, list)]
        if not level:
            return
    raise RecursionError
