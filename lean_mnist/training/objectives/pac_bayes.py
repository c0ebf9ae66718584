"""The PAC-Bayes objective: a Gaussian over networks, trained on a bound on its own risk."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from lean_mnist.audit.step_audit import AuditResult
from lean_mnist.data.batches import Batch
from lean_mnist.data.datasets import Dataset
from lean_mnist.data.splits import cut, generator_for
from lean_mnist.errors import CheckpointError
from lean_mnist.generalization.exact import exact
from lean_mnist.generalization.pacbayes.audit import audit_posterior
from lean_mnist.generalization.pacbayes.certificate import mean_network_errors
from lean_mnist.generalization.pacbayes.posterior import GaussianMLP, PosteriorStep
from lean_mnist.nn.step import Step, StepEngine, StepResult
from lean_mnist.nn.update import SGD, Update
from lean_mnist.reading.text import shown
from lean_mnist.training.config import Config
from lean_mnist.training.config.pac_bayes import PacBayesConfig, given
from lean_mnist.training.config.schedules import Schedule, every
from lean_mnist.training.hooks.checks import CrossCheckHook, HealthHook, ScreenHook, judged
from lean_mnist.training.hooks.figures import HistogramsHook, LossHook, NormsHook
from lean_mnist.training.hooks.memory import MemoryGuard
from lean_mnist.training.hooks.step import FailurePolicy, Hook, StepHooks
from lean_mnist.training.objectives.pac_bayes_result import PacBayesResult, finish_posterior
from lean_mnist.training.objectives.pac_bayes_stages import Stage, StagedBatches, stages_of
from lean_mnist.training.report.tested import Tested
from lean_mnist.training.run_folder import RunFolder
from lean_mnist.training.sinks.records import Record, Text
from lean_mnist.training.state import RunState


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
        self._step, self.due, self._policy = step, due, dataclasses.replace(policy, folder=None)

    def on_gradients(self, step: Step) -> Iterator[Record]:
        """Records of the comparison; raises ``GradientMismatch``."""
        started = time.perf_counter()
        found = audit_posterior(self._step)
        result = AuditResult(found, (), None, 0, time.perf_counter() - started)
        yield from judged(step, result, self._policy)


class PacBayes:
    """An ``Objective``: trains the prior's means by the risk, where they are learnt, then the posterior by the bound.

    No split selects: the last posterior is the result, and of several prior scales that of the least estimated bound.
    ``candidates`` are the posteriors that are finished, one a scale, as state dicts of a ``GaussianMLP``; ``epochs``
    and ``seconds`` those of each stage. Raises ``ConfigError`` where the options do not fit the data.
    """

    command = "lean_mnist.pacbayes"
    tested: Tested | None = None  # its weights are drawn anew for every image

    def __init__(self, options: PacBayesConfig, dataset: Dataset) -> None:
        self.options = options = options.resolved(dataset.name, len(dataset.train))
        self.dataset, self.fingerprint = dataset, dataset.fingerprint()
        prior_part, self.bound_part = cut(dataset.train, given(options.prior_examples), options.seed)
        self.stages = stages_of(options, prior_part, self.bound_part, dataset.maximum)
        self.config: Config = options.of_trainer(self.stages[-1].end_epoch)
        self.steps = self.stages[-1].first_step + self.stages[-1].steps
        self.network = self.new_network(self.stages[0].prior_scale)
        self._step = PosteriorStep(self.network)
        self.parameters = self._step.parameters
        self.batches = StagedBatches(self.stages, self._enter)
        self.candidates: list[dict[str, Tensor]] = []
        self.epochs: list[list[dict[str, float]]] = [[] for _ in self.stages]
        self.seconds = [0.0 for _ in self.stages]
        self._state, self._stage = RunState(), self.stages[0]
        self._update: Update | None = None
        self._guard: MemoryGuard | None = None  # with --check full
        self._sums = [0.0, 0.0, 0.0]  # of objective and risk over the epoch's steps so far, and the last divergence
        self._computing, self._before = -1, self._sums  # the step that was computed last, and the sums before it

    def new_network(self, prior_scale: str) -> GaussianMLP:
        """The Gaussian of a scale before any training."""
        sizes = (self.dataset.features, *given(self.options.hidden), self.dataset.classes)
        return GaussianMLP(sizes, float(exact(prior_scale, "prior-scale")), seed=self.options.seed)

    def step_at(self, epoch: int, batch: int) -> int:
        """By the stage of the epoch."""
        if (epoch, batch) == (self.config.epochs, 0):
            return self.steps
        for stage in self.stages:
            batches = stage.batches.steps_per_epoch
            if stage.first_epoch <= epoch < stage.end_epoch and batch <= batches:
                return stage.first_step + (epoch - stage.first_epoch) * batches + batch
        return -1

    def learning_rate(self, step: int) -> float:
        """Of the run's step ``step``, counted from 0: that of its stage."""
        return next(stage for stage in self.stages if step < stage.first_step + stage.steps).learning_rate(step)

    def _gradients(self, batches: Sequence[Batch]) -> StepResult:
        """Gradient of the stage's goal at one draw of the weights: a function of seed, step and parameters."""
        at = self._step(self._stage.goal, *batches[0], generator_for(self.options.seed, "noise", self._state.step))
        if self._computing != self._state.step:  # else the same step is computed again
            self._computing, self._before = self._state.step, self._sums
        objective, risk, _ = self._before
        self._sums = [objective + float(at.value), risk + float(at.risk), float(at.divergence)]
        return StepResult(at.value, [], [])

    def engine(self, update: Update, stop_requested: Callable[[], bool]) -> StepEngine:
        """One step after the other."""
        self._update, engine = update, StepEngine(self._gradients, update, stop_requested)
        if self._guard is not None:
            self._guard.watch(update)
        return engine

    def hooks(self, state: RunState, policy: FailurePolicy) -> StepHooks:
        """Those of every run; the checks that ``config.check`` names, of the drawn network's step and of the whole."""
        self._state, config, step, log = state, self.config, self._step, every(self.config.log_every)
        gates: list[Hook] = []
        if config.check in ("audit", "full"):
            starts, scheduled = [stage.first_step + 1 for stage in self.stages], every(config.check_every)

            def due(number: int) -> bool:
                return scheduled(number) or number in starts

            at_draw = CrossCheckHook(step.drawn, due, every(config.gradcheck_every), policy)
            gates += [DrawnNetworkHook(at_draw, step), PosteriorCheckHook(step, due, policy)]
        if config.check in ("screen", "full"):
            gates.append(DrawnNetworkHook(ScreenHook(step.drawn, log, config.seed, policy), step))
        guessing = math.log(self.dataset.classes) if self.stages[0].name == "prior" else None
        # A stage may leave a tensor alone, whose gradient is then 0; so no gradient is called vanishing.
        histograms = HistogramsHook(config.log_every, self.steps / config.epochs)
        observers: list[Hook] = [LossHook(log), NormsHook(log, math.inf, state.warned), histograms]
        hooks = StepHooks(HealthHook(guessing, policy), observers, gates, policy.summary)
        if config.check != "full":
            return hooks
        for stage in self.stages:
            stage.batches.watched()
        fixed = [("the prior's ", step.prior)]
        self._guard = MemoryGuard(
            self.parameters, lambda: self._stage.batches.watched(), state, policy, self.command, fixed
        )
        return self._guard.guarded(hooks)

    def _enter(self, stage: Stage, beginning: bool) -> None:
        """An epoch of ``stage`` begins; at the stage's beginning, put prior, posterior and optimizer at its start."""
        before, self._stage = self.stages[max(0, self.stages.index(stage) - 1)], stage
        self.network.prior_scale = float(exact(stage.prior_scale, "prior-scale"))
        if not beginning:
            return
        if stage.name == "posterior" and before.name == "prior":
            self.network.start_from_prior()
        else:
            self.network.load_state_dict(self.new_network(stage.prior_scale).state_dict())
        assert self._update is not None
        assert isinstance(self._update.optimizer, SGD)
        self._update.optimizer.momentum.clear()
        if self._update.moved is not None:
            self._update.moved()

    def evaluate(self, split: str) -> None:
        """No split selects."""

    def epoch_values(self) -> Mapping[str, float]:
        """Mean objective and risk of the epoch, and the last divergence; keeps a posterior that is finished.

        Of a prior that is finished, also the errors of its mean network on the bound's examples, which nothing has
        learned from by then.
        """
        stage, steps = self._stage, self._stage.batches.steps_per_epoch
        index, epoch = self.stages.index(stage), self._state.epoch - stage.first_epoch
        objective, risk, divergence = self._sums[0] / steps, self._sums[1] / steps, self._sums[2]
        self._sums = [0.0, 0.0, 0.0]
        self.epochs[index].append({"epoch": epoch, "objective": objective, "risk": risk, "divergence": divergence})
        self.seconds[index] = self._state.seconds - sum(self.seconds[:index])
        values = {f"{stage.name}/objective": objective, f"{stage.name}/risk": risk, f"{stage.name}/kl": divergence}
        if self._state.epoch == stage.end_epoch:
            if stage.name == "posterior":
                self.candidates.append(self._weights())
            else:
                errors = mean_network_errors(self.network.means, self.bound_part, self.dataset.maximum)
                values["holdout/errors"] = errors
        return values

    def saved(self, *, best: bool) -> tuple[dict[str, Any], dict[str, Any]]:
        """Posterior and prior; sums, epochs, seconds and finished posteriors so far."""
        content: dict[str, Any] = {
            "model": self._weights(),
            "architecture": {"gaussian_sizes": list(self.network.sizes), "prior_scale": self._stage.prior_scale},
            "normalization": self._stage.batches.normalization.to_dict(),
        }
        position = {"sums": self._sums, "epochs": self.epochs, "seconds": self.seconds, "candidates": self.candidates}
        return content, position

    def _weights(self) -> dict[str, Tensor]:
        return {name: tensor.contiguous().clone() for name, tensor in self.network.state_dict().items()}

    def restore(self, content: Mapping[str, Any], path: Path) -> None:
        """The inverse of ``saved``; raises ``CheckpointError`` for a place that is none of this run."""
        position, epoch = content["training"]["position"], content["training"]["state"].get("epoch", 0)
        ended = sum(stage.name == "posterior" and stage.end_epoch <= epoch for stage in self.stages)
        expected = {"epochs": len(self.stages), "seconds": len(self.stages), "candidates": ended}
        for name, count in expected.items():
            if len(position[name]) != count:
                where = f"{shown(path)}: training.position.{name}"
                raise CheckpointError(f"{where}: expected {count} of them, found {len(position[name])}")
        self._sums, self.epochs, self.seconds = position["sums"], position["epochs"], position["seconds"]
        self.candidates, self._computing = position["candidates"], -1
        try:
            self.network.load_state_dict(content["model"])
        except RuntimeError as error:
            raise CheckpointError(f"{path}: {' '.join(str(error).split())}") from None

    def first_records(self) -> Iterator[Record]:
        """Sizes of the data."""
        prior = f"{self.options.prior_examples} training examples for the prior, {len(self.bound_part)} for the bound"
        about = f"{self.dataset.name}, from {self.dataset.source}, {self.dataset.origin.value} data"
        yield Text(0, "run/dataset", f"{about}: {prior}")

    def finish(self, state: RunState, folder: RunFolder) -> PacBayesResult:
        """Choice among the candidates, certificate, ``best.pt``."""
        return finish_posterior(self, state, folder)

    def illustrate(self, state: RunState, result: PacBayesResult, folder: RunFolder) -> None:
        """It has no pictures."""
