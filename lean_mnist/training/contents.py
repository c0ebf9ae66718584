"""Fields of a checkpoint: what each may be, so that nothing that a file says comes as a surprise later."""

import math
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import torch
from msgspec import Meta
from torch import Tensor

from lean_mnist.data.normalization import Normalization
from lean_mnist.errors import CheckpointError, LeanMnistError
from lean_mnist.nn import MLP
from lean_mnist.nn.saved import Shapes, Sizes, check_weights, saved_network, shapes_of
from lean_mnist.reading.schema import Amount, Count, Fields, Sha256, Share, checked, fields_of
from lean_mnist.reading.text import printable
from lean_mnist.training.config import Config
from lean_mnist.training.config.files import config_from_dict
from lean_mnist.training.config.pac_bayes import PacBayesConfig
from lean_mnist.training.state import Best, CheckSummary, RunState

T = TypeVar("T")
_LogFile = Annotated[str, Meta(pattern=r"^(metrics\.jsonl|events\.out\.tfevents\.[^/\\\0]+)\Z", max_length=255)]


class _Gaussian(Fields):
    gaussian_sizes: Sizes
    prior_scale: str


class _Look(Fields):
    step: Count
    purpose: Literal["track", "final"]
    errors: Count


class _Best(fields_of(Best)):  # type: ignore[misc]
    accuracy: Share


class _Test(Fields):
    examples: Count
    errors: Count
    accuracy: Share


class _Metrics(Fields):
    step: Count
    epoch: Count
    best: _Best | None
    test_looks: list[_Look]
    adaptive: bool = False  # whether their results were known when it was decided to train from there
    test: _Test | None = None


class _Checks(fields_of(CheckSummary), kw_only=True):  # type: ignore[misc, call-arg]
    verdict: Literal["passed", "failed", "unchecked"]


class _Data(Fields):
    name: Annotated[str, Meta(pattern=r"^[a-z0-9_-]{1,64}\Z", max_length=64)]
    sha256: Sha256
    # Checkpoints of earlier versions, which knew of named data sets alone, lack these.
    image_shape: Annotated[list[Count], Meta(min_length=2, max_length=2)] | None = None
    maximum: Annotated[int, Meta(ge=1, le=255)] | None = None
    class_names: list[Annotated[str, Meta(min_length=1, max_length=100)]] | None = None


class _Training(Fields):
    state: Any
    optimizer: dict[str, Any]
    rng: Any
    position: dict[str, Any] | None = None
    best_sha256: Sha256 | None = None  # of the best.pt that belongs to it
    logs: dict[_LogFile, Count] | None = None  # sizes of the run's log files
    ended: bool = False  # whether the run is summed up


class _Epoch(Fields):
    epoch: Count
    objective: float
    risk: float
    divergence: float


class _Position(Fields):
    """Of a PAC-Bayes run."""

    sums: Annotated[list[float], Meta(min_length=3, max_length=3)]
    epochs: list[list[_Epoch]]
    seconds: list[Amount]
    candidates: list[dict[str, Any]]


class _Content(Fields):
    format_version: int
    model: dict[str, Any]
    architecture: dict[str, Any]
    normalization: dict[str, Any]
    config: dict[str, Any]
    metrics: _Metrics
    crosscheck: _Checks
    data: _Data
    versions: dict[str, str] | None = None
    training: _Training | None = None


class Checked(NamedTuple):
    """Parts of a checkpoint, as they were made to check them."""

    model: MLP | None  # whose parameters are the tensors in the checkpoint; none for a Gaussian over networks
    config: Any  # Config, or PacBayesConfig for a Gaussian
    normalization: Normalization


def check_content(content: dict[str, Any], where: str) -> Checked:
    """Raise ``CheckpointError``, naming the field, unless each field of a checkpoint is what one writes there."""
    fields = checked(content, _Content, where, "", CheckpointError)
    shapes, model = Shapes(), None
    gaussian = "gaussian_sizes" in content["architecture"]
    if gaussian:
        sizes = checked(content["architecture"], _Gaussian, where, "architecture", CheckpointError).gaussian_sizes
        prefixes = "posterior.mean.", "posterior.log_scale.", "prior."
        shapes = {name: shape for prefix in prefixes for name, shape in shapes_of(sizes, prefix=prefix).items()}
        check_weights(content["model"], shapes, printable(content["architecture"]), where, CheckpointError)
    else:
        model = saved_network(content["architecture"], content["model"], where, CheckpointError)
        shapes = {name: tuple(tensor.shape) for name, tensor in content["model"].items()}
    config = saved_options(content, where, PacBayesConfig if gaussian else Config)
    normalization = named(where, lambda: Normalization.from_dict(content["normalization"]))
    about, sizes = fields.data, content["architecture"].get("gaussian_sizes") or content["architecture"]["sizes"]
    if about.image_shape is not None and about.image_shape[0] * about.image_shape[1] != sizes[0]:
        raise CheckpointError(f"{where}: data.image_shape: {about.image_shape}, expected {sizes[0]} pixels")
    if about.class_names is not None and len(about.class_names) != sizes[-1]:
        raise CheckpointError(f"{where}: data.class_names: {len(about.class_names)}, expected {sizes[-1]}, one a class")
    checks = {name: value for name, value in content["crosscheck"].items() if name != "verdict"}
    if CheckSummary(**checks).verdict.value != fields.crosscheck.verdict:
        raise CheckpointError(f"{where}: crosscheck.verdict: {fields.crosscheck.verdict} contradicts what it counts")
    if fields.training is not None:
        _check_training(content["training"], shapes, config, where)
    return Checked(model, config, normalization)


def saved_options(content: dict[str, Any], where: str, options: type[Any]) -> Any:
    """The configuration in a checkpoint, which has to describe the network that is in it."""
    config = named(where, lambda: config_from_dict(content["config"], where, options))
    architecture = content["architecture"]
    sizes = architecture.get("gaussian_sizes") or architecture["sizes"]
    said = {"hidden": (sizes[1:-1], config.hidden)}
    if isinstance(config, Config):
        said |= {name: (architecture.get(name, default), getattr(config, name)) for name, default in _OF_NETWORK}
        said["quantize"] = (architecture.get("bits"), config.quantize)
    for name, (found, expected) in said.items():
        if expected is not None and found != (list(expected) if isinstance(expected, tuple) else expected):
            raise CheckpointError(f"{where}: config.{name}: {expected} contradicts the architecture, which has {found}")
    return config


_OF_NETWORK = (("activation", "relu"), ("bias", True))


def named(where: str, read: Callable[[], T]) -> T:
    """The result of ``read``, whose errors become ``CheckpointError`` and name the file."""
    try:
        return read()
    except LeanMnistError as error:
        raise CheckpointError(f"{where}: {str(error).removeprefix(f'{where}: ')}") from None


def _check_training(training: dict[str, Any], shapes: Shapes, config: Config | PacBayesConfig, where: str) -> None:
    schema: Any = fields_of(RunState, test_looks=list[_Look])
    state = checked(training["state"], schema, where, "training.state", CheckpointError)
    rng: Any = training["rng"]
    position: Any = training.get("position")
    if not isinstance(rng, Tensor) or rng.dtype != torch.uint8 or rng.shape != torch.get_rng_state().shape:
        raise CheckpointError(f"{where}: training.rng: expected the state of PyTorch's random numbers")
    if isinstance(config, Config):
        position, count = dict(position or {}), sum(map(math.prod, shapes.values()))
        start, average = (position.pop(name, None) for name in ("epoch_start", "average"))
        if position or not (start is None or (isinstance(start, Tensor) and start.shape == (count,))):
            expected = f"at most average and epoch_start, a vector of {count} numbers"
            raise CheckpointError(f"{where}: training.position: expected {expected}")
        if (average is not None) != (config.average is not None and state.epoch > 0):
            expected = "of a run with --average, after its first epoch, and of no other"
            raise CheckpointError(f"{where}: training.position.average: expected {expected}")
        if average is not None:
            check_weights(average, shapes, "training.position.average", where, CheckpointError)
        return
    checked(position, _Position, where, "training.position", CheckpointError)
    for candidate in position["candidates"]:
        check_weights(candidate, shapes, "training.position.candidates", where, CheckpointError)
