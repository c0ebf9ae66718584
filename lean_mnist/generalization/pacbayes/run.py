"""One PAC-Bayes run: prior, posterior, certificate, and the folder that holds them."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from lean_mnist.data.augmentation import Augmentation
from lean_mnist.data.batches import Batches
from lean_mnist.data.datasets import Dataset, Split, load_dataset
from lean_mnist.data.normalization import Normalization
from lean_mnist.errors import ConfigError
from lean_mnist.files import plain, write_atomically
from lean_mnist.generalization.bounds import checked_delta, pac_bayes_risk
from lean_mnist.generalization.certificates.document import Certificate
from lean_mnist.generalization.checker import percent
from lean_mnist.generalization.exact import exact
from lean_mnist.generalization.pacbayes.certificate import certify_posterior, layers_of
from lean_mnist.generalization.pacbayes.draws import draw_outcomes
from lean_mnist.generalization.pacbayes.network import GaussianMLP
from lean_mnist.generalization.pacbayes.parts import cut
from lean_mnist.generalization.pacbayes.training import Epoch, Recipe, Trained, train

if TYPE_CHECKING:
    from lean_mnist.pacbayes import PacBayesConfig

T = TypeVar("T")

# What --prior decides where an option is not given. These were found on MNIST by comparing bounds, of four learnt and
# some twenty-five data-free priors, so that more candidates than one have to be paid for.
DEFAULTS: dict[str, dict[str, Any]] = {
    "learnt": {
        "hidden": (600, 600), "prior_scale": ("0.01",), "candidates": 10, "epochs": 5, "lr": 0.01,
        "divergence_weight": 1.0,
    },
    "data-free": {
        "hidden": (50,), "prior_scale": ("0.2",), "candidates": 100, "epochs": 100, "lr": 0.5,
        "divergence_weight": 0.25,
    },
}  # fmt: skip
AUGMENTATION = Augmentation(rotation=15, scale=0.15, elastic=1.0)
PRIOR_BATCH = 128
ESTIMATE_DRAWS = 60_000  # by which one of several candidates is chosen; and of the test split
_MOMENTUM = {"learnt": 0.9, "data-free": 0.95}


@dataclass(frozen=True)
class Summary:
    """What a run reached: ``values`` as ``summary.json`` has them."""

    values: dict[str, Any]

    def __str__(self) -> str:
        v = self.values
        lines = [
            f"{v['dataset']}: {v['prior']} prior, network {'-'.join(map(str, v['sizes']))}, KL {v['divergence']} nats",
            f"  empirical  {percent(Fraction(v['draw_errors'], v['draws']), up=True)} of {v['draws']:,} draws on "
            f"{v['examples']:,} examples are errors; on the test split {v['test_risk']:.2%}, measured",
        ]
        for claim in v["claims"]:
            risk = Fraction(claim["risk"])
            said = "vacuous: it says nothing" if risk >= 1 else f"at most {percent(risk, up=True)}"
            lines.append(f"  certified  risk {said}, with confidence 1 - {claim['delta']}")
        checks = v["checks"]
        lines.append(f"  checks     {checks['audits']} audits of the gradients, 0 failed, largest {checks['largest']}")
        lines.append(f"  time       {', '.join(f'{name} {s:.0f} s' for name, s in v['seconds'].items())}")
        path = v["certificate"]
        lines.append(f"  written    {path}; to check it: python -m lean_mnist.certify --check {path}")
        return "\n".join(lines)


class _Candidate(NamedTuple):
    """A prior and the posterior trained from it."""

    scale: str
    network: GaussianMLP
    trained: list[Trained]
    seconds: dict[str, float]


def run(config: PacBayesConfig, say: Callable[[str], None]) -> Summary:
    """Train and certify by ``config``; ``say`` gets a line an epoch. Returns the summary of what was written.

    Raises ``ConfigError``, ``DataError``, ``GradientMismatch`` or ``HealthError``.
    """
    config = resolved(config)
    dataset = load_dataset(config.dataset, config.data_dir)
    folder = _claim(config, dataset.name)
    write_atomically(folder / "config.json", _json(dataclasses.asdict(config)))
    prior_examples = _prior_examples(config, dataset)
    prior_part, bound_part = cut(dataset.train, prior_examples, config.seed)
    scales = _given(config.prior_scale)
    tried = [_train(config, dataset, prior_part, bound_part, scale, say) for scale in scales]
    bounds = [_estimate(candidate, bound_part, dataset.maximum, config) for candidate in tried]
    for candidate, bound in zip(tried, bounds, strict=True):
        say(f"prior scale {candidate.scale}: bound about {bound:.4f}")
    chosen = tried[bounds.index(min(bounds))]
    begun = time.perf_counter()
    certificate = certify_posterior(
        chosen.network,
        dataset,
        prior_scale=chosen.scale,
        prior_examples=prior_examples,
        split_seed=config.seed,
        candidates=_given(config.candidates),
        draws=config.draws,
        deltas=config.delta,
    )
    path = certificate.write(folder)
    seconds = {**chosen.seconds, "certificate": time.perf_counter() - begun}
    if len(tried) > 1:
        seconds["other priors"] = sum(sum(one.seconds.values()) for one in tried if one is not chosen)
    summary = _summary(config, dataset, chosen, certificate, path, seconds)
    write_atomically(folder / "summary.json", _json(summary.values))
    return summary


def resolved(config: PacBayesConfig) -> PacBayesConfig:
    """``config`` with every option that follows ``prior`` filled in; raises ``ConfigError`` or ``BoundError``."""
    own = {name: value for name, value in DEFAULTS[config.prior].items() if getattr(config, name) is None}
    config = dataclasses.replace(config, **own)
    scales = _given(config.prior_scale)
    if not scales or any(exact(scale, "prior-scale") <= 0 for scale in scales):
        raise ConfigError(f"prior-scale: expected one or more numbers above 0, found {' '.join(scales) or 'none'}")
    if _given(config.candidates) < len(scales):
        raise ConfigError(f"candidates: expected at least {len(scales)}, those tried here, found {config.candidates}")
    if config.draws < 1:
        raise ConfigError(f"draws: expected at least 1, found {config.draws}")
    if config.prior == "data-free" and config.prior_examples:
        raise ConfigError(f"prior-examples: {config.prior_examples}, but a data-free prior learns from none")
    for delta in config.delta:
        checked_delta(delta)
    _recipes(config)
    return config


def _given(value: T | None) -> T:
    """An option that is filled in by now."""
    assert value is not None
    return value


def _recipes(config: PacBayesConfig) -> tuple[Recipe, Recipe]:
    """The prior's and the posterior's; raises ``ConfigError``."""
    common = {"seed": config.seed, "check_every": config.check_every}
    prior = Recipe("risk", config.prior_epochs, config.prior_lr, **common)
    posterior = Recipe(
        config.objective,
        _given(config.epochs),
        _given(config.lr),
        _MOMENTUM[config.prior],
        p_min=config.p_min,
        divergence_weight=_given(config.divergence_weight),
        **common,
    )
    return prior, posterior


def _prior_examples(config: PacBayesConfig, dataset: Dataset) -> int:
    if config.prior == "data-free":
        return 0
    chosen = len(dataset.train) // 2 if config.prior_examples is None else config.prior_examples
    if not 1 <= chosen < len(dataset.train):
        raise ConfigError(f"prior-examples: expected from 1 to {len(dataset.train) - 1}, found {chosen}")
    return chosen


def _train(
    config: PacBayesConfig,
    dataset: Dataset,
    prior_part: Split,
    bound_part: Split,
    scale: str,
    say: Callable[[str], None],
) -> _Candidate:
    unit = Normalization("unit", 0.0, float(dataset.maximum))
    sizes = (dataset.features, *_given(config.hidden), dataset.classes)
    network = GaussianMLP(sizes, float(exact(scale, "prior-scale")), seed=config.seed)
    by_risk, by_bound = _recipes(config)
    trained, seconds = [], {}
    if config.prior == "learnt":
        begun = time.perf_counter()
        augmentation = AUGMENTATION if config.augment else None
        batches = Batches(prior_part, unit, PRIOR_BATCH, config.seed, augmentation=augmentation)
        trained.append(train(network, batches, by_risk, lambda epoch: say(_line("prior", by_risk, epoch))))
        network.start_from_prior()
        seconds["prior"] = time.perf_counter() - begun
    begun = time.perf_counter()
    batches = Batches(bound_part, unit, config.batch_size, config.seed)
    trained.append(train(network, batches, by_bound, lambda epoch: say(_line("posterior", by_bound, epoch))))
    seconds["posterior"] = time.perf_counter() - begun
    return _Candidate(scale, network, trained, seconds)


def _line(what: str, recipe: Recipe, epoch: Epoch) -> str:
    text = f"{what} epoch {epoch.epoch}/{recipe.epochs}: loss {epoch.risk:.4f}"
    return text if what == "prior" else f"{text}, objective {epoch.objective:.4f}, KL {epoch.divergence:.1f}"


def _estimate(candidate: _Candidate, split: Split, maximum: int, config: PacBayesConfig) -> float:
    """About the bound that would be certified, by other draws than the certificate's."""
    risk = _risk(candidate.network, split, maximum, f"estimate {config.seed}")
    divergence = Fraction(float(candidate.network.divergence().detach()))
    return float(pac_bayes_risk(risk, len(split), max(divergence, Fraction(0)), config.delta[0], digits=6))


def _risk(network: GaussianMLP, split: Split, maximum: int, key: str) -> Fraction:
    """Measured: the share of errors in ``ESTIMATE_DRAWS`` draws on a split."""
    images, labels = split.images.cpu().numpy(), split.labels.cpu().numpy()
    wrong = draw_outcomes(layers_of(network), images, labels, maximum, key.encode(), ESTIMATE_DRAWS)
    return Fraction(int(np.count_nonzero(wrong)), ESTIMATE_DRAWS)


def _summary(
    config: PacBayesConfig,
    dataset: Dataset,
    chosen: _Candidate,
    certificate: Certificate,
    path: Path,
    seconds: dict[str, float],
) -> Summary:
    document = certificate.document
    largest = max((one.largest for one in chosen.trained if one.largest), key=lambda d: d.share, default=None)
    return Summary(
        {
            "dataset": dataset.name,
            "prior": config.prior,
            "prior_scale": chosen.scale,
            "candidates": document["prior"]["candidates"],
            "sizes": document["decoder"]["sizes"],
            "examples": document["counts"]["examples"],
            "draws": document["counts"]["draws"],
            "draw_errors": document["counts"]["errors"],
            "divergence": document["divergence"],
            "claims": document["claims"],
            "test_risk": float(_risk(chosen.network, dataset.test, dataset.maximum, f"test {config.seed}")),
            "test_looks": 1,
            "checks": {
                "audits": sum(one.audits for one in chosen.trained),
                "largest": None if largest is None else f"{largest.value:.1e}",
            },
            "epochs": [[epoch._asdict() for epoch in one.epochs] for one in chosen.trained],
            "seconds": seconds,
            "certificate": str(path),
        }
    )


def _claim(config: PacBayesConfig, dataset: str) -> Path:
    """A new folder for the run; raises ``ConfigError`` if there is one of that name."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    name = config.run_name or f"{dataset}-pacbayes-{config.prior}-{stamp}"
    folder = Path(config.runs_dir) / name
    if Path(name).name != name:
        raise ConfigError(f"run-name: {name!r}, expected the name of a folder")
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise ConfigError(f"run-name: {folder} exists already, expected a new name") from None
    return folder


def _json(values: Any) -> bytes:
    return (json.dumps(plain(values), indent=2) + "\n").encode()
