"""TensorBoard."""

from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import Any

from lean_mnist.files import errors_named
from lean_mnist.training.sinks.records import Image, Notice, Outcome, Record, Scalar, Sink, Text

# What the Custom Scalars tab shows, most important first. A name is a regular expression over tags.
LAYOUT: dict[str, dict[str, list[Any]]] = {
    "Is it learning?": {
        "loss": ["Multiline", ["^train/epoch_loss$", "^validation/loss$"]],
        "accuracy": ["Multiline", ["^validation/accuracy$", "^test/accuracy$", "^checkpoint/best_accuracy$"]],
        # A band takes whole tags: the value, and the ends of its Clopper–Pearson interval, of one epoch by itself.
        "validation accuracy in its 95 % interval": [
            "Margin",
            ["validation/accuracy", "validation/accuracy_low", "validation/accuracy_high"],
        ],
    },
    "Are its gradients right?": {
        "divergence of each tensor from the float64 reference": ["Multiline", ["^divergence/layers.*"]],
        "proved bound on the relative error of each gradient": ["Multiline", ["^error_bound/.*"]],
        "share of what rounding explains": [
            "Multiline",
            ["^crosscheck/share_of_allowed$", "^screen/share_of_allowed$"],
        ],
        "checks passed (1) or failed (0)": ["Multiline", ["^crosscheck/passed$", "^crosscheck/gradcheck_passed$"]],
    },
    "Is it healthy?": {
        "gradient norms": ["Multiline", ["^gradient_norm/.*"]],
        "parameter norms": ["Multiline", ["^parameter_norm/.*"]],
        "learning rate": ["Multiline", ["^train/learning_rate$"]],
        "examples per second": ["Multiline", ["^throughput/examples_per_second$"]],
    },
}


class TensorBoardSink(Sink):
    """Writes events into ``folder``; with ``resume_step``, events after that step are purged, to be written again."""

    def __init__(self, folder: Path, resume_step: int | None = None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder = folder
        # The writer's thread prints a trace when the disk is full, and raises the error again where we flush. Once is
        # enough, and in one line.
        self._excepthook = threading.excepthook
        threading.excepthook = self._on_thread_error
        self._writer = SummaryWriter(str(folder), purge_step=None if resume_step is None else resume_step + 1)
        if resume_step is None:
            self._writer.add_custom_scalars(LAYOUT)

    def write(self, record: Record) -> None:
        """Add an event."""
        if isinstance(record, Scalar):
            self._writer.add_scalar(record.name, record.value, record.step)
        elif isinstance(record, (Text, Notice)):
            self._writer.add_text(record.name, record.value, record.step)
        elif isinstance(record, Image):
            self._writer._get_file_writer().add_summary(_picture(record), record.step)
        elif isinstance(record, Outcome):
            self._write_outcome(record)

    def _write_outcome(self, record: Outcome) -> None:
        # SummaryWriter.add_hparams would open a run of its own in a folder below; these summaries belong to this one.
        from torch.utils.tensorboard.summary import hparams

        settings = {key: value if isinstance(value, (bool, int, float)) else str(value)
                    for key, value in record.settings.items()}  # fmt: skip
        for summary in hparams(settings, dict(record.value)):
            self._writer._get_file_writer().add_summary(summary)
        for name, value in record.value.items():
            self._writer.add_scalar(name, value, record.step)

    def flush(self) -> None:
        """Write what is queued."""
        with errors_named(str(self._folder)):
            self._writer.flush()

    def close(self) -> None:
        """Write what is queued, and end the writer's thread."""
        threading.excepthook = self._excepthook
        with errors_named(str(self._folder)):
            self._writer.close()

    def _on_thread_error(self, arguments: threading.ExceptHookArgs) -> None:
        if not isinstance(arguments.exc_value, OSError):
            self._excepthook(arguments)


def _picture(record: Image) -> Any:
    """As ``SummaryWriter.add_image``, but packed quickly: its way takes a tenth of a second a picture."""
    import PIL.Image
    from tensorboard.compat.proto.summary_pb2 import Summary

    height, width, channels = record.value.shape
    packed = io.BytesIO()
    PIL.Image.fromarray(record.value).save(packed, format="PNG", compress_level=1)
    image = Summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=packed.getvalue())
    return Summary(value=[Summary.Value(tag=record.name, image=image)])
