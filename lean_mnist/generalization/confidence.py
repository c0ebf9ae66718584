"""The confidence budget: how a failure probability δ is shared among hypotheses and evaluations of a test split.

By the union bound the chance that any of several statements fails is at most the sum of theirs. So a claim about one
of many hypotheses, all of which it was chosen from, is the claim about a single one at a *share* of δ:

| chosen among | share of δ | theorem |
|---|---|---|
| 2^B parameters | δ · 2^−B | union over a finite hypothesis space (MLCERT's main bound) |
| hypotheses with a prefix code of lengths l, fixed beforehand | δ · 2^−l | Blumer et al. 1987; McAllester 1998 |
| n candidates evaluated, none of them because of another's result | δ / n | Bonferroni |
| n candidates, each of which may depend on all results so far | δ / Σ_{i<n} A^i | the same, over all courses |

The last: each evaluation answers with one of A values, so a person who acts on answers can only reach one of ``A^i``
hypotheses at the i-th evaluation. A test split answers with one of m + 1 counts; priors and codes that were tried on
the examples that certify them, with one of 10,001 certified risks in per cent with two decimals. All rows are theorems
in Coq, the last for counts, A = m + 1: ``proofs/generalization/Confidence.v`` and ``CodeLength.v``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from lean_mnist.errors import BoundError, CertificateError
from lean_mnist.generalization.bounds import checked_counts, checked_delta
from lean_mnist.generalization.exact import Exact
from lean_mnist.reading.text import printable

MOST_LOOKS, MOST_ADAPTIVE_LOOKS = 10**6, 300  # which certificates can pay for
MOST_CANDIDATES = 10**9
_RISKS = 10_001
_MOST_BITS = 10**9


def union(delta: Exact, bits: int) -> Fraction:
    """``δ · 2^−B``: the share of each of 2^B hypotheses, or of one with a word of B bits in a prefix code.

    Raises ``BoundError`` unless B is a whole number from 0 on.
    """
    if isinstance(bits, bool) or not isinstance(bits, int) or not 0 <= bits <= _MOST_BITS:
        raise BoundError(f"bits: expected a whole number from 0 to {_MOST_BITS:,}, found {bits!r}")
    return checked_delta(delta) / 2**bits


def claimed_deltas(deltas: Sequence[Exact]) -> list[Fraction]:
    """The failure probabilities of claims, one each; raises ``CertificateError`` if there are none, and ``BoundError``
    for one that is not below 1/2, where a claim would be as likely wrong as right, or that takes 250 digits."""
    if not deltas:
        raise CertificateError("--delta: expected at least one, found none; without claims a certificate says nothing")
    found = list(map(checked_delta, deltas))
    for delta in found:
        if not (delta < Fraction(1, 2) and len(str(delta)) <= 250):
            raise BoundError(f"delta: expected a probability below 1/2, found {printable(delta, 40)}")
    return found


@dataclass(frozen=True)
class DeveloperLooks:
    """Evaluations that the developers of a preset took at a test split while they made its recipe."""

    preset: str = "none"
    looks: int = 0
    adaptive: bool = False  # whether they changed the recipe after one


NOBODY = DeveloperLooks()


@dataclass(frozen=True)
class SplitHistory:
    """The history of a test split, which taught and chose nothing, before a claim is made on it."""

    evaluations: int  # times that any candidate was evaluated on it, this claim's own evaluation included
    adaptive: bool = False  # whether what was evaluated may have depended on what earlier evaluations showed
    developers: DeveloperLooks = NOBODY  # whose looks are among the evaluations

    def share(self, delta: Exact, examples: int) -> Fraction:
        """The share of ``delta`` for one evaluation on so many ``examples``; ``BoundError`` unless there is one."""
        _, m = checked_counts(0, examples)
        most = MOST_ADAPTIVE_LOOKS if self.adaptive else MOST_LOOKS
        if not 1 <= self.evaluations <= most:
            found = printable(self.evaluations, 40)
            raise BoundError(f"looks: expected a whole number from 1 to {most:,}, found {found}")
        return checked_delta(delta) / _courses(self.evaluations, m + 1, self.adaptive)


def candidate_courses(candidates: int, adaptive: bool) -> int:
    """The divisor of δ for ``candidates``, priors or codes that were tried on the examples that certify them; if
    ``adaptive``, some because of the risk that earlier ones were certified with. Raises ``CertificateError``."""
    most = MOST_ADAPTIVE_LOOKS if adaptive else MOST_CANDIDATES
    if not 1 <= candidates <= most:
        kind = "adaptive ones " if adaptive else ""
        raise CertificateError(f"candidates: expected from 1 to {most:,} {kind}to be paid for, found {candidates}")
    return _courses(candidates, _RISKS, adaptive)


def _courses(tried: int, answers: int, adaptive: bool) -> int:
    return sum(answers**i for i in range(tried)) if adaptive else tried


def history_of(
    metrics: Mapping[str, Any],
    *,
    tracked: bool,
    looks: int | None = None,
    adaptive: bool = False,
    developers: DeveloperLooks = NOBODY,
) -> SplitHistory:
    """The history of a run's test split, from the ``metrics`` of one of its checkpoints, and the certificate's look.

    Every evaluation is recorded, and pays. Where the run's final evaluation was of these very weights, the
    certificate's is the same one. They are ``adaptive`` where the run's ``metrics`` say that some were known when it
    was decided to train on. Those of the ``developers`` of its preset are added. ``looks`` declares all, other runs'
    too. Raises ``CertificateError`` if these are fewer than are known of, and where evaluations were ``tracked``, one
    after every epoch, but the record of them is missing.
    """
    record = metrics.get("test_looks")
    if not isinstance(record, list) or (tracked and not record):
        raise CertificateError(
            "test_looks: expected the record of every look at the test split, found none in this checkpoint"
        )
    final = any(look.get("purpose") == "final" for look in record)
    same = final and ("test" in metrics or metrics.get("best") is None)
    known = len(record) + (0 if same else 1) + developers.looks
    if looks is not None and looks < known:
        told = f"as many as the run's record tells{' with those of its preset' if developers.looks else ''}"
        raise CertificateError(f"--looks: expected at least {known}, {told}, found {looks}")
    chosen_by_them = bool(record) and metrics.get("adaptive", False) is True
    return SplitHistory(looks or known, adaptive or chosen_by_them or developers.adaptive, developers)
