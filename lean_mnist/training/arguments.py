"""The command line of ``python -m lean_mnist.train``: which configuration a run starts from, and what overrides it."""

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic

from lean_mnist.command_line import Metavar, asks_for_help, option_name, parse
from lean_mnist.errors import ConfigError
from lean_mnist.reading.text import shown
from lean_mnist.training.config import MAY_CHANGE_ON_RESUME, Config
from lean_mnist.training.config.files import Options, read_config
from lean_mnist.training.config.places import find_checkpoint
from lean_mnist.training.config.presets import preset


@dataclass(frozen=True)
class Origin:
    """Options that name a configuration to start from."""

    config: str | None = None
    """Repeat the run that wrote this config.json; options given beside it override it."""
    resume: Annotated[str | None, Metavar("[RUN]")] = None
    """Continue from last.pt of this run (its name, folder or file); alone: of --run-name, or else of the latest run."""


@dataclass(frozen=True)
class Arguments(Origin, Config):
    """Train a multilayer perceptron whose backward pass is written by hand, and check its gradients while it trains."""


@dataclass(frozen=True)
class RunCommand(Generic[Options]):
    """Reads the command line of a command that trains."""

    prog: str  # the command as it is called
    options: type[Options]  # the class of its configuration, with ``run_name`` and ``checkpoints_dir`` among its fields
    arguments: type[Options]  # that with the fields of ``Origin``
    preset: Callable[[str], Options] | None = None  # a configuration by its name, where the command has presets
    may_grow: tuple[str, ...] = ()  # numbers of which a run that is resumed may have more

    def read(self, argv: Sequence[str]) -> tuple[Options, Path | None]:
        """The configuration that ``argv`` asks for and, when it asks to resume, the checkpoint to continue from."""
        # These choose what the other options start from, so they are read first.
        first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
        origins = [*(["preset"] if self.preset else []), "config", "resume"]
        for name in (*origins, "run-name", "checkpoints-dir"):
            alone = name == "resume"
            first.add_argument(f"--{name}", nargs="?" if alone else None, const="" if alone else None)
        try:
            chosen, rest = first.parse_known_args(argv)
        except argparse.ArgumentError as error:
            raise ConfigError(f"{error.argument_name}: {error.message}") from None
        given = [name for name in origins if getattr(chosen, name) is not None]
        if len(given) > 1:
            raise ConfigError(f"--{given[0]} and --{given[1]}: each names what a run starts from; expected one of them")
        rest += [] if chosen.run_name is None else ["--run-name", chosen.run_name]
        rest += [] if chosen.checkpoints_dir is None else ["--checkpoints-dir", chosen.checkpoints_dir]

        if chosen.resume is not None and not asks_for_help(rest):
            folder = Path(chosen.checkpoints_dir or self.options.checkpoints_dir)
            return self._resumed(find_checkpoint(chosen.resume, chosen.run_name, folder), rest)
        base = self.options()
        if self.preset is not None and chosen.preset is not None:
            base = self.preset(chosen.preset)
        elif chosen.config is not None:
            # A repetition is a new run: it gets a name of its own unless one is given.
            base = dataclasses.replace(read_config(Path(chosen.config), self.options), run_name=None)
        return self._overridden(base, rest), None

    def _overridden(self, base: Options, arguments: Sequence[str]) -> Options:
        parsed = parse(self.arguments, arguments, prog=self.prog, default=self.arguments(**self._fields(base)))
        return self.options(**self._fields(parsed))

    def _fields(self, options: Options) -> dict[str, Any]:
        return {field.name: getattr(options, field.name) for field in dataclasses.fields(self.options)}

    def _resumed(self, path: Path, arguments: Sequence[str]) -> tuple[Options, Path]:
        from lean_mnist.training.contents import saved_options
        from lean_mnist.training.generations import read_last

        content, source, _ = read_last(path)
        saved = saved_options(content, shown(source), self.options)
        trackers: Any = {name: None for name in ("mlflow", "wandb") if hasattr(saved, name)}
        wanted = self._overridden(dataclasses.replace(saved, runs_dir="", **trackers), arguments)
        if not wanted.runs_dir:  # no file decides where is written
            wanted = dataclasses.replace(wanted, runs_dir=self.options.runs_dir)
            if saved.runs_dir != wanted.runs_dir:
                found = f"this run was started with {saved.runs_dir!r}, expected the option again to go on there"
                raise ConfigError(f"--runs-dir: {found}, or {wanted.runs_dir}")
        for name, value in self._fields(saved).items():
            now = getattr(wanted, name)
            if name in self.may_grow and now > value:
                continue
            if now != value and name not in MAY_CHANGE_ON_RESUME:
                instead = "; more of them would go on from there" if name in self.may_grow else ""
                was = f"this run was started with {'its default' if value is None else value}, found {now}"
                how = f"resuming continues a run as it was, so leave the option out or start a new run{instead}"
                raise ConfigError(f"{option_name(name)}: {was}; {how}")
        if not path.parent.name:  # named from inside its own folder
            path = path.absolute()
        # The run goes on in its own folders, wherever they are now, and under its own name.
        return dataclasses.replace(wanted, run_name=path.parent.name, checkpoints_dir=str(path.parent.parent)), path


read_arguments = RunCommand("python -m lean_mnist.train", Config, Arguments, preset, ("epochs",)).read
