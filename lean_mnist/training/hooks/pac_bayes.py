"""Gates of a PAC-Bayes step: of the network that was drawn for it, and of what leads from that to the posterior."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Iterator

from lean_mnist.audit import AuditResult
from lean_mnist.generalization.pacbayes.audit import audit_posterior
from lean_mnist.generalization.pacbayes.posterior import PosteriorStep
from lean_mnist.training.config.schedules import Schedule
from lean_mnist.training.hooks.checks import check_records
from lean_mnist.training.hooks.failures import FailurePolicy
from lean_mnist.training.hooks.step import Hook, Step, keep_nothing
from lean_mnist.training.sinks.records import Record


class DrawnNetworkHook:
    """Shows ``hook`` the drawn network's step in place of the posterior's: any hook of a network's step serves."""

    def __init__(self, hook: Hook, step: PosteriorStep) -> None:
        self._hook, self._step, self.due = hook, step, hook.due

    def on_gradients(self, step: Step) -> Iterable[Record]:
        """Its records; none where all examples are at the ceiling, so that there is no such step."""
        drawn, at = self._step.drawn, self._step.last
        if not at.batches:
            return ()
        loss, _, tapes = at.result
        shown = dataclasses.replace(step, model=drawn, batches=at.batches, loss=loss, tapes=tapes)
        return self._hook.on_gradients(shown)


class PosteriorCheckHook:
    """Gate: compares objective and gradients of means and log-scales with the float64 reference."""

    def __init__(self, step: PosteriorStep, due: Schedule, policy: FailurePolicy) -> None:
        # A bundle could reproduce the drawn network's step only, which the gate before this one has passed.
        self._step, self.due, self._policy = step, due, dataclasses.replace(policy, keep=keep_nothing)

    def on_gradients(self, step: Step) -> Iterator[Record]:
        """Records of the comparison; raises ``GradientMismatch``."""
        started = time.perf_counter()
        found = audit_posterior(self._step)
        result = AuditResult(found, (), None, 0, time.perf_counter() - started)
        self._policy.summary.add_comparison(step.number, result)
        yield from check_records(step.number, result)
        if not result.passed:
            yield from self._policy.refuse(step, result.message, result.details)
