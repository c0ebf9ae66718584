"""TensorBoard."""

import io
import os
import re
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lean_mnist.training.sinks.log_file import LogFile
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


_PREFIX = "events.out.tfevents."


class TensorBoardSink(Sink):
    """Writes events into ``folder``, in a file for each session of the run.

    With ``resume_step`` the run goes on from there, and what follows is written again. Of the files of earlier sessions
    the first ``sizes`` bytes stay, by name, and others go; where the sizes are not known, in a checkpoint of an earlier
    version, whoever reads is told to forget the events after that step.
    """

    def __init__(self, folder: Path, resume_step: int | None = None, sizes: Mapping[str, int] | None = None) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._new_event, self._earlier = Event, {}
        earlier = sorted(path for path in folder.glob(f"{_PREFIX}*") if path.is_file() and not path.is_symlink())
        for path in earlier if sizes is not None or resume_step is None else []:
            if not (size := (sizes or {}).get(path.name)):
                path.unlink()
                continue
            cut = LogFile(path, size)
            cut.close()
            self._earlier[path.name] = cut.size
        self._file = LogFile(folder / _next_name(earlier))
        self._records = RecordWriter(self._file)
        self._add(file_version="brain.Event:2")
        if resume_step is None:
            from torch.utils.tensorboard.summary import custom_scalars

            self._add(summary=custom_scalars(LAYOUT))
        else:
            self._add(session_log=SessionLog(status=SessionLog.START), step=resume_step + 1)

    def _add(self, **fields: Any) -> None:
        self._records.write(self._new_event(wall_time=time.time(), **fields).SerializeToString())

    def write(self, record: Record) -> None:
        """Add an event."""
        from tensorboard.compat.proto.summary_pb2 import Summary
        from torch.utils.tensorboard.summary import text

        if isinstance(record, Scalar):
            value = Summary.Value(tag=record.name, simple_value=float(record.value))
            self._add(summary=Summary(value=[value]), step=record.step)
        elif isinstance(record, (Text, Notice)):
            self._add(summary=text(record.name, record.value), step=record.step)
        elif isinstance(record, Image):
            self._add(summary=_picture(record), step=record.step)
        elif isinstance(record, Outcome):
            self._write_outcome(record)

    def _write_outcome(self, record: Outcome) -> None:
        # SummaryWriter.add_hparams would open a run of its own in a folder below; these summaries belong to this one.
        from torch.utils.tensorboard.summary import hparams

        settings = {key: value if isinstance(value, (bool, int, float)) else str(value)
                    for key, value in record.settings.items()}  # fmt: skip
        for summary in hparams(settings, dict(record.value)):
            self._add(summary=summary)
        for name, value in record.value.items():
            self.write(Scalar(record.step, name, value))

    def flush(self) -> dict[str, int]:
        """Make sure that the events are on disk."""
        self._file.flush()
        return {**self._earlier, self._file.path.name: self._file.size}

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _next_name(earlier: Sequence[Path]) -> str:
    """A name that comes after those of ``earlier``, as TensorBoard orders them, even if the clock was set back."""
    seconds = int(time.time())
    for path in earlier:
        if found := re.match(r"\d{1,12}(?=\.)", path.name.removeprefix(_PREFIX)):
            seconds = max(seconds, int(found[0]) + 1)
    return f"{_PREFIX}{seconds:010}.{socket.gethostname()}.{os.getpid()}.0"


def _picture(record: Image) -> Any:
    """As ``SummaryWriter.add_image``, but packed quickly: its way takes a tenth of a second a picture."""
    import PIL.Image
    from tensorboard.compat.proto.summary_pb2 import Summary

    height, width, channels = record.value.shape
    packed = io.BytesIO()
    PIL.Image.fromarray(record.value).save(packed, format="PNG", compress_level=1)
    image = Summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=packed.getvalue())
    return Summary(value=[Summary.Value(tag=record.name, image=image)])
