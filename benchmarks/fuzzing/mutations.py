"""Mutations of files, of their bytes and of values inside of JSON: functions of a generator and honest files."""

from __future__ import annotations

import gzip
import json
import math
import struct
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

Mutation = Callable[[Random, Sequence[bytes]], bytes]

#: Texts that a terminal, a path or a parser might trip over.
TEXTS = (
    "",
    "\n",
    "a\nb",
    "\r",
    "\x1b[2J\x1b[31m",
    "\x07",
    "\u202egnp",
    "\u2028",
    "\x00",
    "\ud800",
    "\x85",
    "é",
    "９",
    "x" * 5_000,
    "..",
    "../../x",
    "/etc/passwd",
    "~",
    "a/b",
    "nan",
    "NaN",
    "inf",
    "-inf",
    "1e308",
    "1e999",
    "None",
    "null",
    "true",
    "0x10",
    "1_000",
    "%s%n",
    "{}",
    "{0.__class__}",
    "os:system",
    "relu",
    "mnist",
    "digits",
    "-1",
    "--help",
    "9" * 5_000,
    "1/0",
    "7/200",
    "1e-9",
)
INTEGERS = (
    0,
    1,
    -1,
    2,
    3,
    7,
    8,
    9,
    10,
    16,
    17,
    100,
    127,
    128,
    255,
    256,
    65_535,
    65_536,
    10**6,
    10**9,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**32,
    2**53,
    2**63 - 1,
    2**63,
    -(2**63),
    2**64 - 1,
    2**64,
    10**30,
    -(10**30),
    10**400,
)
FLOATS = (0.0, -0.0, 0.5, 1.5, -1.0, 1e-320, 1e-45, 1e38, 3.5e38, 1e308, -1e308, math.inf, -math.inf, math.nan)
_WIDTHS = {1: "B", 2: "H", 4: "I", 8: "Q"}


def of_bytes(random: Random, seeds: Sequence[bytes]) -> bytes:
    """One of the files with one to four changes of its bytes."""
    content = bytearray(random.choice(seeds))
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        random.choice(_CHANGES)(random, content, seeds)
    return bytes(content)


def _place(random: Random, content: bytearray) -> int:
    # Headers and directories stand at the ends, so the ends are hit more often than the middle.
    if random.random() < 0.5:
        return random.randrange(len(content) + 1)
    near = min(len(content), random.randrange(64))
    return near if random.random() < 0.5 else len(content) - near


def _flip(random: Random, content: bytearray, seeds: Sequence[bytes]) -> None:
    for _ in range(random.choice((1, 1, 2, 8))):
        if content:
            content[min(_place(random, content), len(content) - 1)] ^= 1 << random.randrange(8)


def _set(random: Random, content: bytearray, seeds: Sequence[bytes]) -> None:
    if content:
        content[min(_place(random, content), len(content) - 1)] = random.choice((0, 1, 0x7F, 0x80, 0xFF, 10, 34, 92))


def _truncate(random: Random, content: bytearray, seeds: Sequence[bytes]) -> None:
    del content[_place(random, content) :]


def _delete(random: Random, content: bytearray, seeds: Sequence[bytes]) -> None:
    start = _place(random, content)
    del content[start : start + random.choice((1, 2, 4, 16, 256))]


def _insert(random: Random, content: bytearray, seeds: Sequence[bytes]) -> None:
    start, number = _place(random, content), random.choice((1, 2, 4, 16, 300))
    content[start:start] = (
        random.randbytes(number) if random.random() < 0.5 else bytes([random.randrange(256)]) * number
    )


def _repeat(random: Random, content: bytearray, seeds: Sequence[bytes]) -> None:
    start = _place(random, content)
    block = content[start : start + random.choice((1, 4, 16, 100))]
    content[start:start] = block * random.choice((1, 2, 10, 200))


def _splice(random: Random, content: bytearray, seeds: Sequence[bytes]) -> None:
    other = bytearray(random.choice(seeds))
    content[_place(random, content) :] = other[_place(random, other) :]


def _integer(random: Random, content: bytearray, seeds: Sequence[bytes]) -> None:
    width = random.choice((1, 2, 4, 8))
    if len(content) >= width:
        start = min(_place(random, content), len(content) - width)
        value = random.choice(INTEGERS) % (1 << 8 * width)
        content[start : start + width] = struct.pack(random.choice("<>") + _WIDTHS[width], value)


def _exchange(random: Random, content: bytearray, seeds: Sequence[bytes]) -> None:
    a, b, size = _place(random, content), _place(random, content), random.choice((1, 4, 8, 64))
    content[a : a + size], content[b : b + size] = content[b : b + size], content[a : a + size]


_CHANGES = (_flip, _flip, _set, _truncate, _delete, _insert, _repeat, _splice, _integer, _integer, _exchange)


def inside_gzip(inner: Mutation) -> Mutation:
    """A mutation of what the gzip files hold, packed again as gzip files are."""

    def mutate(random: Random, seeds: Sequence[bytes]) -> bytes:
        content = gzip.compress(inner(random, [gzip.decompress(seed) for seed in seeds]), 1, mtime=0)
        return content + content if random.random() < 0.02 else content

    return mutate


# -- values in nests --------------------------------------------------------------------------------------------------


def odd(random: Random, depth: int = 0) -> Any:
    """A plain value that hardly any field expects."""
    kind = random.randrange(10 if depth < 2 else 7)
    if kind < 2:
        return random.choice(INTEGERS)
    if kind < 4:
        return random.choice(FLOATS)
    if kind < 6:
        return random.choice(TEXTS)
    if kind == 6:
        return random.choice((None, True, False))
    if kind == 7:
        return [odd(random, depth + 1) for _ in range(random.choice((0, 1, 2, 3, 300)))]
    if kind == 8:
        return {random.choice(TEXTS): odd(random, depth + 1) for _ in range(random.choice((0, 1, 2)))}
    return _deep(random.choice((5, 50, 400)))


def _deep(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


def changed(random: Random, value: Any, odd: Callable[[Random], Any] = odd) -> Any:
    """A copy of a nest of dicts and lists in which one place is altered, removed, doubled or renamed."""
    inner = isinstance(value, (dict, list, tuple)) and len(value) > 0
    if not inner or random.random() < 0.02:
        return _altered(random, value, odd)
    if isinstance(value, (list, tuple)):
        items = list(value)
        place, kind = random.randrange(len(items)), random.randrange(12)
        if kind == 0:
            del items[place]
        elif kind == 1:
            items[place:place] = [items[place]] * random.choice((1, 2, 1_000))
        else:
            items[place] = changed(random, items[place], odd)
        return items if isinstance(value, list) else tuple(items)
    names = dict(value)
    name, kind = random.choice(list(names)), random.randrange(16)
    if kind == 0:
        del names[name]
    elif kind == 1:
        names[random.choice((*TEXTS, *INTEGERS[:3]))] = names.pop(name)
    elif kind == 2:
        names[name] = names[random.choice(list(names))]
    elif kind == 3:
        names[random.choice(TEXTS)] = odd(random)
    else:
        names[name] = changed(random, names[name], odd)
    return names


def _altered(random: Random, value: Any, odd: Callable[[Random], Any]) -> Any:
    if type(value) is int and random.random() < 0.4:
        return value + random.choice((-1, 1, 2, 1000))
    if isinstance(value, str) and value and random.random() < 0.3:
        place = random.randrange(len(value))
        return value[:place] + random.choice(TEXTS)[:40] + value[place + random.randrange(2) :]
    if isinstance(value, float) and random.random() < 0.3:
        return value * random.choice((-1.0, 1e3, 1e-3, 1e200))
    return odd(random)


def of_json(random: Random, seeds: Sequence[bytes]) -> bytes:
    """One of the JSON files with values altered, or written as a JSON writer would not."""
    value = json.loads(random.choice(seeds))
    for _ in range(random.choice((1, 1, 2, 5))):
        value = changed(random, value)
    return as_json(random, value)


_LARGEST_TEXT = 4 << 20


def as_json(random: Random, value: Any) -> bytes:
    """``value`` as JSON, at times with doubled names, numbers of thousands of digits or deep nests."""
    writer = json.JSONEncoder(indent=random.choice((None, 1, 2)), ensure_ascii=random.random() < 0.3)
    text = ""
    for piece in writer.iterencode(value):  # of what is found a thousand times, the first megabytes
        text += piece
        if len(text) > _LARGEST_TEXT:
            break
    kind = random.randrange(12)
    if kind == 0:
        text = text.replace("{", '{"' + random.choice(('a": 1, "', 'a\\ud800": 1, "')), 1)
    elif kind == 1:
        text = text.replace("0", random.choice(("-0", "00", "1e999", "1E5", "0.5", "1" * 5_000, "Infinity", "-NaN")), 1)
    elif kind == 2:
        text = text.replace("1", random.choice(("[", "{", '{"a":')) * random.choice((20, 2_000, 100_000)), 1)
    elif kind == 3 and text.startswith("{"):
        text = text[:-1] + "," + text[1:]  # every name twice
    return text.encode("utf-8", "surrogatepass" if random.random() < 0.5 else "replace")


def of_lines(random: Random, seeds: Sequence[bytes]) -> bytes:
    """One of the text files with lines and fields altered, doubled, removed or exchanged."""
    lines = random.choice(seeds).split(b"\n")
    for _ in range(random.choice((1, 2, 4))):
        place, kind = random.randrange(len(lines)), random.randrange(5)
        if kind == 0:
            lines[place:place] = lines[place : place + 2] * random.choice((1, 50))
        elif kind == 1 and len(lines) > 1:
            del lines[place]
        elif kind == 2:
            other = random.randrange(len(lines))
            lines[place], lines[other] = lines[other], lines[place]
        else:
            fields = lines[place].split(b",")
            text = str(random.choice((*TEXTS, *INTEGERS, *FLOATS)) if kind == 3 else random.random())
            fields[random.randrange(len(fields))] = text.encode("utf-8", "surrogatepass")
            lines[place] = b",".join(fields)
    return b"\n".join(lines)


def of_arguments(random: Random, seeds: Sequence[bytes]) -> bytes:
    """One of the command lines, its arguments separated by null bytes, with some altered, doubled or removed."""
    arguments = random.choice(seeds).split(b"\0")
    for _ in range(random.choice((1, 2, 3))):
        place, kind = random.randrange(len(arguments) + 1), random.randrange(5)
        text = str(random.choice((*TEXTS, *INTEGERS, *FLOATS))).replace("\0", "").encode("utf-8", "surrogatepass")
        if kind == 0:
            del arguments[place : place + 1]
        elif kind == 1:
            arguments[place:place] = arguments[place - 1 : place]
        elif kind == 2:
            arguments[place:place] = [text]
        elif kind == 3:
            arguments[place : place + 1] = [text]
        elif place < len(arguments):
            arguments[place] += text[:40]
    return b"\0".join(arguments)
