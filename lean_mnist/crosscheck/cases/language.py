"""Inputs written as text: ``x=randn(4,8,req) randint(0,8,(4,)) 1e-5``.

Items are separated by spaces: ``randn``, ``rand``, ``zeros`` or ``ones`` of sizes, ``randint(low, high, (sizes))``,
``arange(n)``, numbers, ``True``, ``False``, ``None``, ``'words'``, and tuples of these. ``req`` among the arguments
asks for a gradient, a dtype (``float64``, ``int32``) makes it one of that dtype, and ``name=`` in front names it in
reports. Nothing is evaluated.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from lean_mnist.crosscheck.subjects.calls import one_line
from lean_mnist.errors import ArgumentError, nearest

_TOKEN = re.compile(
    r"\s*(?:(?P<word>[A-Za-z_]\w*)|(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)|(?P<text>'[^']*'|\"[^\"]*\")|(?P<sign>[(),=]))"
)
MAKERS = ("randn", "rand", "randint", "zeros", "ones", "arange")
CONSTANTS = {"True": True, "False": False, "None": None}
DTYPES = {name: value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
REQUIRES = "req"
_LONGEST_NUMBER, _MOST_NUMBERS = 40, 1 << 40  # characters; values of a tensor
LAYOUTS = ("contiguous", "transposed")


class _Token(NamedTuple):
    kind: str
    text: str
    place: int  # of its first character, from 1


@dataclass(frozen=True)
class Given:
    """One input as it is written: a plain ``value``, or what a maker is to make."""

    name: str = ""
    maker: str = ""
    shape: tuple[int, ...] = ()
    bounds: tuple[int, ...] = ()  # of randint
    dtype: torch.dtype | None = None
    requires_grad: bool = False
    value: Any = None

    def resized(self, old: int, new: int) -> "Given":
        """With ``new`` in place of ``old`` as its first size, if that is it."""
        return replace(self, shape=(new, *self.shape[1:])) if self.shape[:1] == (old,) else self

    def make(self, generator: torch.Generator, dtype: torch.dtype | None, layout: str, device: str) -> Any:
        """The input: a floating tensor has the dtype that is written, else ``dtype``, else PyTorch's default."""
        if not self.maker:
            return self.value
        x = self._numbers(generator)
        wanted = self.dtype or ((dtype or torch.get_default_dtype()) if x.is_floating_point() else x.dtype)
        try:
            x = x.to(device=device, dtype=wanted)
        except (RuntimeError, AssertionError) as error:  # PyTorch has no such device, or was built without
            raise ArgumentError(
                f"device: expected one that can be used, found {device!r} ({one_line(error, 120)})"
            ) from None
        if layout == "transposed" and x.dim() > 1:
            x = x.transpose(0, -1).contiguous().transpose(0, -1)
        return x.requires_grad_(self.requires_grad)

    def _numbers(self, generator: torch.Generator) -> Tensor:
        if self.maker == "randint":
            low, high = self.bounds
            return torch.randint(low, high, self.shape, generator=generator, device="cpu")
        if self.maker == "arange":
            return torch.arange(*self.shape, device="cpu")
        if self.maker in ("zeros", "ones"):
            return torch.full(self.shape, float(self.maker == "ones"), dtype=torch.float64, device="cpu")
        make = torch.randn if self.maker == "randn" else torch.rand
        return make(self.shape, generator=generator, dtype=torch.float64, device="cpu")


def parse_inputs(text: str) -> tuple[Given, ...]:
    """The inputs that ``text`` describes. Raises ``ArgumentError``, one line with the place of the mistake."""
    reader = _Reader(text)
    items = []
    while reader.next.kind != "end":
        items.append(reader.item())
        if reader.next.text == ",":
            reader.take()
    if not items:
        raise ArgumentError("inputs: expected at least one, such as randn(4,8,req), found none")
    if not any(item.requires_grad for item in items):
        raise ArgumentError("inputs: expected req among the sizes of an input to be checked, as in randn(4,8,req)")
    return tuple(items)


class _Reader:
    """A text, read token by token."""

    def __init__(self, text: str) -> None:
        self._text, self._place = text, 0
        self.next = self._read()

    def _read(self) -> _Token:
        found = _TOKEN.match(self._text, self._place)
        if found is None:
            rest = self._text[self._place :].lstrip()
            place = len(self._text) - len(rest) + 1
            if rest:
                self.fail("an input", _Token("", rest[0], place))
            return _Token("end", "", place)
        self._place = found.end()
        kind = found.lastgroup or ""
        return _Token(kind, found[kind], found.start(kind) + 1)

    def take(self) -> _Token:
        taken, self.next = self.next, self._read()
        return taken

    def fail(self, expected: str, token: _Token, choices: Sequence[str] = ()) -> NoReturn:
        found = repr(token.text[:60]) if token.text else "the end"
        raise ArgumentError(
            f"inputs, at {token.place}: expected {expected}, found {found}{nearest(token.text, choices)}"
        )

    def expect(self, sign: str) -> None:
        if self.next.text != sign:
            self.fail(repr(sign), self.next)
        self.take()

    def item(self) -> Given:
        if self.next.kind != "word" or self.next.text in CONSTANTS:
            return Given(value=self.value())
        word = self.take()
        if self.next.text == "=":
            self.take()
            return replace(self.item(), name=word.text)
        if word.text not in MAKERS:
            self.fail(f"one of {', '.join(MAKERS)}, a number or a name with =", word, (*MAKERS, *CONSTANTS))
        return self.made(word)

    def value(self) -> Any:
        token = self.next
        if token.text == "(":
            return self.several()
        if token.kind == "number":
            if len(token.text) > _LONGEST_NUMBER:
                self.fail(f"a number of at most {_LONGEST_NUMBER} characters", token)
            self.take()
            return int(token.text) if re.fullmatch(r"[-+]?\d+", token.text) else float(token.text)
        if token.kind == "text":
            return self.take().text[1:-1]
        if token.text not in CONSTANTS:
            self.fail("a value", token, tuple(CONSTANTS))
        return CONSTANTS[self.take().text]

    def arguments(self) -> Iterator[_Token]:
        """The first token of each argument between parentheses; who asks for the next has taken it."""
        self.expect("(")
        while self.next.text != ")":
            yield self.next
            if self.next.text != ")":
                self.expect(",")
        self.take()

    def several(self) -> tuple[Any, ...]:
        return tuple(self.value() for _ in self.arguments())

    def made(self, maker: _Token) -> Given:
        """The arguments behind the name of a maker: numbers, one tuple, ``req``, a dtype."""
        numbers, shape = list[int](), None
        dtype, requires_grad = None, False
        for token in self.arguments():
            if token.text == "(":
                shape = tuple(self.sizes(token, self.several()))
            elif token.kind == "number":
                numbers.append(*self.sizes(token, [self.value()], least=-(2**63) if maker.text == "randint" else 0))
            elif token.text == REQUIRES:
                self.take()
                requires_grad = True
            elif token.text in DTYPES:
                dtype = DTYPES[self.take().text]
            else:
                self.fail("a size, req or a dtype", token, (REQUIRES, *DTYPES))
        return self.checked(maker, numbers, shape, dtype, requires_grad)

    def sizes(self, token: _Token, values: Sequence[Any], least: int = 0) -> Sequence[int]:
        for value in values:
            if type(value) is not int or value < least:
                self.fail("a whole number" + " of at least 0" * (least == 0), token)
            if value >= 1 << 63:
                self.fail("a whole number below 2^63", token)
        return values

    def checked(
        self, maker: _Token, numbers: list[int], shape: tuple[int, ...] | None, dtype: torch.dtype | None, grad: bool
    ) -> Given:
        name, bounds = maker.text, tuple(numbers)
        if name == "randint":
            if shape is None or len(bounds) not in (1, 2) or (0, *bounds)[-2] >= bounds[-1]:
                self.fail("randint(low, high, (sizes)) with low < high", maker)
        elif name == "arange":
            if len(bounds) != 1 or shape is not None:
                self.fail("arange(n)", maker)
            shape = bounds
        elif shape is not None and bounds:
            self.fail(f"{name}(4,8) or {name}((4,8)), not both,", maker)
        else:
            shape, bounds = bounds if shape is None else shape, ()
        if math.prod(shape) > _MOST_NUMBERS:
            self.fail(f"a tensor of at most {_MOST_NUMBERS:,} numbers", maker)
        floating = name not in ("randint", "arange") if dtype is None else dtype.is_floating_point
        if grad and not floating:
            self.fail("req with a floating dtype alone", maker)
        bounds = (0, *bounds) if name == "randint" and len(bounds) == 1 else bounds
        return Given("", name, shape, bounds, dtype, grad)
