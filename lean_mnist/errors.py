"""Errors that are meant for people: one line each, saying what, where, and what was expected.

Every one is a ``ValueError``. Commands print the line and exit with the class's ``exit_status``.
"""

import contextlib
import difflib
import reprlib
from collections.abc import Callable, Collection, Iterable, Iterator


class LeanMnistError(ValueError):
    """Base class of every error that a person, not the program, has to mend."""

    exit_status = 2
    reported_elsewhere = False  # whether another process of the same run prints it


class DataError(LeanMnistError):
    """A data file or data set is missing, damaged, or not what it claims to be."""


class DataUnavailable(DataError):
    """A data set is in none of the searched folders and could not be downloaded."""


class ConfigError(LeanMnistError):
    """An option or configuration field has a value that cannot be used."""


class CheckpointError(LeanMnistError):
    """A checkpoint is damaged, not ours, or does not fit what it is used for."""


class ArgumentError(LeanMnistError):
    """An array argument has the wrong shape, dtype or device."""


class BoundError(LeanMnistError):
    """A bound is asked for that cannot be: no examples, more errors than examples, a confidence that is none."""


class CertificateError(LeanMnistError):
    """A certificate cannot be made, or does not hold; the message names the field."""


class HealthError(LeanMnistError):
    """The loss or a gradient stopped being finite; nothing was applied to the weights."""

    exit_status = 3


class GradientMismatch(LeanMnistError):
    """A hand-written gradient is not the gradient; raised before an optimizer could use it."""

    exit_status = 3


class MemoryFault(LeanMnistError):
    """Something in memory is not what was written there: a bit flipped, or somebody else wrote; nothing was applied."""

    exit_status = 3


class RankLost(LeanMnistError):
    """A process of a run of several has died or no longer answers; the last checkpoint can be resumed."""

    exit_status = 1


class OutOfMemory(LeanMnistError):
    """There was not enough memory for what the message names; files and the last checkpoint are as they were."""


class Interrupted(Exception):
    """The user asked a run to stop; its state is saved and the message says how to go on."""

    exit_status = 130
    reported_elsewhere = False


def is_out_of_memory(error: BaseException) -> bool:
    """True if an allocation failed: Python's, NumPy's, or PyTorch's on the CPU or on a GPU."""
    if isinstance(error, MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        type(error).__name__ == "OutOfMemoryError" or any(sign in text for sign in _ALLOCATORS)
    )


# In the messages of PyTorch's RuntimeErrors: its CPU allocator, CUDA's, cuBLAS's, and a std::bad_alloc.
_ALLOCATORS = ("DefaultCPUAllocator", "CUDA out of memory", "CUDA error: out of memory", "ALLOC_FAILED", "bad_alloc")


@contextlib.contextmanager
def memory_for(what: str | Callable[[], str]) -> Iterator[None]:
    """Failed allocations inside are ``OutOfMemory``: "out of memory while ``what``"; that of the innermost one."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(f"out of memory while {what if isinstance(what, str) else what()}") from None


_SHORT = reprlib.Repr()
_SHORT.maxstring = 120  # characters of a text that may be from a file


def nearest(word: str, choices: Iterable[str]) -> str:
    """``" (did you mean 'adam'?)"`` for the choice closest to ``word``, or ``""`` if none is close."""
    matches = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.5)
    return f" (did you mean {matches[0]!r}?)" if matches else ""


def check_choice(what: str, found: str, choices: Collection[str], error: type[LeanMnistError] = ArgumentError) -> None:
    """Raise ``error`` unless ``found`` is one of ``choices``; the message has the closest of them."""
    if found not in choices:
        alike = nearest(found[: _SHORT.maxstring], choices)
        raise error(f"{what}: expected one of {', '.join(choices)}, found {_SHORT.repr(found)}{alike}")


def require_count(**options: object) -> None:
    """Raise ``ArgumentError`` for an option that is no whole number of at least 1."""
    for option, value in options.items():
        if not isinstance(value, int) or value < 1:
            raise ArgumentError(f"{option}: expected a whole number of at least 1, found {value!r}")
