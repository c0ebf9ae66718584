"""TensorBoard."""

import itertools
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lean_mnist.files import png
from lean_mnist.training.sinks import projector
from lean_mnist.training.sinks.dashboard import curve, drawn, hparams, layout, tag_of, text
from lean_mnist.training.sinks.event_frames import framed
from lean_mnist.training.sinks.log_file import LogFile
from lean_mnist.training.sinks.records import (
    Embedding,
    Figure,
    Histogram,
    Image,
    Notice,
    Outcome,
    PrecisionRecall,
    Record,
    Scalar,
    Sink,
    Text,
)

_PREFIX = "events.out.tfevents."


class TensorBoardSink(Sink):
    """Writes events into ``folder``, in a file for each session of the run.

    With ``resume_step`` the run goes on from there, and what follows is written again. Of the files of earlier sessions
    the first ``sizes`` bytes stay, by name, and others go; where the sizes are not known, in a checkpoint of an earlier
    version, whoever reads is told to forget the events after that step.
    """

    def __init__(self, folder: Path, resume_step: int | None = None, sizes: Mapping[str, int] | None = None) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        self._new_event, self._earlier = Event, {}
        earlier = sorted(path for path in folder.glob(f"{_PREFIX}*") if path.is_file() and not path.is_symlink())
        for path in earlier if sizes is not None or resume_step is None else []:
            if not (size := (sizes or {}).get(path.name)):
                path.unlink()
                continue
            cut = LogFile(path, size)
            cut.close()
            self._earlier[path.name] = cut.size
        self._file = LogFile(folder / _next_name(earlier), encode=self._encoded)
        self._file.write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        if resume_step is None:
            self._file.write(Event(wall_time=time.time(), summary=layout()))
        else:
            start = SessionLog(status=SessionLog.START)
            self._file.write(Event(wall_time=time.time(), session_log=start, step=resume_step + 1))

    def write(self, record: Record) -> None:
        """Add what draws it."""
        self._file.write((time.time(), record))
        if isinstance(record, Outcome):
            for name, number in record.value.items():
                self.write(Scalar(record.step, name, number))
        elif isinstance(record, Embedding):
            projector.write(self._file.path.parent, record)

    def _encoded(self, items: Sequence[Any]) -> bytes:
        return framed(*(event.SerializeToString() for event in self._events(items)))

    def _events(self, items: Sequence[Any]) -> Iterator[Any]:
        """Events that draw these records, scalars of one step together; an event stands for itself."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        for step, group in itertools.groupby(items, _step_of_scalar):
            if step is not None:
                times, scalars = zip(*group, strict=True)
                shown = [(tag_of(s.name), drawn(s.name, float(s.value))) for s in scalars]
                values = [Summary.Value(tag=tag, simple_value=value) for tag, value in shown]
                yield self._new_event(wall_time=times[-1], summary=Summary(value=values), step=step)
                continue
            for item in group:
                if isinstance(item, self._new_event):
                    yield item
                    continue
                at, record = item
                # Settings and layout are read by themselves, whatever the step.
                where = {} if isinstance(record, Outcome) else {"step": record.step}
                for summary in self._summaries(record):
                    yield self._new_event(wall_time=at, summary=summary, **where)

    def _summaries(self, record: Record) -> list[Any]:
        from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary

        tag, value = tag_of(record.name), record.value
        if isinstance(record, (Text, Notice)):
            return [text(record.name, value)]
        if isinstance(record, Figure):
            return []
        if isinstance(record, Image):
            return [_picture(tag, value)]
        if isinstance(record, Histogram):
            low, high, total, squares, counts = value
            ends = np.linspace(low, high, len(counts) + 1)[1:]
            histogram = HistogramProto(
                min=low, max=high, num=sum(counts), sum=total, sum_squares=squares, bucket_limit=ends, bucket=counts
            )
            return [Summary(value=[Summary.Value(tag=tag, histo=histogram)])]
        if isinstance(record, PrecisionRecall):
            return [curve(record.name, value)]
        return hparams(record) if isinstance(record, Outcome) else []

    def flush(self) -> dict[str, int]:
        """Make sure that the events are on disk."""
        self._file.flush()
        return {**self._earlier, self._file.path.name: self._file.size}

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _step_of_scalar(item: Any) -> int | None:
    """The step of a scalar that is drawn; ``None`` for anything else."""
    record = item[1] if isinstance(item, tuple) else item
    return record.step if isinstance(record, Scalar) and not isinstance(record, Figure) else None


def _next_name(earlier: Sequence[Path]) -> str:
    """A name that comes after those of ``earlier``, as TensorBoard orders them, even if the clock was set back."""
    seconds = int(time.time())
    for path in earlier:
        if found := re.match(r"\d{1,12}(?=\.)", path.name.removeprefix(_PREFIX)):
            seconds = max(seconds, int(found[0]) + 1)
    return f"{_PREFIX}{seconds:010}.{socket.gethostname()}.{os.getpid()}.0"


def _picture(tag: str, picture: npt.NDArray[np.uint8]) -> Any:
    """As ``SummaryWriter.add_image``, but packed quickly: its way takes a tenth of a second a picture."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    height, width, channels = picture.shape
    image = Summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=png(picture))
    return Summary(value=[Summary.Value(tag=tag, image=image)])
