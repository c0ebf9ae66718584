"""Configuration of a PAC-Bayes run; imports no PyTorch, so that ``--help`` answers at once."""

import dataclasses
import math
import time
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, Literal, TypeVar

from lean_mnist.errors import ConfigError
from lean_mnist.generalization.confidence import candidate_courses, claimed_deltas
from lean_mnist.generalization.exact import exact
from lean_mnist.training.config.config import THREADS, Config, check_ranges

# What --prior decides where an option is not given. These were found on MNIST by comparing bounds on the very examples
# that are certified, of four learnt and some twenty-five data-free priors, each tried after looking at others.
DEFAULTS: dict[str, dict[str, Any]] = {
    "learnt": {
        "hidden": (600, 600), "prior_scale": ("0.01",), "candidates": 4, "epochs": 5, "lr": 0.01,
        "divergence_weight": 1.0,
    },
    "data-free": {
        "hidden": (50,), "prior_scale": ("0.2",), "candidates": 30, "epochs": 100, "lr": 0.5,
        "divergence_weight": 0.25,
    },
}  # fmt: skip


T = TypeVar("T")


def given(value: T | None) -> T:
    """An option of a resolved configuration, where nothing is left open."""
    assert value is not None
    return value


@dataclass(frozen=True)
class PacBayesConfig:
    """Options of a PAC-Bayes run; :meth:`resolved` fills in those that are not given, as ``prior`` has them.

    Raises ``ConfigError``, ``CertificateError`` or ``BoundError`` for values that cannot be.
    """

    GROUPS: ClassVar[dict[str, str]] = {  # of the options in the help; the first are those of every day
        "everyday options": "prior dataset hidden epochs prior_epochs seed delta run_name resume json",
        "prior": "prior_scale candidates adaptive prior_examples prior_lr augment",
        "posterior": "lr batch_size objective divergence_weight p_min draws",
        "checks": "check check_every",
        "output": "runs_dir checkpoints_dir log_every quiet",
        "advanced": "config data_dir threads",
    }

    prior: Literal["learnt", "data-free"] = "learnt"
    """Whether the prior's means are learned, on a part of the training examples that the bound then leaves out."""
    dataset: Literal["auto", "mnist", "fashion-mnist", "kmnist", "qmnist", "emnist-digits", "digits"] = "auto"
    """auto is mnist, or scikit-learn's digits where MNIST cannot be had."""
    data_dir: str = "data"
    """Searched after the folder that LEAN_MNIST_DATA names, and downloaded into."""
    hidden: tuple[int, ...] | None = None
    """Widths of the hidden layers: 600 600 for a learnt prior, 50 for a data-free one."""
    prior_scale: tuple[str, ...] | None = None
    """The prior's standard deviation, exact, as 0.01 or 1/64; of several each is tried, and all are paid for."""
    candidates: int | None = None
    """How many priors this one was chosen among with any regard to the bound's examples: 4, and 30 if data-free."""
    adaptive: bool = True
    """Whether some of these were tried because of the bounds of others, as the defaults were on MNIST; if all were
    fixed beforehand, --no-adaptive costs less."""
    prior_examples: int | None = None
    """How many training examples a learnt prior learns from; half of them if not given."""
    prior_epochs: int = 40
    """Passes over the prior's part, by the plain risk; a data-free prior has none."""
    prior_lr: float = 0.1
    """Learning rate of these."""
    augment: bool = True
    """Whether a learnt prior learns from images deformed anew in every epoch (rotation, scale, elastic)."""
    epochs: int | None = None
    """Passes of the posterior over the bound's part: 5 from a learnt prior, 100 from a data-free one."""
    lr: float | None = None
    """Learning rate of these: 0.01 from a learnt prior, 0.5 from a data-free one."""
    batch_size: int = 250
    """Examples a batch."""
    objective: Literal["quadratic", "lambda", "classic"] = "quadratic"
    """The bound that the posterior lowers; the certified one is always PAC-Bayes-kl."""
    divergence_weight: float | None = None
    """Weight of KL in it: 1 from a learnt prior, 0.25 from a data-free one. The certified bound has weight 1."""
    p_min: float = 1e-5
    """Class probabilities below it count as it, which bounds the cross-entropy."""
    draws: int = 400_000
    """Pairs of a network and an example from which the empirical risk is estimated, rigorously."""
    delta: tuple[str, ...] = ("0.035", "1e-9")
    """Total failure probabilities, exact; each has a claim of its own."""
    check: Literal["off", "audit", "screen", "full"] = "audit"
    """As of a training run: audit: on a schedule; screen: every step of the drawn network; full: both; off: none."""
    check_every: int = 500
    """Steps between audits of the gradients; the first step of each training is always audited."""
    seed: int = 0
    """Of initial weights, split, order of examples and noise."""
    threads: int | None = None
    """Threads of PyTorch on the CPU; as many as it takes by itself if not given."""
    run_name: str | None = None
    """Name of the run's folders; made of data set, prior and time if not given."""
    runs_dir: str = "runs"
    """Where records, summary and certificate go, in a folder a run."""
    checkpoints_dir: str = "checkpoints"
    """Where best.pt and last.pt go, in a folder a run."""
    log_every: int = 50
    """Steps between records of loss, learning rate and norms."""
    quiet: bool = False
    """Print nothing but warnings and errors."""
    json: bool = False
    """Print the summary as one JSON document."""

    def __post_init__(self) -> None:
        scales, tried = self.prior_scale, len(self.prior_scale or [None])
        if scales is not None and not (scales and all(map(_is_prior_scale, scales))):
            expected = "expected one or more numbers above 10^-30 and below 10^6"
            raise ConfigError(f"prior-scale: {expected}, found {' '.join(scales) or 'none'}")
        if self.candidates is not None and self.candidates < tried:
            raise ConfigError(f"candidates: expected at least {tried}, those tried here, found {self.candidates}")
        if self.prior == "data-free" and self.prior_examples:
            raise ConfigError(f"prior-examples: {self.prior_examples}, but a data-free prior learns from none")
        if self.candidates is not None:
            candidate_courses(self.candidates, self.adaptive)
        claimed_deltas(self.delta)
        check_ranges(
            self,
            ("draws epochs prior_epochs check_every", lambda count: count >= 1, "at least 1"),
            ("draws", lambda count: count <= 10**9, "at most 10^9"),
            ("lr prior_lr divergence_weight", lambda x: 0 < x < math.inf, "a number above 0"),
            ("p_min", lambda p: 0 < p < 1, "a probability between 0 and 1"),
            THREADS,
        )

    def resolved(self, dataset: str, examples: int) -> "PacBayesConfig":
        """Every option filled in, for a data set of so many training ``examples``; raises ``ConfigError``."""
        own = {name: value for name, value in DEFAULTS[self.prior].items() if getattr(self, name) is None}
        own["dataset"], own["prior_examples"] = dataset, 0
        own["run_name"] = self.run_name or f"{dataset}-pacbayes-{self.prior}-{time.strftime('%Y%m%d-%H%M%S')}"
        if self.prior == "learnt":
            chosen = own["prior_examples"] = examples // 2 if self.prior_examples is None else self.prior_examples
            if not 1 <= chosen < examples:
                raise ConfigError(f"prior-examples: expected from 1 to {examples - 1}, found {chosen}")
        return dataclasses.replace(self, **own)

    def of_trainer(self, epochs: int) -> "TrainerConfig":
        """The trainer's configuration of a run of ``epochs`` in all; of a resolved configuration."""
        shared = {name: getattr(self, name) for name in (
            "dataset", "data_dir", "hidden", "batch_size", "lr", "seed", "threads", "check", "check_every", "run_name",
            "runs_dir", "checkpoints_dir", "log_every", "quiet",
        )}  # fmt: skip
        momentum = 0.9 if self.prior == "learnt" else 0.95
        fixed: dict[str, Any] = {"normalization": "unit", "weight_decay": 0.0, "momentum": momentum, "device": "cpu"}
        return TrainerConfig(**shared, **fixed, epochs=epochs, options=self)


def _is_prior_scale(text: str) -> bool:
    return Fraction(1, 10**30) < exact(text, "prior-scale") < 10**6  # as the checker asks of a certificate


@dataclass(frozen=True)
class TrainerConfig(Config):
    """The trainer's configuration of a PAC-Bayes run; what is written down of it are the options of that."""

    options: PacBayesConfig = PacBayesConfig()

    def to_dict(self) -> dict[str, Any]:
        """Plain values of ``options``, as ``config.json`` and a checkpoint hold them."""
        values = dataclasses.asdict(dataclasses.replace(self.options, run_name=self.run_name))
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
