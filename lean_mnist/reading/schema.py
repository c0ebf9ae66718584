"""Plain values from a file, held against types field by field; what does not fit is named in one line."""

import dataclasses
import functools
import operator
import sys
import types
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from lean_mnist.errors import LeanMnistError
from lean_mnist.reading.text import printable

T = TypeVar("T")

Count = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Finite = Annotated[float, Meta(ge=-sys.float_info.max, le=sys.float_info.max)]
Amount = Annotated[float, Meta(ge=0, le=sys.float_info.max)]
Share = Annotated[float, Meta(ge=0, le=1)]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z", max_length=64)]


class Fields(msgspec.Struct, forbid_unknown_fields=True):
    """Base class of schemas: the fields of an object, no others; those without a default have to be there."""


def checked(value: Any, kind: type[T], where: str, field: str, error: type[LeanMnistError]) -> T:
    """``value`` as ``kind``, which it has to fit without conversion, but for whole numbers where numbers are expected.

    In the result ``...`` stands for what is no plain value, such as a tensor, which fits ``Any`` alone. Raises
    ``error``: ``where: field.part: expected …``.
    """
    try:
        return msgspec.convert(_plain(value), kind, strict=True)
    except msgspec.ValidationError as fault:
        reason, _, place = str(fault).partition(" - at `$")
        reason = reason[0].lower() + reason[1:].replace("`", "")
        named = (field + place.rstrip("`")).lstrip(".")
        raise error(f"{where}: {printable(named, 100)}{': ' if named else ''}{printable(reason, 200)}") from None


def _plain(value: Any) -> Any:
    # A tensor has the methods of an object and of an array, so that one could pass for either.
    if type(value) is dict:
        return {key: _plain(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else ...


@functools.cache
def fields_of(cls: type, **instead: Any) -> Any:
    """The schema of a dataclass, in which its dataclasses become schemas too; ``instead`` has other types of fields."""
    hints = {**get_type_hints(cls, include_extras=True), **instead}
    defined: list[Any] = []
    for field in dataclasses.fields(cls):
        kind = _schema(hints[field.name])
        if field.default is not dataclasses.MISSING:
            defined.append((field.name, kind, field.default))
        elif field.default_factory is not dataclasses.MISSING:
            defined.append((field.name, kind, msgspec.field(default_factory=field.default_factory)))
        else:
            defined.append((field.name, kind))
    return msgspec.defstruct(cls.__name__, defined, bases=(Fields,), forbid_unknown_fields=True)


def _schema(hint: Any) -> Any:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return fields_of(hint)
    if get_origin(hint) in (Union, types.UnionType):
        return functools.reduce(operator.or_, map(_schema, get_args(hint)))
    return hint
