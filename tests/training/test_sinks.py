"""Records and where they are drawn: JSON lines, the terminal, TensorBoard."""

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from google.protobuf import text_format  # type: ignore[import-untyped]
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig
from tensorboard.util import tensor_util

from lean_mnist.data.datasets import Split, load_digits
from lean_mnist.nn import MLP
from lean_mnist.training.evaluation.images import (
    confusion_matrix,
    first_layer_weights,
    least_certain_digits,
    misread_digits,
)
from lean_mnist.training.evaluation.metrics import Evaluation, clopper_pearson
from lean_mnist.training.sinks.dashboard import LAYOUT, tag_of
from lean_mnist.training.sinks.json_lines import JsonLinesSink
from lean_mnist.training.sinks.live import sparkline
from lean_mnist.training.sinks.progress import NOTE, progress_sink
from lean_mnist.training.sinks.records import (
    Counts,
    Embedding,
    Epoch,
    Figure,
    Histogram,
    Image,
    Notice,
    Outcome,
    Points,
    PrecisionRecall,
    Record,
    Scalar,
    Text,
)
from lean_mnist.training.sinks.tensorboard import TensorBoardSink
from tests.support.training_cases import NAME, STEPS_PER_EPOCH, FinishedRun, digits_run, named

NAN, INF = float("nan"), float("inf")


def epoch(number: int, step: int, accuracy: float = 0.5) -> Epoch:
    values = {"epoch": number, "train_loss": 0.25, "validation_loss": 0.5, "validation_accuracy": accuracy,
              "divergence": 1.5e-7}  # fmt: skip
    return Epoch(step, "epoch", values)


DRAWINGS: list[Record] = [
    Image(1, "a/picture", np.zeros((4, 6, 3), dtype=np.uint8)),
    Histogram(1, "a/histogram", Counts(-1.0, 1.0, 0.0, 2.0, [1.0, 1.0])),
    PrecisionRecall(1, "a/curve", np.ones((6, 127))),
    Embedding(1, "points", Points(np.ones((3, 2)), np.zeros((3, 8, 8), dtype=np.uint8), {"label": ["1", "2", "3"]})),
]
EVERY_KIND: list[Record] = [
    *DRAWINGS, Scalar(1, "a/scalar", 0.1), Figure(1, "a/figure", 0.5), Text(1, "a/text", "a × b\nc"),
    Notice(1, "a/notice", "look"), epoch(1, 1),
    Outcome(1, "run/outcome", {"final/accuracy": 0.9}, {"hidden": [3], "lr": 0.1, "name": None, "bias": True}),
]  # fmt: skip

# -- JSON lines -------------------------------------------------------------------------------------------------------


def written(path: Path, *records: Record, **options: Any) -> list[dict[str, Any]]:
    sink = JsonLinesSink(path, **options)
    for record in records:
        sink.write(record)
    sink.flush()
    sink.close()
    return [json.loads(line, parse_constant=pytest.fail) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def test_each_record_but_a_drawing_is_a_line(tmp_path: Path) -> None:
    lines = written(tmp_path / "metrics.jsonl", *EVERY_KIND)
    assert [line["name"] for line in lines] == ["a/scalar", "a/figure", "a/text", "a/notice", "epoch", "run/outcome"]
    assert all(line["step"] == 1 for line in lines)
    assert lines[2]["value"] == "a × b\nc"
    assert lines[-1]["settings"] == {"hidden": [3], "lr": 0.1, "name": None, "bias": True}


def test_numbers_that_json_lacks_are_strings(tmp_path: Path) -> None:
    records = [
        *(Scalar(1, "x", value) for value in (NAN, INF, -INF, 1e308, 5e-324)),
        Epoch(1, "epoch", {"loss": NAN, "nested": [1.0, {"deep": -INF}]}),
        Outcome(2, "run/outcome", {"final": NAN}, {"lr": INF}),
    ]
    lines = written(tmp_path / "metrics.jsonl", *records)
    assert [line["value"] for line in lines[:5]] == ["nan", "inf", "-inf", 1e308, 5e-324]
    assert lines[5]["value"] == {"loss": "nan", "nested": [1.0, {"deep": "-inf"}]}
    assert (lines[6]["settings"], lines[6]["value"]) == ({"lr": "inf"}, {"final": "nan"})


def test_numbers_come_back_bit_for_bit(tmp_path: Path) -> None:
    values = [0.1, 1 / 3, 2.0**-1074, 1e22, 123456789.123456789]
    lines = written(tmp_path / "metrics.jsonl", *(Scalar(1, "x", value) for value in values))
    assert [line["value"] for line in lines] == values


def test_lines_after_the_step_that_is_resumed_from_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    written(path, *(Scalar(step, "x", float(step)) for step in range(6)))
    lines = written(path, Scalar(4, "x", 40.0), resume_step=3)
    assert [(line["step"], line["value"]) for line in lines] == [(0, 0.0), (1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0)]


TORN = [
    b'{"step": 4, "name": "x',
    b"{",
    b'{"step": 4}\n{"na',
    '{"step": 2, "value": "8 ×'.encode()[:-1],
    b"\n",
    b"17\n",
]


@pytest.mark.parametrize("torn", TORN)
def test_a_torn_last_line_is_dropped_on_resume(torn: bytes, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    written(path, Scalar(1, "x", 1.0), Scalar(2, "x", 2.0))
    with path.open("ab") as file:
        file.write(torn)
    lines = written(path, Scalar(4, "x", 4.0), resume_step=3)
    assert [line["step"] for line in lines] == [1, 2, 4]


@pytest.mark.parametrize("text", ["a\u2028b", "a\x85b", "a\x1cb", "a\rb"])
def test_a_text_with_an_odd_line_break_survives_a_resume(text: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    written(path, Text(1, "run/configuration", text))
    lines = written(path, Scalar(2, "x", 2.0), resume_step=1)
    assert [line["value"] for line in lines] == [text, 2.0]


def test_a_resumed_run_whose_lines_are_gone_starts_new_ones(tmp_path: Path) -> None:
    assert len(written(tmp_path / "metrics.jsonl", Scalar(9, "x", 1.0), resume_step=8)) == 1


def test_lines_are_on_disk_after_a_flush(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    sink = JsonLinesSink(path)
    sink.write(Scalar(1, "x", 1.0))
    sink.flush()
    assert path.read_text(encoding="utf-8") == '{"step": 1, "name": "x", "value": 1.0}\n'
    sink.close()


# -- the terminal -----------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(stream: io.StringIO, *records: Record, quiet: bool = False, steps: int = 22, done: int = 0) -> str:
    sink = progress_sink("digits", 2, steps, done, quiet, stream)
    for record in records:
        sink.write(record)
        sink.flush()
    sink.close()
    return stream.getvalue()


RUN: list[Record] = [
    Scalar(1, "train/loss", 2.34567), Scalar(1, "divergence/largest", 1.234e-7),
    Notice(3, "health/warning", "look out"), epoch(1, 11, 0.25), Scalar(12, "train/loss", 1.5), epoch(2, 22, 0.875),
]  # fmt: skip


def test_without_a_terminal_there_is_a_line_an_epoch() -> None:
    notice, first, second = shown(io.StringIO(), *RUN).splitlines()
    assert notice == "warning: step 3: look out"
    assert re.fullmatch(
        r"digits  epoch 1/2  loss 0\.2500  validation 25\.00%  divergence 1\.5e-07  \d+\.\d s, \d+ s left", first
    )
    assert "epoch 2/2" in second
    assert second.endswith(" 0 s left")


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of 80 columns that can move its cursor, without colours."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")


def on_screen(text: str) -> list[str]:
    """The lines that a terminal shows after ``text``, which moves its cursor up and clears from there on."""
    lines = [""]
    for part in re.split(r"(\n|\r(?:\x1b\[\d+A)?\x1b\[J)", text):
        if part == "\n":
            lines.append("")
        elif part.startswith("\r"):
            up = int((re.findall(r"\d+", part) or ["0"])[0])
            lines = [*lines[: len(lines) - up - 1], ""]
        else:
            lines[-1] += part
    return lines


def test_on_a_terminal_epoch_and_validation_accuracy_stand_first(terminal: None) -> None:
    text = shown(
        Terminal(), *RUN, Scalar(12, "crosscheck/passed", 1.0), Scalar(12, "crosscheck/share_of_allowed", 0.04)
    )
    assert on_screen(text) == [
        "warning: step 3: look out",
        "digits  epoch 2/2  validation 87.50%  best 87.50% (epoch 2)",
        "██████████████████████████████  100%  step 22/22  0:00, 0:00 left",
        "loss    1.5000  █▁",
        "checks  1 audit passed; divergence 1.2e-07, 4% of rounding",
        "",
    ]


def test_lines_are_no_wider_than_the_terminal(terminal: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "31")
    losses = [Scalar(step, "train/loss", 1 / step) for step in range(1, 500)]
    text = shown(Terminal(), *losses, *RUN, steps=9_999_999)
    assert on_screen(text)[1] == "digits  epoch 2/2  validation "
    assert max(map(len, on_screen(text)[1:])) == 30


def test_of_epochs_of_one_accuracy_the_best_is_that_of_the_least_loss(terminal: None) -> None:
    epochs = [epoch(number, 11 * number) for number in (1, 2, 3)]
    for one, loss in zip(epochs, (0.5, 0.25, 0.75), strict=True):
        one.value["validation_loss"] = loss
    assert "best 50.00% (epoch 2)" in on_screen(shown(Terminal(), *epochs))[0]


def test_a_failed_check_is_seen(terminal: None) -> None:
    failed = [Scalar(9, "crosscheck/passed", 0.0), Scalar(9, "screen/share_of_allowed", 0.1)]
    assert "checks  1 FAILED  every step screened" in on_screen(shown(Terminal(), *failed))


def test_colours_are_for_terminals_that_want_them(terminal: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b[32m" not in shown(Terminal(), *RUN)
    monkeypatch.setenv("NO_COLOR", "")
    assert "\x1b[32m87.50%\x1b[0m" in shown(Terminal(), *RUN)
    monkeypatch.setenv("TERM", "dumb")
    assert "\x1b" not in shown(Terminal(), *RUN)
    assert "\x1b" not in shown(io.StringIO(), *RUN)


class Latin(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


def test_a_terminal_without_blocks_has_other_characters(terminal: None) -> None:
    stream = Latin(io.BytesIO(), encoding="latin-1")
    sink = progress_sink("digits", 2, 22, 0, False, stream)
    for record in RUN:
        sink.write(record)
    sink.close()
    stream.seek(0)
    assert "##############################  100%" in stream.read()


@pytest.mark.parametrize(
    ("values", "line"),
    [([], ""), ([1.0], "▁"), ([8, 4, 2, 1], "█▆▃▁"), ([1, NAN, INF, 0, 2], "▁!!!█"), ([1] * 4 + [2] * 4, "▁▁██")],
)
def test_a_sparkline_shows_the_course_of_values(values: list[float], line: str) -> None:
    assert sparkline(values, 5 if len(values) < 8 else 4) == line


def test_a_resumed_display_starts_where_the_run_stood(terminal: None) -> None:
    assert "step 11/22" in shown(Terminal(), done=11)
    assert "epoch 2/2" in shown(Terminal(), done=11)
    resumed = shown(io.StringIO(), epoch(2, 22), done=11)
    assert resumed.endswith(" 0 s left\n")


def test_notes_are_no_warnings_and_quiet_silences_them() -> None:
    note = Notice(3, NOTE, "resumed")
    assert shown(io.StringIO(), note) == "resumed\n"
    assert shown(io.StringIO(), note, quiet=True) == ""


def test_the_time_left_is_reckoned_from_this_session(monkeypatch: pytest.MonkeyPatch) -> None:
    clock: Iterator[float] = iter([100.0, 110.0, 120.0])
    monkeypatch.setattr("lean_mnist.training.sinks.progress.time.monotonic", lambda: next(clock))
    lines = shown(io.StringIO(), epoch(2, 40), epoch(3, 60), steps=100, done=20).splitlines()
    assert [line.split("  ")[-1] for line in lines] == ["10.0 s, 30 s left", "20.0 s, 20 s left"]


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_quiet_silences_all_but_warnings(stream: type[io.StringIO]) -> None:
    assert shown(stream(), *RUN, quiet=True) == "warning: step 3: look out\n"


def test_every_kind_of_record_can_be_shown_everywhere(tmp_path: Path) -> None:
    for stream in (io.StringIO(), Terminal()):
        assert "look" in shown(stream, *EVERY_KIND)


# -- TensorBoard ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def events(default_run: FinishedRun) -> EventAccumulator:
    """What TensorBoard reads of a default run that tracks the test split."""
    found = EventAccumulator(
        str(default_run.folder), size_guidance=dict.fromkeys(("scalars", "images", "tensors", "histograms"), 0)
    )
    found.Reload()
    return found


SCALARS = [
    "train/loss", "train/learning_rate", "train/epoch_loss", "validation/loss", "validation/accuracy", "test/accuracy",
    "divergence/loss", "divergence/layers.0.weight", "divergence/layers.0.bias", "divergence/layers.1.weight",
    "divergence/layers.1.bias", "divergence/largest", "crosscheck/gradcheck_passed", "crosscheck/passed",
    "crosscheck/share_of_allowed", "checkpoint/best_step", "checkpoint/best_accuracy", "gradient_norm/layers.0.weight",
    "gradient_norm/all", "parameter_norm/layers.1.bias", "throughput/examples_per_second", "final/test_accuracy",
    "validation/accuracy_low", "validation/accuracy_high", "final/test_calibration_error",
    "final/certified_error", "error_bound/largest", "train/parameter_change",
]  # fmt: skip


@pytest.mark.parametrize("tag", SCALARS)
def test_a_run_draws(tag: str, events: EventAccumulator, default_run: FinishedRun) -> None:
    found = [(event.step, event.value) for event in events.Scalars(tag_of(tag))]
    assert found
    if not tag.startswith("final/"):
        unit = 1e6 if tag in ("divergence/largest", "error_bound/largest") else 1
        lines = [
            (r["step"], pytest.approx(r["value"] * unit, rel=1e-6)) for r in default_run.records if r["name"] == tag
        ]
        assert found == lines


def test_what_is_drawn_every_epoch_stands_at_the_epochs_step(events: EventAccumulator) -> None:
    expected = [STEPS_PER_EPOCH * epoch for epoch in range(1, 31)]
    for name in (
        "train/epoch_loss",
        "validation/accuracy",
        "validation/loss",
        "test/accuracy",
        "train/parameter_change",
    ):
        assert [event.step for event in events.Scalars(tag_of(name))] == expected


def test_no_chart_is_empty_and_every_tag_has_a_group(events: EventAccumulator) -> None:
    for tag in events.Tags()["scalars"]:
        assert re.fullmatch(r"(1 overview|2 layer \d+|3 checks|4 training|6 outcome)/[a-z0-9 ]+", tag)
        values = [event.value for event in events.Scalars(tag)]
        assert values
        assert all(np.isfinite(values))


def test_the_band_holds_the_accuracy(events: EventAccumulator) -> None:
    """At every epoch the ends are those of the Clopper–Pearson interval of 119 validation examples."""
    names = ("validation/accuracy", "validation/accuracy_low", "validation/accuracy_high")
    for accuracy, low, high in zip(*(events.Scalars(tag_of(name)) for name in names), strict=True):
        assert (low.value, high.value) == pytest.approx(clopper_pearson(round(accuracy.value * 119), 119))
        assert low.value <= accuracy.value <= high.value


def test_the_pictures_of_a_run(events: EventAccumulator) -> None:
    names = ("first layer weights", "confusion", "misread", "least certain")
    assert events.Tags()["images"] == [f"5 pictures/{name}" for name in names]


def test_the_best_step_is_that_of_the_summary(events: EventAccumulator, default_run: FinishedRun) -> None:
    assert events.Scalars(tag_of("checkpoint/best_step"))[-1].value == default_run.summary_json["best_step"]
    accuracy = events.Scalars(tag_of("final/test_accuracy"))[-1].value
    assert accuracy == pytest.approx(default_run.summary_json["test_accuracy"])


def _text(events: EventAccumulator, tag: str) -> list[str]:
    return [event.tensor_proto.string_val[0].decode() for event in events.Tensors(tag)]


def test_configuration_and_selection_are_texts(events: EventAccumulator, default_run: FinishedRun) -> None:
    (table,) = _text(events, "run/configuration")
    rows = dict(line.strip("| ").split(" | ", 1) for line in table.splitlines()[2:])
    assert rows["hidden"] == "[128]"
    assert rows["run_name"] == NAME
    assert set(rows) == set(default_run.summary.config.to_dict())
    assert _text(events, "run/dataset") == [
        "digits (8 × 8), from scikit-learn, official data: 1318 training, 119 validation, 360 test"
    ]
    chosen = _text(events, "checkpoint/selection")
    assert chosen == named(default_run.records, "checkpoint/selection")
    assert len(chosen) == len(events.Scalars(tag_of("checkpoint/best_step")))
    assert all("gradient checks passed" in text for text in chosen)


def test_the_first_section_begins_with_the_loss_and_nothing_that_a_run_has_once_is_a_chart(
    events: EventAccumulator, default_run: FinishedRun
) -> None:
    tags = sorted(events.Tags()["scalars"])  # as TensorBoard does
    assert tags[:2] == ["1 overview/1 training loss", "1 overview/2 validation loss"]
    # Of 330 steps one is audited. Metrics of HParams have to be scalars; their section is the last one.
    audit = ("crosscheck/", "divergence/", "error_bound/")
    audited = {tag_of(r["name"]) for r in default_run.records if r["name"].startswith(audit)}
    alone = {tag for tag in tags if len(events.Scalars(tag)) == 1}
    assert alone - audited == {tag for tag in tags if tag.startswith("6 outcome/")}
    assert tags[-1].startswith("6 outcome/")
    once = {r["name"] for r in default_run.records if r["name"].startswith(("certificate/clopper", "health/initial"))}
    assert len(once) == 3
    assert not {tag_of(name) for name in once} & set(tags)


def test_the_certified_errors_are_a_table(events: EventAccumulator, default_run: FinishedRun) -> None:
    (table,) = _text(events, "certificate/risks")
    _, _, *rows = table.splitlines()
    risks = named(default_run.records, "certificate/clopper_pearson_risk_7_in_200")
    assert len(rows) == 2
    found = re.fullmatch(r"\| (\d+\.\d+) % \| 1 − 0\.035 \| clopper-pearson \|", rows[0])
    assert found
    assert 0 <= float(found[1]) / 100 - risks[0] < 1e-4  # rounded up
    (certified,) = events.Scalars(tag_of("final/certified_error"))
    assert certified.value == pytest.approx(risks[0])


def test_pictures_are_drawn_once_at_the_end_and_weights_at_the_start_too(events: EventAccumulator) -> None:
    last = 30 * STEPS_PER_EPOCH
    assert [image.step for image in events.Images("5 pictures/first layer weights")] == [0, last]
    for name in ("confusion", "misread", "least certain"):
        (image,) = events.Images(f"5 pictures/{name}")
        assert image.step == last
        assert len(np.unique(np.asarray(PIL.Image.open(io.BytesIO(image.encoded_image_string))))) > 10


def test_histograms_of_each_tensor_and_its_gradient_count_all_their_numbers(events: EventAccumulator) -> None:
    sizes = {"0/weight": 128 * 64, "0/bias": 128, "1/weight": 1280, "1/bias": 10}
    expected = {f"2 layer {name} {what}": size for name, size in sizes.items() for what in ("values", "gradients")}
    assert set(events.Tags()["histograms"]) == set(expected)
    for tag, size in expected.items():
        found = events.Histograms(tag)
        assert [event.step for event in found] == [1, *range(50, 331, 50)]
        for event in found:
            values = event.histogram_value
            assert (values.num, sum(values.bucket)) == (size, size)
            assert values.min <= values.sum / size <= values.max
            assert values.bucket_limit[-1] == values.max


def test_a_curve_of_precision_and_recall_for_each_class(events: EventAccumulator) -> None:
    labels = load_digits().test.labels
    for number in range(10):
        (event,) = events.Tensors(f"precision_recall/{number}")
        hits, alarms, rejected, missed, precision, recall = tensor_util.make_ndarray(event.tensor_proto)
        positives = int((labels == number).sum())
        assert (hits + missed == positives).all()
        assert (alarms + rejected == len(labels) - positives).all()
        assert (np.diff(hits) <= 0).all()
        assert precision == pytest.approx(np.where(hits + alarms, hits / np.maximum(1, hits + alarms), 1))
        assert recall == pytest.approx(hits / positives)
        assert max(2 * precision * recall / (precision + recall)) > 0.85


def test_the_projector_finds_vectors_labels_and_pictures_of_the_test_examples(default_run: FinishedRun) -> None:
    config = ProjectorConfig()
    text_format.Parse((default_run.folder / "projector_config.pbtxt").read_text(), config)
    (embedding,) = config.embeddings
    vectors = np.loadtxt(default_run.folder / embedding.tensor_path)
    header, *labels = (default_run.folder / embedding.metadata_path).read_text().splitlines()
    sheet = np.asarray(PIL.Image.open(default_run.folder / embedding.sprite.image_path))
    test = load_digits().test
    assert vectors.shape == (360, 128)
    assert (vectors >= 0).all()  # after ReLU
    assert vectors.max() > 0.1
    assert header.split("\t") == ["label", "true", "called", "confidence"]
    assert [int(line.split("\t")[1]) for line in labels] == test.labels.tolist()
    wrong = sum(" called " in line for line in labels)
    assert wrong == default_run.summary_json["test_errors"]
    assert list(embedding.sprite.single_image_dim) == [8, 8]
    assert sheet.shape == (19 * 8, 19 * 8)
    assert (sheet[8:16, 8:16] == 255 - np.round(test.images[20].numpy().astype(float) * 255 / 16)).all()


def test_hparams_hold_settings_and_final_metrics(events: EventAccumulator, default_run: FinishedRun) -> None:
    content = events.PluginTagToContent("hparams")
    start = plugin_data_pb2.HParamsPluginData.FromString(content["_hparams_/session_start_info"]).session_start_info
    assert start.hparams["batch_size"].number_value == 128
    assert start.hparams["optimizer"].string_value == "sgd"
    assert start.hparams["nesterov"].bool_value is True
    experiment = plugin_data_pb2.HParamsPluginData.FromString(content["_hparams_/experiment"]).experiment
    assert {info.name for info in experiment.hparam_infos} == set(start.hparams)
    # What people change stands first.
    assert {info.name for info in experiment.hparam_infos if info.differs} == {
        "lr", "optimizer", "hidden", "epochs", "batch_size"
    }  # fmt: skip
    metrics = [info.name.tag for info in experiment.metric_infos]
    names = "certified error", "test accuracy", "test calibration error", "largest divergence", "validation accuracy"
    assert metrics == [f"6 outcome/{name}" for name in names]
    assert set(metrics) <= set(events.Tags()["scalars"])


def tags_of(chart: Any) -> list[Any]:
    """The lines of a chart, or value, lower and upper end of each band."""
    bands = [[band.value, band.lower, band.upper] for band in chart.margin.series]
    return bands or list(chart.multiline.tag)


def test_the_layout_is_written(events: EventAccumulator) -> None:
    assert "custom_scalars" in events.summary_metadata["custom_scalars__config__"].plugin_data.plugin_name
    tensor = events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    layout = layout_pb2.Layout.FromString(tensor)
    assert [category.title for category in layout.category] == list(LAYOUT)
    charts = {chart.title: tags_of(chart) for category in layout.category for chart in category.chart}
    assert charts == {title: lines for charts in LAYOUT.values() for title, (_, lines) in charts.items()}


LINES = [line for charts in LAYOUT.values() for _, lines in charts.values() for line in lines]
PATTERNS = [pattern for line in LINES for pattern in ([line] if isinstance(line, str) else map(re.escape, line))]


@pytest.fixture(scope="module")
def fully_checked_events(tmp_path_factory: pytest.TempPathFactory) -> EventAccumulator:
    """Events of a run that screens every step as well, whose charts the layout has room for."""
    finished = digits_run(tmp_path_factory.mktemp("full"), epochs=1, track_test=True, check="full")
    return EventAccumulator(str(finished.folder)).Reload()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_pattern_of_the_layout_finds_a_tag(pattern: str, fully_checked_events: EventAccumulator) -> None:
    assert [tag for tag in fully_checked_events.Tags()["scalars"] if re.match(pattern, tag)]


def test_tensorboard_takes_every_kind_of_record(tmp_path: Path) -> None:
    sink = TensorBoardSink(tmp_path)
    for record in EVERY_KIND:
        sink.write(record)
    sink.flush()
    sink.close()
    found = EventAccumulator(str(tmp_path))
    found.Reload()
    assert set(found.Tags()["scalars"]) == {"4 training/a scalar", "6 outcome/accuracy"}
    assert found.Tags()["images"] == ["4 training/a picture"]
    assert found.Tags()["histograms"] == ["4 training/a histogram"]
    assert _text(found, "a/notice") == ["look"]
    assert (tmp_path / "projector_config.pbtxt").is_file()


# -- pictures ---------------------------------------------------------------------------------------------------------


def test_a_weight_is_red_where_it_pulls_up_and_blue_where_down() -> None:
    model = MLP((4, 1, 2))
    with torch.no_grad():
        model.weights_and_biases()[0][0].copy_(torch.tensor([[2.0, -2.0, 0.0, 1.0]]))
    picture = first_layer_weights(model, (2, 2))
    assert picture.dtype == np.uint8
    tile = picture[2:58, 2:58]
    corners = [tile[y, x].tolist() for y in (0, -1) for x in (0, -1)]
    assert corners == [[255, 0, 0], [0, 0, 255], [255, 255, 255], [255, 128, 128]]


@pytest.mark.parametrize("units", [1, 5, 128, 300])
def test_weights_of_any_number_of_units_make_one_grid(units: int) -> None:
    picture = first_layer_weights(MLP((64, units, 10)), (8, 8))
    assert picture.shape[2] == 3
    assert picture.shape[1] >= picture.shape[0]


def test_weights_that_are_all_zero_are_white() -> None:
    model = MLP((4, 2, 2))
    with torch.no_grad():
        model.weights_and_biases()[0][0].zero_()
    assert (first_layer_weights(model, (2, 2))[2:58, 2:58] == 255).all()


@pytest.mark.parametrize("wrong", [0, 1, 7, 360])
def test_misread_digits_are_pictured(wrong: int) -> None:
    test: Split = load_digits().test
    predictions = test.labels.clone()
    predictions[:wrong] = (predictions[:wrong] + 1) % 10
    right = predictions == test.labels
    picture = misread_digits(test, Evaluation(0.0, torch.zeros(10, 10), predictions, torch.ones(360), right), 16)
    assert (picture is None) == (wrong == 0)
    if picture is not None:
        assert picture.dtype == np.uint8
        assert picture.shape[2] == 3
        assert picture[2:82, 2:82].min() < 100  # ink


def test_least_certain_digits_begin_with_the_least_confidence_and_errors_are_red() -> None:
    test: Split = load_digits().test
    confidences = torch.linspace(0.2, 1, 360, dtype=torch.float64).flip(0)
    predictions = test.labels.clone()
    predictions[359] = (predictions[359] + 1) % 10  # the least certain one
    found = Evaluation(0.0, torch.zeros(10, 10), predictions, confidences, predictions == test.labels)
    picture = least_certain_digits(test, found, 16)
    assert picture is not None
    digit, caption = picture[2:82, 2:82], picture[82:120, 2:82]
    assert (digit[::10, ::10, 0] == 255 - np.round(test.images[359].numpy().astype(float) * 255 / 16)).all()
    assert (caption.min(axis=(0, 1)) < 100).tolist() == [False, True, True]
    next_caption = picture[82:120, 84:164]
    assert (next_caption.min(axis=(0, 1)) < 50).all()


def test_the_confusion_matrix_shows_errors_red_and_right_ones_blue() -> None:
    confusion = torch.tensor([[5, 0, 1], [0, 4, 0], [0, 7, 2]])
    found = Evaluation(0.0, confusion, torch.zeros(1), torch.ones(1), torch.ones(1))
    picture = confusion_matrix(found)
    assert picture is not None
    cells = picture[60:, 60:][::48, ::48].astype(int)
    redness = cells[..., 0] - cells[..., 2]
    assert np.sign(redness).tolist() == [[-1, 0, 1], [0, -1, 0], [0, 1, -1]]
    assert redness[2, 1] > redness[0, 2]
    many = Evaluation(0.0, torch.zeros(31, 31), torch.zeros(1), torch.ones(1), torch.ones(1))
    assert confusion_matrix(many) is None
