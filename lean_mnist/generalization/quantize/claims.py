"""Bounds on the risk of a quantised network from the examples that it was learned from.

It is one of ``2^B`` networks, whichever learning chose it, so each of them gets ``δ 2^−B`` (a union over a finite
space, MLCERT's main bound); or, in a prefix code that was fixed beforehand, ``δ 2^−l`` for its own length l.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from lean_mnist.data.datasets import Split
from lean_mnist.generalization.exact import Exact, exact, percent
from lean_mnist.generalization.solve import certified_risk
from lean_mnist.generalization.spaces import MOST_CODED_BITS, IntegerNetwork, QuantizedNetwork, code_length


@dataclass(frozen=True)
class TrainingClaim:
    """With confidence 1 − ``delta`` the risk is at most ``risk``, by ``bound`` with δ shared among ``2^bits``."""

    share: str  # "union" or "code length"
    bound: str
    bits: int
    delta: Fraction
    risk: Fraction

    def __str__(self) -> str:
        risk = percent(self.risk, up=True)
        said = "nothing (vacuous)" if risk == "100.00 %" else f"at most {risk}"
        return f"{said} by {self.share} and {self.bound}"


@dataclass(frozen=True)
class TrainingClaims:
    """Counted in whole numbers: ``errors`` of the network in all ``examples`` that it could be learned from."""

    bits_a_weight: int
    bits: int  # of the space
    code_length: int | None  # of this network's word in an enumerative code; None above 8 bits a weight
    errors: int
    examples: int
    claims: tuple[TrainingClaim, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        about = {name: value for name, value in vars(self).items() if name != "claims"}
        return {**about, "claims": [{**vars(c), "delta": str(c.delta), "risk": str(c.risk)} for c in self.claims]}

    def __str__(self) -> str:
        coded = "" if self.code_length is None else f", {self.code_length:,} in an enumerative code"
        least = min(claim.delta for claim in self.claims)
        said = "; ".join(str(claim) for claim in self.claims if claim.delta == least)
        return (
            f"{self.bits_a_weight} bits a weight, {self.bits:,} in all{coded}; {self.errors:,} errors in the "
            f"{self.examples:,} it could learn from; risk at δ = {float(least):g} {said}"
        )


def training_claims(
    network: QuantizedNetwork, split: Split, maximum: int, deltas: Sequence[Exact] = ("0.035", "1e-9")
) -> TrainingClaims:
    """The claims that ``split``, whatever part of it taught or selected ``network``, supports at each of ``deltas``.

    Form, number of bits and code of the network must not have been chosen by these examples. Each claim stands by
    itself, with its own δ. ``maximum``: the largest pixel. Raises ``BoundError``.
    """
    images, labels = split.images.cpu().numpy(), split.labels.cpu().numpy()
    errors = len(labels) - IntegerNetwork(network, maximum).correct(images, labels)
    bits = network.space.size_in_bits
    length = code_length(network) if network.space.bits <= MOST_CODED_BITS else None
    ways = [("union", "hoeffding", bits), ("union", "kl", bits)]
    ways += [] if length is None else [("code length", "kl", length)]
    claims = [
        TrainingClaim(share, bound, b, exact(delta, "delta"), certified_risk(bound, errors, len(labels), delta, b))
        for share, bound, b in ways
        for delta in deltas
    ]
    return TrainingClaims(network.space.bits, bits, length, errors, len(labels), tuple(claims))
