"""A run from configuration to summary."""

import contextlib
import dataclasses
import errno
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from lean_mnist.command_line import option_name
from lean_mnist.data.datasets import Dataset, load_dataset
from lean_mnist.errors import ConfigError, HealthError, Interrupted, LeanMnistError, OutOfMemory, memory_for
from lean_mnist.invocation import typed
from lean_mnist.nn.update import Update
from lean_mnist.torch_internals import has_bfloat16_products
from lean_mnist.training.checkpoints import read_checkpoint
from lean_mnist.training.config import Config
from lean_mnist.training.config.optimizers import build_optimizer
from lean_mnist.training.distributed import World
from lean_mnist.training.generations import BEST, LAST, ROLLBACK, read_last
from lean_mnist.training.hooks.step import FOLDER, FailurePolicy
from lean_mnist.training.objectives import build
from lean_mnist.training.objectives.classification import Classification
from lean_mnist.training.objectives.protocol import Objective, Result
from lean_mnist.training.objectives.summary import Summary
from lean_mnist.training.report.page import write_page
from lean_mnist.training.run_folder import RunFolder
from lean_mnist.training.saved_run import about_going_on, goes_on, restore_run, run_content, start_from, start_of
from lean_mnist.training.sinks.records import Notice, Text
from lean_mnist.training.sinks.trackers import require_trackers
from lean_mnist.training.state import RunState
from lean_mnist.training.steps import ROLLBACK_FACTOR
from lean_mnist.training.stopping import StopRequest
from lean_mnist.training.trainer import Trainer

CONFIG, SUMMARY = "config.json", "summary.json"


Tell = Callable[[Any], None]  # is given the result of a run as soon as it is known and saved


def run(config: Config, resume: Path | None = None, world: World | None = None, tell: Tell = lambda _: None) -> Summary:
    """Train a classifier as ``config`` says, from the start or from the checkpoint ``resume``.

    ``world`` is the processes that do so together, each of which calls this; without it, this process does so alone.
    The one that writes calls ``tell`` with the summary, before pictures and report are made.
    Raises the errors of :mod:`lean_mnist.errors`; ``Interrupted`` after Ctrl-C or SIGTERM, with the state saved.
    """
    world = world or World()
    config = dataclasses.replace(config, device=choose_device(config.device))
    require_trackers(config)
    dataset = _load(config, world, download=resume is None)
    with threads(build.pytorch_threads(config, (dataset.features, *config.hidden, dataset.classes))):
        result = train(lambda: Classification(config, dataset, world), resume, world, tell)
    assert isinstance(result, Summary)
    return result


def train(
    make: Callable[[], Objective], resume: Path | None = None, world: World | None = None, tell: Tell = lambda _: None
) -> Result:
    """Train by the objective that ``make`` makes, to its end; raises as :func:`run` does."""
    world = world or World()
    with StopRequest() as request, RunFolder() as folder:
        session = world.everywhere(lambda: Session(make(), resume, world, folder, tell))
        return session.run(request)


@contextlib.contextmanager
def threads(count: int | None) -> Iterator[None]:
    """PyTorch computes with ``count`` threads on the CPU meanwhile; with as many as before if it is ``None``."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if count is not None:
            torch.set_num_threads(before)


def choose_device(device: str) -> Any:
    """``cpu`` or ``cuda``; raises ``ConfigError`` if cuda is asked for and absent."""
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise ConfigError("--device cuda: PyTorch finds no CUDA device here; expected one, or --device cpu")
    return ("cuda" if available else "cpu") if device == "auto" else device


def _load(config: Config, world: World, *, download: bool) -> Dataset:
    """The data set; the writer is first, because it may download what the others then find.

    Where a checkpoint names the folder nothing is downloaded: no file decides where is written.
    """
    load = functools.cache(
        lambda: load_dataset(config.dataset, config.data_dir, download=download, says=world.is_writer, grey=config.grey)
    )
    world.on_writer(lambda: load().name)  # its name, because what the writer returns is sent to all
    return world.everywhere(load)


class Session:
    """One session of a run, from its start or from the checkpoint ``resume``, in ``folder``.

    It is made without writing anything but locks, so that all processes can first see that they start alike.
    """

    def __init__(self, objective: Objective, resume: Path | None, world: World, folder: RunFolder, tell: Tell) -> None:
        self._objective, self._world, self._folder, self._tell = objective, world, folder, tell
        self._optimizer = build_optimizer(objective.config, [objective.parameters.vector])
        self._resuming, self._goes_on = resume is not None, False
        self._state, self._note, self._warning = RunState(), "", ""
        self._logs: dict[str, int] | None = {}
        if resume is None and objective.config.init_from is not None:
            self._state, self._note = start_from(objective.config.init_from, objective)
        if resume is not None:
            folder.place(objective.config, objective.config.run_name or resume.parent.name)
            if world.is_writer:
                folder.reopen()
            self._restore(resume)

    def _restore(self, resume: Path) -> None:
        """Go on from ``resume``; of what was written later, the logs are cut off when the sinks are opened."""
        content, source, self._warning = read_last(resume)
        self._state, self._logs = restore_run(content, source, self._objective, self._optimizer)
        if self._world.is_writer:
            self._folder.generations.adopt(content, source)
        self._goes_on = goes_on(content, self._objective)
        if self._goes_on:
            self._note = about_going_on(content, self._objective, self._state)
        elif self._state.finished:
            self._note = f"resumed a finished run ({self._state.finished}): nothing is trained, it is summed up again"
        summed_up = bool(self._state.finished) and (self._folder.folder / SUMMARY).exists()
        # "ended" is not in those of earlier versions.
        self._folder.ended_before = content["training"].get("ended", summed_up) and not self._goes_on

    def run(self, request: StopRequest) -> Result:
        """Train to the end, or raise ``Interrupted`` with the state saved."""
        world, config, folder = self._world, self._rendezvous(), self._folder
        if not self._resuming or self._goes_on:
            # Before anything else is written, so that a run killed at any time can be resumed.
            world.on_writer(lambda: self._save("last"))
        places = {"runs_dir": config.runs_dir, "mlflow": config.mlflow, "wandb": config.wandb}  # no file says them
        given = [(name, place) for name, place in places.items() if place not in (None, getattr(Config, name))]
        elsewhere = [word for name, place in given for word in (option_name(name), str(place))]
        again = typed(f"python -m {self._objective.command}", "--resume", folder.checkpoints, *elsewhere)
        world.resume_hint = again
        whole = f"the last checkpoint is whole; to go on: {again}"
        try:
            with memory_for("training"):
                return self._to_the_end(config, request)
        except OSError as error:
            where = f"{error.filename or folder.folder}: {error.strerror or error}"
            raise LeanMnistError(f"{where}; {whole}") from None
        except OutOfMemory as error:
            error.args = (f"{error}; {whole}",)
            raise
        except KeyboardInterrupt:
            raise world.report_once(Interrupted(f"interrupted at once, at step {self._state.step}; {whole}")) from None

    def _to_the_end(self, config: Config, request: StopRequest) -> Result:
        world = self._world
        self._open_sinks(config)
        if not (self._state.finished or self._train(config, lambda: bool(request.requested))):
            where = f"interrupted at step {self._state.step}, epoch {self._state.epoch + 1}; everything is saved"
            raise world.report_once(Interrupted(f"{where}; to go on: {world.resume_hint}"))

        def finish() -> Result:
            where = f"interrupted at the end of training, step {self._state.step}; everything is saved"
            with request.at_once(f"{where}; to go on: {world.resume_hint}"), memory_for("summing up the run"):
                return self._finish()

        return world.on_writer(finish)

    def _train(self, config: Config, stop_requested: Callable[[], bool]) -> bool:
        """Train to the end or to a request to stop, as ``Trainer.fit`` does, with the rollbacks that are allowed."""
        while True:
            try:
                return self._trainer(stop_requested).fit()
            except HealthError as error:
                if self._state.rollbacks >= config.allowed_rollbacks:
                    if self._state.rollbacks:
                        error.args = (f"{error}; given up after {self._state.rollbacks} rollbacks",)
                    raise
                self._roll_back(config, str(error))

    def _roll_back(self, config: Config, why: str) -> None:
        """Return to the last end of an epoch, with a lower learning rate; what was recorded after it is dropped."""
        path, count = self._folder.checkpoints / ROLLBACK, self._state.rollbacks + 1
        content = self._world.everywhere(lambda: read_checkpoint(path))
        self._state, self._logs = self._world.everywhere(
            lambda: restore_run(content, path, self._objective, self._optimizer)
        )
        self._world.on_writer(lambda: self._folder.generations.adopt(content, path))
        self._state.rollbacks = count
        self._open_sinks(config)
        if self._world.is_writer:
            step, times = self._state.step, f"rollback {count} of {config.allowed_rollbacks}"
            text = f"back here with {ROLLBACK_FACTOR:g} of the learning rate, {times}, because of {why}"
            self._folder.emit(Notice(step, "run/rollback", text))
        self._world.on_writer(lambda: self._save("last"))

    def _open_sinks(self, config: Config) -> None:
        """Open the sinks at the present state; what was recorded after it is dropped."""
        world, step, fresh = self._world, self._state.step, self._state.step == self._state.rollbacks == 0
        self._folder.open_sinks(config, self._objective.steps, step, self._logs, world, fresh=fresh)
        for kind, text in (("warning", self._warning), ("note", self._note)):
            if text and world.is_writer:
                self._folder.say(text, step, kind)
        self._warning = self._note = ""
        if fresh:
            world.on_writer(self._write_start)
        elif world.is_writer and (self._goes_on or not (self._folder.folder / CONFIG).exists()):
            self._folder.write_json(CONFIG, config.to_dict())
        if self._goes_on and world.is_writer:
            (self._folder.folder / SUMMARY).unlink(missing_ok=True)  # it is of the run as it had ended

    def _rendezvous(self) -> Config:
        """See that all processes start alike, before the first of them writes anything; then make the folders."""
        world, objective, config = self._world, self._objective, self._objective.config
        world.require_examples(config.batch_size, len(objective.batches.split))
        if world.size > 1:
            start = {"weights": objective.parameters.vector, "optimizer": self._optimizer.state_dict()}
            start |= {"state": self._state.to_dict(), "position": objective.saved(best=False)[1]}
            world.assert_consistent(start_of(config, objective.fingerprint, start))
            flat = objective.parameters
            world.prepare(flat.layout, flat.gradient, config.seed, native=config.engine != "eager")
        folder = self._folder
        name = folder.name if self._resuming else world.on_writer(lambda: folder.claim(config))
        if not world.is_writer:
            folder.place(config, name)
        objective.config = config = dataclasses.replace(config, run_name=name)
        return config

    def _write_start(self) -> None:
        config, emit = self._objective.config, self._folder.emit
        if config.precision == "bfloat16" and config.device == "cpu" and not has_bfloat16_products():
            why = "this processor has no bfloat16 instructions; --precision float32 is likely to be faster"
            emit(Notice(0, "run/precision", why))
        self._folder.write_json(CONFIG, config.to_dict())
        rows = "\n".join(f"| {name} | {value} |" for name, value in config.to_dict().items())
        emit(Text(0, "run/configuration", f"| option | value |\n|---|---|\n{rows}"))
        for record in self._objective.first_records():
            emit(record)

    def _trainer(self, stop_requested: Callable[[], bool]) -> Trainer:
        world, state, config = self._world, self._state, self._objective.config
        alone = world.size == 1
        policy = FailurePolicy(
            summary=state.checks if alone else state.checks.of_rank(world.rank),
            stop=config.on_divergence == "stop",
            folder=self._folder.folder / FOLDER,
            config=config,
            rank=None if alone else world.rank,
        )
        flat = self._objective.parameters
        return Trainer(
            objective=self._objective,
            update=Update(flat.network, self._optimizer, config.clip_norm, flat),
            hooks=self._objective.hooks(state, policy),
            state=state,
            emit=self._folder.emit,
            save=lambda which: world.on_writer(lambda: self._save(which)),
            stop_requested=stop_requested,
            world=world,
        )

    def _save(self, which: str) -> None:
        folder, generations, deleted = self._folder, self._folder.generations, ""
        with memory_for(f"saving {which}.pt at step {self._state.step}"):
            if which == "best":
                generations.stage_best(run_content(which, self._objective, self._optimizer, self._state, {}))
                return
            # Records of steps that a checkpoint has behind it are never written again: they are on disk before it is.
            logs, deleted = folder.flush()
            content = run_content(which, self._objective, self._optimizer, self._state, logs)
            if folder.remake_checkpoints():
                generations.save_anew(content)
                deleted = deleted or str(folder.checkpoints)
            elif which == "last":
                generations.save_last(content)
            else:
                generations.write(f"{which}.pt", content)
        if deleted:
            last = folder.checkpoints / LAST
            where = f"{deleted}: deleted while the run was using it; the state of step {self._state.step} is in {last}"
            raise LeanMnistError(f"{where}; to go on: {self._world.resume_hint}")

    def _finish(self) -> Result:
        folder = self._folder
        result = self._objective.finish(self._state, folder)
        folder.write_json(SUMMARY, {**result.to_dict(), "best_sha256": folder.generations.best_sha256})
        folder.end_progress()
        self._tell(result)
        self._objective.illustrate(self._state, result, folder)
        if not folder.ended_before:
            logs, deleted = folder.flush()
            if deleted:
                raise FileNotFoundError(errno.ENOENT, "deleted while the run was using it", deleted)
        selected = folder.checkpoints / (LAST if folder.generations.best_sha256 is None else BEST)
        write_page(folder.folder, tested=self._objective.tested, checkpoint=selected)
        if not folder.ended_before:
            folder.generations.end(logs)
        return result
