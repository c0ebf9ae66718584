"""The configuration of a run: one frozen dataclass, from which the command line is derived."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from lean_mnist.command_line import Metavar, option_name
from lean_mnist.data.names import check_dataset
from lean_mnist.errors import ConfigError
from lean_mnist.generalization.checker import ACTIVATIONS
from lean_mnist.reading.text import printable

if TYPE_CHECKING:
    ActivationName = str
else:
    ActivationName = Literal[ACTIVATIONS]  # a run ends with a certificate, so it has an activation that can be checked

DEFAULT_LR = {"sgd": 0.1, "adam": 1e-3, "adamw": 1e-3, "rmsprop": 1e-3}

# What may differ between a run and its continuation: where things are and what is printed, never what is computed.
MAY_CHANGE_ON_RESUME = (
    "data_dir", "runs_dir", "checkpoints_dir", "quiet", "json", "run_name", "rank_timeout", "mlflow", "wandb",
)  # fmt: skip

WIDEST, MOST_LAYERS, MOST_THREADS = 1 << 24, 98, 1024
_MOST = 1 << 53  # of a number: all up to there are numbers of a float, too
_LONGEST_NAME = 200  # bytes, where folders may have 255 and a number is put behind

Range = tuple[str, Callable[[Any], bool], str]  # names of fields, a test of their values, and it in words
THREADS: Range = ("threads", lambda count: 1 <= count <= MOST_THREADS, f"from 1 to {MOST_THREADS}")
_COUNTS = "epochs batch_size accumulate decay_epochs log_every validation_size limit_train early_stopping rollbacks"
_AMOUNTS = "warmup_steps check_every gradcheck_every weight_decay logit_penalty augment_shift augment_rotation"
_RANGES: tuple[Range, ...] = (
    (f"{_COUNTS} rank_timeout", lambda count: count >= 1, "at least 1"),
    (f"{_AMOUNTS} augment_scale augment_elastic seed", lambda amount: amount >= 0, "at least 0"),
    (f"{_COUNTS} {_AMOUNTS} augment_elastic clip_pixels", lambda number: number <= _MOST, f"at most {_MOST}"),
    ("rank_timeout", lambda seconds: seconds <= 10**6, "at most 10^6"),
    ("seed", lambda seed: seed < 2**63, "a number below 2^63"),
    ("lr clip_norm clip_pixels init_scale decay augment_smoothness", lambda x: 0 < x < math.inf, "a number above 0"),
    ("augment_smoothness", lambda pixels: 1e-3 <= pixels <= 1e6, "from 0.001 to 10^6"),
    ("momentum augment_scale", lambda share: 0 <= share < 1, "a number from 0 up to, not including, 1"),
    ("average", lambda share: 0 < share < 1, "a number between 0 and 1"),
    ("label_smoothing", lambda share: 0 <= share <= 1, "a number from 0 to 1"),
    ("quantize", lambda bits: 1 <= bits <= 16, "from 1 to 16 bits a weight"),
    THREADS,
)


@dataclass(frozen=True)
class Config:
    """Train a multilayer perceptron whose backward pass is written by hand, and check its gradients while it trains."""

    GROUPS: ClassVar[dict[str, str]] = {  # of the options in the help; the first are those of every day
        "everyday options": "preset dataset hidden epochs batch_size lr seed check run_name resume",
        "data": "grey data_dir normalization clip_pixels validation_size limit_train augment augment_shift "
        "augment_rotation augment_scale augment_elastic augment_smoothness",
        "network": "activation bias initialization init_scale init_from quantize label_smoothing logit_penalty",
        "optimisation": "accumulate optimizer momentum nesterov weight_decay schedule warmup_steps decay decay_epochs "
        "clip_norm average early_stopping",
        "checks": "check_every gradcheck_every on_divergence on_nonfinite rollbacks",
        "output": "runs_dir checkpoints_dir log_every track_test quiet json mlflow wandb",
        "advanced": "config precision device threads engine rank_timeout",
    }

    preset: Literal["default", "small-best", "best", "lean-full", "lean-medium", "mini"] = "default"
    """A ready recipe; options given beside it override it. lean-full and lean-medium are those of LEAN_mnist."""

    # What it learns from
    dataset: str = "auto"
    """auto (mnist, or scikit-learn's digits where MNIST cannot be had), mnist, fashion-mnist, kmnist, qmnist,
    emnist-digits, digits, or the path of own data: ./FOLDER of images by class or of IDX files, or FILE.npz."""
    grey: bool = False
    """Convert own images in colour to grey; without it they are refused."""
    data_dir: str = "data"
    """Searched after the folder that LEAN_MNIST_DATA names, and downloaded into."""
    normalization: Literal["standard", "centered", "unit", "per-image"] = "standard"
    """standard: mean and deviation of the training part; unit: pixel / largest; centered: that, minus its mean;
    per-image: each image by its own."""
    clip_pixels: float | None = None
    """Clip each normalised pixel to at most this far from 0: with standard, so many standard deviations."""
    validation_size: int | None = None
    """Examples cut from the training data to select the best checkpoint; a twelfth if not given."""
    limit_train: int | None = None
    """Train on the first N images only; validation is then cut from the images after them."""

    # How its images are deformed while it trains, a new way for every image in every epoch
    augment: Literal["none", "affine", "elastic"] = "none"
    """affine: shifted, turned and scaled; elastic: pulled about by a smooth random field as well."""
    augment_shift: float = 1.0
    """Pixels, up to."""
    augment_rotation: float = 10.0
    """Degrees, up to."""
    augment_scale: float = 0.1
    """Width and height times 1 ± up to this."""
    augment_elastic: float = 1.0
    """Standard deviation of the displacement of a pixel by elastic distortion, in pixels."""
    augment_smoothness: float = 5.0
    """Standard deviation of the Gaussian that smooths the elastic distortion, in pixels."""

    # The network and its loss
    hidden: tuple[int, ...] = (128,)
    """Widths of the hidden layers."""
    activation: ActivationName = "relu"
    """Between the layers."""
    bias: bool = True
    """Whether the layers have biases."""
    initialization: Literal["he-normal", "xavier-uniform", "scale"] = "he-normal"
    """Of the weights; biases start at zero."""
    init_scale: float = 0.01
    """Standard deviation of the weights with --initialization scale."""
    init_from: Annotated[str | None, Metavar("RUN")] = None
    """Start from the weights of this run (its name or folder; its best.pt) or checkpoint, of the same shapes."""
    quantize: int | None = None
    """Train a network of this many bits a weight, 1 to 16: it multiplies by rounded weights, straight-through."""
    label_smoothing: float = 0.0
    """Share of the target spread evenly over the classes, from 0 to 1."""
    logit_penalty: float = 0.0
    """Weight of half the squared norm of the logits, added to the loss."""

    # How it learns
    epochs: int = 30
    """Passes over the training part."""
    batch_size: int = 128
    """Examples a batch; the last batch of an epoch may be smaller."""
    accumulate: int = 1
    """Batches whose gradients are averaged for one step of the optimizer."""
    optimizer: Literal["sgd", "adam", "adamw", "rmsprop"] = "sgd"
    """From torch.optim."""
    lr: float | None = None
    """Learning rate, at its highest; 0.1 for sgd and 0.001 for the others if not given."""
    momentum: float = 0.9
    """Of sgd and rmsprop; for adam and adamw it is beta1."""
    nesterov: bool = True
    """Nesterov's momentum (sgd with momentum only)."""
    weight_decay: float = 5e-4
    """Added to the gradient (sgd, adam, rmsprop) or decoupled (adamw)."""
    schedule: Literal["constant", "step", "exponential", "cosine", "one-cycle"] = "one-cycle"
    """Of the learning rate."""
    warmup_steps: int = 0
    """Steps in which the rate first climbs linearly, before any schedule."""
    decay: float = 0.1
    """Factor of the schedules step (every --decay-epochs) and exponential (over each --decay-epochs, smoothly)."""
    decay_epochs: int = 10
    """See --decay."""
    clip_norm: float | None = None
    """Largest global norm of the gradients; larger ones are scaled down to it."""
    average: float | None = None
    """Evaluate, select and save a mean of the weights at the ends of epochs, each with this share of the next one's."""
    early_stopping: int | None = None
    """Stop after this many epochs without a better validation accuracy."""
    seed: int = 0
    """Of the initial weights, the validation split and the order of the examples."""
    precision: Literal["float32", "float64", "bfloat16"] = "float32"
    """Of weights, activations and gradients; with bfloat16 the optimizer keeps the weights in float32."""
    engine: Literal["auto", "native", "eager"] = "auto"
    """native: steps by kernels in C, compiled at first use (float32, on a CPU); eager: by the chain rule's own lines;
    auto: the faster of what can be had; on cuda, graphs of the lines' kernels."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto is cuda where there is one."""
    threads: Annotated[int | None, Metavar("N|auto")] = None
    """Threads on the CPU. auto, as if not given: those of native steps are measured, PyTorch's are one for small
    networks and else as many as it takes by itself."""

    # How its gradients are checked
    check: Literal["off", "audit", "screen", "full"] = "full"
    """full: every step screened, by matrix–vector products, and what rests in memory compared; full comparisons on a
    schedule besides. screen: the first alone; audit: the last alone; off: none."""
    check_every: int = 1250
    """Steps between comparisons of the gradients with the float64 reference; the first step always. 0: never."""
    gradcheck_every: int = 5000
    """Steps between runs of torch.autograd.gradcheck on a sub-problem; the first step always. 0: never."""
    on_divergence: Literal["stop", "warn"] = "stop"
    """When a check fails: stop before the step with exit status 3, or go on and mark the run and its checkpoints."""
    on_nonfinite: Literal["stop", "rollback"] = "stop"
    """When loss, gradient or weights cannot be used: stop with exit status 3, or return to the last end of an epoch."""
    rollbacks: int | None = None
    """Times that it returns at most, each with a tenth of the learning rate of before; 3 if not given."""
    rank_timeout: int = 60
    """Seconds after which a process of a run of several that does not answer counts as lost."""

    # What it writes
    run_name: str | None = None
    """Name of the run's folders; made from the data set and the time if not given."""
    runs_dir: str = "runs"
    """Where TensorBoard events, metrics, configuration and summary go, in a folder a run."""
    checkpoints_dir: str = "checkpoints"
    """Where best.pt and last.pt go, in a folder a run."""
    log_every: int = 50
    """Steps between records of loss, learning rate and norms."""
    track_test: bool = False
    """Also evaluate the test split after every epoch; each look is recorded, because a certificate pays for it."""
    quiet: bool = False
    """Print nothing but warnings and errors."""
    json: bool = False
    """Print the summary as one JSON document."""
    mlflow: str | None = None
    """Also send the records to MLflow: a server's address, or a folder. With --resume, to be given again."""
    wandb: Literal["offline", "online"] | None = None
    """Also send the records to Weights & Biases, or keep them in the run's folder. With --resume, to be given again."""

    def __post_init__(self) -> None:
        check_ranges(self, *_RANGES)
        check_dataset("--dataset", self.dataset)
        found = printable(" ".join(map(str, self.hidden)) or "none", 60)
        if not self.hidden or any(width < 1 for width in self.hidden):
            raise ConfigError(f"--hidden: expected one or more widths of at least 1, found {found}")
        if len(self.hidden) > MOST_LAYERS or max(self.hidden) > WIDEST:
            raise ConfigError(f"--hidden: expected at most {MOST_LAYERS} widths of at most {WIDEST}, found {found}")
        if self.quantize is not None:
            self._check_quantize()
        if self.rollbacks is not None and self.on_nonfinite != "rollback":
            raise ConfigError(f"--rollbacks: expected --on-nonfinite rollback beside it, found {self.on_nonfinite}")
        for name in ("dataset", "init_from", "data_dir", "runs_dir", "checkpoints_dir", "run_name"):
            _check_text(option_name(name), getattr(self, name) or "")
        if self.run_name is not None:
            found = printable(repr(self.run_name), 60)
            if self.run_name in ("", ".", "..") or set(self.run_name) & set("/\\") or not self.run_name.isprintable():
                raise ConfigError(f"--run-name: expected the name of one folder, found {found}")
            if len(self.run_name.encode()) > _LONGEST_NAME:
                raise ConfigError(f"--run-name: expected a name of at most {_LONGEST_NAME} bytes, found {found}")

    def _check_quantize(self) -> None:
        # A quantised network is one on whole numbers: of pixels, and with nothing between its layers but a maximum.
        for name, expected in (("normalization", "unit"), ("activation", "relu"), ("clip_pixels", None)):
            if getattr(self, name) != expected:
                raise ConfigError(f"--quantize: expected {option_name(name)} {expected}, found {getattr(self, name)}")
        if self.precision == "bfloat16":
            raise ConfigError("--quantize: expected --precision float32 or float64, found bfloat16")

    @property
    def allowed_rollbacks(self) -> int:
        """Returns to the last end of an epoch that the run may make."""
        return (self.rollbacks or 3) if self.on_nonfinite == "rollback" else 0

    @property
    def learning_rate(self) -> float:
        """``lr``, or the optimizer's default."""
        return DEFAULT_LR[self.optimizer] if self.lr is None else self.lr

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as ``config.json`` and a checkpoint hold them."""
        values = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def check_ranges(options: Any, *ranges: Range) -> None:
    """Raise ``ConfigError`` for a field of ``options`` that is given and outside of its range."""
    for names, holds, expected in ranges:
        for name in names.split():
            if (value := getattr(options, name)) is not None and not holds(value):
                raise ConfigError(f"{option_name(name)}: expected {expected}, found {printable(value, 60)}")


def _check_text(option: str, text: str) -> None:
    """Raise ``ConfigError`` for a text that cannot be written down: in UTF-8, and into a path."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{option}: expected text in UTF-8, found {printable(text, 60)}") from None
    if "\0" in text or len(text) > 4096:
        raise ConfigError(f"{option}: expected at most 4096 characters, none of them null, found {printable(text, 60)}")
