"""The ordinary objective: a network that classifies, trained on the mean cross-entropy of its logits."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lean_mnist.data.batches import Batches, BatchRing, HotBatch
from lean_mnist.data.datasets import Dataset
from lean_mnist.data.normalization import Normalization
from lean_mnist.data.splits import split_training
from lean_mnist.errors import BoundError, CertificateError, CheckpointError, ConfigError, memory_for
from lean_mnist.files import write_atomically
from lean_mnist.generalization.certificates.document import Certificate
from lean_mnist.generalization.certificates.runs import certify_run
from lean_mnist.generalization.exact import percent
from lean_mnist.generalization.quantize import TrainingClaims, quantized_network, training_claims
from lean_mnist.generalization.spaces.encoding import write_network
from lean_mnist.nn import MLP, FlatParameters
from lean_mnist.nn.engine.graph import GraphEngine
from lean_mnist.nn.engine.native import NativeEngine
from lean_mnist.nn.quantized import QuantizedMLP
from lean_mnist.nn.saved import restore_weights
from lean_mnist.nn.step import StepEngine, put_flat_gradients
from lean_mnist.nn.update import SGD, Update
from lean_mnist.reading.text import shown
from lean_mnist.training.average import WeightAverage
from lean_mnist.training.config import MAY_CHANGE_ON_RESUME, Config
from lean_mnist.training.config.presets import developers_of
from lean_mnist.training.config.schedules import every, learning_rate_schedule
from lean_mnist.training.distributed import World
from lean_mnist.training.evaluation.images import final_drawings, first_layer_weights
from lean_mnist.training.evaluation.metrics import Evaluation, evaluate
from lean_mnist.training.generations import BEST
from lean_mnist.training.hooks.checks import CrossCheckHook, HealthHook, ScreenHook
from lean_mnist.training.hooks.figures import HistogramsHook, LossHook, NormsHook
from lean_mnist.training.hooks.memory import MemoryGuard
from lean_mnist.training.hooks.step import FailurePolicy, Hook, StepHooks
from lean_mnist.training.objectives import build, model_card
from lean_mnist.training.objectives.summary import NETWORK, Summary
from lean_mnist.training.report.tested import Tested
from lean_mnist.training.run_folder import RunFolder
from lean_mnist.training.sinks.records import Figure, Image, Notice, Outcome, Record, Text
from lean_mnist.training.state import RunState

# Settings that tell runs apart, before others that were changed; HParams shows five unasked.
_TELLING, _SHOWN = ("hidden", "lr", "optimizer"), 5
_LEARNS = ("preset", "activation", "augment", "limit_train", "batch_size", "epochs", "momentum", "precision", "seed")


class Classification:
    """An ``Objective``: an MLP, its loss and gradients by the chain rule, a validation split that selects.

    Attribute ``config`` has the choices made that the argument left open. ``world`` is the processes that share every
    batch. Raises ``ConfigError`` for a validation split that cannot be cut.
    """

    command = "lean_mnist.train"

    def __init__(self, config: Config, dataset: Dataset, world: World) -> None:
        self.train, self.validation = split_training(
            dataset.train, validation_size=config.validation_size, limit_train=config.limit_train, seed=config.seed
        )
        # Choices that were left open are written down as made, so that a repetition makes no others.
        found: Any = {"dataset": dataset.path or dataset.name, "validation_size": len(self.validation)}
        self.config = config = dataclasses.replace(config, **found)
        self.dataset, self.fingerprint = dataset, dataset.fingerprint()
        self.tested: Tested | None = None
        self.normalization = Normalization.fit(
            config.normalization, self.train.images, dataset.maximum, config.clip_pixels
        )
        self.model = build.build_model(config, dataset.features, dataset.classes)
        dtype = build.STEP_DTYPES[config.precision]
        self.parameters = FlatParameters(self.model, dtype)
        self._memory, self._no_compiler = build.batch_memory(config, len(self.train), dataset.features)
        self.batches = Batches(
            self.train,
            self.normalization,
            config.batch_size,
            config.seed,
            dtype,
            config.device,
            augmentation=build.build_augmentation(config),
            part=None if world.size == 1 else world.share,
            memory=self._memory,
            classes=dataset.classes,
        )
        self._world = world
        self._engine: StepEngine | None = None
        self._screen: ScreenHook | None = None  # with --check screen and full
        self._guard: MemoryGuard | None = None  # with --check full
        self._state = RunState()
        self._epoch_start: Tensor | None = None  # the parameters then; not known in mid-epoch of an earlier version
        self._average: WeightAverage | None = None  # what is evaluated and selected, until the run is summed up
        if config.average is not None:
            self._average = WeightAverage(self.model, config.average, watched=config.check == "full")
        steps_per_epoch = -(-self.batches.steps_per_epoch // config.accumulate)
        self.steps = config.epochs * steps_per_epoch
        if config.warmup_steps >= self.steps:
            raise ConfigError(
                f"--warmup-steps: expected fewer than the run's {self.steps} steps, found {config.warmup_steps}"
            )
        self.learning_rate = learning_rate_schedule(config, steps_per_epoch)

    def step_at(self, epoch: int, batch: int) -> int:
        """By the batches that each step has."""
        batches, accumulate = self.batches.steps_per_epoch, self.config.accumulate
        fits = (epoch < self.config.epochs and batch <= batches) or (epoch, batch) == (self.config.epochs, 0)
        return epoch * -(-batches // accumulate) + -(-batch // accumulate) if fits else -1

    def engine(self, update: Update, stop_requested: Callable[[], bool]) -> StepEngine:
        """By the memory of the batches: kernels in C, graphs on a GPU, or the steps as they are written."""
        if self._guard is not None:
            self._guard.watch(update)
        parts = self.parameters, update, stop_requested
        if isinstance(self._memory, HotBatch):
            self._engine = engine = NativeEngine(*parts, self._memory, self.config.threads)
            chunks = (
                self._world.size == 1 and isinstance(update.optimizer, SGD) and self.normalization.kind != "per-image"
            )
            if self._screen is not None:
                self._screen.stand_in(engine, self._guard if chunks else None)
            return engine
        if isinstance(self._memory, BatchRing):
            whole = self._world.size == 1 and isinstance(update.optimizer, SGD)
            whole = whole and self.config.precision != "float64"  # rates are float32 there
            self._engine = graphs = GraphEngine(*parts, self._memory, whole_chunks=whole)
            if self._screen is not None and whole:
                self._screen.stand_in(graphs, self._guard)
        else:
            self._engine = StepEngine(functools.partial(put_flat_gradients, self.parameters), update, stop_requested)
        return self._engine

    def hooks(self, state: RunState, policy: FailurePolicy) -> StepHooks:
        """Finite and near guessing; loss and norms; the checks that ``config.check`` names."""
        config, network, log = self.config, self.parameters.network, every(self.config.log_every)
        self._state = state
        if state.batch == 0:
            self._epoch_start = self.parameters.vector.detach().clone()
        guessing = math.log(network.sizes[-1])
        gates: list[Hook] = []
        every_step: list[Hook] = []
        if config.check in ("audit", "full"):
            gates.append(CrossCheckHook(network, every(config.check_every), every(config.gradcheck_every), policy))
        if config.check in ("screen", "full"):
            self._screen = ScreenHook(network, log, config.seed, policy)
            every_step.append(self._screen)
        hooks = StepHooks(
            health=HealthHook(guessing if config.init_from is None else None, policy),
            observers=[
                LossHook(log),
                NormsHook(log, math.log(max(2, network.sizes[-1])), state.warned),
                HistogramsHook(config.log_every, self.steps / config.epochs),
            ],
            gates=gates,
            checks=policy.summary,
            every_step=every_step,
        )
        if config.check != "full":
            return hooks
        self._guard = MemoryGuard(self.parameters, self.batches.watched, state, policy, self.command)
        return self._guard.guarded(hooks)

    def evaluate(self, split: str) -> Evaluation:
        """On ``"validation"`` or ``"test"``, of the average where there is one."""
        examples = {"validation": self.validation, "test": self.dataset.test}[split]
        return evaluate(self._averaged() or self.model, examples, self.normalization)

    def _averaged(self) -> MLP | None:
        return None if self._average is None else self._average.network

    def epoch_values(self) -> Mapping[str, float]:
        """Relative change of the parameters over the epoch, ``‖w′ − w‖ / ‖w‖``, w at its start; averages w′, too."""
        average = self._average
        if average is not None:
            self._world.everywhere(lambda: average.add(self.parameters))
        before, self._epoch_start = self._epoch_start, self.parameters.vector.detach().clone()
        if before is None or not (norm := float(before.norm())):
            return {}
        return {"train/parameter_change": float((self._epoch_start - before).norm()) / norm}

    def saved(self, *, best: bool) -> tuple[dict[str, Any], dict[str, Any]]:
        """Weights, and what it takes to apply them to images; within an epoch, the parameters at its start.

        The best weights are those of the average, where there is one; else it goes into the position.
        """
        average = self._averaged()
        content: dict[str, Any] = {
            "model": _copied_weights((best and average) or self.model),
            "architecture": self.model.architecture,
            "normalization": self.normalization.to_dict(),
        }
        position: dict[str, Any] = {}
        if self._state.batch > 0 and self._epoch_start is not None:
            position["epoch_start"] = self._epoch_start
        if average is not None:
            position["average"] = _copied_weights(average)
        return content, position

    def restore(self, content: Mapping[str, Any], path: Path) -> None:
        """Take the weights of a checkpoint."""
        restore_weights(self.model, content["model"], str(self.model.architecture), shown(path), CheckpointError)
        self.parameters.vector_to_network()
        training = content.get("training") or {}
        position = training.get("position") or {}
        start = position.get("epoch_start")
        self._epoch_start = None if start is None else start.to(self.parameters.vector)
        if self._average is not None and training:
            self._average.restore(position.get("average"), training["state"].get("epoch", 0), shown(path))

    def first_records(self) -> Iterator[Record]:
        """Sizes of the data, and the initial weights as pictures."""
        shape = " × ".join(map(str, self.dataset.image_shape))
        about = (
            f"{self.dataset.name} ({shape}), from {self.dataset.source}, {self.dataset.origin.value} data: "
            f"{len(self.train)} training, {len(self.validation)} validation, {len(self.dataset.test)} test"
        )
        yield Text(0, "run/dataset", about)
        gaps = self.dataset.gaps(self.train)
        if self.dataset.path and gaps != self.dataset.gaps():
            yield Notice(0, "run/classes", f"{gaps}, in what validation and limit-train leave")
        if self._no_compiler:
            yield Notice(0, "run/engine", f"steps are taken as they are written: {self._no_compiler}")
        yield Image(0, "picture/first_layer_weights", first_layer_weights(self.model, self.dataset.image_shape))

    def finish(self, state: RunState, folder: RunFolder) -> Summary:
        """One evaluation of the test split with the weights that validation selected, certificate, summary."""
        self._average = None  # the weights that are selected have it in them
        best = folder.generations.read_best(state)
        if best is not None:
            self.restore(best, folder.checkpoints / BEST)
        # A run that had ended before is only summed up again: the same evaluation of the same weights counts once.
        state.test_looks = [look for look in state.test_looks if look["purpose"] != "final"]
        test = evaluate(self.model, self.dataset.test, self.normalization, with_probabilities=True)
        self.tested = Tested(self.dataset.test, test, self.dataset.maximum)
        state.enter_test("final", test.errors)
        metrics = folder.generations.enter_test(state, best, test.counts())
        certificate: Certificate | str  # or why there is none
        try:
            with memory_for("certifying"):
                certificate, _ = certify_run(
                    self.model, self.normalization, self.dataset, metrics, folder.folder,
                    tracked=self.config.track_test, developers=developers_of(self.config.preset, self.dataset.name),
                )  # fmt: skip
        except (CertificateError, BoundError) as error:
            certificate = str(error)
            if not folder.ended_before:
                folder.emit(Notice(state.step, "certificate/none", f"no certificate: {certificate}"))
        return Summary(
            self.config, self.dataset.origin, self.dataset.class_names, state, test, folder.folder, folder.checkpoints,
            len(self.train), certificate, self._quantized(folder.folder), *self._engine_now(),
        )  # fmt: skip

    def illustrate(self, state: RunState, result: Summary, folder: RunFolder) -> None:
        """Model card; records of the certificate, pictures, figures to compare runs by."""
        card = model_card.model_card(result, self.model, self.normalization, self.dataset)
        write_atomically(folder.checkpoints / model_card.FILE, card.encode())
        if not folder.ended_before:
            for record in self._last_records(state, result.test, result.certificate):
                folder.emit(record)
            folder.emit(Text(state.step, "run/model_card", model_card.body(card)))

    def _engine_now(self) -> tuple[str, int | None]:
        """Name of the engine, and threads of its last steps where it is native and took some."""
        if isinstance(self._memory, HotBatch) and not (self._engine and self._engine.refused):
            return "native", self._engine.threads.best if isinstance(self._engine, NativeEngine) else None
        return "graph" if isinstance(self._memory, BatchRing) else "eager", None

    def _quantized(self, folder: Path) -> TrainingClaims | None:
        """Of a quantised network: write its exact numbers, and certify it by the examples it learned from."""
        if not isinstance(self.model, QuantizedMLP):
            return None
        maximum = self.dataset.maximum
        network = quantized_network(self.model, maximum)
        write_network(folder / NETWORK, network)
        return training_claims(network, self.dataset.train, maximum)

    def _last_records(self, state: RunState, test: Evaluation, certificate: Certificate | str) -> Iterator[Record]:
        config, results = self.config, dict[str, float]()
        if isinstance(certificate, Certificate):
            rows = ["| certified error at most | with confidence | bound |", "|---|---|---|"]
            for (bound, delta), risk in certificate.risks.items():
                name = f"{bound.replace('-', '_')}_risk_{delta.numerator}_in_{delta.denominator}"
                yield Figure(state.step, f"certificate/{name}", float(risk))
                rows.append(f"| {percent(risk, up=True)} | 1 − {float(delta):g} | {bound} |")
            yield Text(state.step, "certificate/risks", "\n".join(rows))
            yield Text(state.step, "certificate/statement", "\n\n".join(certificate.document["statement"]))
            results["final/certified_error"] = float(next(iter(certificate.risks.values())))
        yield from final_drawings(state.step, self.model, self.normalization, self.dataset, test)
        results["final/test_accuracy"] = test.accuracy
        results["final/test_calibration_error"] = test.calibration.error
        results["final/largest_divergence"] = state.checks.largest_divergence
        if state.best is not None:
            results["final/validation_accuracy"] = state.best.accuracy
        # For comparing runs: what they learnt with, not where they wrote it.
        settings = {name: value for name, value in config.to_dict().items() if name not in MAY_CHANGE_ON_RESUME}
        settings["lr"] = config.learning_rate
        changed = [name for name in _LEARNS if getattr(config, name) != getattr(Config, name)]
        telling = tuple(dict.fromkeys((*_TELLING, *changed, "epochs", "batch_size")))[:_SHOWN]
        yield Outcome(state.step, "run/outcome", results, settings, telling)


def _copied_weights(model: MLP) -> dict[str, Tensor]:
    """Weights by name: copies, because what is written with a view is all that it is a view of."""
    weights = model.state_dict()
    return {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in weights.items()}
