"""Pickles as data: their opcodes are walked, and nothing that they name is imported, called or constructed.

A pickle is a program. Of its language only the part is known here that builds lists, dicts, tuples, numbers and texts;
what a name stands for, and what comes of a call, is decided by the reader's :class:`Meaning`, from a fixed list.
"""

import struct
from collections.abc import Callable
from typing import Any, Protocol

MOST_OPCODES = 300_000  # a third of a second
_LARGEST_KEY = 1 << 31  # larger whole numbers can be chosen so that a dict takes for ever
_LONGEST_NAME = 200  # of a module or of something in it


class Refused(Exception):
    """Why a file was refused, in words that stand behind "refused,"."""

    def __init__(self, reason: str = "damaged") -> None:
        super().__init__(reason)


class Meaning(Protocol):
    """A format's meaning of the names, calls and persistent objects of a pickle; each raises ``Refused``."""

    def named(self, name: str) -> Any:
        """A record of the reader's own for ``"module name"``."""

    def called(self, function: Any, arguments: tuple[Any, ...]) -> Any:
        """The value of a call, of which ``function`` should be such a record."""

    def built(self, target: Any, state: Any) -> None:
        """Put ``state`` into ``target``, the value of a call."""

    def persistent(self, identity: Any) -> Any:
        """The object outside of the pickle that ``identity`` stands for."""


def walk_pickle(content: bytes, meaning: Meaning, most: int = MOST_OPCODES) -> Any:
    """The value of a pickle of protocol 2 or 3, as far as ``meaning`` knows it.

    Raises ``Refused`` for damage, for other opcodes than plain values need, and for more than ``most`` of them. Values
    may share parts with each other, and contain themselves.
    """
    machine, place = _Machine(meaning), 0
    try:
        for _ in range(most):
            opcode = content[place : place + 1]
            if opcode == b".":
                if place != len(content) - 1 or machine.below or len(machine.stack) != 1:
                    raise Refused("damaged (it ends early or leaves something behind)")
                return machine.stack[0]
            if opcode not in _OPCODES:
                raise Refused(f"damaged ({opcode!r})")
            read, step = _OPCODES[opcode]
            argument, place = read(content, place + 1)
            step(machine, argument)
    except (ValueError, IndexError, KeyError, TypeError, struct.error) as error:
        raise Refused(f"damaged ({type(error).__name__})") from None
    raise Refused(f"it has more than {most:,} parts")


class _Machine:
    """The stack above the last mark, those below it, and the memo."""

    def __init__(self, meaning: Meaning) -> None:
        self.meaning = meaning
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self, _: None) -> None:
        self.below.append(self.stack)
        self.stack = []

    def above_mark(self) -> list[Any]:
        above, self.stack = self.stack, self.below.pop()
        return above

    def tuple_of(self, size: int) -> None:
        if size > len(self.stack):
            raise IndexError
        at = len(self.stack) - size
        self.stack[at:] = [tuple(self.stack[at:])]

    def append(self, items: list[Any]) -> None:
        self._top(list).extend(items)

    def set(self, items: list[Any]) -> None:
        target = self._top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) is not str and not (type(key) is int and abs(key) < _LARGEST_KEY):
                raise Refused("it holds a dict with other keys than texts and small whole numbers")
            target[key] = value

    def _top(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise TypeError
        return self.stack[-1]

    def put(self, place: int) -> None:
        self.memo[place] = self.stack[-1]

    def reduce(self, _: None) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if type(arguments) is not tuple:
            raise TypeError
        self.stack.append(self.meaning.called(function, arguments))

    def build(self, _: None) -> None:
        state = self.stack.pop()
        self.meaning.built(self.stack[-1], state)


_Read = Callable[[bytes, int], tuple[Any, int]]  # the argument of the opcode before this place, and where it ends


def _nothing(content: bytes, place: int) -> tuple[None, int]:
    return None, place


def _fixed(form: str) -> _Read:
    layout = struct.Struct(form)

    def read(content: bytes, place: int) -> tuple[Any, int]:
        return layout.unpack_from(content, place)[0], place + layout.size

    return read


def _counted(form: str, decode: Callable[[bytes], Any]) -> _Read:
    layout = struct.Struct(form)

    def read(content: bytes, place: int) -> tuple[Any, int]:
        start = place + layout.size
        end = start + layout.unpack_from(content, place)[0]
        if end > len(content):
            raise IndexError
        return decode(content[start:end]), end

    return read


def _number(content: bytes) -> int:
    if len(content) > 9:
        raise Refused("it holds a whole number of more than 64 bits")
    return int.from_bytes(content, "little", signed=True)


def _name(content: bytes, place: int) -> tuple[str, int]:
    middle = content.index(b"\n", place, place + _LONGEST_NAME)
    end = content.index(b"\n", middle + 1, middle + _LONGEST_NAME)
    return f"{content[place:middle].decode()} {content[middle + 1 : end].decode()}", end + 1


# Those that PyTorch and NumPy write. pickletools has all of them, but it computes arguments before one can refuse.
_OPCODES: dict[bytes, tuple[_Read, Callable[[_Machine, Any], None]]] = {
    b"\x80": (_fixed("B"), lambda machine, protocol: None),
    b"N": (_nothing, _Machine.push),
    b"\x88": (_nothing, lambda machine, _: machine.push(True)),
    b"\x89": (_nothing, lambda machine, _: machine.push(False)),
    b"J": (_fixed("<i"), _Machine.push),
    b"K": (_fixed("B"), _Machine.push),
    b"M": (_fixed("<H"), _Machine.push),
    b"\x8a": (_counted("B", _number), _Machine.push),
    b"G": (_fixed(">d"), _Machine.push),
    b"X": (_counted("<I", bytes.decode), _Machine.push),  # a ValueError for what is no UTF-8
    b"B": (_counted("<I", bytes), _Machine.push),
    b"C": (_counted("B", bytes), _Machine.push),
    b"]": (_nothing, lambda machine, _: machine.push([])),
    b"}": (_nothing, lambda machine, _: machine.push({})),
    b")": (_nothing, lambda machine, _: machine.push(())),
    b"(": (_nothing, _Machine.mark),
    b"t": (_nothing, lambda machine, _: machine.push(tuple(machine.above_mark()))),
    b"\x85": (_nothing, lambda machine, _: machine.tuple_of(1)),
    b"\x86": (_nothing, lambda machine, _: machine.tuple_of(2)),
    b"\x87": (_nothing, lambda machine, _: machine.tuple_of(3)),
    b"a": (_nothing, lambda machine, _: machine.append([machine.stack.pop()])),
    b"e": (_nothing, lambda machine, _: machine.append(machine.above_mark())),
    b"s": (_nothing, lambda machine, _: machine.set([machine.stack.pop(-2), machine.stack.pop()])),
    b"u": (_nothing, lambda machine, _: machine.set(machine.above_mark())),
    b"q": (_fixed("B"), _Machine.put),
    b"r": (_fixed("<I"), _Machine.put),
    b"h": (_fixed("B"), lambda machine, place: machine.push(machine.memo[place])),
    b"j": (_fixed("<I"), lambda machine, place: machine.push(machine.memo[place])),
    b"c": (_name, lambda machine, name: machine.push(machine.meaning.named(name))),
    b"R": (_nothing, _Machine.reduce),
    b"b": (_nothing, _Machine.build),
    b"Q": (_nothing, lambda machine, _: machine.push(machine.meaning.persistent(machine.stack.pop()))),
}
