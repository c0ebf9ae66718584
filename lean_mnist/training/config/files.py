"""Configurations out of files and checkpoints, each value held to what the command line takes."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from lean_mnist.command_line import arguments_of, option_name, parse
from lean_mnist.errors import ConfigError, LeanMnistError, nearest
from lean_mnist.reading.json import read_json
from lean_mnist.reading.text import printable, shown

Options = TypeVar("Options", bound=Any)  # a dataclass of options, each with a default


def read_config(path: Path, options: type[Options]) -> Options:
    """The configuration in a ``config.json``; raises ``ConfigError`` naming the file and the field."""
    values = read_json(path, "a config.json that a run wrote", ConfigError, largest=1 << 20)
    return config_from_dict(values, shown(path), options)


def config_from_dict(values: Any, source: str, options: type[Options]) -> Options:
    """A configuration from plain values; raises ``ConfigError`` naming ``source`` and the field."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{source}: expected an object of configuration fields, found {type(values).__name__}")
    names = [field.name for field in dataclasses.fields(options)]
    if isinstance(values.get("replay"), bool) and "engine" in names:  # as earlier versions had it
        values = {**values, "engine": "auto" if values["replay"] else "eager"}
        del values["replay"]
    arguments: list[str] = []
    for name, value in values.items():
        if name not in names:
            found = f"{printable(repr(name), 60)}{nearest(printable(name, 60), names)}"
            raise ConfigError(f"{source}: no configuration field is called {found}")
        default, listed, expected = getattr(options, name), isinstance(value, (list, tuple)), ""
        found = printable(repr(value), 100)
        if isinstance(value, bool) != isinstance(default, bool):
            expected = "true or false" if isinstance(default, bool) else "no true or false"
        elif (listed and default is not None) != isinstance(default, tuple) or isinstance(value, Mapping):
            expected = "a list" if isinstance(default, tuple) else "one value"
        elif listed and any(isinstance(item, str) and item.startswith("-") for item in value):
            expected, found = "values", f"an option among them: {found}"
        if expected:
            raise ConfigError(f"{source}: {option_name(name)}: expected {expected}, found {found}")
        arguments += arguments_of(name, value)
    try:
        return parse(options, arguments, prog="config", default=options())
    except LeanMnistError as error:
        raise ConfigError(f"{source}: {error}") from None
