"""The user's word on gradients that are meant not to be derivatives, by type, path or name of a Function."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn
from torch.autograd import Function

from lean_mnist.errors import ArgumentError

Key = str | type[Any]
Value = TypeVar("Value")
IGNORED = "ignored"


@dataclass(frozen=True)
class Intent:
    """The purpose of a gradient: ``word`` for no derivative at all, or the derivative of ``smooth``."""

    word: str = ""
    smooth: Callable[..., Any] | None = None

    def __bool__(self) -> bool:
        return bool(self.word) or self.smooth is not None


def named(mapping: Mapping[Key, Value], path: str, module: nn.Module) -> Value | None:
    """The entry of a module, by its path or by its type."""
    return _first(mapping, [path, *type(module).__mro__])


def _first(mapping: Mapping[Key, Value], keys: Iterable[Key]) -> Value | None:
    return next((mapping[key] for key in keys if key in mapping), None)


class Intents:
    """The intents of modules and of Functions. Raises ``ArgumentError`` for keys and values that cannot be."""

    def __init__(
        self, ignore: Collection[Key], intended: Mapping[Key, str], derivative_of: Mapping[Key, Callable[..., Any]]
    ) -> None:
        if isinstance(ignore, (str, type)):
            raise ArgumentError("ignore: expected a list of types, paths and names of Functions, found one of them")
        for option, keys in (("ignore", ignore), ("intended", intended), ("derivative_of", derivative_of)):
            for key in keys:
                if not isinstance(key, str) and not (isinstance(key, type) and issubclass(key, (nn.Module, Function))):
                    raise ArgumentError(f"{option}: expected types, paths and names of Functions, found {key!r}")
        for value in derivative_of.values():
            if not callable(value):
                raise ArgumentError(f"derivative_of: expected functions, found {type(value).__name__}")
        for word in intended.values():
            if not isinstance(word, str) or not word:
                raise ArgumentError(f"intended: expected words that say why, found {word!r}")
        self._intents = {key: Intent(smooth=smooth) for key, smooth in derivative_of.items()}
        self._intents |= {key: Intent(word) for key, word in intended.items()}
        self._intents |= {key: Intent(IGNORED) for key in ignore}
        self._met = set[Key]()
        self.settled: dict[str, set[str]] = {}  # by word, the Functions and modules that it says all about

    def of_module(self, path: str, module: nn.Module) -> Intent:
        """The intent of the module, or of one around it that is named by its path."""
        said, outer = self._said([path, *type(module).__mro__]), path
        while not said and "." in outer:
            outer = outer.rpartition(".")[0]
            said = Intent(self._said([outer]).word)
        return said

    def of_function(self, function: type[Any]) -> Intent:
        """The intent of the Function, said of it or by itself."""
        own = Intent(getattr(function, "intended", ""), getattr(function, "derivative_of", None))
        return self._said([*function.__mro__, *(base.__name__ for base in function.__mro__)]) or own

    def settle(self, path: str, module: nn.Module, functions: Collection[type[Any]]) -> bool:
        """True, and noted, if no gradient of ``functions``, called by ``module``, is meant to be a derivative."""
        of_module, words = self.of_module(path, module), {self.of_function(function).word for function in functions}
        words = {of_module.word} if of_module else words
        if "" in words:
            return False
        names = ", ".join(sorted(function.__name__ for function in functions))
        for word in words:
            self.settled.setdefault(word, set()).add(f"{names} in {path or 'the model'}")
        return True

    def _said(self, keys: Iterable[Key]) -> Intent:
        keys = list(keys)
        self._met.update(key for key in keys if key in self._intents)
        return _first(self._intents, keys) or Intent()

    @property
    def never_met(self) -> list[str]:
        """The keys of which no module or Function was met."""
        return [key if isinstance(key, str) else key.__name__ for key in self._intents if key not in self._met]
