"""Which link of a step's chain broke first, and how.

The link is handed to ``diagnose`` beside what the step knows: its weights, its batches, the calls before it, and what
the same backward gives when it is run again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lean_mnist.audit.steps.links import Link, links_of
from lean_mnist.audit.steps.record import Step
from lean_mnist.crosscheck.diagnosis import Basis, Diagnosis, Kind, diagnose


@dataclass(frozen=True)
class StepFault:
    """The first link that does not hold: of which tensor, what should hold, and the diagnosis."""

    tensor: str
    link: str
    diagnosis: Diagnosis

    def __str__(self) -> str:
        return f"likely {self.said} at [{', '.join(map(str, self.diagnosis.index))}] {self._values}"

    @property
    def brief(self) -> str:
        """The same where both values have been given already."""
        return f"likely {self.said}"

    @property
    def said(self) -> str:
        d, link = self.diagnosis, f", {self.link}" if self.link else ""
        return f"{d.kind} in {self.tensor}{link}: {d.text} ({d.where})"

    @property
    def _values(self) -> str:
        return f"{self.diagnosis.ours:.9g} instead of {self.diagnosis.reference:.9g}"


@torch.no_grad()
def first_fault(step: Step) -> StepFault | None:
    """The first link of ``step`` that does not hold, explained; ``None`` if all hold."""
    for link in links_of(step):
        if link.ours.numel() and link.broken:
            return StepFault(link.tensor, link.link, _explain(link, step))
    return None


def _explain(link: Link, step: Step) -> Diagnosis:
    options: dict[str, Any] = {"tolerance": link.allowed, "sizes": step.sizes, **link.more()}
    found = diagnose(link.ours, link.exact, **options)
    if found.kind in (Kind.NAN, Kind.STALE_VALUE) or found.basis is Basis.IDENTIFIED:
        return found  # it is known whose value this is, whatever another run gives
    if step.again is not None:
        try:
            repeated = link.of(step.again())
        except (RuntimeError, ValueError, IndexError):  # it raised this time: then it does not repeat itself either
            repeated = torch.full_like(link.ours, torch.nan)
        if repeated is not None and _differ(link, repeated):
            text = f"the same backward, run again, gives another result; this time: {found.text}"
            return replace(found, kind=Kind.NONDETERMINISM, text=text)
    if link.implied is not None and found.kind in (Kind.MISSING_TERM, Kind.PRECISION, Kind.WRONG_VALUES):
        return _probabilities(link, found)
    return found


def _probabilities(link: Link, found: Diagnosis) -> Diagnosis:
    """``found``, unless the probabilities that the gradient of the logits implies say more."""
    assert link.implied is not None
    ours, exact = link.implied(link.ours.double()), link.implied(link.exact)
    slack = float(link.allowed.amax() * (ours - exact).norm() / (link.ours.double() - link.exact).norm())
    view = diagnose(ours, exact, tolerance=slack)
    if view.kind is Kind.CLIPPING:
        return replace(found, kind=view.kind, text=f"as if the probabilities were {view.text}")
    if found.basis is Basis.VAGUE and bool((ours >= -slack).all()) and bool(((ours.sum(1) - 1).abs() <= 1e-4).all()):
        p, right = float(ours[found.index]), float(exact[found.index])
        text = f"as if with other probabilities than softmax's, {p:.4g} instead of {right:.4g}"
        return replace(found, kind=Kind.DERIVATIVE, text=text)
    return found


def _differ(link: Link, repeated: Tensor) -> bool:
    """Whether it does not repeat itself, by more than the order of sums may change."""
    if torch.equal(repeated, link.ours):
        return False
    return repeated.shape == link.ours.shape and bool(
        ((repeated.double() - link.ours.double()).abs() > 0.1 * link.allowed).any()
    )
