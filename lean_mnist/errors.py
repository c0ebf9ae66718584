"""Errors that are meant for people: one line each, saying what, where, and what was expected.

Every one is a ``ValueError``. Commands print the line and exit with the class's ``exit_status``.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable


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


class RankLost(LeanMnistError):
    """A process of a run of several has died or no longer answers; the last checkpoint can be resumed."""

    exit_status = 1


class Interrupted(Exception):
    """The user asked a run to stop; its state is saved and the message says how to go on."""

    exit_status = 130
    reported_elsewhere = False


def nearest(word: str, choices: Iterable[str]) -> str:
    """``" (did you mean 'adam'?)"`` for the choice closest to ``word``, or ``""`` if none is close."""
    matches = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.5)
    return f" (did you mean {matches[0]!r}?)" if matches else ""


def check_choice(what: str, found: str, choices: Collection[str], error: type[LeanMnistError] = ArgumentError) -> None:
    """Raise ``error`` unless ``found`` is one of ``choices``; the message has the closest of them."""
    if found not in choices:
        raise error(f"{what}: expected one of {', '.join(choices)}, found {found!r}{nearest(found, choices)}")
