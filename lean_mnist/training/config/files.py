"""Configurations read back from what a run wrote, checked field by field as the command line's are."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from lean_mnist.command_line import option_name, parse
from lean_mnist.errors import ConfigError, nearest

Options = TypeVar("Options", bound=Any)  # a dataclass of options, each with a default


def read_config(path: Path, options: type[Options]) -> Options:
    """The configuration in a ``config.json``; raises ``ConfigError`` naming the file and the field."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{path}: expected a config.json that a run wrote, found {reason}") from None
    return config_from_dict(values, str(path), options)


def config_from_dict(values: Any, source: str, options: type[Options]) -> Options:
    """A configuration from plain values; raises ``ConfigError`` naming ``source`` and the field."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{source}: expected an object of configuration fields, found {type(values).__name__}")
    names = [field.name for field in dataclasses.fields(options)]
    arguments: list[str] = []
    for name, value in values.items():
        if name not in names:
            raise ConfigError(f"{source}: no configuration field is called {name!r}{nearest(str(name), names)}")
        option = option_name(name)
        default = getattr(options, name)
        if isinstance(value, bool) != isinstance(default, bool):
            expected = "true or false" if isinstance(default, bool) else "no true or false"
            raise ConfigError(f"{source}: {option}: expected {expected}, found {value!r}")
        listed = isinstance(value, (list, tuple)) and default is not None
        if listed != isinstance(default, tuple) or isinstance(value, Mapping):
            expected = "a list" if isinstance(default, tuple) else "one value"
            raise ConfigError(f"{source}: {option}: expected {expected}, found {value!r}")
        if isinstance(value, bool):
            arguments.append(option if value else option.replace("--", "--no-", 1))
        elif isinstance(value, (list, tuple)):
            arguments += [option, *map(str, value)]
        else:
            arguments.append(f"{option}={value}")
    try:
        return parse(options, arguments, prog="config", default=options())
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None
