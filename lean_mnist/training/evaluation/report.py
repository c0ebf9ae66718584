"""The evaluation of a checkpoint on a split, for ``python -m lean_mnist.evaluate``."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lean_mnist.data.datasets import Dataset, load_dataset
from lean_mnist.data.names import is_path
from lean_mnist.data.splits import split_training
from lean_mnist.errors import CheckpointError, ConfigError, DataUnavailable
from lean_mnist.files import plain
from lean_mnist.generalization.certificates.runs import (
    Evaluated,
    FoundCertificate,
    certificate_places,
    find_certificate,
)
from lean_mnist.reading.text import printable
from lean_mnist.training.checkpoints import Checkpoint, load_checkpoint
from lean_mnist.training.config.places import checkpoint_path
from lean_mnist.training.evaluation.independence import Independence, independence
from lean_mnist.training.evaluation.metrics import Evaluation, evaluate

if TYPE_CHECKING:
    from lean_mnist.evaluate import EvaluateArguments


@dataclass(frozen=True)
class Report:
    """An evaluation of a checkpoint; ``str(report)`` is for people."""

    checkpoint: str
    dataset: str
    split: str
    verdict: str
    evaluation: Evaluation
    class_names: tuple[str, ...]
    independence: Independence | None  # None where there are no errors, or too few examples
    certificate: FoundCertificate | None  # None where none lies beside the run or the checkpoint
    plots: tuple[str, ...]  # files
    warning: str | None = None  # where data of the same name are not what it was trained on

    def to_json(self) -> str:
        """One JSON document."""
        about = {"checkpoint": self.checkpoint, "dataset": self.dataset, "split": self.split}
        certificate = None if self.certificate is None else self.certificate.to_dict()
        values: dict[str, Any] = {**about, "crosscheck": self.verdict, "class_names": list(self.class_names)}
        values |= self.evaluation.to_dict()
        values |= {"independence": self.independence, "certificate": certificate, "plots": list(self.plots)}
        return json.dumps(plain({**values, "warning": self.warning}), indent=2, allow_nan=False)

    def __str__(self) -> str:
        found = self.evaluation
        low, high = found.interval
        lines = [
            f"{self.dataset}, {self.split} split: accuracy {found.accuracy:.2%}, 95 % interval {low:.2%} to {high:.2%} "
            f"({found.errors} errors in {found.examples:,}), loss {found.loss:.4f}, "
            f"calibration error {found.calibration.error:.2%}",
            *([] if self.warning is None else [f"warning: {self.warning}"]),
            f"gradient checks while it trained: {self.verdict}",
            str(self.certificate or "certificate: none beside this checkpoint or in its run's folder"),
            str(self.independence or "independence: nothing to measure it by, too few examples or errors"),
            "",
            "true class   accuracy   called …",
        ]
        width = max(4, len(str(int(found.confusion.max()))))
        classes = range(len(found.confusion))
        lines.append(" " * 24 + " ".join(f"{c:>{width}}" for c in classes))
        for c, (accuracy, row) in enumerate(zip(found.class_accuracy, found.confusion.tolist(), strict=True)):
            share = "     none" if accuracy is None else f"{accuracy:>9.2%}"
            named = "" if self.class_names[c] == str(c) else f"   {printable(self.class_names[c], 40)}"
            lines.append(f"{c:>10}   {share}  " + " ".join(f"{count or '·':>{width}}" for count in row) + named)
        lines += ["", *(f"written {path}" for path in self.plots)] if self.plots else []
        return "\n".join(lines)


def data_of(checkpoint: Checkpoint, name: str, data_dir: str | None, *, download: bool = True) -> Dataset:
    """The data set ``name``, from ``data_dir`` if given, else from where the checkpoint's run had it, else ``data``.

    A place that only the checkpoint names is read, but nothing is downloaded into it; without ``download`` nowhere.
    """
    config = checkpoint.config
    if is_path(name) or (name == checkpoint.data["name"] and is_path(config.dataset)):
        return load_dataset(name if is_path(name) else config.dataset, grey=config.grey)
    if data_dir is None:
        try:
            return load_dataset(name, config.data_dir, download=False)
        except DataUnavailable:
            data_dir = "data"
    return load_dataset(name, data_dir, download=download)


def require_fitting(where: str, checkpoint: Checkpoint, dataset: Dataset) -> None:
    """Raise ``CheckpointError`` unless the network of the checkpoint at ``where`` can read these images."""
    takes, knows, names = checkpoint.model.sizes[0], checkpoint.model.sizes[-1], checkpoint.class_names
    if dataset.features != takes or dataset.classes > knows:
        found = f"{dataset.name} has {dataset.features} and {dataset.classes}"
        raise CheckpointError(f"{where}: its network takes {takes} features and knows {knows} classes; {found}")
    if dataset.image_shape != checkpoint.image_shape:
        found, expected = ("x".join(map(str, shape)) for shape in (dataset.image_shape, checkpoint.image_shape))
        raise CheckpointError(f"{where}: its network takes images of {expected} pixels; {dataset.name} has {found}")
    # Labels are numbers: of own data they mean the same only where the classes are called the same.
    if is_path(dataset.path or checkpoint.config.dataset) and dataset.class_names != names[: dataset.classes]:
        found, expected = (printable(", ".join(each), 60) for each in (dataset.class_names, names))
        raise CheckpointError(f"{where}: its classes are {expected}; those of {dataset.name} are {found}")


def evaluate_checkpoint(arguments: "EvaluateArguments") -> Report:
    """Evaluate a checkpoint; raises ``CheckpointError``, ``DataError`` or ``ConfigError``."""
    path = str(checkpoint_path(arguments.checkpoint))
    checkpoint = load_checkpoint(path)
    config = checkpoint.config
    name = arguments.dataset or checkpoint.data["name"]
    dataset = data_of(checkpoint, name, arguments.data_dir)
    require_fitting(path, checkpoint, dataset)
    splits, warning = {"test": dataset.test}, None
    same = dataset.fingerprint() == checkpoint.data["sha256"]
    another = f"the {name} found here is not what it was trained on (its hash differs)"
    if dataset.name == checkpoint.data["name"] and not same:
        warning = f"{another}: it may have learned from images that now are in the test split"
    if same and (arguments.split != "test" or arguments.plots is not None):
        splits["train"], splits["validation"] = split_training(
            dataset.train, validation_size=config.validation_size, limit_train=config.limit_train, seed=config.seed
        )
    if arguments.split not in splits:
        raise ConfigError(f"--split {arguments.split}: {another}, so its split cannot be cut again")
    split = splits[arguments.split]
    evaluation = evaluate(checkpoint.model, split, checkpoint.normalization)
    places = certificate_places(path, config.runs_dir, config.run_name)
    about = Evaluated(checkpoint.model, checkpoint.normalization, dataset, checkpoint.metrics.get("test_looks", []))
    plots = []
    if arguments.plots is not None:
        from lean_mnist.training.evaluation.pictures import write_plots

        plots = write_plots(arguments.plots, checkpoint, dataset, split, evaluation, splits.get("train"))
    return Report(
        path, name, arguments.split, checkpoint.crosscheck["verdict"], evaluation,
        (*dataset.class_names, *checkpoint.class_names[dataset.classes :]), independence(evaluation.right),
        find_certificate(places, about), tuple(map(str, plots)), warning,
    )  # fmt: skip
