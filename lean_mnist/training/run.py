"""A run from configuration to summary: puts data, network, trainer, hooks, sinks and checkpoints together."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from lean_mnist.data.augmentation import Augmentation
from lean_mnist.data.batches import Batches
from lean_mnist.data.datasets import Dataset, Split, load_dataset
from lean_mnist.data.normalization import Normalization
from lean_mnist.data.splits import split_training
from lean_mnist.errors import ConfigError, Interrupted
from lean_mnist.files import plain, write_atomically
from lean_mnist.generalization.certificates.holdout import Certificate
from lean_mnist.generalization.certificates.runs import certify_run
from lean_mnist.generalization.quantize import quantized_network, training_claims
from lean_mnist.generalization.spaces import write_network
from lean_mnist.nn import MLP, FlatParameters
from lean_mnist.nn.graphs import CudaGraph
from lean_mnist.nn.quantized import QuantizedMLP, network_of
from lean_mnist.torch_internals import has_bfloat16_products
from lean_mnist.training import schedules
from lean_mnist.training.bursts import Capture
from lean_mnist.training.checkpoints import check_matches, read_checkpoint, restore_weights, write_checkpoint
from lean_mnist.training.config import MAY_CHANGE_ON_RESUME, Config
from lean_mnist.training.distributed import World, start_of
from lean_mnist.training.failures import FailureKeeper
from lean_mnist.training.folders import claim_folders
from lean_mnist.training.hooks import CrossCheckHook, HealthHook, Hook, LossHook, NormsHook, ScreenHook
from lean_mnist.training.interrupts import StopRequest
from lean_mnist.training.metrics import Evaluation, evaluate
from lean_mnist.training.optimizers import build_optimizer
from lean_mnist.training.pictures import (
    first_layer_weights,
    misread_digits,
    reliability_diagram,
    risk_coverage_curve,
)
from lean_mnist.training.records import Image, Notice, Outcome, Record, Scalar, Sink, Text
from lean_mnist.training.sinks import JsonLinesSink, TensorBoardSink, progress_sink
from lean_mnist.training.state import RunState
from lean_mnist.training.summary import NETWORK, Summary
from lean_mnist.training.trainer import Trainer
from lean_mnist.version import __version__

# What the optimizer moves, and what steps are computed in.
_MASTERS = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.float32}
_DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}


def run(config: Config, resume: Path | None = None, world: World | None = None) -> Summary:
    """Train as ``config`` says, from the start or from the checkpoint ``resume``, and return what came of it.

    ``world`` is the processes that do so together, each of which calls this; without it, this process does so alone.
    Raises the errors of :mod:`lean_mnist.errors`; ``Interrupted`` after Ctrl-C or SIGTERM, with the state saved.
    """
    world = world or World()
    config = dataclasses.replace(config, device=choose_device(config.device))
    dataset = _load(config, world)
    train, validation = world.everywhere(
        lambda: split_training(
            dataset.train, validation_size=config.validation_size, limit_train=config.limit_train, seed=config.seed
        )
    )
    # What was chosen for the user is written down as chosen, so that a repetition does not choose again.
    size = len(validation)
    chosen = dataclasses.replace(config, dataset=dataset.name, validation_size=size)  # type: ignore[arg-type]
    with StopRequest() as request:
        made = world.everywhere(lambda: _Run(chosen, dataset, train, validation, resume, world))
        return made.train(lambda: bool(request.requested))


def _load(config: Config, world: World) -> Dataset:
    """The data set; the writer is first, because it may download what the others then find."""
    loaded: list[Dataset] = []

    def load() -> None:
        if not loaded:
            loaded.append(load_dataset(config.dataset, config.data_dir))

    world.on_writer(load)
    world.everywhere(load)
    return loaded[0]


def choose_device(device: str) -> Any:
    """``cpu`` or ``cuda``; raises ``ConfigError`` if cuda is asked for and absent."""
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise ConfigError("--device cuda: PyTorch finds no CUDA device here; expected one, or --device cpu")
    return ("cuda" if available else "cpu") if device == "auto" else device


def capture_for(config: Config, world: World) -> Capture | None:
    """How several steps become one graph: on one CUDA device, where their kernels are always the same.

    Not in float64, as a learning rate on the device is a float32 there.
    """
    same = config.replay and config.accumulate == 1 and config.optimizer == "sgd" and config.quantize is None
    suited = config.device == "cuda" and config.precision != "float64" and world.size == 1
    return CudaGraph if same and suited else None


def build_model(config: Config, features: int, classes: int) -> MLP:
    """The network of a configuration, with its initial weights."""
    form: dict[str, Any] = {"sizes": (features, *config.hidden, classes), "activation": config.activation}
    return network_of(
        form if config.quantize is None else {**form, "bits": config.quantize},
        bias=config.bias,
        initialization=config.initialization,
        scale=config.init_scale,
        seed=config.seed,
        dtype=_MASTERS[config.precision],
        label_smoothing=config.label_smoothing,
        logit_penalty=config.logit_penalty,
    ).to(config.device)


def build_augmentation(config: Config) -> Augmentation | None:
    """How a configuration deforms the images it trains on."""
    if config.augment == "none":
        return None
    return Augmentation(
        shift=config.augment_shift,
        rotation=config.augment_rotation,
        scale=config.augment_scale,
        elastic=config.augment_elastic if config.augment == "elastic" else 0.0,
        smoothness=config.augment_smoothness,
    )


class _Run:
    def __init__(
        self, config: Config, dataset: Dataset, train: Split, validation: Split, resume: Path | None, world: World
    ) -> None:
        self.config, self.dataset, self.validation, self.world = config, dataset, validation, world
        self.normalization = Normalization.fit(config.normalization, train.images, dataset.maximum)
        self.model = build_model(config, dataset.features, dataset.classes)
        self.parameters = FlatParameters(self.model, _DTYPES[config.precision])
        self.optimizer = build_optimizer(config, [self.parameters.vector])
        self.state = RunState()
        self.batches = Batches(
            train,
            self.normalization,
            config.batch_size,
            config.seed,
            _DTYPES[config.precision],
            config.device,
            augmentation=build_augmentation(config),
            part=None if world.size == 1 else lambda examples: world.share(examples).rows,
            stays=config.replay and config.accumulate == 1,
        )
        self.steps_per_epoch = -(-self.batches.steps_per_epoch // config.accumulate)
        if config.warmup_steps >= config.epochs * self.steps_per_epoch:
            raise ConfigError(
                f"--warmup-steps: expected fewer than the run's {config.epochs * self.steps_per_epoch} steps, "
                f"found {config.warmup_steps}"
            )
        self.resume_step: int | None = None
        self._was_finished = False  # when it was resumed, so that there is nothing left to do but to sum it up again
        if resume is not None:
            self._restore(resume)
        self._sinks: list[Sink] = []

    def _meet(self) -> None:
        """See that all processes start alike, before the first of them writes anything; then agree on where."""
        world, config = self.world, self.config
        world.require_examples(config.batch_size, len(self.batches.split))
        if world.size > 1:
            start = {"weights": self.parameters.vector, "optimizer": self.optimizer.state_dict()}
            start["state"] = self.state.to_dict()
            world.agree(start_of(config, self.dataset.fingerprint(), start))
        world.prepare(self.parameters.layout, self.parameters.gradient, config.seed)
        resuming = self.resume_step is not None
        name, self.folder, self.checkpoints = world.on_writer(lambda: claim_folders(config, resuming=resuming))
        self.config = dataclasses.replace(config, run_name=name)

    def _restore(self, path: Path) -> None:
        content = read_checkpoint(path)
        check_matches(path, content, self.config, self.dataset.fingerprint())
        training = content["training"]
        restore_weights(self.model, content["model"], path)
        self.parameters.spread()
        self.optimizer.load_state_dict(training["optimizer"])
        self.state = RunState.from_dict(training["state"])
        torch.set_rng_state(training["rng"])
        self.resume_step = self.state.step
        self._was_finished = bool(self.state.finished)

    def train(self, stop_requested: Callable[[], bool]) -> Summary:
        world = self.world
        self._meet()
        with self._open_sinks():
            if self.resume_step is None:
                world.on_writer(self._write_start)
            world.resume_hint = again = f"python -m lean_mnist.train --resume {self.checkpoints}"
            ended = self._was_finished or self._trainer(stop_requested).fit()
            if not ended:
                where = f"interrupted at step {self.state.step}, epoch {self.state.epoch + 1}; everything is saved"
                raise world.said_once(Interrupted(f"{where}; to go on: {again}"))
            return world.on_writer(self._finish)

    @contextlib.contextmanager
    def _open_sinks(self) -> Iterator[None]:
        total = self.config.epochs * self.steps_per_epoch
        with contextlib.ExitStack() as stack:
            # One by one, so that those already open are closed if the next cannot be.
            def write_records() -> None:
                self._open(stack, TensorBoardSink(self.folder, self.resume_step))
                self._open(stack, JsonLinesSink(self.folder / "metrics.jsonl", self.resume_step))

            self.world.on_writer(write_records)
            quiet, done = self.config.quiet or not self.world.is_writer, self.state.step
            self._open(stack, progress_sink(self.dataset.name, self.config.epochs, total, done, quiet))
            yield

    def _open(self, stack: contextlib.ExitStack, sink: Sink) -> None:
        stack.callback(sink.close)
        self._sinks.append(sink)

    def _emit(self, record: Record) -> None:
        for sink in self._sinks:
            sink.write(record)

    def _write_start(self) -> None:
        if self.config.precision == "bfloat16" and self.config.device == "cpu" and not has_bfloat16_products():
            why = "this processor has no bfloat16 instructions; --precision float32 is likely to be faster"
            self._emit(Notice(0, "run/precision", why))
        write_atomically(self.folder / "config.json", _json(self.config.to_dict()))
        rows = "\n".join(f"| {name} | {value} |" for name, value in self.config.to_dict().items())
        self._emit(Text(0, "run/configuration", f"| option | value |\n|---|---|\n{rows}"))
        shape = " × ".join(map(str, self.dataset.image_shape))
        about = (
            f"{self.dataset.name} ({shape}), from {self.dataset.source}: "
            f"{len(self.batches.split)} training, {len(self.validation)} validation, {len(self.dataset.test)} test"
        )
        self._emit(Text(0, "run/dataset", about))
        self._emit(Image(0, "weights/first_layer", first_layer_weights(self.model, self.dataset.image_shape)))
        self._save("last")  # so that a run killed at any step can be resumed

    def _trainer(self, stop_requested: Callable[[], bool]) -> Trainer:
        config, state, world, network = self.config, self.state, self.world, self.parameters.network
        log = schedules.every(config.log_every)
        stop = config.on_divergence == "stop"
        keep = FailureKeeper(self.folder, self.config, world.rank if world.size > 1 else None)
        checks = state.checks if world.size == 1 else state.checks.of_rank(world.rank)
        gates: list[Hook] = [HealthHook(keep)]
        if config.check in ("audit", "full"):
            compare, gradcheck = schedules.every(config.check_every), schedules.every(config.gradcheck_every)
            gates.append(CrossCheckHook(network, compare, gradcheck, checks, stop, keep))
        if config.check in ("screen", "full"):
            gates.append(ScreenHook(network, log, checks, stop, config.seed, keep))
        return Trainer(
            config=config,
            model=network,
            parameters=self.parameters,
            optimizer=self.optimizer,
            learning_rate=schedules.learning_rate_schedule(config, self.steps_per_epoch),
            batches=self.batches,
            hooks=[LossHook(log), NormsHook(log, state.warned)],
            gates=gates,
            state=state,
            emit=self._emit,
            evaluate=lambda split: world.on_writer(lambda: self._evaluate(split)),
            save=lambda which: world.on_writer(lambda: self._save(which)),
            stop_requested=stop_requested,
            trace=config.check != "off",
            world=world,
            checks=checks,
            capture=capture_for(config, world),
        )

    def _evaluate(self, split: str) -> Evaluation:
        """Evaluate a split; a look at the test split is entered in the state, because a certificate pays for each."""
        if split == "validation":
            return evaluate(self.model, self.validation, self.normalization)
        result = evaluate(self.model, self.dataset.test, self.normalization)
        look = {
            "step": self.state.step,
            "purpose": "final" if self.state.finished else "track",
            "errors": result.errors,
        }
        self.state.test_looks.append(look)
        return result

    def _save(self, which: str) -> None:
        for sink in self._sinks:  # records of steps that the checkpoint has behind it are never written again
            sink.flush()
        state, config = self.state, self.config
        metrics: dict[str, Any] = {
            "step": state.step,
            "epoch": state.epoch,
            "best": None if state.best is None else {**dataclasses.asdict(state.best), "accuracy": state.best.accuracy},
            "test_looks": state.test_looks,
        }
        weights = self.model.state_dict()
        content: dict[str, Any] = {
            # Copies, because what is written with a view is all that it is a view of.
            "model": {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in weights.items()},
            "architecture": self.model.architecture,
            "normalization": self.normalization.to_dict(),
            "config": config.to_dict(),
            "metrics": metrics,
            "crosscheck": state.checks.to_dict(),
            "data": {"name": self.dataset.name, "sha256": self.dataset.fingerprint()},
            "versions": {"lean_mnist": __version__, "torch": str(torch.__version__)},
        }
        if which == "last":
            content["training"] = {
                "state": state.to_dict(),
                "optimizer": self.optimizer.state_dict(),
                "rng": torch.get_rng_state(),
            }
        write_checkpoint(self.checkpoints / f"{which}.pt", content)

    def _finish(self) -> Summary:
        """Evaluate the test split, once, with the weights that the validation split selected, and write the summary."""
        state = self.state
        best, last = self.checkpoints / "best.pt", self.checkpoints / "last.pt"
        if state.best is not None:
            restore_weights(self.model, read_checkpoint(best)["model"], best)
        # A run that had ended before is only summed up again: the same look at the same weights, so it counts once.
        state.test_looks = [look for look in state.test_looks if look["purpose"] != "final"]
        test = self._evaluate("test")
        metrics: dict[str, Any] = {}  # of the checkpoint that is evaluated, which comes first
        for path in (best, last) if state.best is not None else (last,):
            content = read_checkpoint(path)
            content["metrics"] |= {"test_looks": state.test_looks}
            if path == best:
                content["metrics"]["test"] = test.counts()
            metrics = metrics or content["metrics"]
            if "training" in content:
                content["training"]["state"] = state.to_dict()
            write_checkpoint(path, content)
        certificate, _ = certify_run(
            self.model,
            self.normalization,
            self.dataset,
            metrics,
            self.folder,
            tracked=self.config.track_test,
        )
        quantized = None
        if isinstance(self.model, QuantizedMLP):
            network = quantized_network(self.model, self.dataset.maximum)
            write_network(self.folder / NETWORK, network)
            quantized = training_claims(network, self.dataset.train, self.dataset.maximum)
        if not (self._was_finished and (self.folder / "summary.json").exists()):
            self._record_end(test, certificate)
        files = self.folder, self.checkpoints
        summary = Summary(self.config, state, test, *files, len(self.batches.split), certificate, quantized)
        write_atomically(self.folder / "summary.json", _json(summary.to_dict()))
        return summary

    def _record_end(self, test: Evaluation, certificate: Certificate) -> None:
        state = self.state
        for (bound, delta), risk in certificate.risks.items():
            name = f"{bound.replace('-', '_')}_risk_{delta.numerator}_in_{delta.denominator}"
            self._emit(Scalar(state.step, f"certificate/{name}", float(risk)))
        self._emit(Text(state.step, "certificate/statement", "\n\n".join(certificate.document["statement"])))
        weights = first_layer_weights(self.model, self.dataset.image_shape)
        self._emit(Image(state.step, "weights/first_layer", weights))
        misread = misread_digits(self.dataset.test, test, self.dataset.maximum)
        if misread is not None:
            self._emit(Image(state.step, "test/misread", misread))
        self._emit(Image(state.step, "test/reliability", reliability_diagram(test)))
        self._emit(Image(state.step, "test/risk_by_coverage", risk_coverage_curve(test)))
        results = {
            "final/test_accuracy": test.accuracy,
            "final/test_calibration_error": test.calibration.error,
            "final/largest_divergence": state.checks.largest_divergence,
        }
        if state.best is not None:
            results["final/validation_accuracy"] = state.best.accuracy
        # For comparing runs: what they learnt with, not where they wrote it.
        settings = {name: value for name, value in self.config.to_dict().items() if name not in MAY_CHANGE_ON_RESUME}
        settings["lr"] = self.config.learning_rate
        self._emit(Outcome(state.step, "run/outcome", settings, results))


def _json(values: Any) -> bytes:
    return (json.dumps(plain(values), indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
